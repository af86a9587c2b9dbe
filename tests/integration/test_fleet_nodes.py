"""Machines that fail: on a cluster of this test's own, because all of it feels that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def replica_set(image: str) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
    container = {"name": "main", "image": image, "readinessProbe": probe}
    container |= {"resources": {"limits": {"nvidia.com/gpu": 4}}}
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }


def test_power_loss_of_the_fleet_and_of_a_node(tmp_path: Path) -> None:
    cluster = LocalCluster.start(
        "fleet", nodes="t4=2x4", state_dir=tmp_path / "fleet", die_with=os.getpid()
    )
    try:

        def get(*what: str) -> Any:
            return json.loads(cluster.kubectl("get", *what, "--output=json"))

        def pods() -> dict[str, Any]:
            return {
                item["metadata"]["name"]: item["status"]
                for item in get("pods", "--selector=app=web")["items"]
            }

        def ready() -> int:
            return int(get("rs", "web")["status"].get("readyReplicas", 0))

        def node_ready(name: str) -> str:
            conditions = get("node", name)["status"]["conditions"]
            return str(next(each["status"] for each in conditions if each["type"] == "Ready"))

        cluster.kubectl("apply", "-f", "-", input=json.dumps(replica_set("x/fleet/http:1")))
        until(lambda: ready() == 2)
        before = pods()

        cluster.restart("fleet")
        until(
            lambda: (
                ready() == 2
                and all(
                    each["containerStatuses"][0]["restartCount"] == 1 for each in pods().values()
                )
            )
        )
        after = pods()
        assert {name: each["podIP"] for name, each in after.items()} == {
            name: each["podIP"] for name, each in before.items()
        }

        fault = "fleet.llm-operator.dev/fault"
        cluster.kubectl("annotate", "node", "t4-0", f"{fault}=lost")
        until(lambda: node_ready("t4-0") == "Unknown", seconds=90)
        until(lambda: ready() == 1)
        cluster.kubectl("annotate", "node", "t4-0", f"{fault}-")
        until(lambda: node_ready("t4-0") == "True")
        until(lambda: ready() == 2)
    finally:
        cluster.stop()
