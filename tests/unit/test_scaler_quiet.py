"""What was learned outlives a restart, and requests that scatter write nothing."""

from __future__ import annotations

import random

import pytest
from tests.unit.desired_inputs import plan
from tests.unit.test_scaler import LONG, WISH, autoscaled, pass_time, replicas
from tests.unit.world import TICK, World

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.desired.revision import Defaults, resolve
from llm_operator.reconcile.wishes import Answer

pytestmark = pytest.mark.looptime

CALM = {"maxReplicas": 50, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}}


@pytest.fixture
def world() -> World:
    return World()


def planned(world: World, sequences: int) -> None:
    """Every plan from now on decodes so many requests at once."""
    made = plan(max_concurrent_sequences=sequences)
    spec = LLMDeploymentSpec.model_validate({"model": {"id": "some/model"}})
    world.wishes.answer = Answer(resolve(spec, made, None, Defaults()), plan=made)


@pytest.mark.parametrize(("sequences", "really"), [(16, 100), (97, 16)], ids=["more", "fewer"])
async def test_a_restart_forgets_nothing_of_what_a_replica_takes(
    world: World, sequences: int, really: int
) -> None:
    planned(world, sequences)
    world.slots = really
    async with world.operator():
        await autoscaled(world, maxReplicas=50)
        for demand in range(10, 260, 10):
            world.demand["llama"] = demand
            await pass_time(world, 60)
        await pass_time(world, 3 * LONG)
        many = replicas(world)
        assert many > 3
        assert world.status()["scaling"]["observedSequences"] > 0
        world.writes()
    for _ in range(2):
        async with world.operator():
            for _ in range(int(LONG / TICK)):
                await pass_time(world, TICK)
                assert replicas(world) == many
    assert world.writes() == []


async def test_what_was_observed_of_one_plan_says_nothing_of_another(world: World) -> None:
    planned(world, 16)
    world.slots = 8
    async with world.operator():
        await autoscaled(world, maxReplicas=50)
        world.demand["llama"] = 100
        await pass_time(world, 3 * LONG)
        assert replicas(world) > 10
        planned(world, 97)
        world.slots = 97
        world.want(autoscaling={**WISH, "maxReplicas": 50}, limits={"maxConcurrentRequests": 77})
        await pass_time(world, 6 * LONG)
        assert replicas(world) == 2
        assert "observedSequences" not in world.status()["scaling"]


@pytest.mark.parametrize("mean", range(150, 250, 10))
async def test_advice_does_not_go_back_and_forth(world: World, mean: int) -> None:
    chance = random.Random(1)
    async with world.operator():
        world.want(autoscaling={**WISH, **CALM, "mode": "Advise"})
        await world.serve()
        world.slots = 97
        world.demand["llama"] = mean
        await pass_time(world, LONG)
        world.writes()
        for _ in range(240):
            world.demand["llama"] = round(chance.gauss(mean, mean**0.5))
            await pass_time(world, TICK)
        assert len(world.writes()) <= 8


@pytest.mark.parametrize("mean", range(150, 190, 5))
async def test_a_load_about_the_maximum_is_not_told_again_and_again(
    world: World, mean: int
) -> None:
    chance = random.Random(1)
    async with world.operator():
        world.slots = 97
        await autoscaled(world, maxReplicas=2)
        world.demand["llama"] = mean
        await pass_time(world, LONG)
        world.writes()
        for _ in range(240):
            world.demand["llama"] = round(chance.gauss(mean, mean**0.5))
            await pass_time(world, TICK)
        assert len(world.writes()) <= 4
