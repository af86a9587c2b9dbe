"""Strategies, failures and the user's hands: where each leads, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.rollout_world import DRAIN, GARBAGE, Kind, World, world

from llm_operator.api.status import Reason
from llm_operator.rollout.policy import ALL_STEPS, CanaryStep, Policy, Strategy
from llm_operator.rollout.report import Report
from llm_operator.rollout.seen import PodSeen, RevisionSeen, Seen, Verdict
from llm_operator.rollout.stepper import Step, next_step

BASE = Policy(surge=1, floor=3, tight_floor=2, deadline_seconds=900)
CANARY = replace(BASE, strategy=Strategy.CANARY, steps=(CanaryStep(1, 60), CanaryStep(2, None)))


def settled(one: World) -> Report:
    """Where it comes to rest with something to say."""
    report = one.settle().report
    assert report is not None
    return report


# from nothing


def test_the_first_revision_gets_all_replicas_in_one_write() -> None:
    one = World([9], "a", 3, lambda _: BASE)
    step = one.decide()
    assert step == Step({"a": 3}, target="a")
    one.settle()
    assert one.writes == 1


def test_nothing_to_run_and_nothing_wanted() -> None:
    assert next_step(Seen(), None, 2, BASE, 0.0) == Step({})


def test_a_first_revision_that_crashes_is_not_given_up() -> None:
    one = World([9], "a", 1, lambda _: BASE, kinds={"a": Kind(crashes_after=5)})
    assert one.settle().report is None
    assert one.sets["a"].failed is None
    assert one.sets["a"].replicas == 1


def test_a_first_revision_that_takes_too_long_is_stalled_and_may_still_come() -> None:
    one = World([9], "a", 1, lambda _: BASE, kinds={"a": Kind(load=1000)})
    late = []
    one.settle(lambda s: late.append(s.report) if s.report else None)
    assert late[0].reason is Reason.PROGRESS_DEADLINE_EXCEEDED
    assert late[0].stalled
    assert one.serving("a") == 1
    assert one.decide().report is None


# rolling


def test_the_first_new_pod_must_serve_before_others_come() -> None:
    one = world([9], 3, policy=replace(BASE, surge=3))
    one.settle(lambda s: _alone_until_proven(s, one))
    assert one.serving("b") == 3


def _alone_until_proven(step: Step, one: World) -> None:
    if not one.serving("b"):
        assert step.replicas["b"] == 1
        assert step.replicas["a"] == 3


def test_a_wider_surge_and_floor_go_faster() -> None:
    durations = []
    for policy in (BASE, replace(BASE, surge=3), replace(BASE, surge=2, floor=1, tight_floor=1)):
        one = world([9], 3, policy=policy)
        start = one.now
        one.settle()
        durations.append(one.now - start)
        assert one.lowest >= policy.floor
    assert durations[0] > durations[1] >= durations[2]


def test_without_surge_a_pod_goes_first() -> None:
    one = world([9], 3, policy=replace(BASE, surge=0, floor=2))
    one.settle(lambda s: _at_most(3, s))
    assert one.serving("b") == 3
    assert one.lowest == 2


def _at_most(pods: int, step: Step) -> None:
    assert sum(step.replicas.values()) <= pods


def test_least_available_of_all_replicas_stands_still_and_says_why() -> None:
    one = world([3], 3, policy=replace(BASE, tight_floor=3))
    report = settled(one)
    assert one.lowest == 3
    assert report.stalled
    assert report.reason is Reason.NO_SPARE_GPU
    assert report.message == (
        "0/3 replicas updated, 3 of before serve; no room for one more replica, which needs 1 GPU,"
        " and none can be made: 3 serve, at least 3 of 3 must serve."
        " Free 1 GPU, or lower rollout.minAvailable"
    )
    one.nodes.append(1)
    assert one.settle().report is None
    assert one.lowest == 3


def test_a_surge_is_waited_for_while_pods_of_others_may_leave() -> None:
    """The scheduler has its time to answer, and again after a pod has left."""
    one = world([3], 3)
    one.carry_out(one.decide())
    one.settle_controllers()
    one.now += 14
    assert one.decide().replicas["a"] == 3
    one.freed_at = one.now
    one.now += 14
    assert one.decide().replicas["a"] == 3
    one.now += 1
    assert one.decide().replicas["a"] == 2


def test_pods_that_never_leave_are_not_waited_for() -> None:
    one = world([3, 1], 3)
    lost = one.alive("a")[0]
    lost.gone_by = one.now + 100  # its node does not answer
    for _ in range(3):
        one.carry_out(one.decide())
        one.settle_controllers()
    one.nodes[1] = 0
    assert one.decide().replicas["a"] == 3
    one.now += 131
    lost.gone_by = one.now - 31
    one.look()
    step = one.decide()
    assert step.report is not None


# recreate


def test_recreate_runs_one_revision_at_a_time() -> None:
    one = world([9], 3, policy=replace(BASE, strategy=Strategy.RECREATE, floor=0, tight_floor=0))
    one.settle(lambda s: _never_both(s, one))
    assert one.serving("b") == 3


def _never_both(step: Step, one: World) -> None:
    if any(p.revision == "a" for p in one.pods):
        assert step.replicas["b"] == 0
    if "b" not in one.sets:
        assert step.replicas["a"] == 3, "nothing goes for a revision that may be refused"


def test_a_failure_of_recreate_brings_the_old_one_back() -> None:
    policy = replace(BASE, strategy=Strategy.RECREATE)
    one = world([3], 3, policy=policy, b=Kind(crashes_after=5))
    assert settled(one).reason is Reason.ROLLED_BACK
    assert one.serving("a") == 3
    assert one.sets["b"].replicas == 0


# canary


def test_a_canary_stops_at_its_steps() -> None:
    one = world([9], 4, policy=replace(CANARY, floor=4))
    report = settled(one)
    assert one.picture() == "a:2(2/2) b:2(2/2)"
    assert report == Report(
        Reason.PAUSED,
        "2/4 replicas updated, 2 of before serve; step 2 of 2:"
        " waits for `llm-operator rollout promote`",
    )
    assert "a:3(3/3) b:1(1/1)" in one.history
    one.promoted = 2
    assert one.settle().report is None
    assert one.serving("b") == 4
    assert one.lowest == 4


def test_a_canary_says_when_it_goes_on() -> None:
    one = world([9], 4, policy=replace(CANARY, floor=4))
    said: list[Report] = []
    one.settle(lambda s: said.append(s.report) if s.report else None)
    first = next(r for r in said if r.reason is Reason.PAUSED)
    assert "step 1 of 2: goes on at 1970-01-12T13:48:40Z" in first.message
    assert not first.stalled


def test_a_promotion_may_be_of_some_steps_or_of_all() -> None:
    steps = (CanaryStep(1, None), CanaryStep(2, None))
    one = world([9], 4, policy=replace(CANARY, floor=4, steps=steps))
    one.settle()
    assert one.serving("b") == 1
    one.promoted = 1
    one.settle()
    assert one.serving("b") == 2
    one.promoted = ALL_STEPS
    one.settle()
    assert one.serving("b") == 4


def test_a_canary_that_fails_at_a_step_is_taken_back() -> None:
    one = world([9], 4, policy=replace(CANARY, floor=4), b=Kind(crashes_after=100))
    assert settled(one).reason is Reason.ROLLED_BACK
    assert one.serving("a") == 4
    assert one.serving("b") == 0


def test_going_back_is_no_canary() -> None:
    one = world([9], 4, policy=replace(CANARY, floor=4))
    one.settle()
    one.wanted = "a"
    assert one.settle().report is None
    assert one.serving("a") == 4
    assert one.lowest == 4


def test_a_pod_that_dies_in_a_pause_is_replaced_by_its_own() -> None:
    one = world([9], 4, policy=replace(CANARY, floor=4))
    one.settle()
    one.delete(one.alive("a")[0])
    one.look()
    one.settle()
    assert one.picture() == "a:2(2/2) b:2(2/2)"


# acceptance


def test_the_first_pod_that_answers_is_asked_and_its_revision_accepted() -> None:
    one = world([9], 2, policy=replace(BASE, floor=2, acceptance=True))
    asked = []
    one.settle(lambda s: asked.append(s.ask) if s.ask else None)
    assert {ask.pod for ask in asked} == {"b-2"}
    assert one.sets["b"].accepted
    assert one.serving("b") == 2
    assert one.lowest == 2


def test_garbage_never_serves() -> None:
    one = world([9], 2, policy=replace(BASE, floor=2, acceptance=True), b=Kind(garbage=True))
    report = settled(one)
    assert report.stalled
    assert report.reason is Reason.ROLLED_BACK
    assert report.message == (
        "revision b failed: AcceptanceFailed: the answer does not contain 'Paris'; back to revision"
        " a, of which 2/2 serve. To go on, change the spec, or set the annotation"
        " llm-operator.dev/retry to a new value"
    )
    assert not any("b:1(1/1)" in picture for picture in one.history)


def test_a_first_revision_that_is_not_accepted_is_asked_again_on_retry() -> None:
    accepting = replace(BASE, floor=1, acceptance=True)
    one = World([9], "a", 1, lambda _: accepting, kinds={"a": Kind(garbage=True)})
    report = settled(one)
    assert report.reason is Reason.ACCEPTANCE_FAILED
    assert report.stalled
    assert one.sets["a"].replicas == 1
    pod = one.alive("a")[0].name
    one.kinds["a"] = Kind()
    one.retry = "again"
    assert one.settle().report is None
    assert [p.name for p in one.alive("a")] == [pod]
    one.retry = None
    assert one.settle().report is None
    assert one.serving("a") == 1


def test_questions_that_are_taken_back_accept() -> None:
    one = world([9], 2, policy=lambda _: chosen)
    chosen = replace(BASE, floor=2, acceptance=True)
    one.carry_out(one.decide())
    chosen = replace(BASE, floor=2)
    assert one.settle().report is None
    assert one.sets["b"].accepted


def test_a_verdict_on_another_revision_says_nothing() -> None:
    one = world([9], 2, policy=replace(BASE, floor=2, acceptance=True))
    one.carry_out(one.decide())
    seen = replace(one.seen(), verdict=None)
    step = next_step(replace(seen, verdict=Verdict("x", GARBAGE)), "b", 2, one.policy(2), one.now)
    assert step.mark_failed is None
    assert step.mark_accepted is None


# failure


def test_the_mark_comes_first_and_pods_go_with_the_next_look() -> None:
    one = world([9], 3, b=Kind(crashes_after=5))
    steps: list[Step] = []
    one.settle(steps.append)
    marked = next(step for step in steps if step.mark_failed)
    assert marked.replicas == {"a": 3, "b": 1}
    assert marked.mark_failed is not None
    assert marked.mark_failed.cause.reason == "Crashed"
    assert one.sets["b"].replicas == 0


def test_hold_leaves_everything_for_a_look() -> None:
    one = world([9], 3, policy=replace(BASE, rollback=False), b=Kind(crashes_after=5))
    report = settled(one)
    assert (report.reason, report.stalled) == (Reason.CRASHED, True)
    assert "what runs is left as it is" in report.message
    assert one.picture() == "a:3(3/3) b:1(0/1)"


@pytest.mark.parametrize("rollback", [True, False])
def test_a_retry_starts_with_fresh_pods(rollback: bool) -> None:
    one = world([9], 3, policy=replace(BASE, rollback=rollback), b=Kind(crashes_after=5))
    one.settle()
    stuck = {p.name for p in one.pods if p.stuck}
    assert bool(stuck) is not rollback
    one.retry = "1"
    one.kinds["b"] = Kind()
    assert one.settle().report is None
    assert one.serving("b") == 3
    assert not stuck & {p.name for p in one.pods}


def test_a_retry_that_fails_as_well_is_marked_again() -> None:
    one = world([9], 3, b=Kind(crashes_after=5))
    one.settle()
    one.retry = "1"
    assert settled(one).reason is Reason.ROLLED_BACK
    mark = one.sets["b"].failed
    assert mark is not None
    assert mark.retry == "1"


def test_it_goes_back_to_what_served_last_not_to_what_is_newest() -> None:
    one = world([9], 2, policy=replace(BASE, floor=2), c=Kind(load=1e9), d=Kind(crashes_after=5))
    one.settle()  # a -> b
    one.wanted = "a"
    one.settle()  # back to a: the newer b is only history
    one.wanted = "d"
    assert settled(one).reason is Reason.ROLLED_BACK
    assert one.serving("a") == 2
    assert one.sets["b"].replicas == 0


def test_pods_that_end_again_and_again_are_a_failure() -> None:
    one = world([9], 2, policy=replace(BASE, floor=2))
    for _ in range(20):
        one.settle_controllers()
        one.carry_out(one.decide())
        for pod in one.alive("b"):
            pod.ended = True
        one.look()
    assert settled(one).reason is Reason.ROLLED_BACK
    assert "3 pods ended before they served" in settled(one).message


# the user's hands


def test_paused_stays_where_it_is() -> None:
    policy = BASE
    one = world([9], 3, policy=lambda _: policy)
    one.settle(within=70)
    assert one.picture() == "a:2(2/2) b:2(1/2)"
    policy = replace(BASE, paused=True)
    report = settled(one)
    assert one.picture() == "a:2(2/2) b:2(2/2)", "what was asked for comes, nothing more"
    assert report.reason is Reason.PAUSED
    assert not report.stalled
    policy = BASE
    assert one.settle().report is None
    assert one.serving("b") == 3


def test_paused_before_it_began_makes_no_revision() -> None:
    one = world([9], 3, policy=replace(BASE, paused=True))
    assert settled(one).reason is Reason.PAUSED
    assert set(one.sets) == {"a"}


@pytest.mark.parametrize("replicas", [0, 1, 5])
def test_replicas_are_followed_while_paused_or_held(replicas: int) -> None:
    one = world([9], 3, policy=replace(BASE, paused=True))
    one.replicas = replicas
    one.settle()
    assert one.serving("a") == replicas
    held = next_step(one.seen(), None, 2, BASE, one.now)
    assert held.replicas["a"] == 2
    assert held.delete == ()
    assert held.report is None


def test_paused_with_nothing_running_starts_all_the_same() -> None:
    one = World([9], "a", 2, lambda _: replace(BASE, paused=True))
    one.settle()
    assert one.serving("a") == 2


def test_scaling_in_the_middle_goes_to_the_new_revision() -> None:
    one = world([9], 2, policy=lambda n: replace(BASE, floor=n, tight_floor=n - 1))
    one.settle(within=70)
    one.replicas = 4
    one.settle(lambda s: _at_most(2, Step({"a": s.replicas.get("a", 0)})))
    assert one.serving("b") == 4
    assert one.lowest == 2


def wide(replicas: int) -> Policy:
    """Of all that are wanted, one may be missing where there is no room."""
    return replace(BASE, floor=replicas, tight_floor=replicas - 1, one_at_a_time=True)


@pytest.mark.parametrize("surge", [0, 1, 3])
def test_what_is_wanted_while_the_first_pod_loads_comes_from_what_serves(surge: int) -> None:
    one = world([9], 3, policy=lambda n: replace(wide(n), surge=surge, floor=n - (surge == 0)))
    one.settle(within=10)
    one.replicas = 5
    one.settle(lambda s: _at_most(5 + surge, s), within=10)
    assert one.sets["a"].replicas == 4
    assert one.sets["b"].replicas == 1
    assert one.settle().report is None
    assert one.serving("b") == 5
    assert one.lowest >= 3 - (surge == 0)


def test_what_was_more_goes_first_when_it_is_not_wanted_any_more() -> None:
    one = world([9], 3, policy=wide)
    one.settle(within=10)
    one.replicas = 6
    one.settle(within=10)
    one.replicas = 3
    one.settle(within=10)
    assert one.picture() == "a:3(3/3) b:1(0/1)"


@pytest.mark.parametrize(("gpus", "within"), [(4, 10), (3, 15 + DRAIN + 20)])
def test_the_first_new_pod_has_its_place_before_more_old_ones_come(
    gpus: int, within: float
) -> None:
    """With a GPU to spare it is the new pod's; with none, what is made free is, too."""
    one = world([gpus], 3, policy=wide)
    one.replicas = 5
    one.settle(lambda s: _placed_first(s, one), within=within)
    assert one.alive("b")[0].scheduled_at is not None
    assert one.sets["a"].replicas == 4
    assert one.settle().report is None
    assert one.serving("b") == gpus


def _placed_first(step: Step, one: World) -> None:
    placed = [pod for pod in one.alive("b") if pod.scheduled_at is not None]
    if not placed and "b" in one.sets:
        assert step.replicas["a"] <= one.sets["a"].replicas


def test_between_its_steps_a_canary_leaves_the_rest_to_what_serves() -> None:
    steps = (CanaryStep(1, 0), CanaryStep(2, None))
    one = world([9], 4, policy=lambda n: replace(wide(n), strategy=Strategy.CANARY, steps=steps))
    one.settle(within=70)
    assert one.picture() == "a:3(3/3) b:2(1/2)"
    one.replicas = 7
    one.settle(within=10)
    assert one.sets["a"].replicas == 5
    assert one.sets["b"].replicas == 2


def test_scaled_to_zero_in_the_middle() -> None:
    one = world([9], 2)
    one.settle(within=70)
    one.replicas = 0
    assert one.settle().report is None
    assert not one.pods
    assert set(one.sets) == {"a", "b"}


# history


def test_history_keeps_the_latest_and_never_what_is_needed() -> None:
    one = world([9], 1, policy=replace(BASE, floor=1, history=2))
    for name in "bcde":
        one.wanted = name
        one.now += 1000
        one.settle()
    assert set(one.sets) == {"c", "d", "e"}
    one.policy = lambda _: replace(BASE, floor=1, history=0)
    one.settle()
    assert set(one.sets) == {"e"}


def test_without_history_the_old_one_stays_until_the_new_one_has_proved_itself() -> None:
    policy = replace(BASE, strategy=Strategy.RECREATE, history=0)
    one = world([9], 1, policy=policy, b=Kind(crashes_after=5))
    assert settled(one).reason is Reason.ROLLED_BACK
    assert one.serving("a") == 1


def test_going_back_to_an_old_spec_reuses_its_revision() -> None:
    one = world([9], 1, policy=replace(BASE, floor=1))
    one.settle()
    one.wanted = "a"
    assert one.settle().report is None
    assert one.serving("a") == 1
    assert set(one.sets) == {"a", "b"}
    assert (one.sets["a"].completed_at or 0) > (one.sets["b"].completed_at or 0)


@pytest.mark.parametrize("settled", [True, False])
def test_a_revision_with_pods_that_may_not_be_seen_yet_is_not_deleted(settled: bool) -> None:
    """It was asked for some until just now."""
    before = RevisionSeen("a", 0.0, replicas=0, settled=settled)
    serving = RevisionSeen("b", 1.0, 1, (PodSeen("b-1", 1.0, ready=True, ready_since=2.0),))
    policy = replace(BASE, history=0, floor=1)
    step = next_step(Seen((before, serving)), "b", 1, policy, 100.0)
    assert step.delete == (("a",) if settled else ())
