"""The law in the loop, in virtual time: steps, ramps, bursts and saws on replicas that take time.

Against what is usual, a Horizontal Pod Autoscaler on the length of the queue. Properties only: who
waits less, with less, and how often the direction turns.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType

import pytest
from tests.unit.scaling_world import (
    Engine,
    Law,
    Run,
    hpa_scaler,
    law_scaler,
    policy,
    simulate,
)

from llm_operator.facts.signals import Load

Arrivals = Callable[[float], float]
HOUR = 3600


def step(second: float) -> float:
    return 6.0 if 600 <= second < 2400 else 1.0


def ramp(second: float) -> float:
    return 1.0 + min(second, 2000) / 200


def burst(second: float) -> float:
    return 12.0 if 900 <= second < 960 else 1.0


def saw(second: float) -> float:
    return 1.0 + (second % 600) / 75


SHAPES = {"step": step, "ramp": ramp, "burst": burst, "saw": saw}
LOADING = (30, 90, 300)


@cache
def by_law(shape: str, load_seconds: int, ahead: bool = True) -> Run:
    scaler = law_scaler(policy(maxReplicas=12, coldStartAwareness=ahead))
    engine = Engine(load_seconds=load_seconds)
    return simulate(SHAPES[shape], scaler, seconds=HOUR, engine=engine)


@cache
def by_hpa(shape: str, load_seconds: int) -> Run:
    scaler = hpa_scaler(target=4, low=1, high=12)
    engine = Engine(load_seconds=load_seconds)
    return simulate(SHAPES[shape], scaler, seconds=HOUR, engine=engine)


@pytest.mark.parametrize("load_seconds", LOADING)
@pytest.mark.parametrize("shape", ["step", "ramp", "saw"])
def test_less_waits_and_is_refused_with_fewer_replicas(shape: str, load_seconds: int) -> None:
    ours = by_law(shape, load_seconds)
    theirs = by_hpa(shape, load_seconds)
    assert ours.wait_seconds < theirs.wait_seconds / 2
    assert ours.refused < theirs.refused / 2
    assert ours.replica_seconds < theirs.replica_seconds
    assert ours.turns < theirs.turns


@pytest.mark.parametrize("load_seconds", LOADING)
def test_a_burst_is_over_before_anything_has_loaded(load_seconds: int) -> None:
    """Nobody can help it; but fewer are asked for in vain."""
    ours, theirs = by_law("burst", load_seconds), by_hpa("burst", load_seconds)
    assert ours.replica_seconds < theirs.replica_seconds
    assert ours.refused <= theirs.refused * 1.05
    assert ours.turns == 1


@pytest.mark.parametrize("load_seconds", LOADING)
def test_a_step_is_gone_up_and_down_once(load_seconds: int) -> None:
    run = by_law("step", load_seconds)
    assert run.turns == 1
    assert run.replicas[599] == 1
    assert 4 <= run.replicas[2399] <= 5, "60 at once of 16 each"
    assert max(run.replicas) <= 6, "and little more on the way there"
    assert run.replicas[-1] == 1
    assert max(run.waiting[1500:2400]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("load_seconds", [30, 90])
def test_a_ramp_is_never_waited_on(load_seconds: int) -> None:
    run = by_law("ramp", load_seconds)
    assert run.refused == 0
    assert run.wait_seconds < 0.02
    assert run.turns == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_it_bears_comparison_with_the_same_targets_by_formula(shape: str) -> None:
    """As many for all requests in hand, at the plan's 16 a replica: what the law adds is a memory.

    It has to pay for itself where loading is slow.
    """
    formula = simulate(
        SHAPES[shape],
        hpa_scaler(target=16, low=1, high=12, running=True),
        seconds=HOUR,
        engine=Engine(load_seconds=300),
    )
    ours = by_law(shape, 300)
    assert ours.wait_seconds <= formula.wait_seconds * 1.02
    assert ours.refused <= formula.refused * 1.02
    assert ours.turns <= formula.turns
    assert ours.replica_seconds < formula.replica_seconds * 1.2


def test_looking_ahead_helps_where_loading_is_slow() -> None:
    ahead, blind = by_law("ramp", 300), by_law("ramp", 300, ahead=False)
    assert ahead.wait_seconds < blind.wait_seconds
    assert ahead.refused < blind.refused


@pytest.mark.parametrize("slots", [8, 20, 50])
def test_a_plan_that_is_off_is_corrected(slots: int) -> None:
    """The engine decodes fewer at once than planned, or more: nothing waits in the end."""
    scaler = law_scaler(policy(maxReplicas=40))
    run = simulate(lambda _: 6.0, scaler, seconds=2 * HOUR, engine=Engine(slots=slots))
    enough = 60 / slots
    assert enough <= run.replicas[-1] <= enough / 0.8 / 0.9 + 2
    assert max(run.waiting[HOUR:]) == pytest.approx(0, abs=1e-6)
    assert len(set(run.replicas[HOUR:])) == 1


def test_a_history_is_small() -> None:
    """1,000 deployments, each with its own."""
    window = {"scaleDown": {"stabilizationWindowSeconds": 3600}}
    one = Law(policy(maxReplicas=1000, behavior=window))
    one.at += 0.5
    for number in range(400):
        one.at -= 10  # a look every five seconds
        one.see([Load(0, number / 7)] * 2, current=number)
    assert 5_000 < _bytes(one.history) < 15_000
    usual = Law(policy())
    usual.settle(30, 100)
    assert _bytes(usual.history) < 8_000


def _bytes(root: object) -> int:
    """The memory of an object with all that it leads to, classes left out."""
    found: dict[int, object] = {}
    ahead = [root]
    while ahead:
        one = ahead.pop()
        if id(one) not in found and not isinstance(one, type | ModuleType):
            found[id(one)] = one
            ahead += gc.get_referents(one)
    return sum(map(sys.getsizeof, found.values()))
