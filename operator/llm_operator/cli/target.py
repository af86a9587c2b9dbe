"""Which cluster a command is about."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llm_operator.cli import local
from llm_operator.cli.console import CommandError
from llm_operator.cluster.local import LocalCluster

_OWN = Path.home() / ".kube" / "config"


@dataclass(frozen=True)
class Target:
    """The API server to ask: a kubeconfig (None: kubectl's own rules), and whose it is."""

    kubeconfig: Path | None
    cluster: LocalCluster | None = None


def find(kubeconfig: Path | None) -> Target:
    """The cluster to look at: as `named`, but the local one where nothing is named and one runs.

    Raises CommandError if there is none.
    """
    clusters = local.running()
    nothing = kubeconfig is None and "KUBECONFIG" not in os.environ
    if nothing and len(clusters) == 1:
        return Target(clusters[0].kubeconfig, clusters[0])
    chosen = named(kubeconfig)
    mine = (c for c in clusters if chosen and c.kubeconfig.resolve() == chosen.resolve())
    return Target(chosen, next(mine, None))


def named(kubeconfig: Path | None) -> Path | None:
    """The file that is named, here or by $KUBECONFIG; None for a list of files, for the user's own,
    or inside a pod: the client finds these. Raises CommandError if there is none."""
    lists = os.environ.get("KUBECONFIG", "")
    chosen = kubeconfig or (Path(lists) if lists and os.pathsep not in lists else None)
    if chosen is not None and not chosen.exists():
        raise CommandError(f"kubeconfig {chosen} does not exist")
    if chosen or lists or _OWN.exists() or "KUBERNETES_SERVICE_HOST" in os.environ:
        return chosen
    raise CommandError("which cluster? set KUBECONFIG, or start one: `llm-operator up`")
