"""Canaries judged by a real Prometheus: the slow and the failing go back, the good goes through.

All at once, each with its own traffic through its Service; one has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.kstatus import argo_health, kstatus
from tests.operator_kit import Object, Room, room, until

from llm_operator.cluster.load.running import Load
from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

REVISION = "llm-operator.dev/revision"
NEW_LIMITS = {"maxConcurrentRequests": 100}
"""Something that makes a revision, and no difference."""
TOO_SMALL = {"maxConcurrentRequests": 1}
NAMES = ("good", "slow", "failing", "breaking", "quiet")


def rollout(**analysis: Any) -> Object:
    wish = {"minRequests": 20, "windowSeconds": 20, "timeoutSeconds": 600, **analysis}
    steps = [{"replicas": 1, "pauseSeconds": 5}]
    return {
        "drainSeconds": 1,
        "strategy": "Canary",
        "canary": {"steps": steps, "analysis": wish},
    }


@pytest.fixture(scope="module")
def scene(
    cluster: LocalCluster, prometheus: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Room]:
    """Five deployments of two replicas, all but one under traffic, in the middle of a canary."""
    log = tmp_path_factory.mktemp("canary") / "operator.log"
    options = (f"--prometheus-url={prometheus}", "--prometheus-scrape-interval-seconds=2")
    with room(cluster, log, *options, gpus=16) as opened, ExitStack() as traffic:
        for name in NAMES:
            patience = {"timeoutSeconds": 5} if name == "quiet" else {}
            opened.want(name, replicas=2, rollout=rollout(**patience))
        opened.until_ready(*NAMES, seconds=90)
        for name in NAMES[:-1]:
            address = opened.get("Service", name)["spec"]["clusterIP"]
            options_of_load = {"streams": 0, "chats": 6, "long_streams": 0, "tokens": 8}
            load = Load(cluster, f"http://{address}", pause=0.3, seconds=240, **options_of_load)
            traffic.enter_context(load)
        for name in NAMES:
            opened.change(name, limits=TOO_SMALL if name == "failing" else NEW_LIMITS)
        for name, fault in (("slow", "slow=20"), ("breaking", "generation-error")):
            opened.fault(name, fault, new_revision(opened, name))
        yield opened


def new_revision(scene: Room, name: str) -> str:
    """The revision that a change has made, as soon as it exists."""

    def newest() -> str:
        sets = sorted(
            scene.all("ReplicaSet", name), key=lambda one: one["metadata"]["creationTimestamp"]
        )
        return str(sets[-1]["metadata"]["labels"][REVISION]) if len(sets) == 2 else ""

    return until(newest)


@pytest.mark.parametrize(
    ("name", "said"),
    [("slow", "ms per token"), ("failing", "requests failed"), ("breaking", "requests failed")],
)
def test_a_worse_canary_is_rolled_back_with_its_numbers(scene: Room, name: str, said: str) -> None:
    condition = scene.until_reason(name, "RolledBack", 120)
    assert "failed: AnalysisFailed" in condition["message"]
    assert said in condition["message"]
    table = scene.cluster.kubectl("get", "llmd", name, f"--namespace={scene.namespace}")
    assert "RolledBack: AnalysisFailed" in table, table
    thing = scene.deployment(name)
    failed = next(r for r in thing["status"]["revisions"] if r["wanted"])
    assert (failed["state"], failed["reason"]) == ("Failed", "AnalysisFailed")
    assert (kstatus(thing), argo_health(thing)[0]) == ("Failed", "Degraded")
    until(lambda: [r["serving"] for r in scene.status(name)["revisions"] if not r["wanted"]] == [2])


def test_a_good_canary_goes_through(scene: Room) -> None:
    scene.until_ready("good", seconds=120)
    current = scene.status("good")["currentRevision"]
    assert {pod["metadata"]["labels"][REVISION] for pod in scene.pods("good")} == {current}


def test_a_canary_without_requests_waits_and_then_pauses_until_it_is_promoted(scene: Room) -> None:
    until(
        lambda: "the analysis has come to nothing" in scene.condition("quiet").get("message", ""),
        120,
        lambda: scene.story("quiet"),
    )
    condition = scene.condition("quiet")
    assert condition["reason"] == "Paused"
    assert "the new revision had 0 requests" in condition["message"]
    thing = scene.deployment("quiet")
    assert (kstatus(thing), argo_health(thing)[0]) == ("InProgress", "Suspended")
    serving = sorted(r["serving"] for r in thing["status"]["revisions"])
    assert serving == [1, 2] or serving == [1, 1]
    revision = thing["status"]["currentRevision"]
    promote = {"metadata": {"annotations": {"llm-operator.dev/promote": revision}}}
    scene.patch("LLMDeployment", "quiet", promote)
    scene.until_ready("quiet", seconds=60)
