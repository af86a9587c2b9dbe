"""The rules, one by one: what goes up and when, what comes down and when, and what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.scaling_world import START, TICK, Law, even, look, policy

from llm_operator.facts.signals import Absent, Idle, Load, Reading
from llm_operator.scaling.law import decide
from llm_operator.scaling.terms import History, Peak, State, Stretch, Why

FAST = {"scaleDown": {"stabilizationWindowSeconds": 0, "maxChange": 100, "periodSeconds": 1}}
FREE = {**FAST, "scaleUp": {"maxChange": 1000, "periodSeconds": 1}}
"""No window and no rate: what is left is the arithmetic."""


def law(replicas: int = 1, **spec: Any) -> Law:
    return Law(policy(**spec), replicas=replicas)


# up


def test_the_second_look_goes_up() -> None:
    one = law(2)
    first, second = one.hold(52), one.hold(52)
    assert (first.replicas, first.why) == (2, Why.STEADY)
    assert first.why_not_more == "the load has been seen once only: the next look decides"
    assert (second.previous, second.replicas, second.why) == (2, 4, Why.SCALED_UP)
    assert second.why_not_less == "the load asks for more"
    assert second.message == "52 requests in hand (12 wait), one replica holds 16: 2 -> 4 replicas"


def test_the_same_moment_twice_is_one_look() -> None:
    one = law()
    one.hold(52)
    one.at -= TICK
    assert one.hold(52).replicas == 1


def test_a_load_within_tolerance_changes_nothing() -> None:
    assert law(10, maxReplicas=50).settle(175, 3)[-1] == 10
    assert law(10, maxReplicas=50).settle(177, 3)[-1] == 12
    strict = {"scaleUp": {"tolerance": 0}}
    assert law(10, maxReplicas=50, behavior=strict).settle(161, 3)[-1] == 11


def test_one_look_at_a_burst_counts_half() -> None:
    one = law(2)
    one.settle(10, 3)
    assert one.hold(50).replicas == 2
    assert one.hold(50).replicas == 4


def test_no_more_than_the_rate_allows() -> None:
    one = law(behavior={"scaleUp": {"maxChange": 2, "periodSeconds": 60}})
    assert one.settle(500, 10) == [1, 3, 3, 3, 3, 5, 5, 5, 5, 7]
    assert one.hold(500).why_not_more == "at most 2 more within 60 s"


def test_a_percentage_is_of_what_was_there_when_the_period_began() -> None:
    one = law(4, maxReplicas=30, behavior={"scaleUp": {"maxChange": "50%", "periodSeconds": 30}})
    assert one.settle(1000, 6) == [4, 6, 6, 9, 9, 14]


def test_the_least_of_the_window_goes_up() -> None:
    window = {**FREE, "scaleUp": {"stabilizationWindowSeconds": 60, "maxChange": 100}}
    one = law(2, behavior=window)
    assert one.settle(50, 4) == [2] * 4
    assert one.settle(60, 2) == [4, 4], "after 60 s, what all of it asks for"
    dip = law(2, behavior=window)
    dip.settle(50, 3)
    dip.settle(20, 2)
    assert dip.settle(50, 3) == [2] * 3


def test_panic_does_not_wait() -> None:
    window = {"scaleUp": {"stabilizationWindowSeconds": 600}}
    one = law(2, behavior=window)
    one.settle(20, 3)
    burst = one.hold(70)
    assert (burst.replicas, burst.why) == (5, Why.PANIC)
    assert "2 times what the 2 replicas can hold or more" in burst.message


def test_replicas_that_load_are_counted_once() -> None:
    one = law(behavior=FREE)
    one.hold(60)
    assert one.hold(60).replicas == 4
    for _ in range(5):
        waiting = one.see(even(60, 1), loading=3)
        assert (waiting.replicas, waiting.why) == (4, Why.WARMING_UP)


def test_no_more_than_the_maximum() -> None:
    one = law(4, maxReplicas=4)
    one.settle(200, 2)
    full = one.hold(200)
    assert (full.replicas, full.why, full.why_not_more) == (4, Why.AT_MAXIMUM, "maxReplicas is 4")


def test_a_wait_above_its_target_goes_up() -> None:
    slow = [Load(0, 5, served_rate=1.0, queue_seconds=6.0)] * 2
    one = law(2, metric={"queueSeconds": 4})
    one.see(slow)
    assert one.see(slow).replicas == 3
    assert one.see([*slow, Idle(START)]).replicas == 3, "the third has been asked for already"
    assert law(2).see(slow).replicas == 2


def test_a_rising_load_is_met_where_it_will_be() -> None:
    def climb(**spec: Any) -> int:
        one = law(4, maxReplicas=30, **spec)
        for step in range(10):
            one.see(even(30 + 3 * step, 4), current=4, load_seconds=120)
        one.replicas = 4
        return one.see(even(60, 4), load_seconds=120).replicas

    assert climb() == 6  # 58.5 in hand, 24 more by the time that a replica serves
    assert climb(coldStartAwareness=False) == 4


def test_what_a_look_teaches_counts_from_the_next_decision_on() -> None:
    """Twice the plan may be learnt of one that runs 60; more load now never asks for fewer now."""
    one = law(3)
    one.settle(45, 3)
    taught = one.see([Load(0, 60), Load(0, 15), Load(0, 15)])
    assert taught.message.endswith("one replica holds 16: 3 -> 5 replicas")
    assert "one replica holds 32" in one.hold(45).message


# down


def test_down_is_slow_and_one_by_one() -> None:
    one = law(4)
    counts = one.settle(10, 33)
    assert counts[:20] == [4] * 20, "the whole window first"
    assert counts[20:] == [3] * 4 + [2] * 4 + [1] * 5


def test_what_remains_holds_the_most_of_the_window() -> None:
    one = law(4)
    one.settle(10, 10)
    one.hold(46)  # 46 / 16 / 0.9 are 3.2 replicas
    assert one.settle(10, 20)[-1] == 4
    assert one.settle(10, 1) == [3]


def test_a_margin_remains() -> None:
    one = law(2, behavior=FAST)
    assert one.settle(14.5, 3)[-1] == 2, "one replica would hold 16, less 10 % 14.4"
    assert one.settle(14.3, 5)[-1] == 1


def test_the_first_look_takes_nothing_away_without_a_window_either() -> None:
    assert law(4, behavior=FAST).settle(0, 2) == [4, 1]


def test_the_most_is_remembered_however_often_it_is_looked() -> None:
    """Several looks are kept as one, and the most of them counts."""
    one = law(4)
    one.settle(10, 19)
    for demand in (10, 10, 60, 10, 10, 10):
        one.hold(demand)
        one.at -= TICK - 2
    one.at += TICK
    assert one.settle(10, 18)[-1] == 4
    assert one.settle(10, 3)[-1] == 3


def test_what_was_in_hand_is_held_against_what_a_replica_is_known_to_hold_now() -> None:
    """It was believed to hold 16 when there were 40; now it is known to hold 8."""
    known = Stretch(START - 400, START - 15)
    past = History(
        peaks=(Peak(START - 60, demand=40, most=2.5, least=2.5),),
        known=known,
        complete=known,
        observed_sequences=10,
        looked=START - 15,
        current=6,
    )
    assert Law(policy(), history=past, replicas=6).hold(10).replicas == 6
    enough = replace(past, observed_sequences=20)
    assert Law(policy(), history=enough, replicas=6).hold(10).replicas == 5


def test_a_wait_within_the_window_takes_nothing_away() -> None:
    """The load alone would do with one replica."""
    one = law(2, metric={"queueSeconds": 4})
    one.settle(10, 19)
    one.see([Load(0, 5, served_rate=1.0, queue_seconds=3.9)] * 2)
    assert one.settle(10, 19)[-1] == 2
    assert one.settle(10, 3)[-1] == 1


def test_what_is_just_enough_is_enough() -> None:
    """45.6 / 16 / 0.95 are 3, and a little more as a computer reckons."""
    exact = {"scaleDown": {**FAST["scaleDown"], "tolerance": 5}}
    assert law(5, behavior=exact).settle(45.6, 3)[-1] == 3


def test_a_tolerance_of_all_never_goes_down() -> None:
    tolerant = {"scaleDown": {**FAST["scaleDown"], "tolerance": 100}}
    assert law(5, behavior=tolerant).settle(0, 10)[-1] == 5


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"rolling_out": True}, "revisions are being exchanged"),
        ({"loading": 1}, "1 replica on the way or loading"),
        ({"current": 6}, "2 replicas on the way or loading"),
    ],
)
def test_nothing_goes_while_something_moves(facts: dict[str, object], said: str) -> None:
    one = law(4, behavior=FAST)
    serving = 4 - int(bool(facts.get("loading")))
    for _ in range(5):
        held = one.see([Idle(START)] * serving, **facts)
        one.replicas = 4
        assert held.replicas >= 4
        assert held.why_not_less == said


def test_a_replica_that_never_comes_holds_nothing_for_ever() -> None:
    """It waits for a GPU that there is none of; the load goes down all the same."""
    one = law(3, behavior=FAST)
    counts = [one.see([Idle(START)] * 2, current=3, loading=1).replicas for _ in range(90)]
    assert set(counts[:80]) == {3}
    assert counts[-1] == 1


def test_nothing_goes_in_panic() -> None:
    one = law(4, behavior=FAST)
    one.settle(10, 1)
    one.hold(150)
    calm = [one.hold(0) for _ in range(4)]
    assert [d.replicas >= 4 for d in calm[:3]] == [True] * 3
    assert "twice" in calm[0].why_not_less


# what is not known


@pytest.mark.parametrize("readings", [[Absent()] * 3, [Idle(START), Idle(START), Absent()]])
def test_what_is_not_known_takes_nothing_away(readings: list[Load | Reading]) -> None:
    one = law(3, behavior=FAST)
    for _ in range(50):
        held = one.see(readings)
        assert held.replicas == 3
    assert held.state is (State.MISSING if Idle(START) not in readings else State.PARTIAL)
    assert held.why in (Why.METRICS_MISSING, Why.METRICS_PARTIAL)
    assert "unknown" in held.why_not_less
    assert "unknown" in held.why_not_more or held.state is State.PARTIAL


def test_an_outage_is_told() -> None:
    held = law(3).see(outage="Prometheus: connection refused")
    assert (held.state, held.why) == (State.MISSING, Why.METRICS_MISSING)
    assert held.message == (
        "nothing is known of the load, Prometheus: connection refused: 3 replicas stay"
    )


def test_up_on_what_is_seen() -> None:
    one = law(3)
    busy: list[Load | Reading] = [Load(30, 20), Load(30, 20), Absent()]
    one.see(busy)
    up = one.see(busy)
    assert (up.replicas, up.state) == (7, State.PARTIAL)
    assert up.message.startswith("100 requests in hand (60 wait) in 2 of 3 replicas")


def test_after_an_outage_there_is_no_jump() -> None:
    one = law(2, behavior=FREE)
    one.settle(20, 10)
    for _ in range(40):
        assert one.see(outage="down").replicas == 2
    assert one.hold(60).replicas == 2, "a second look"
    assert one.hold(60).replicas == 4
    gone = law(4)
    gone.settle(60, 30)
    for _ in range(40):
        gone.see(outage="down")
    assert gone.settle(0, 20) == [4] * 20, "a whole window again"


def test_metrics_that_come_back_pod_by_pod_are_no_trend() -> None:
    one = law(4)
    for known in (1, 2, 3, 4):
        for _ in range(2):
            back = one.see([Load(0, 15)] * known + [Absent()] * (4 - known), load_seconds=600)
            assert back.replicas == 4
            assert "expected in" not in back.message


def test_a_short_gap_breaks_no_window() -> None:
    one = law(4)
    one.settle(10, 10)
    one.see(outage="time-out")
    assert one.settle(10, 9) == [4] * 9
    assert one.hold(10).replicas == 3


def test_where_none_serves_none_is_missed() -> None:
    held = law(2).see(loading=2)
    assert (held.replicas, held.state, held.why) == (2, State.COMPLETE, Why.WARMING_UP)


# bounds


@pytest.mark.parametrize("loads", [[], [Absent()] * 3, [Idle(START)] * 3])
@pytest.mark.parametrize(
    ("current", "expected", "why"),
    [(0, 2, Why.BOUNDS), (1, 2, Why.BOUNDS), (9, 5, Why.BOUNDS)],
)
def test_bounds_hold_whatever_is_known(
    loads: list[Load | Reading], current: int, expected: int, why: Why
) -> None:
    one = law(minReplicas=2, maxReplicas=5)
    bound = one.see(loads, current=current, rolling_out=True)
    assert (bound.previous, bound.replicas, bound.why) == (current, expected, why)
    limit = "minReplicas is 2" if current < 2 else "maxReplicas is 5"
    assert bound.message.startswith(f"{limit}: {current} -> {expected} replicas")


FLOOR = {"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 4}


def test_a_floor_of_the_calendar_is_followed_in_the_dark() -> None:
    one = law(1, schedule=[FLOOR])
    one.at = 1_700_035_200.0  # 08:00 UTC
    raised = one.see([Absent()])
    assert (raised.replicas, raised.why) == (4, Why.SCHEDULED)
    assert raised.message == (
        "the schedule asks for 4 from 0 8 * * * to 0 18 * * * (UTC): 1 -> 4 replicas"
    )
    held = one.hold(0)
    assert (held.replicas, held.why) == (4, Why.SCHEDULED)
    assert held.why_not_less.startswith("the schedule asks for 4")


def test_a_floor_above_the_maximum_is_the_maximum() -> None:
    one = law(1, maxReplicas=2, schedule=[FLOOR])
    one.at = 1_700_035_200.0
    bound = one.hold(0)
    assert bound.replicas == 2
    assert next(term.value for term in bound.terms if term.name == "bounds") == "2..2"


def test_no_floor_at_other_times() -> None:
    one = law(1, schedule=[FLOOR])
    one.at = 1_700_035_199.0
    assert one.hold(0).replicas == 1


def test_a_floor_that_ends_lets_go_slowly() -> None:
    one = law(4, schedule=[FLOOR])
    one.at = 1_700_071_200.0 - 40 * TICK  # 18:00 UTC, after ten minutes
    assert set(one.settle(0, 40)) == {4}
    assert one.settle(0, 5) == [3, 3, 3, 3, 2]


# words


def test_the_reason_of_rest() -> None:
    assert law(3).hold(40).why is Why.STEADY
    assert law(1).hold(5).why is Why.AT_MINIMUM
    assert law(3).see([Idle(START)] * 3, rolling_out=True).why is Why.ROLLING_OUT
    cooling = law(3)
    cooling.settle(10, 5)
    last = cooling.hold(10)
    assert last.why is Why.COOLING_DOWN
    assert last.why_not_less == "the load is known without a gap for 75 of 300 s"


def test_noise_changes_neither_the_number_nor_the_reason() -> None:
    one = law(3)
    one.settle(40, 30)
    said = {
        (d.replicas, d.why, d.state) for d in (one.hold(40 + noise) for noise in (3, -3, 2, 0, -4))
    }
    assert said == {(3, Why.STEADY, State.COMPLETE)}


def test_every_decision_says_all() -> None:
    one = law(3, metric={"queueSeconds": 3})
    decision = one.see([Load(8, 20, 1.0, 0.5, 2.0)] * 3)
    names = [term.name for term in decision.terms]
    assert names == [
        "running",
        "waiting",
        "without refusals",
        "demand",
        "one replica holds",
        "needed by load",
        "needed by wait",
        "needed at the most",
        "bounds",
        "replicas",
    ]
    assert dict(zip(names, (t.value for t in decision.terms), strict=True)) == {
        "running": "60",
        "waiting": "24",
        "without refusals": "90",
        "demand": "90",
        "one replica holds": "16",
        "needed by load": "5.62",
        "needed by wait": "2",
        "needed at the most": "5.62",
        "bounds": "1..10",
        "replicas": "3",
    }
    for text in (decision.message, decision.why_not_more, decision.why_not_less):
        assert text
        assert "\n" not in text


def test_the_moment_is_the_caller_s() -> None:
    decision, history = decide(look([], policy=policy()), History(), START)
    assert decision.at == START
    assert history.looked == START
