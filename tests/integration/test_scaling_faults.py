"""Metrics that fail in every way, on the real control plane: what runs goes on running.

A proxy before the real Prometheus shows two replicas' worth of load, then none at all while it
misbehaves: whoever believed it would scale down. One deployment of which all is known shows that
this would have happened in the same time.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.operator_kit import Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

PROXY = Path(__file__).parents[1] / "prometheus_proxy.py"
SECONDS = 0.5
DEMAND = 12
"""Requests; a replica that takes 10 at once holds 8 of them at its target."""
FAULTS = {
    "nan": "NaN",
    "negative": "-1",
    "stale": "stale",
    "half": "half",
    "gone": "gone",
    "labels": "labels",
    "failing": "down",
}
SAID = {
    "nan": "nan queued requests",
    "negative": "-1 queued requests",
    "stale": r"last read 60\d s ago",
    "half": r"in 1 of 2 replicas \(half-\S+: not among",
    "gone": "not among what Prometheus reads",
    "labels": "not among what Prometheus reads",
    "failing": "its last scrape failed",
}
CONTROL = "known"
NAMES = (CONTROL, *FAULTS)
GLOBAL = ("500", "401", "hang", "reset", "html", "matrix", "empty")
SPEC: dict[str, Any] = {
    "limits": {"maxConcurrentRequests": 10},
    "autoscaling": {
        "maxReplicas": 2,
        "coldStartAwareness": False,
        "behavior": {
            "scaleDown": {"stabilizationWindowSeconds": 1, "maxChange": 2, "periodSeconds": 1}
        },
    },
}
_ports = itertools.count(41_000 + secrets.randbelow(10_000))


class Proxy:
    """The program between the operator and the run's Prometheus."""

    def __init__(self, cluster: LocalCluster, upstream: str, folder: Path) -> None:
        self.port = next(_ports)
        self._cluster = cluster
        self._orders, self._log = folder / "orders.json", folder / "queries"
        self._command = [sys.executable, str(PROXY), str(self.port), upstream]
        self._process: subprocess.Popen[Any] | None = None
        self.order()

    def order(self, demand: float = DEMAND, fault: str = "", **faults: str) -> None:
        """What is said from now on."""
        orders = {"demand": dict.fromkeys(NAMES, demand), "fault": fault, "faults": faults}
        fresh = self._orders.with_suffix(".new")
        fresh.write_text(json.dumps(orders))
        fresh.replace(self._orders)

    def start(self) -> None:
        command = [*self._command, str(self._orders), str(self._log)]
        self._process = self._cluster.run_inside(command)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def queries(self) -> int:
        return len(self._log.read_text().splitlines())


class Scene:
    """The room, and what stands before its Prometheus."""

    def __init__(self, opened: Room, proxy: Proxy) -> None:
        self.room, self.proxy = opened, proxy

    def states(self) -> dict[str, int]:
        """Deployments by how much of their load was known at the last tick."""
        page = self.room.operator._ask("metrics")
        found = re.findall(r'llm_operator_scaling_deployments\{metrics="(\w+)"\} (\S+)', page)
        return {state: int(float(count)) for state, count in found}

    def ticks(self) -> int:
        page = self.room.operator._ask("metrics")
        return int(float(re.findall(r"scaling_tick_seconds_count (\S+)", page)[0]))

    def replicas(self) -> dict[str, int]:
        """What the ReplicaSets are asked for."""
        sets = self.room.all("ReplicaSet")
        label = "llm-operator.dev/deployment"
        return {s["metadata"]["labels"][label]: s["spec"]["replicas"] for s in sets}

    def tell(self) -> str:
        return f"{self.replicas()} {self.states()}" + "".join(self.room.story(n) for n in NAMES[:2])

    def reasons(self) -> dict[str, str]:
        return {name: self.room.reason(name, "ScalingActive") for name in NAMES}


@pytest.fixture(scope="module")
def scene(
    cluster: LocalCluster, prometheus: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """All deployments at two replicas by their load, and all of it known."""
    folder = tmp_path_factory.mktemp("faults")
    proxy = Proxy(cluster, prometheus, folder)
    options = (
        f"--prometheus-url=http://127.0.0.1:{proxy.port}",
        "--prometheus-scrape-interval-seconds=2",
        "--prometheus-timeout-seconds=3",
        f"--scaling-interval-seconds={SECONDS}",
    )
    try:
        proxy.start()
        with room(cluster, folder / "operator.log", *options, gpus=2 * len(NAMES)) as opened:
            made = Scene(opened, proxy)
            for name in NAMES:
                opened.want(name, **SPEC)
            until(
                lambda: set(made.replicas().values()) == {2} and len(made.replicas()) == len(NAMES),
                90,
                made.tell,
            )
            opened.until_ready(*NAMES)
            until(lambda: made.states() == {"Complete": len(NAMES)}, tell=made.tell)
            yield made
    finally:
        proxy.kill()


def test_one_query_for_all_of_them_and_nothing_written_while_all_is_known(scene: Scene) -> None:
    until(lambda: set(scene.reasons().values()) == {"MetricsComplete"}, 60, scene.tell)
    mark = scene.room.cluster.audit_log.mark()
    queries, ticks = scene.proxy.queries(), scene.ticks()
    until(lambda: scene.ticks() >= ticks + 8)
    assert abs((scene.proxy.queries() - queries) - (scene.ticks() - ticks)) <= 1
    assert scene.room.writes(mark) == []


def test_what_is_not_known_is_no_reason_to_go_down(scene: Scene) -> None:
    """Of the pods first; then of all of Prometheus, to its end; then it is there again."""
    scene.proxy.order(0, **FAULTS)
    others = dict.fromkeys(FAULTS, 2)
    until(lambda: scene.replicas()[CONTROL] == 1, 60, scene.tell)
    assert scene.replicas() == {CONTROL: 1, **others}
    dark = dict.fromkeys(FAULTS, "MetricsMissing") | {"half": "MetricsPartial"}
    until(lambda: scene.reasons() == dark | {CONTROL: "MetricsComplete"}, 60, scene.tell)
    for name in FAULTS:
        condition = scene.room.condition(name, "ScalingActive")
        assert condition["status"] == ("True" if name == "half" else "False")
        assert re.search(SAID[name], condition["message"]), condition
    assert scene.replicas() == {CONTROL: 1, **others}
    for fault in GLOBAL:
        scene.proxy.order(0, fault)
        ticks = scene.ticks()
        until(lambda ticks=ticks: scene.ticks() >= ticks + 2, tell=scene.tell)  # type: ignore[misc]
        assert scene.states() == {"Missing": len(NAMES)}, fault
    scene.proxy.kill()
    until(lambda: scene.reasons()["half"] == "MetricsMissing", 60, scene.tell)
    message = scene.room.condition("half", "ScalingActive")["message"]
    assert "no connection with Prometheus: Connection refused" in message
    assert scene.replicas() == {CONTROL: 1, **others}

    scene.proxy.order()
    scene.proxy.start()
    until(lambda: scene.states() == {"Complete": len(NAMES)}, tell=scene.tell)
    deadline = time.monotonic() + 60
    while set(scene.reasons().values()) != {"MetricsComplete"}:
        assert time.monotonic() < deadline, scene.tell()
        assert {n: r for n, r in scene.replicas().items() if n != CONTROL} == others
        time.sleep(SECONDS)
