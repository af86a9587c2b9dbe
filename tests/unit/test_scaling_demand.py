"""What a look shows, what one replica holds, and where the load is going."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.scaling_world import CAPACITY, START, even, look, policy

from llm_operator.facts.signals import Absent, Broken, Idle, Load, Reading, Stale
from llm_operator.scaling.capacity import holds, learn
from llm_operator.scaling.demand import Seen, seen
from llm_operator.scaling.forecast import load_seconds, slope
from llm_operator.scaling.policy import Capacity
from llm_operator.scaling.scene import scene_of
from llm_operator.scaling.terms import History, Replica, Sample, State

POLICY = policy()
BUSY = Load(queued=5, running=20)


def see(*loads: Load | Reading, ran: float = math.inf, outage: str = "", loading: int = 0) -> Seen:
    return seen(look(list(loads), policy=POLICY, outage=outage, loading=loading), ran)


@pytest.mark.parametrize(
    ("readings", "state", "demand"),
    [
        ((BUSY, BUSY), State.COMPLETE, 50),
        ((BUSY, Idle(START)), State.COMPLETE, 25),
        ((BUSY, Absent()), State.PARTIAL, 25),
        ((BUSY, Stale(START - 300)), State.PARTIAL, 25),
        ((BUSY, Broken("NaN")), State.PARTIAL, 25),
        ((Idle(START), Idle(START)), State.COMPLETE, 0),
        ((Absent(), Stale(0)), State.MISSING, 0),
        ((), State.COMPLETE, 0),
    ],
)
def test_unknown_is_not_zero(
    readings: tuple[Load | Reading, ...], state: State, demand: float
) -> None:
    found = see(*readings)
    assert (found.state, found.demand) == (state, demand)


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["queued", "running", "served_rate", "refused_rate"])
def test_a_number_that_no_load_has_is_unknown(field: str, number: float) -> None:
    found = see(BUSY, replace(BUSY, **{field: number}))
    assert (found.state, found.demand) == (State.PARTIAL, 25)


def test_an_outage_is_missing_whatever_else_is_there() -> None:
    found = see(BUSY, outage="connection refused")
    assert found.state is State.MISSING
    assert not found.known
    assert see(outage="connection refused").state is State.MISSING


def test_what_loads_has_no_load_and_is_counted_once() -> None:
    found = see(BUSY, Idle(START), loading=3)
    assert (found.state, found.serving, found.coming) == (State.COMPLETE, 2, 3)
    asked = seen(look([BUSY], current=4, loading=1, policy=POLICY), math.inf)
    assert asked.coming == 3, "pods that nobody has made yet"


def test_refused_requests_would_run() -> None:
    """As many again as are served: twice as many would be in progress."""
    full = Load(queued=0, running=20, served_rate=2.0, refused_rate=2.0)
    assert see(full).demand == 40
    assert see(replace(full, refused_rate=1e9)).demand == 80, "who is refused tries again"
    assert see(replace(full, served_rate=0.0)).demand == 40


def test_a_want_is_not_counted_as_waiting_and_as_refused() -> None:
    full = Load(queued=44, running=20, served_rate=2.0, refused_rate=2.0)
    assert see(full).demand == 64


def test_refusals_of_a_minute_are_held_against_what_ran_then() -> None:
    """Else replicas that have come since are asked for again."""
    full = Load(queued=0, running=20, served_rate=2.0, refused_rate=2.0)
    assert see(full, full, full, ran=20).demand == 60
    assert see(full, full, full, ran=60).demand == 120


def test_a_wait_is_of_the_average_request() -> None:
    slow, quick = (
        Load(0, 20, served_rate=rate, queue_seconds=wait)
        for rate, wait in ((1.0, 10.0), (3.0, 2.0))
    )
    assert see(slow, quick, BUSY).queue_seconds == pytest.approx(4.0)
    assert see(BUSY).queue_seconds is None
    assert see(replace(slow, queue_seconds=math.inf)).queue_seconds is None


# capacity


def test_the_plan_says_what_a_replica_holds() -> None:
    assert holds(CAPACITY, POLICY.targets, None).requests == 16
    assert holds(CAPACITY, POLICY.targets, 30.0).requests == 24
    waiting = policy(metric={"runningShare": 0, "waitingRequests": 2}).targets
    assert holds(CAPACITY, waiting, None).requests == 22


def test_a_replica_holds_no_more_than_it_lets_in() -> None:
    small = Capacity(sequences=500, concurrent_requests=64, startup_seconds=1)
    each = holds(small, policy(small).targets, None)
    assert each.requests == pytest.approx(51.2)
    assert holds(small, policy(small, metric={"runningShare": 100}).targets, None).requests < 60


def full_look(running: float, queued: float = 20.0, replicas: int = 2) -> Seen:
    return see(*[Load(queued=queued, running=running)] * replicas)


def learned(found: Seen, ran: float | None, believed: float | None = None) -> float | None:
    before = None if ran is None else Sample(START - 15, ran, ran, found.serving)
    return learn(found, before, believed, CAPACITY, POLICY.targets)


def test_replicas_that_stay_full_show_what_they_can_do() -> None:
    assert learned(full_look(10), ran=20) == 15
    assert learned(full_look(10), ran=20, believed=15) == 12.5
    assert learned(full_look(30), ran=60) == 25


def test_a_batch_that_fills_up_shows_nothing() -> None:
    assert learned(full_look(10), ran=10) is None
    assert learned(full_look(10), ran=None) is None
    assert learned(full_look(10), ran=10, believed=18.0) == 18.0


def test_a_queue_within_its_target_shows_nothing() -> None:
    assert learned(full_look(10, queued=4), ran=20) is None


def test_half_a_picture_teaches_nothing() -> None:
    half = see(Load(queued=20, running=10), Absent())
    assert learned(half, ran=20) is None


def test_nobody_believes_in_much_less_than_the_plan() -> None:
    believed: float | None = None
    for _ in range(20):
        believed = learned(full_look(1), ran=2, believed=believed)
    assert believed == pytest.approx(5.0, abs=0.1)


def test_what_runs_can_run() -> None:
    assert learned(see(Load(0, 33), Load(0, 10)), ran=43) == 33
    assert learned(see(Load(0, 15), Load(0, 10)), ran=25) is None
    assert learned(see(Load(0, 15)), ran=15, believed=12.0) == 15
    assert learned(see(Load(0, 900)), ran=900) == 2 * CAPACITY.sequences


# trend


def ramp(values: list[float], waiting: float = 0.0) -> tuple[tuple[Sample, ...], Sample]:
    """Looks 15 s apart, the last of them now."""
    samples = [
        Sample(START - 15 * (len(values) - 1 - i), value + waiting, value, 1)
        for i, value in enumerate(values)
    ]
    return tuple(samples[:-1]), samples[-1]


def test_a_ramp_has_its_slope() -> None:
    assert slope(*ramp([10 + 3 * i for i in range(8)])) == pytest.approx(0.2)
    assert slope(*ramp([10 + 3 * i for i in range(20)])) == pytest.approx(0.2)


@pytest.mark.parametrize("when", range(10))
def test_a_step_is_no_trend(when: int) -> None:
    assert slope(*ramp([10.0] * when + [100.0] * (10 - when))) == 0


@pytest.mark.parametrize(
    "values",
    [
        [50.0] * 10,
        [50.0 - 3 * i for i in range(10)],
        [50.0 + i / 2 for i in range(10)],  # within what independent requests scatter by
        [10.0 + 3 * i for i in range(5)],  # not long enough
    ],
)
def test_no_trend(values: list[float]) -> None:
    assert slope(*ramp(values)) == 0


def test_where_requests_wait_no_trend_is_seen() -> None:
    """What runs rises there because replicas come."""
    before, new = ramp([10 + 3 * i for i in range(9)], waiting=20)
    assert slope(before, new) == 0
    quiet, _ = ramp([10 + 3 * i for i in range(9)])
    assert slope(quiet, new) > 0, "more that wait now never ask for less now"


def test_a_gap_hides_a_trend() -> None:
    before, new = ramp([10 + 3 * i for i in range(9)])
    assert slope((*before[:2], *before[-1:]), new) == 0


def test_loading_takes_as_long_as_it_took() -> None:
    def replicas(*seconds: float | None) -> tuple[Replica, ...]:
        return tuple(Replica(f"p{i}", s is not None, s) for i, s in enumerate(seconds))

    assert load_seconds(replicas(60.0, 90.0, 400.0, None), CAPACITY) == (90.0, True)
    assert load_seconds(replicas(None), CAPACITY) == (120.0, False)
    assert load_seconds(replicas(9000.0), CAPACITY) == (600.0, True)


def test_what_is_expected_is_bounded_and_can_be_switched_off() -> None:
    before, _ = ramp([20 + 10 * i for i in range(9)])
    loads = even(100, 10)
    history = History(samples=before)

    def expected(**spec: Any) -> float:
        at = look(loads, policy=policy(**spec), load_seconds=600)
        return scene_of(at, history, START).need.expected

    assert expected() == scene_of(look(loads, policy=POLICY), history, START).need.demand
    assert expected(coldStartAwareness=False) == 0
