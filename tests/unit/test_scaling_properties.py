"""Whatever is seen, in whatever order, with whatever clock: what the law never does."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scaling_world import CAPACITY, START, TICK, Law, even, look, policy

from llm_operator.facts.signals import (
    Absent,
    Broken,
    Fresh,
    Idle,
    Load,
    Reading,
    Signals,
    Stale,
)
from llm_operator.scaling.law import decide
from llm_operator.scaling.policy import Capacity, Policy
from llm_operator.scaling.schedule import floor_at
from llm_operator.scaling.terms import Decision, History, Look, Replica, State

SEVERAL = settings(deadline=None, max_examples=150)
FEW = settings(deadline=None, max_examples=40)

NUMBERS = st.floats(0, 200) | st.sampled_from([0.0, 1.0, 64.0])
ODD = st.sampled_from([math.nan, math.inf, -1.0])
LOADS = st.builds(
    Load,
    queued=NUMBERS,
    running=NUMBERS,
    served_rate=st.floats(0, 10),
    refused_rate=st.sampled_from([0.0, 0.0, 0.0, 0.5, 100.0]),
    queue_seconds=st.none() | st.floats(0, 100) | ODD,
)
KNOWN = st.builds(Fresh, load=LOADS, at=st.just(START)) | st.just(Idle(START))
DARK: list[Reading] = [Absent(), Stale(START - 300), Broken("scrape failed")]
UNKNOWN = st.sampled_from(DARK) | st.builds(lambda number: Fresh(Load(number, 1.0), START), ODD)
READINGS = KNOWN | UNKNOWN
SHARES = st.none() | st.integers(0, 100)
DIRECTIONS = st.none() | st.fixed_dictionaries(
    {
        "stabilizationWindowSeconds": st.sampled_from([None, 0, 15, 60, 300, 3600]),
        "maxChange": st.sampled_from([None, 1, 3, 1000, "1%", "50%", "100%"]),
        "periodSeconds": st.sampled_from([None, 1, 15, 60, 3600]),
        "tolerance": SHARES,
    }
)
HALF_HOURS = {"start": "0 * * * *", "end": "30 * * * *", "minReplicas": 4}
TEN_MINUTES = {"start": "*/10 * * * *", "end": "5 * * * *", "minReplicas": 40}
FLOORS = st.sampled_from([[], [], [], [HALF_HOURS], [HALF_HOURS, TEN_MINUTES]])
CAPACITIES = st.builds(
    Capacity,
    sequences=st.integers(0, 300),
    concurrent_requests=st.sampled_from([1, 8, 64, 128]),
    startup_seconds=st.sampled_from([60.0, 1200.0]),
)


@st.composite
def policies(draw: st.DrawFn, capacity: Capacity = CAPACITY) -> Policy:
    """Any spec there may be, minimum above maximum and targets of 0 included."""
    return policy(
        capacity,
        minReplicas=draw(st.sampled_from([1, 1, 3, 12])),
        maxReplicas=draw(st.sampled_from([1, 9, 60])),
        metric={
            "waitingRequests": draw(st.none() | st.sampled_from([0.0, 0.5, 4.0, 10_000.0])),
            "runningShare": draw(SHARES),
            "queueSeconds": draw(st.sampled_from([None, 0.0, 0.1, 5.0])),
        },
        behavior={"scaleUp": draw(DIRECTIONS), "scaleDown": draw(DIRECTIONS)},
        schedule=draw(FLOORS),
        coldStartAwareness=draw(st.booleans()),
    )


EVEN: list[Load | Reading] = [
    Idle(START),
    Load(0, 1.0, 1.0),
    Load(3, 20, 1.0),
    Load(30, 20),
]


@st.composite
def looks(draw: st.DrawFn, capacity: Capacity, rules: Policy, current: int) -> Look:
    """All serve and are known, quiet or busy; or what there is need not be what was asked for."""
    if draw(st.booleans()):
        load = draw(st.sampled_from(EVEN))
        return look([load] * max(current, 1), current=current, policy=rules, capacity=capacity)
    return look(
        draw(st.lists(READINGS, max_size=3)),
        current=current,
        loading=draw(st.sampled_from([0, 0, 0, 1, 3])),
        policy=rules,
        capacity=capacity,
        outage=draw(st.sampled_from(["", "", "", "time-out"])),
        rolling_out=draw(st.sampled_from([False, False, False, True])),
        load_seconds=draw(st.sampled_from([-5.0, 30.0, 1e9])),
    )


STEPS = st.sampled_from([TICK] * 8 + [0.0, 0.5, 60.0, 400.0, 86_400.0, -1.0, -30.0, -86_400.0])


@st.composite
def pasts(draw: st.DrawFn) -> tuple[Look, History, float]:
    """A history as it comes about, with the next look and its moment."""
    capacity = draw(CAPACITIES)
    rules = draw(policies(capacity))
    history, now, current = History(), START, draw(st.integers(0, 20))
    for _ in range(draw(st.integers(0, 4))):
        seen = draw(looks(capacity, rules, current))
        for _ in range(draw(st.sampled_from([1, 2, 25]))):
            decision, history = decide(replace(seen, current=current), history, now)
            current = decision.replicas
            now += TICK
        current = draw(st.sampled_from([current, current, 0, 15]))
        now += draw(STEPS)
    return draw(looks(capacity, rules, current)), history, now


def floor_of(rules: Policy) -> int:
    """The lowest number that any moment asks for."""
    return rules.minimum


@given(pasts())
@SEVERAL
def test_the_bounds_hold(past: tuple[Look, History, float]) -> None:
    decision, _ = decide(*past)
    rules = past[0].policy
    assert floor_of(rules) <= decision.replicas <= rules.maximum


WRONGS = st.sampled_from(["pod", "outage", "rollout", "loading"])


def spoiled(seen: Look, what: str, unknown: Reading) -> Look:
    """The same look, but for something that is unknown or moves."""
    readings = {**seen.signals.readings, "dark": unknown}
    if what == "pod":
        dark = Replica("dark", serving=True, load_seconds=60.0)
        signals = replace(seen.signals, readings=readings)
        return replace(seen, replicas=(*seen.replicas[1:], dark), signals=signals)
    if what == "outage":
        return replace(seen, signals=Signals(START, outage="time-out"))
    if what == "rollout":
        return replace(seen, rolling_out=True)
    return replace(seen, replicas=(*seen.replicas[1:], Replica("new", serving=False)))


@given(pasts(), WRONGS, UNKNOWN)
@SEVERAL
def test_nothing_goes_but_by_the_maximum_where_anything_is_unknown_or_moves(
    past: tuple[Look, History, float], what: str, unknown: Reading
) -> None:
    seen, history, now = past
    fresh = replace(history, coming=None)
    decision, _ = decide(spoiled(seen, what, unknown), fresh, now)
    assert decision.replicas >= min(seen.current, seen.policy.maximum)
    if what in ("pod", "outage"):
        assert decision.state is not State.COMPLETE


@given(
    replicas=st.integers(2, 20),
    busy=st.floats(0, 0.4),
    window=st.sampled_from([0, 60, 300]),
    change=st.sampled_from([None, 3, "50%", "100%"]),
    what=WRONGS,
    unknown=UNKNOWN,
)
@SEVERAL
def test_whatever_is_unknown_or_moves_keeps_what_else_would_go(
    replicas: int, busy: float, window: int, change: int | str | None, what: str, unknown: Reading
) -> None:
    down = {"stabilizationWindowSeconds": window, "maxChange": change}
    one = Law(policy(maxReplicas=20, behavior={"scaleDown": down}), replicas=replicas)
    loads = even(busy * 16 * replicas, replicas)
    for _ in range(25):
        one.see(loads)
        one.replicas = replicas
    seen = look(loads, policy=one.policy)
    free, _ = decide(seen, one.history, one.at)
    assert replicas - one.policy.down.most(replicas) <= free.replicas < replicas
    held, _ = decide(spoiled(seen, what, unknown), one.history, one.at)
    assert held.replicas == replicas


@given(pasts())
@SEVERAL
def test_nothing_comes_but_by_the_minimum_where_all_is_unknown(
    past: tuple[Look, History, float],
) -> None:
    seen, history, now = past
    dark = replace(seen, signals=replace(seen.signals, readings={}))
    decision, _ = decide(dark, history, now)
    floors = [4, 40] if seen.policy.floors else []
    low = min(max([seen.policy.minimum, *floors]), seen.policy.maximum)
    assert decision.replicas <= max(min(seen.current, seen.policy.maximum), low)


@given(pasts(), st.data())
@SEVERAL
def test_more_load_never_asks_for_fewer(
    past: tuple[Look, History, float], data: st.DataObject
) -> None:
    seen, history, now = past

    def more(reading: Reading) -> Reading:
        if isinstance(reading, Idle):
            return Fresh(data.draw(LOADS.map(lambda load: replace(load, served_rate=0.0))), START)
        if not isinstance(reading, Fresh):
            return reading
        load = reading.load
        extra = data.draw(st.tuples(NUMBERS, NUMBERS))
        return Fresh(
            replace(load, queued=load.queued + extra[0], running=load.running + extra[1]), START
        )

    readings = {name: more(reading) for name, reading in seen.signals.readings.items()}
    busier = replace(seen, signals=replace(seen.signals, readings=readings))
    first, _ = decide(seen, history, now)
    second, _ = decide(busier, history, now)
    assert second.replicas >= first.replicas or second.state is not first.state


@given(policies(), st.integers(0, 20), st.floats(0, 500))
@SEVERAL
def test_a_restart_starts_no_herd(rules: Policy, current: int, demand: float) -> None:
    """The first look after a start moves nothing but bounds."""
    seen = look(even(demand, max(current, 1)), current=current, policy=rules)
    decision, _ = decide(seen, History(), START)
    floors = [4, 40] if rules.floors else []
    lows = {min(max(rules.minimum, low), rules.maximum) for low in (0, *floors)}
    assert decision.replicas in {min(max(current, low), rules.maximum) for low in lows}


@given(pasts())
@SEVERAL
def test_no_step_is_larger_than_its_rate(past: tuple[Look, History, float]) -> None:
    """From within the bounds of that moment."""
    seen, _, now = past
    decision, _ = decide(*past)
    rules = seen.policy
    floor = floor_at(rules.floors, now)
    low = min(max(rules.minimum, floor.min_replicas if floor else 0), rules.maximum)
    begin = min(max(seen.current, low), rules.maximum)
    assert decision.replicas <= begin + rules.up.most(begin)
    assert decision.replicas >= begin - rules.down.most(begin)


@given(pasts())
@SEVERAL
def test_what_is_remembered_and_said_is_bounded(past: tuple[Look, History, float]) -> None:
    decision, history = decide(*past)
    assert len(history.samples) <= 30
    assert len(history.peaks) <= 30
    assert len(history.changes) <= 32
    assert 3 <= len(decision.terms) <= 14
    assert all((decision.message, decision.why_not_more, decision.why_not_less))
    texts = (decision.message, decision.why_not_more, decision.why_not_less)
    assert all("nan" not in text and "inf " not in text for text in texts)
    assert max(map(len, texts)) < 400


@given(pasts())
@SEVERAL
def test_the_past_lies_in_the_past(past: tuple[Look, History, float]) -> None:
    """Whatever the clock does, nothing is remembered that has not been."""
    _, history = decide(*past)
    assert history.looked is not None
    assert history.looked <= past[2] + 5
    for moments in (history.samples, history.peaks, history.changes):
        assert all(one.at <= history.looked for one in moments)
    assert list(history.samples) == sorted(history.samples, key=lambda sample: sample.at)


# a constant load

FREE = {
    "scaleUp": {"maxChange": 1000, "periodSeconds": 1},
    "scaleDown": {"maxChange": 1000, "periodSeconds": 1},
}


def run(one: Law, demand: float, loads_for: int, ticks: int) -> list[Decision]:
    """A constant demand on replicas that serve so many ticks after they were asked for."""
    said: list[Decision] = []
    births = [-loads_for] * one.replicas
    for tick in range(ticks):
        serving = sum(1 for born in births if tick - born >= loads_for)
        loads = even(demand, serving, one.capacity)
        said.append(one.see(loads, loading=len(births) - serving, current=len(births)))
        births = (births + [tick] * one.replicas)[: one.replicas]
    return said


def turns(counts: list[int]) -> list[int]:
    """The changes, without the ticks between them."""
    return [b - a for a, b in pairwise(counts) if a != b]


@given(
    demand=st.floats(0, 600),
    begin=st.integers(1, 40),
    loads_for=st.sampled_from([0, 4, 12]),
    tolerances=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    share=SHARES,
)
@FEW
def test_a_constant_load_settles_within_three_changes_and_stays(
    demand: float, begin: int, loads_for: int, tolerances: tuple[int, int], share: int | None
) -> None:
    up, down = tolerances
    behavior = {
        "scaleUp": {**FREE["scaleUp"], "tolerance": up},
        "scaleDown": {**FREE["scaleDown"], "tolerance": down},
    }
    rules = policy(maxReplicas=40, behavior=behavior, metric={"runningShare": share})
    one = Law(rules, replicas=begin)
    said = run(one, demand, loads_for, 120)
    counts = [begin, *(decision.replicas for decision in said)]
    assert len(turns(counts)) <= 3
    assert len({c > 0 for c in turns(counts)}) <= 1, "never there and back"
    assert len(set(counts[60:])) == 1
    reasons = {(d.why, d.state) for d in said[100:]}
    assert len(reasons) == 1, "and status has nothing to tell"


@given(demands=st.lists(st.floats(0, 300), min_size=2, max_size=2), begin=st.integers(1, 12))
@FEW
def test_more_load_settles_at_no_fewer(demands: list[float], begin: int) -> None:
    settled = [
        Law(policy(maxReplicas=12, behavior=FREE), replicas=begin).settle(demand, 60)[-1]
        for demand in sorted(demands)
    ]
    assert settled[0] <= settled[1]


@given(st.integers(1, 20), st.floats(1, 300), st.sampled_from([-1e6, -3600.0, 3600.0, 1e6, 1e9]))
@FEW
def test_a_clock_that_jumps_moves_nothing(begin: int, demand: float, jump: float) -> None:
    one = Law(policy(maxReplicas=20, behavior=FREE), replicas=begin)
    settled = one.settle(demand, 40)[-1]
    one.at += jump
    assert set(one.settle(demand, 40)) == {settled}


@given(st.integers(2, 20), st.sampled_from([-1e6, -3600.0, 3600.0, 1e6]))
@FEW
def test_after_a_jump_nothing_goes_before_a_whole_window(begin: int, jump: float) -> None:
    one = Law(policy(maxReplicas=20, behavior=FREE), replicas=begin)
    one.settle(16 * begin * 0.95, 40)
    one.at += jump
    assert set(one.settle(0, 20)) == {begin}
    assert one.settle(0, 1) == [1]
