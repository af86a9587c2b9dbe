"""A canary with an analysis: when it goes on, when it waits, when it is taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby

import pytest
from tests.unit.rollout_world import World, world
from tests.unit.test_rollout_analysis import window

from llm_operator.api.status import Reason
from llm_operator.facts.canary import Measured, Trial, Window
from llm_operator.rollout.analysis import Limits
from llm_operator.rollout.policy import ALL_STEPS, CanaryStep, Policy, Strategy
from llm_operator.rollout.report import Report
from llm_operator.rollout.seen import Seen
from llm_operator.rollout.stepper import next_step

LIMITS = Limits(50, 300, 0.05, 1.0, 0.5, 900)
POLICY = Policy(
    strategy=Strategy.CANARY,
    surge=1,
    floor=4,
    tight_floor=3,
    deadline_seconds=900,
    steps=(CanaryStep(1, 60), CanaryStep(2, 60)),
    analysis=LIMITS,
)
GOOD, BAD, FEW = window(60), window(60, failures=40), window(3)

Measure = Callable[[Trial], Measured | None]


def shows(new: Window | None, old: Window | None = GOOD) -> Callable[[Trial], Measured]:
    return lambda trial: Measured(trial, 300, new, old)


def judged(measure: Measure, policy: Policy = POLICY) -> World:
    """A world in which the requests are measured: `measure` says how they went."""
    one = world([9], 4, policy=policy)
    one.measure = measure
    return one


def told(one: World) -> Report:
    """What is said where it comes to rest."""
    report = one.settle().report
    assert report is not None
    return report


def failed(one: World) -> tuple[str, str] | None:
    mark = one.sets["b"].failed
    return (mark.cause.reason, mark.cause.message) if mark else None


def test_a_good_canary_goes_through_and_not_before_its_pauses() -> None:
    one = judged(shows(GOOD))
    began = one.now
    assert one.settle().report is None
    assert one.serving("b") == 4
    assert one.lowest == 4
    assert "a:3(3/3) b:1(1/1)" in one.history
    assert "a:2(2/2) b:2(2/2)" in one.history
    assert one.now >= began + 2 * (60 + 60)  # two pauses, and loading before each


@pytest.mark.parametrize("pause", [60, None])
def test_a_bad_canary_is_taken_back_at_once_with_its_numbers(pause: float | None) -> None:
    one = judged(shows(BAD), replace(POLICY, steps=(CanaryStep(1, pause),)))
    began = one.now
    report = told(one)
    assert report.reason is Reason.ROLLED_BACK
    assert report.stalled
    assert "revision b failed: AnalysisFailed: 66.7% of 60 requests failed" in report.message
    assert failed(one) is not None
    assert one.sets["b"].failed is not None
    assert one.sets["b"].failed.at < began + 60 + 60  # it need not wait for the pause to end
    assert one.serving("a") == 4
    assert one.serving("b") == 0
    assert one.lowest == 4


def test_hold_leaves_both_as_they_are() -> None:
    one = judged(shows(BAD), replace(POLICY, rollback=False))
    report = told(one)
    assert report.reason is Reason.ANALYSIS_FAILED
    assert report.stalled
    before = one.picture()
    assert one.serving("b") == 1
    one.promoted = ALL_STEPS  # that overrides waiting, no failure
    assert told(one).stalled
    assert one.picture() == before


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda trial: None, "nothing has been measured yet"),
        (shows(FEW), "the new revision had 3 requests"),
        (shows(GOOD, FEW), "the old one 3"),
        (shows(None), "has read no pod of the new revision"),
        (lambda trial: Measured(trial, outage="Prometheus is away"), "Prometheus is away"),
        (lambda trial: Measured(None, outage="there is none"), "there is none"),
        (
            lambda trial: replace(shows(GOOD)(trial), unread=1),
            "has not read 1 pod of the new revision",
        ),
    ],
)
def test_without_numbers_it_waits_and_then_pauses_for_a_person(measure: Measure, said: str) -> None:
    one = judged(measure)
    reports: list[Report] = []

    def note(step: object) -> None:
        report = one.last.report if one.last else None
        if report and (not reports or reports[-1] != report):
            reports.append(report)

    one.settle(note)
    at_step = [r for r in reports if "step 1 of 2" in r.message]
    reasons = [reason for reason, _ in groupby(r.reason for r in at_step)]
    assert reasons == [Reason.PAUSED, Reason.ANALYSING, Reason.PAUSED]
    assert not any(r.stalled for r in at_step)
    assert "if the analysis finds nothing against it" in at_step[0].message
    assert said in at_step[-2].message
    assert said in at_step[-1].message
    assert "promote" in at_step[-1].message
    assert failed(one) is None
    assert (one.serving("a"), one.serving("b")) == (3, 1)
    one.promoted = ALL_STEPS
    assert one.settle().report is None
    assert one.serving("b") == 4


def test_it_is_paused_only_after_its_time() -> None:
    one = judged(shows(FEW))
    one.settle(within=60 + 60 + 60)
    (pod,) = one.alive("b")
    assert pod.ready_since is not None
    for age, reason in ((959, Reason.ANALYSING), (961, Reason.PAUSED)):
        one.now = pod.ready_since + age
        step = one.decide()
        assert step.report is not None
        assert step.report.reason is reason
        assert (step.wake_after == 1) is (reason is Reason.ANALYSING)


def test_numbers_that_come_late_count_all_the_same() -> None:
    """So it makes no difference whether the operator was away meanwhile."""
    for late, result in ((shows(GOOD), 4), (shows(BAD), 0)):
        one = judged(shows(FEW))
        told(one)
        one.measure = late
        one.settle()
        assert one.serving("b") == result


def test_a_measurement_of_another_step_or_revision_says_nothing() -> None:
    for change in ({"since": 1.0}, {"new": "c"}, {"old": "c"}, {"window_seconds": 1.0}):
        for new in (GOOD, BAD):
            other = partial(replace, **change)
            one = judged(lambda trial: shows(new)(other(trial)))  # noqa: B023
            assert told(one).reason is Reason.PAUSED
            assert failed(one) is None
            assert one.serving("b") == 1


def test_every_step_is_a_trial_of_its_own() -> None:
    trials: list[Trial] = []

    def measure(trial: Trial) -> Measured:
        if trial not in trials:
            trials.append(trial)
        return shows(GOOD)(trial)

    judged(measure).settle()
    assert {(t.new, t.old, t.window_seconds) for t in trials} == {("b", "a", 300)}
    assert len(trials) >= 2


def test_a_promoted_step_is_not_judged() -> None:
    one = judged(shows(BAD))
    one.promoted = ALL_STEPS
    assert one.settle().report is None
    assert one.serving("b") == 4
    one = judged(shows(FEW))
    told(one)
    one.promoted = 1
    assert "step 2 of 2" in told(one).message
    assert one.serving("b") == 2


def test_what_an_unready_canary_did_to_its_requests_still_counts() -> None:
    """An engine that answers with errors loses its readiness, and with it the pause."""
    one = judged(shows(FEW))
    told(one)
    (pod,) = one.alive("b")
    pod.ready, pod.ready_since, pod.unready_since = False, None, one.now
    pod.started_at = one.now + 1e6
    trials: list[Trial] = []
    one.measure = lambda trial: trials.append(trial) or shows(BAD)(trial)  # type: ignore[func-returns-value]
    one.look()
    assert told(one).reason is Reason.ROLLED_BACK
    assert failed(one) is not None
    assert trials == [Trial("b", "a", pod.created, 300)]


def test_nothing_is_measured_where_nobody_wants_to_know() -> None:
    def never(trial: Trial) -> None:
        raise AssertionError(trial)

    one = judged(never, replace(POLICY, analysis=None))
    assert one.settle().report is None
    assert one.serving("b") == 4
    one = judged(never)  # neither outside of a canary
    one.wanted = "a"
    one.settle()
    one = judged(shows(FEW))  # nor on the way back from one
    one.settle()
    one.measure = never
    one.wanted = "a"
    one.settle()
    assert one.serving("a") == 4


def test_the_new_one_is_compared_with_what_serves() -> None:
    """Not with one of before that has no pods any more."""
    trials: list[Trial] = []
    one = judged(shows(GOOD))
    one.settle()
    one.measure = lambda trial: trials.append(trial)
    one.wanted = "c"
    report = told(one)
    assert report.reason is Reason.PAUSED
    assert {trial.old for trial in trials} == {"b"}


def test_nothing_serves_that_it_could_be_compared_with() -> None:
    one = judged(shows(GOOD))
    one.settle(within=60 + 30)
    for pod in one.alive("a"):
        pod.ready, pod.ready_since, pod.unready_since = False, None, one.now
        pod.started_at = one.now + 1e6
    one.look()
    report = one.settle(within=2000).report
    assert report is not None
    assert "no older revision serves any more" in report.message
    assert one.serving("b") == 1


def test_a_first_revision_is_no_trial() -> None:
    seen = Seen(measured=Measured(None, outage="there is none"))
    step = next_step(seen, "b", 4, POLICY, 0.0)
    assert step.trial is None
    assert step.report is None
