"""Replicas that follow the load while revisions are exchanged, or an upgrade came to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.test_scaler import LONG, WISH, autoscaled, pass_time, replicas
from tests.unit.world import World

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
