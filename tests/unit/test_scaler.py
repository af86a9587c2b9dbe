"""Replicas that follow the load, by passes and ticks over an API server in memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.kstatus import kstatus
from tests.unit.world import RESYNC, TICK, World

from llm_operator.api import names
from llm_operator.facts.signals import Absent, Idle
from llm_operator.reconcile import scaler
from llm_operator.scaling.law import decide
from llm_operator.scaling.terms import Decision, History, Look
from llm_operator.telemetry import metrics

pytestmark = pytest.mark.looptime

Object = dict[str, Any]
WISH: Object = {
    "minReplicas": 1,
    "maxReplicas": 6,
    "metric": {"waitingRequests": 4, "runningShare": 80},
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
}
LONG = 600.0


@pytest.fixture
def world() -> World:
    return World()


def replicas(world: World, name: str = "llama") -> int:
    """What the ReplicaSets of a deployment are asked for."""
    found = world.api.all("ReplicaSet")
    mine = (o for o in found if o["metadata"]["name"].rpartition("-")[0] == name)
    return sum(o["spec"]["replicas"] for o in mine)


async def pass_time(world: World, seconds: float) -> None:
    """Ticks go on, and pods come and go as they are asked for."""
    for _ in range(int(seconds / TICK)):
        await world.settle(TICK)
        world.play()


async def autoscaled(world: World, **wish: Any) -> None:
    """A deployment that serves."""
    world.want(replicas=1, autoscaling={**WISH, **wish})
    await world.serve()
    await pass_time(world, 60)


def own_scale(world: World, manager: str) -> None:
    """Somebody writes the scale subresource."""
    entry = {
        "manager": manager,
        "operation": "Update",
        "subresource": "scale",
        "fieldsV1": {"f:spec": {"f:replicas": {}}},
    }
    world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(managedFields=[entry]))


async def test_more_load_makes_more_replicas_and_less_makes_fewer(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        assert replicas(world) == 1
        world.demand["llama"] = 400
        await pass_time(world, 300)
        many = replicas(world)
        assert many > 2
        decision = world.status()["scaling"]["lastDecision"]
        assert decision["replicas"] == many
        assert decision["message"]
        assert decision["terms"]
        world.demand["llama"] = 0
        await pass_time(world, 1800)
        assert replicas(world) == 1
        assert world.condition() == ("True", "Ready")
        assert world.condition("ScalingActive") == ("True", "MetricsComplete")
        assert kstatus(world.api.all(names.KIND)[0]) == "Current"


async def test_while_it_loads_nothing_is_told_and_the_first_load_at_once(world: World) -> None:
    async with world.operator():
        world.want(replicas=1, autoscaling=WISH)
        await world.settle(10 * TICK)
        assert "lastDecision" not in world.status()["scaling"]
        await world.serve()
        await pass_time(world, 2 * TICK)
        assert world.status()["scaling"]["lastDecision"]["metrics"] == "Complete"
        assert world.condition("ScalingActive") == ("True", "MetricsComplete")


async def test_a_steady_load_writes_nothing(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 60
        await pass_time(world, LONG)
        world.writes()
        reads = world.reads
        for wobble in itertools.islice(itertools.cycle((-1, 0, 1)), 40):
            world.demand["llama"] = 60 + wobble
            await pass_time(world, TICK)
        assert world.reads >= reads + 39
        assert world.writes() == []


@pytest.mark.parametrize("kind", ["outage", "absent"])
async def test_no_metrics_is_not_no_load(world: World, kind: str) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        many = replicas(world)
        if kind == "outage":
            world.outage = "connection refused"
        else:
            world.unread = {pod["metadata"]["name"]: Absent() for pod in world.api.all("Pod")}
        await pass_time(world, 2 * LONG)
        assert replicas(world) == many
        assert world.condition("ScalingActive") == ("False", "MetricsMissing")
        assert world.condition() == ("True", "Ready")
        world.outage, world.unread = "", {}
        await pass_time(world, 120)
        assert world.condition("ScalingActive") == ("True", "MetricsComplete")
        assert replicas(world) == many


async def test_pods_without_any_request_yet_are_idle_not_unknown(world: World) -> None:
    async with world.operator():
        await autoscaled(world, minReplicas=1)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        at = world.now().timestamp()
        world.unread = {pod["metadata"]["name"]: Idle(at) for pod in world.api.all("Pod")}
        await pass_time(world, 1800)
        assert replicas(world) == 1


async def test_one_pod_unknown_lowers_nothing(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        many = replicas(world)
        world.unread = {world.api.all("Pod")[0]["metadata"]["name"]: Absent()}
        world.demand["llama"] = 0
        await pass_time(world, 2 * LONG)
        assert replicas(world) == many
        assert world.condition("ScalingActive") == ("True", "MetricsPartial")


async def test_a_restart_changes_nothing_and_writes_nothing(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, LONG)
        many = replicas(world)
        world.writes()
    async with world.operator():
        await pass_time(world, LONG)
        assert replicas(world) == many
        assert world.writes() == []


async def test_a_restart_in_the_dark_keeps_what_runs(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        many = replicas(world)
    world.outage = "connection refused"
    async with world.operator():
        await pass_time(world, LONG)
        assert replicas(world) == many


async def test_autoscaling_that_is_switched_on_starts_from_what_runs(world: World) -> None:
    async with world.operator():
        world.want(replicas=4)
        await world.serve()
        world.outage = "connection refused"
        world.want(replicas=4, autoscaling=WISH)
        await pass_time(world, LONG)
        assert replicas(world) == 4


async def test_bounds_hold_without_any_metrics(world: World) -> None:
    world.outage = "connection refused"
    async with world.operator():
        world.want(autoscaling={"minReplicas": 3, "maxReplicas": 5})
        await world.serve()
        assert replicas(world) == 3
        world.want(autoscaling={"minReplicas": 1, "maxReplicas": 2})
        await world.serve()
        assert replicas(world) == 2


async def test_advice_changes_no_replicas(world: World) -> None:
    async with world.operator():
        world.want(replicas=2, autoscaling={**WISH, "mode": "Advise"})
        await world.serve()
        world.demand["llama"] = 400
        await pass_time(world, 300)
        assert replicas(world) == 2
        scaling = world.status()["scaling"]
        assert scaling["mode"] == "Advise"
        assert scaling["desiredReplicas"] > 2
        assert world.condition("ScalingActive") == ("False", "AdviseOnly")
        world.want(replicas=3, autoscaling={**WISH, "mode": "Advise"})
        await world.serve()
        assert replicas(world) == 3


async def test_it_steps_aside_when_another_writes_scale(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        world.want(replicas=2, autoscaling=WISH)
        own_scale(world, "kube-controller-manager")
        await pass_time(world, 300)
        assert replicas(world) == 2
        assert world.condition("ScalingActive") == ("False", "ScaledByOthers")
        (message,) = (
            c["message"] for c in world.status()["conditions"] if c["type"] == "ScalingActive"
        )
        assert "kube-controller-manager" in message
        world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(managedFields=[]))
        await pass_time(world, 300)
        assert replicas(world) > 2
        assert world.condition("ScalingActive") == ("True", "MetricsComplete")


async def test_a_spec_that_cannot_be_read_keeps_the_replicas(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        many = replicas(world)
        world.want(replicas=1, autoscaling=WISH, limits={"maxInputTokens": "many"})
        await pass_time(world, 300)
        assert world.condition()[1] == "InvalidSpec"
        assert replicas(world) == many
        told = world.status()["scaling"]
    async with world.operator():
        await pass_time(world, 300)
        assert replicas(world) == many
        assert world.status()["scaling"] == told


async def test_autoscaling_that_cannot_be_read_keeps_the_replicas(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        many = replicas(world)
        wrong = [{"start": "0 8 31 2 *", "end": "0 9 * * *", "minReplicas": 2}]
        world.want(replicas=1, autoscaling={**WISH, "schedule": wrong})
        await pass_time(world, 300)
        assert world.condition()[1] == "InvalidSpec"
        assert replicas(world) == many
    for _ in range(2):
        async with world.operator():
            await pass_time(world, 300)
            assert replicas(world) == many


async def test_an_upgrade_neither_waits_for_nor_is_shrunk_by_the_scaler(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 200
        await pass_time(world, LONG)
        many = replicas(world)
        world.want(autoscaling=WISH, limits={"maxConcurrentRequests": 77})
        world.demand["llama"] = 0
        await pass_time(world, LONG)
        await world.serve()
        assert world.condition() == ("True", "Ready")
        assert many >= replicas(world) >= 1


async def test_a_change_of_autoscaling_makes_no_revision(world: World) -> None:
    async with world.operator():
        world.want(replicas=1)
        await world.serve()
        (before,) = world.api.all("ReplicaSet")
        await autoscaled(world)
        (after,) = world.api.all("ReplicaSet")
        assert before["metadata"]["uid"] == after["metadata"]["uid"]


async def test_the_last_twenty_decisions_are_kept(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        for number in range(24):
            world.demand["llama"] = 400 if number % 2 else 0
            await pass_time(world, 900)
        decisions = world.status()["scaling"]["decisions"]
        assert len(decisions) == 20
        times = [decision["time"] for decision in decisions]
        assert times == sorted(times, reverse=True)
        assert decisions[0]["time"] == world.status()["scaling"]["lastDecision"]["time"]


async def test_each_change_is_an_event(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        notes = [e["reason"] for e in world.api.all("Event")]
        assert {"ScaledUp", "Panic"} & set(notes)


async def test_one_question_for_all(world: World) -> None:
    async with world.operator():
        for number in range(10):
            world.want(name=f"llama-{number}", autoscaling=WISH)
        await world.serve()
        await pass_time(world, 60)
        reads = world.reads
        await pass_time(world, 10 * TICK)
        assert 9 <= world.reads - reads <= 11
        scaled = [world.status(f"llama-{number}").get("scaling") for number in range(10)]
        assert all(scaled)


async def test_switched_off_the_users_number_counts(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        assert b"llm_operator_scaling_deployments{" in metrics.exposition()
        world.want(replicas=2)
        await pass_time(world, 60)
        assert replicas(world) == 2
        assert b"llm_operator_scaling_deployments{" not in metrics.exposition()
        assert "scaling" not in world.status()
        assert world.condition("ScalingActive") == ("", "")


async def test_one_that_goes_wrong_keeps_no_other_from_its_decision(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_at_first(look: Look, history: History, now: float) -> tuple[Decision, History]:
        if look.policy.maximum == 7:
            raise ArithmeticError
        return decide(look, history, now)

    monkeypatch.setattr(scaler, "decide", wrong_at_first)
    async with world.operator():
        world.want(name="bad", autoscaling={**WISH, "maxReplicas": 7})
        await world.serve()
        await autoscaled(world)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        assert replicas(world) > 2
        assert replicas(world, "bad") == 1


async def test_an_unreadable_spec_takes_no_disruption_budget(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        assert replicas(world) == 1
        assert len(world.api.all("PodDisruptionBudget")) == 1
        world.want(autoscaling=WISH, limits={"maxInputTokens": "many"})
        await pass_time(world, 60)
        assert world.condition()[1] == "InvalidSpec"
        assert len(world.api.all("PodDisruptionBudget")) == 1


async def test_one_whose_end_was_missed_is_forgotten_after_a_listing(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        loop, world.loop = world.loop, None
        world.api.drop(names.KIND, "llama")
        world.loop = loop
        await world.settle(2 * RESYNC)
        reads = world.reads
        await world.settle(10 * TICK)
        assert world.reads == reads
        assert b"llm_operator_scaling_deployments{" not in metrics.exposition()
