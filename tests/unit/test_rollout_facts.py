"""Single looks at single facts, each set up by hand: what one more or one less of it decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.rollout_world import CRASH, Kind, world

from llm_operator.api.status import Reason
from llm_operator.rollout.policy import CanaryStep, Policy, Strategy
from llm_operator.rollout.seen import Cause, FailedMark, PodSeen, Refused, RevisionSeen, Seen
from llm_operator.rollout.stepper import Step, next_step

NOW = 1_000_000.0
LONG = NOW - 50_000
POLICY = Policy(surge=1, floor=3, tight_floor=2, deadline_seconds=900)
SERVES = PodSeen(
    "p", LONG, ready=True, answers=True, served=True, ready_since=LONG, scheduled_at=LONG
)
LOADS = PodSeen("p", NOW - 60, scheduled_at=NOW - 60, unready_since=NOW - 60)


def revision(name: str, *pods: PodSeen, replicas: int | None = None) -> RevisionSeen:
    named = tuple(replace(pod, name=f"{name}-{n}") for n, pod in enumerate(pods))
    count = len(pods) if replicas is None else replicas
    return RevisionSeen(name, LONG + ord(name), count, named)


def look(
    *revisions: RevisionSeen, wanted: str | None = "w", n: int = 3, policy: Policy = POLICY
) -> Step:
    return next_step(Seen(revisions), wanted, n, policy, NOW)


# settled


def test_nobody_comes_or_goes_while_a_controller_has_not_acted() -> None:
    old, new = revision("a", SERVES, SERVES, SERVES), revision("w", SERVES)
    assert look(old, new).replicas == {"a": 2, "w": 1}
    assert look(replace(old, settled=False), new).replicas == {"a": 3, "w": 1}
    half = revision("a", SERVES, SERVES)
    assert look(half, new).replicas == {"a": 2, "w": 2}
    assert look(half, replace(new, settled=False)).replicas == {"a": 2, "w": 1}
    short = revision("a", SERVES)
    assert look(short, new, wanted=None).replicas == {"a": 1, "w": 2}
    assert look(short, replace(new, settled=False), wanted=None).replicas == {"a": 1, "w": 1}


def test_that_there_is_no_room_is_said_only_of_what_is_settled() -> None:
    waits = PodSeen("w", NOW - 60, unschedulable_since=NOW - 60)
    old = revision("a", SERVES, SERVES, SERVES)
    said = look(old, revision("w", waits)).report
    assert said is not None
    assert "no room for one more replica" in said.message
    said = look(replace(old, settled=False), revision("w", waits)).report
    assert said is not None
    assert "no room for one more replica" not in said.message


@pytest.mark.parametrize(
    ("waited", "old", "first", "reason"),
    [
        (60, 2, None, Reason.NO_SPARE_GPU),
        (1, 2, None, Reason.UPDATING),  # one has crashed; there is room all the same
        (60, 3, None, Reason.UPDATING),  # a node came: nobody went for it
        (60, 1, 60, Reason.NO_SPARE_GPU),
        (1, 1, 60, Reason.UPDATING),  # the second found room at once
    ],
)
def test_want_of_room_is_said_until_the_pod_that_it_was_made_for_serves(
    waited: int, old: int, first: int | None, reason: Reason
) -> None:
    """`waited`, `first`: seconds until the newest pod and the one before it had their nodes."""

    def late(seconds: int, created: float, **more: Any) -> PodSeen:
        return replace(LOADS, created=created, scheduled_at=created + seconds, **more)

    new = [late(waited, NOW - 90)]
    if first is not None:
        serves = {"ready": True, "served": True, "ready_since": NOW - 200}
        new.insert(0, late(first, NOW - 900, **serves))
    said = look(revision("a", *[SERVES] * old), revision("w", *new)).report
    assert said is not None
    assert said.reason is reason
    assert ("at least 2 of 3 must serve" in said.message) == (reason is Reason.NO_SPARE_GPU)


def test_the_next_pod_has_not_been_looked_at_yet_and_the_reason_stays() -> None:
    """Between its creation and the scheduler's first word: what the one before it met."""
    before = replace(SERVES, created=LONG, scheduled_at=LONG + 60)
    said = look(revision("a", SERVES, SERVES), revision("w", before, PodSeen("w", NOW))).report
    assert said is not None
    assert said.reason is Reason.NO_SPARE_GPU


# more is wanted while the first pod loads


def test_what_serves_gets_what_more_is_wanted_while_the_target_has_its_place() -> None:
    old = revision("a", SERVES, SERVES, SERVES)
    wide = replace(POLICY, surge=2)
    assert look(old, revision("w", LOADS), n=6).replicas == {"a": 5, "w": 1}
    assert look(old, revision("w", LOADS), n=6, policy=wide).replicas == {"a": 5, "w": 1}
    unseen = replace(old, settled=False)
    assert look(unseen, revision("w", LOADS), n=6).replicas == {"a": 3, "w": 1}


@pytest.mark.parametrize(
    "target",
    [
        revision("w", replicas=0),
        revision("w", replace(LOADS, scheduled_at=None)),
        revision("w", replace(LOADS, scheduled_at=None, unschedulable_since=NOW - 1)),
        replace(revision("w", replicas=1), refused=Refused(CRASH, NOW - 1, quota=True)),
    ],
    ids=["not asked for", "not looked at", "no node", "no quota"],
)
def test_until_it_has_its_place_nobody_gets_any(target: RevisionSeen) -> None:
    old = revision("a", SERVES, SERVES, SERVES)
    assert look(old, target, n=6).replicas == {"a": 3, "w": 1}


def test_without_surge_a_canary_that_makes_room_is_not_undone() -> None:
    """Its step may be judged anew before it is asked for more."""
    steps = (CanaryStep(1, None), CanaryStep(2, None))
    canary = replace(POLICY, surge=0, floor=2, strategy=Strategy.CANARY, steps=steps)
    assert look(revision("a", SERVES), revision("w", SERVES), policy=canary).replicas["a"] == 1


# who is given up


def test_a_good_revision_keeps_a_pod_that_took_the_place_of_another() -> None:
    alone = Policy(surge=1, floor=1, tight_floor=1, deadline_seconds=900)
    waits = PodSeen("w", NOW - 60, unschedulable_since=NOW - 60)
    old = revision("a", LOADS)
    assert look(old, revision("w", waits), n=1, policy=alone).replicas["a"] == 0
    good = replace(old, completed_at=LONG)
    assert look(good, revision("w", waits), n=1, policy=alone).replicas["a"] == 1


@pytest.mark.parametrize(("newer", "left"), [(SERVES, 0), (replace(LOADS, stuck=CRASH), 2)])
def test_old_pods_without_a_node_go_alone_only_for_one_that_serves(
    newer: PodSeen, left: int
) -> None:
    waits = PodSeen("w", NOW - 60, unschedulable_since=NOW - 60)
    old = replace(revision("a", waits, waits), completed_at=LONG)
    asked = look(old, revision("w", replace(newer, scheduled_at=NOW - 10), waits)).replicas
    assert asked["a"] == left


@pytest.mark.parametrize(("since", "marked"), [(None, None), (NOW - 14, None), (NOW - 15, "w")])
def test_it_is_complete_without_those_for_which_there_is_no_room(
    since: float | None, marked: str | None
) -> None:
    comes = PodSeen("w", NOW - 60, unschedulable_since=since)
    alone = revision("w", SERVES, SERVES, comes)
    assert look(revision("a"), alone).mark_completed == marked
    assert look(revision("a"), revision("w", SERVES, LOADS, comes)).mark_completed is None


def test_what_stands_still_gives_up_what_serves_least() -> None:
    paused = replace(POLICY, paused=True)
    old, new = revision("a", SERVES, SERVES, SERVES), revision("w", LOADS, LOADS)
    assert look(old, new, policy=paused).replicas == {"a": 3, "w": 1}
    assert look(old, replace(new, completed_at=LONG), wanted=None).replicas == {"a": 3, "w": 1}
    loading, serving = revision("a", LOADS, LOADS, LOADS), revision("w", SERVES, SERVES)
    assert look(loading, serving, policy=paused).replicas == {"a": 2, "w": 2}


# failures


def test_a_pull_that_fails_is_given_half_a_minute() -> None:
    stuck = replace(LOADS, stuck=Cause("ImagePullFailed", "no such tag"), scheduled_at=NOW - 29)
    old = revision("a", SERVES, SERVES, SERVES)
    step = look(old, revision("w", stuck))
    assert step.mark_failed is None
    assert step.wake_after == 1
    marked = look(old, revision("w", replace(stuck, scheduled_at=NOW - 30))).mark_failed
    assert marked is not None
    assert marked.cause.reason == "ImagePullFailed"


def test_the_deadline_starts_anew_with_each_pod_that_serves() -> None:
    late = replace(LOADS, created=NOW - 1000, scheduled_at=NOW - 1000, unready_since=NOW - 999)
    old = revision("a", SERVES, SERVES)
    fresh = replace(SERVES, ready_since=NOW - 100)
    assert look(old, revision("w", late)).mark_failed is not None
    step = look(old, revision("w", fresh, late))
    assert step.mark_failed is None
    assert step.wake_after == 800
    stale = replace(SERVES, ready_since=NOW - 900)
    assert look(old, revision("w", stale, late)).mark_failed is not None


def test_nobody_goes_back_to_what_has_failed_itself() -> None:
    mark = FailedMark(CRASH, NOW - 10)
    failed = replace(revision("w", replace(LOADS, stuck=CRASH)), failed=mark)
    before = replace(revision("a", replicas=0), completed_at=LONG)
    assert look(before, failed).target == "a"
    assert look(replace(before, failed=mark), failed).target == "w"
    stands = replace(revision("a", SERVES), failed=mark)
    assert look(stands, failed).target == "a", "but to what serves, whatever became of it"


def test_a_mark_with_words_of_another_operator_is_reported_all_the_same() -> None:
    mark = FailedMark(Cause("SomethingNew", "who knows"), NOW - 10)
    said = look(replace(revision("w", LOADS), failed=mark)).report
    assert said is not None
    assert (said.reason, said.stalled) == (Reason.CRASHED, True)
    assert "SomethingNew: who knows" in said.message


# marks and history


def test_complete_is_what_serves_alone_and_with_all_replicas() -> None:
    past = revision("a", replicas=0)
    assert look(past, revision("w", SERVES, SERVES, SERVES)).mark_completed == "w"
    assert look(past, revision("w", SERVES, SERVES, LOADS)).mark_completed is None
    assert look(revision("a", SERVES), revision("w", SERVES, SERVES, SERVES)).mark_completed is None
    assert look(revision("w", SERVES, SERVES, SERVES)).mark_completed is None
    assert look(revision("a", SERVES, LOADS, LOADS)).mark_completed == "a", "good enough, so far"
    assert look(revision("a", LOADS)).mark_completed is None


def test_history_goes_by_when_a_revision_was_last_of_use() -> None:
    short = replace(POLICY, history=1)
    wanted = replace(revision("w", SERVES, SERVES, SERVES), completed_at=NOW)
    oldest = replace(revision("a", replicas=0), completed_at=NOW - 10)
    newer = replace(revision("b", replicas=0), completed_at=NOW - 20)
    assert look(oldest, newer, wanted, policy=short).delete == ("b",)
    drains = replace(SERVES, gone_by=NOW + 5)
    waits = replace(newer, pods=(drains,))
    assert look(oldest, waits, wanted, policy=short).delete == ()


# acceptance and canary


def test_questions_that_are_taken_back_accept_without_an_answer() -> None:
    one = world([9], 3, b=Kind(garbage=True))
    asks, asks_not = replace(POLICY, acceptance=True), POLICY
    one.policy = lambda _: asks
    one.carry_out(one.decide())
    one.policy = lambda _: asks_not
    assert one.decide().mark_accepted == "b"
    assert one.settle().report is None


CANARY = replace(
    POLICY,
    strategy=Strategy.CANARY,
    floor=4,
    steps=(CanaryStep(1, 10), CanaryStep(2, 100), CanaryStep(3, None)),
)


def test_a_canary_does_not_go_back_a_step() -> None:
    """Its second pod has died at the second step: that is what it waits for, and no third comes."""
    new = revision("w", replace(SERVES, ready_since=NOW - 5), LOADS)
    step = look(revision("a", SERVES, SERVES), new, n=4, policy=CANARY)
    assert step.replicas == {"a": 2, "w": 2}
    assert step.report is not None
    assert step.report.reason is Reason.UPDATING


def test_a_pause_begins_with_the_last_pod_of_its_step() -> None:
    new = revision("w", replace(SERVES, ready_since=NOW - 300), replace(SERVES, ready_since=NOW))
    new = replace(new, pods=(new.pods[0], replace(new.pods[1], ready_since=NOW - 30)))
    step = look(revision("a", SERVES, SERVES), new, n=4, policy=CANARY)
    assert step.wake_after == 70
    assert step.report is not None
    assert "step 2 of 3: goes on at" in step.report.message
