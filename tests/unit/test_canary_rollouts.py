"""A canary by passes over an object: what is measured of its pods, and what status says of it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from tests.kstatus import argo_health, kstatus
from tests.unit.world import RESYNC, World, is_ready

from llm_operator.api import names
from llm_operator.observe.prometheus import MetricsUnavailable, PrometheusConfig, Sample

pytestmark = pytest.mark.looptime

NEW: dict[str, Any] = {"limits": {"maxConcurrentRequests": 7}}


def canary(*steps: dict[str, Any], **analysis: Any) -> dict[str, Any]:
    chosen = list(steps) or [{"replicas": 1, "pauseSeconds": 60}]
    return {"strategy": "Canary", "canary": {"steps": chosen, "analysis": analysis}}


class Counted:
    """A Prometheus to which every pod shows so many requests a second, since it was first seen.

    `failing`: the share of failed ones, by the ReplicaSet's name.
    """

    def __init__(self, world: World) -> None:
        self.config = PrometheusConfig("http://prometheus")
        self.world = world
        self.rate = 1.0
        self.failing: dict[str, float] = {}
        self.down = False
        self.asked = 0
        self.born: dict[str, float] = {}

    async def query(self, promql: str) -> list[Sample]:
        self.asked += 1
        if self.down:
            raise MetricsUnavailable("Prometheus is away")
        now = asyncio.get_running_loop().time()
        offset = re.search(r" offset (\d+)s$", promql)
        moment = now - float(offset[1] if offset else 0)
        samples = []
        for pod in self.world.api.all("Pod"):
            name = pod["metadata"]["name"]
            born = self.born.setdefault(name, now)
            if born > moment:
                continue
            total = self.rate * (moment - born)
            failed = total * self.failing.get(name.rpartition("-")[0], 0.0)
            good = total - failed
            for series, value in {
                ("up", ""): 1.0,
                ("tgi_request_success", ""): good,
                ("tgi_request_failure", "generation"): failed,
                **_durations("tgi_request_duration", good, 1.0),
                **_durations("tgi_request_mean_time_per_token_duration", good, 0.02),
            }.items():
                label = {"le": series[1]} if series[0].endswith("_bucket") else {"err": series[1]}
                labels = {"__name__": series[0], "namespace": "ns", "pod": name}
                samples.append(Sample({**labels, **(label if series[1] else {})}, value, now))
        return samples


def _durations(name: str, number: float, each: float) -> dict[tuple[str, str], float]:
    return {
        (f"{name}_bucket", str(each)): number,
        (f"{name}_bucket", "+Inf"): number,
        (f"{name}_sum", ""): number * each,
    }


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def metrics(world: World) -> Counted:
    world.prometheus = made = Counted(world)
    return made


def sets(world: World) -> dict[str, int]:
    return {o["metadata"]["name"]: o["spec"]["replicas"] for o in world.api.all("ReplicaSet")}


async def play(world: World, seconds: float) -> None:
    """So long in the life of the cluster."""
    for _ in range(int(seconds / 5)):
        await world.settle(5)
        world.play()


async def upgrade(world: World, rollout: dict[str, Any]) -> tuple[str, str]:
    """The names of the old and the new revision's ReplicaSets, once the canary is at its step."""
    world.want(replicas=2, rollout=rollout)
    await world.serve()
    (old,) = sets(world)
    world.want(replicas=2, rollout=rollout, **NEW)
    await play(world, 15)
    (new,) = sets(world).keys() - {old}
    assert sets(world)[new] == 1
    return old, new


async def test_a_good_one_goes_through_and_is_then_left_alone(
    world: World, metrics: Counted
) -> None:
    async with world.operator():
        await upgrade(world, canary())
        await play(world, 30)
        assert world.condition("Reconciling") == ("True", "Paused")
        assert "if the analysis finds nothing against it" in str(world.status())
        await play(world, 90)
        assert world.condition() == ("True", "Ready")
        asked = metrics.asked
        assert asked > 0
        await world.settle(2 * RESYNC)
        assert metrics.asked == asked


async def test_one_that_fails_more_is_taken_back_within_its_pause(
    world: World, metrics: Counted
) -> None:
    steps = {"replicas": 1, "pauseSeconds": 300}
    async with world.operator():
        old, new = await upgrade(world, canary(steps))
        metrics.failing[new] = 0.4
        await play(world, 100)
        assert world.condition("Stalled") == ("True", "RolledBack")
        assert world.status()["reason"] == "RolledBack: AnalysisFailed"
        assert "requests failed (0.0% of" in world.status()["conditions"][0]["message"]
        assert sets(world) == {old: 2, new: 0}
        asked = metrics.asked
        # At rest, and after a restart, it is not tried again.
        world.writes()
        await world.settle(RESYNC)
    async with world.operator():
        await play(world, 60)
        await world.settle(RESYNC)
        assert sets(world) == {old: 2, new: 0}
        assert world.writes() == []
        assert metrics.asked == asked

        # The user says so: then it is.
        metrics.failing.clear()
        mark = {f"{names.GROUP}/retry": "1"}
        world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(annotations=mark))
        await play(world, 60)
        assert sets(world)[new] == 1
        await play(world, 400)
        assert world.condition() == ("True", "Ready")


async def test_hold_leaves_it_as_it_is(world: World, metrics: Counted) -> None:
    async with world.operator():
        old, new = await upgrade(world, {**canary(), "onFailure": "Hold"})
        metrics.failing[new] = 1.0
        await play(world, 100)
        assert world.condition("Stalled") == ("True", "AnalysisFailed")
        assert sets(world) == {old: 1, new: 1} or sets(world) == {old: 2, new: 1}


async def test_without_traffic_it_waits_then_pauses_and_a_restart_changes_nothing(
    world: World, metrics: Counted
) -> None:
    metrics.rate = 0.0
    async with world.operator():
        _, new = await upgrade(world, canary(timeoutSeconds=300))
        await play(world, 100)
        assert world.condition("Reconciling") == ("True", "Analysing")
        assert "0 requests in" in world.status()["conditions"][0]["message"]
        assert argo_health(world.api.one(names.KIND))[0] == "Progressing"
    async with world.operator():
        await play(world, 200)
        assert world.condition("Reconciling") == ("True", "Analysing")
        await play(world, 100)
        assert world.condition("Reconciling") == ("True", "Paused")
        thing = world.api.one(names.KIND)
        assert (kstatus(thing), argo_health(thing)[0]) == ("InProgress", "Suspended")
        assert sets(world)[new] == 1
        world.writes()
        await play(world, 600)
        assert world.writes() == []
        metrics.rate = 1.0
        await play(world, 200)
        assert world.condition() == ("True", "Ready")


async def test_an_outage_of_prometheus_is_told_and_ends(world: World, metrics: Counted) -> None:
    async with world.operator():
        _, new = await upgrade(world, canary())
        metrics.down = True
        metrics.failing[new] = 1.0
        await play(world, 100)
        assert world.condition("Reconciling") == ("True", "Analysing")
        assert "Prometheus is away" in world.status()["conditions"][0]["message"]
        metrics.down = False
        await play(world, 60)
        assert world.condition("Stalled") == ("True", "RolledBack")


async def test_an_operator_without_prometheus_says_so_and_the_user_promotes(world: World) -> None:
    async with world.operator():
        _, new = await upgrade(world, canary(timeoutSeconds=60))
        await play(world, 150)
        assert world.condition("Reconciling") == ("True", "Paused")
        assert "the operator has no Prometheus" in world.status()["conditions"][0]["message"]
        assert sum(map(is_ready, world.api.all("Pod"))) >= 2
        world.writes()
        await play(world, 300)
        assert world.writes() == []
        mark = {f"{names.GROUP}/promote": world.status()["currentRevision"]}
        world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(annotations=mark))
        await play(world, 60)
        assert sets(world)[new] == 2
        assert world.condition() == ("True", "Ready")


async def test_an_object_that_goes_is_measured_no_more(world: World, metrics: Counted) -> None:
    async with world.operator():
        await upgrade(world, canary())
        asked = metrics.asked
        await play(world, 30)
        assert metrics.asked > asked
        world.api.drop(names.KIND, "llama")
        await world.settle(1)
        asked = metrics.asked
        await world.settle(100)
        assert metrics.asked == asked


async def test_no_analysis_no_questions(world: World, metrics: Counted) -> None:
    rollout = {"strategy": "Canary", "canary": {"steps": [{"replicas": 1, "pauseSeconds": 60}]}}
    async with world.operator():
        await upgrade(world, rollout)
        await play(world, 120)
        assert world.condition() == ("True", "Ready")
        assert metrics.asked == 0


async def test_steps_that_go_downwards_are_an_invalid_spec(world: World) -> None:
    async with world.operator():
        world.want(rollout=canary({"replicas": 3}, {"replicas": 1}))
        await world.settle()
        assert world.condition() == ("False", "InvalidSpec")
        message = world.status()["conditions"][0]["message"]
        assert message.startswith("spec.rollout.canary.steps: ")
        assert "from 3 to 1" in message
