"""The operator as a process in a local cluster, with what its chart says: arguments and rights.

Its Deployment is not applied: no node here runs real images. All else is as in any cluster.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llm_operator.cli.console import CommandError
from llm_operator.cluster.local import LocalCluster

NAMESPACE = "llm-operator"
CHART = Path(__file__).parents[3] / "charts" / "llm-operator"
"""In a checkout; an installed package carries no chart."""


@dataclass(frozen=True)
class Installed:
    """What the chart says about the operator: its account's objects and name, its arguments."""

    objects: tuple[dict[str, Any], ...]
    account: str
    arguments: tuple[str, ...]

    @property
    def user(self) -> str:
        """Whom the API server sees."""
        return f"system:serviceaccount:{NAMESPACE}:{self.account}"


def render(cluster: LocalCluster, chart: Path, values: Sequence[str] = ()) -> Installed:
    """The chart, as helm renders it with its default values but for `values` (`name=value`).

    Raises CommandError if it does not.
    """
    helm = [str(cluster.program("helm")), "template", "llm-operator", str(chart)]
    helm += [f"--namespace={NAMESPACE}", "--set=log.json=false"]
    helm += [f"--set={value}" for value in values]
    done = subprocess.run(helm, text=True, capture_output=True)
    if done.returncode != 0:
        raise CommandError(f"helm template: {done.stderr.strip()}")
    return read(done.stdout)


def read(rendered: str) -> Installed:
    """The parts of a rendered chart that matter here."""
    objects = [found for found in yaml.safe_load_all(rendered) if found]
    deployment = next(found for found in objects if found["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    rights = tuple(
        found
        for found in objects
        if found["kind"] == "ServiceAccount" or found["apiVersion"].startswith("rbac.")
    )
    return Installed(rights, pod["serviceAccountName"], tuple(pod["containers"][0]["args"]))


def install(
    cluster: LocalCluster, chart: Path, values: Sequence[str] = ()
) -> tuple[Installed, tuple[str, ...]]:
    """Give the cluster the chart's account and rights; the command line for `run_inside`, too."""
    installed = render(cluster, chart, values)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    objects = {"apiVersion": "v1", "kind": "List", "items": [namespace, *installed.objects]}
    cluster.kubectl("apply", "--filename=-", input=json.dumps(objects))
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, installed.account)
    program = (sys.executable, "-m", "llm_operator.cli.main", *installed.arguments)
    # Pods listen on their own addresses, so the probes must not take the port on all of them.
    ours = (f"--kubeconfig={kubeconfig}", "--hub-offline", "--http-host=127.0.0.1")
    return installed, (*program, *ours)
