"""Replicas that follow the load while revisions are exchanged, or an upgrade came to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.test_rollouts import counted
from tests.unit.test_scaler import LONG, WISH, autoscaled, pass_time, replicas
from tests.unit.world import TICK, World, is_ready

from llm_operator.api import names

pytestmark = pytest.mark.looptime

Object = dict[str, Any]
NEW: Object = {"limits": {"maxConcurrentRequests": 77}}
UNREADABLE: Object = {"limits": {"maxInputTokens": "many"}}


@pytest.fixture
def world() -> World:
    return World()


def sets(world: World) -> dict[str, int]:
    return {o["metadata"]["name"]: o["spec"]["replicas"] for o in world.api.all("ReplicaSet")}


async def exchanging(world: World) -> int:
    """How many replicas there were when an upgrade began that is under way now."""
    await autoscaled(world)
    world.demand["llama"] = 400
    await pass_time(world, 300)
    many = replicas(world)
    assert many > 3
    world.want(autoscaling=WISH, **NEW)
    await begun(world)
    return many


async def begun(world: World) -> None:
    for _ in range(3):
        await world.settle(5)
        world.play()
    assert len([count for count in sets(world).values() if count]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda world: None,
        lambda world: world.want(autoscaling=WISH, **UNREADABLE),
        lambda world: world.api.edit(names.KIND, "llama", lambda o: o.pop("status")),
        lambda world: world.api.edit(
            names.KIND, "llama", lambda o: o["status"]["scaling"].update(mode="Other")
        ),
    ],
    ids=["as it was", "unreadable spec", "status lost", "status of another operator"],
)
async def test_a_restart_amid_an_upgrade_takes_nothing_away_in_the_dark(
    world: World, change: Callable[[World], None]
) -> None:
    async with world.operator():
        many = await exchanging(world)
    change(world)
    world.outage = "connection refused"
    async with world.operator():
        for _ in range(40):
            await world.settle(5)
            world.play()
            assert many <= replicas(world) <= many + 1


async def test_restarts_amid_an_upgrade_add_nothing_up(world: World) -> None:
    async with world.operator():
        many = await exchanging(world)
    world.outage = "connection refused"
    for _ in range(4):
        async with world.operator():
            await world.settle(5)
            assert replicas(world) <= many + 1


async def test_autoscaling_that_is_switched_on_amid_an_upgrade_takes_nothing(world: World) -> None:
    world.outage = "connection refused"
    async with world.operator():
        world.want(replicas=4)
        await world.serve()
        world.want(replicas=4, **NEW)
        await begun(world)
        world.want(replicas=4, autoscaling=WISH, **NEW)
        await pass_time(world, LONG)
        assert replicas(world) >= 4


def crash(world: World, replica_set: str) -> None:
    """The engine of its pods ends again and again."""
    crashed = {
        "name": "tgi",
        "restartCount": 9,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    for pod in world.api.all("Pod"):
        if pod["metadata"]["name"].startswith(replica_set):
            status = pod["status"]
            kept = [c for c in status["conditions"] if c["type"] == "PodScheduled"]
            world.api.put(
                {**pod, "status": {**status, "conditions": kept, "containerStatuses": [crashed]}}
            )


async def test_what_an_upgrade_came_back_to_follows_the_load(world: World) -> None:
    async with world.operator():
        many = await exchanging(world)
        new = world.current()["metadata"]["name"]
        for _ in range(40):
            crash(world, new)
            await world.settle(5)
        assert world.condition("Stalled") == ("True", "RolledBack")
        assert replicas(world) == many
        world.play()
        world.demand["llama"] = 0
        await pass_time(world, 1800)
        assert sets(world)[new] == 0
        assert replicas(world) == 1
        world.demand["llama"] = 400
        await pass_time(world, 300)
        assert sets(world)[new] == 0
        assert replicas(world) == many


async def test_what_serves_follows_the_load_while_the_new_revision_loads(world: World) -> None:
    async with world.operator():
        await autoscaled(world)
        (old,) = sets(world)
        world.want(autoscaling=WISH, **NEW)
        await world.settle(1)
        new = world.loading = world.current()["metadata"]["name"]
        await pass_time(world, 60)
        assert sets(world) == {old: 1, new: 1}
        world.demand["llama"] = 400
        await pass_time(world, 300)
        assert world.status()["scaling"]["desiredReplicas"] == 6
        assert sets(world) == {old: 5, new: 1}
        assert sum(map(is_ready, world.api.all("Pod"))) == 5
        world.loading = ""
        counts = counted(world)
        await pass_time(world, LONG)
        assert sets(world) == {old: 0, new: 6}
        assert min(ready for ready, _ in counts) >= 5
        assert world.condition() == ("True", "Ready")


async def test_an_upgrade_ends_where_the_load_wants_more_than_there_are_gpus(world: World) -> None:
    wish = {**WISH, "minReplicas": 4}
    world.room = 4
    async with world.operator():
        await autoscaled(world, **wish)
        world.demand["llama"] = 400
        await pass_time(world, 300)
        (old,) = sets(world)
        assert sets(world) == {old: 6}
        world.want(autoscaling=wish, **NEW)
        counts = counted(world)
        for _ in range(80):
            await world.settle(5)
            world.play()
        new = world.current()["metadata"]["name"]
        assert sets(world) == {old: 0, new: 6}
        assert min(ready for ready, _ in counts) == 3
        assert world.condition() == ("False", "WaitingForGPU")
        assert world.condition("Stalled")[0] != "True"


async def test_an_evicted_pod_of_before_is_no_rollout(world: World) -> None:
    """Nobody deletes those for a long time."""
    async with world.operator():
        await exchanging(world)
        labels = next(
            pod["metadata"]["labels"]
            for pod in world.api.all("Pod")
            if not pod["metadata"]["name"].startswith(world.current()["metadata"]["name"])
        )
        await world.serve()
        assert world.condition() == ("True", "Ready")
        world.demand["llama"] = 0
        for _ in range(100):
            world.api.put(
                {
                    "kind": "Pod",
                    "metadata": {"name": "evicted-0", "namespace": "ns", "labels": labels},
                    "spec": {},
                    "status": {"phase": "Failed", "reason": "Evicted"},
                }
            )
            await world.settle(TICK)
            world.play()
        assert replicas(world) == 1
        assert world.condition() == ("True", "Ready")


async def test_a_canary_that_pauses_leaves_the_rest_free_to_follow_the_load(world: World) -> None:
    wish = {**WISH, "minReplicas": 4, "maxReplicas": 12}
    steps = {"strategy": "Canary", "canary": {"steps": [{"replicas": "25%"}]}}
    async with world.operator():
        await autoscaled(world, **wish)
        (old,) = sets(world)
        world.want(autoscaling=wish, rollout=steps, **NEW)
        await pass_time(world, 120)
        new = world.current()["metadata"]["name"]
        assert sets(world) == {old: 3, new: 1}
        assert world.condition()[1] == "Paused"
        world.demand["llama"] = 400
        await pass_time(world, LONG)
        assert world.status()["scaling"]["desiredReplicas"] == 12
        assert sets(world) == {old: 9, new: 3}
        assert world.condition()[1] == "Paused"
        world.writes()
        await pass_time(world, LONG)
        assert world.writes() == []


async def test_fewer_replicas_are_no_consent_to_a_canary(world: World) -> None:
    """Of half as many replicas the same canary is twice the share."""
    steps = {"strategy": "Canary", "canary": {"steps": [{"replicas": "25%"}]}}
    async with world.operator():
        world.want(replicas=8, rollout=steps)
        await world.serve()
        (old,) = sets(world)
        world.want(replicas=8, rollout=steps, **NEW)
        await pass_time(world, 120)
        new = world.current()["metadata"]["name"]
        assert sets(world) == {old: 6, new: 2}
        world.want(replicas=4, rollout=steps, **NEW)
        await pass_time(world, LONG)
        assert world.condition()[1] == "Paused"
        assert sets(world) == {old: 3, new: 2}
        promote = {names.ANNOTATION_PROMOTE: new.removeprefix("llama-")}
        world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(annotations=promote))
        await pass_time(world, LONG)
        assert world.condition() == ("True", "Ready")
        assert sets(world) == {old: 0, new: 4}
