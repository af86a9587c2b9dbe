"""Tells Prometheus which pods there are, in a file, as its own discovery of pods would.

Debian builds Prometheus without the discovery of Kubernetes; discovery from a file is in every
build. `python -m llm_operator.cluster.discovery` watches the pods and keeps the file up to date.
Decides nothing about which of them are scraped: that is relabelling's business (prometheus.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path

from .fleet.api import Api, Credentials, Object
from .fleet.watching import Follower

META = "__meta_kubernetes_"
_TOGETHER_S = 0.1


def targets(pods: Iterable[Object]) -> list[Object]:
    """A target for each pod that has an address, with the labels that Prometheus' role `pod` gives
    (those of them that are used here)."""
    return [_target(pod) for pod in pods if pod.get("status", {}).get("podIP")]


def _target(pod: Object) -> Object:
    metadata, status = pod["metadata"], pod["status"]
    labels = {
        "namespace": metadata["namespace"],
        "pod_name": metadata["name"],
        "pod_ip": status["podIP"],
        "pod_phase": status.get("phase", ""),
    }
    for name, value in (metadata.get("annotations") or {}).items():
        labels["pod_annotation_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)] = value
    return {
        "targets": [status["podIP"]],
        "labels": {META + name: value for name, value in labels.items()},
    }


async def keep(kubeconfig: Path, file: Path) -> None:
    """Keep the file up to date, for ever."""
    pods: dict[str, Object] = {}
    changed = asyncio.Event()

    def see(kind: str, pod: Object) -> None:
        if kind == "DELETED":
            pods.pop(pod["metadata"]["uid"], None)
        else:
            pods[pod["metadata"]["uid"]] = pod
        changed.set()

    async with Api(Credentials.load(kubeconfig), user_agent="prometheus") as api:
        following = asyncio.create_task(Follower(api, "/api/v1/pods", see).run())
        told: list[Object] = []
        while not following.done():
            await changed.wait()
            await asyncio.sleep(_TOGETHER_S)
            changed.clear()
            if (now := targets(pods.values())) != told:
                write(file, now)
                told = now
        await following


def write(file: Path, found: list[Object]) -> None:
    """Replace the file as a whole: it is read the moment it changes."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1))
    fresh.replace(file)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llm_operator.cluster.discovery")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True, help="where the targets go, .json")
    options = parser.parse_args()
    asyncio.run(keep(options.kubeconfig, options.file))


if __name__ == "__main__":
    main()
