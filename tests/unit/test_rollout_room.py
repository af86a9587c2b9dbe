"""Who goes for whom: pods that are worth keeping, and room that is made with care."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.rollout_world import CRASH, DRAIN, Kind, Pod, World, world

from llm_operator.api.status import Reason
from llm_operator.rollout.policy import CanaryStep, Policy, Strategy
from llm_operator.rollout.seen import FailedMark, PodSeen, RevisionSeen, Seen
from llm_operator.rollout.stepper import next_step

BASE = Policy(surge=1, floor=3, tight_floor=2, deadline_seconds=900)
ALONE = Policy(surge=1, floor=1, tight_floor=1, deadline_seconds=900)
NOW = 1_000_000.0


def completed(one: World) -> World:
    """Revision `a` has the mark that it was all that served."""
    one.sets["a"].completed_at = one.now - 1e4
    return one


def test_the_place_of_a_broken_old_pod_is_taken_first() -> None:
    one = completed(world([9], 3))
    broken, *well = one.alive("a")
    broken.stuck, broken.ready = True, False
    one.look()
    one.settle(within=70)
    assert broken.name not in {p.name for p in one.alive("a")}
    assert {p.name for p in well} <= {p.name for p in one.alive("a")}
    one.settle()
    assert one.serving("b") == 3
    assert one.lowest == 2


def test_room_is_made_one_replica_at_a_time_even_where_more_were_allowed() -> None:
    one = world([4], 4, policy=replace(BASE, floor=4, tight_floor=0))
    one.settle(lambda _: _one_leaves(one))
    assert one.serving("b") == 4


def _one_leaves(one: World) -> None:
    if one.serving("b") + sum(p.gone_by is None for p in one.of("b")) < 4:
        assert sum(p.gone_by is not None for p in one.of("a")) <= 1


def test_room_is_made_again_if_the_first_was_not_enough() -> None:
    one = world([4], 4, b=Kind(gpus=2), policy=replace(BASE, floor=4, tight_floor=1))
    one.settle(within=310)
    assert one.serving("b") == 1
    assert one.lowest == 2


SHORT = Policy(surge=1, floor=6, tight_floor=5, one_at_a_time=True, deadline_seconds=900)


def _ends_with_four_of_six(one: World) -> None:
    assert one.settle().report is None
    assert one.lowest == 3
    assert one.picture() == "a:0(0/0) b:6(4/6)"
    assert one.sets["b"].failed is None


@pytest.mark.parametrize("surge", [0, 1, 3])
def test_what_has_a_node_is_exchanged_while_the_rest_waits(surge: int) -> None:
    floor = 5 if surge == 0 else 6
    _ends_with_four_of_six(
        completed(world([4], 6, policy=replace(SHORT, surge=surge, floor=floor)))
    )


def test_room_is_made_one_replica_at_a_time_of_those_that_have_a_node() -> None:
    one = completed(world([4], 6, policy=SHORT))
    said: list[str] = []
    one.settle(lambda s: said.append(s.report.message) if s.report else None)
    floors = [text.rpartition("at least ")[2] for text in said if "at least" in text]
    assert {text.partition(";")[0] for text in floors} == {"3 of 6 must serve"}


@pytest.mark.parametrize("after", [0, 20, 130, 200])
def test_more_that_is_wanted_in_the_middle_blocks_nothing(after: float) -> None:
    """Before room is made, while the first pod drains, and while the new one loads."""
    policy = replace(SHORT, floor=4, tight_floor=3)
    one = completed(world([4], 4, policy=lambda n: policy if n == 4 else SHORT))
    one.settle(within=after)
    one.replicas = 6
    _ends_with_four_of_six(one)


def test_a_revision_with_replicas_that_wait_counts_as_one_that_was_good() -> None:
    one = completed(world([4], 6, policy=SHORT))
    one.settle()
    assert one.sets["b"].completed_at is not None
    one.crash(one.alive("b")[0])
    one.kinds["b"] = Kind(load=1e9)
    one.look()
    one.settle()
    assert one.sets["b"].failed is None
    assert one.sets["b"].replicas == 6


def test_a_floor_that_was_written_stays_where_not_all_have_a_node() -> None:
    one = completed(world([4], 6, policy=replace(SHORT, one_at_a_time=False)))
    report = one.settle().report
    assert one.picture() == "a:6(4/6) b:1(0/1)"
    assert one.lowest == 4
    assert report is not None
    assert report.stalled
    assert report.reason is Reason.NO_SPARE_GPU
    assert "4 serve, at least 5 of 6 must serve. Free 1 GPU, or lower" in report.message


def test_a_canary_gets_its_places_where_not_all_have_a_node() -> None:
    steps = (CanaryStep(2, None),)
    one = completed(world([4], 6, policy=replace(SHORT, strategy=Strategy.CANARY, steps=steps)))
    one.settle()
    assert one.serving("b") == 2
    assert one.serving("a") == 2
    assert one.lowest == 3


def test_the_last_that_has_a_node_stays() -> None:
    one = completed(world([1], 3, policy=replace(SHORT, floor=3, tight_floor=2)))
    report = one.settle().report
    assert one.lowest == 1
    assert report is not None
    assert report.stalled
    assert "1 serve, at least 1 of 3 must serve" in report.message


@pytest.mark.parametrize("replicas", [4, 6])
def test_a_place_that_a_neighbour_takes_is_not_left_to_him_again(replicas: int) -> None:
    policy = replace(SHORT, floor=replicas, tight_floor=replicas - 1)
    one = completed(world([4], replicas, policy=policy))
    one.settle(within=30)
    assert any(pod.gone_by for pod in one.of("a"))
    one.now += DRAIN
    one.kubelet()
    one.nodes = [3]
    report = one.settle().report
    assert one.lowest == 3
    assert report is not None
    assert report.reason is Reason.ROLLED_BACK
    assert "NoSpareGPU" in report.message


def test_nor_is_a_later_one_before_the_deadline() -> None:
    one = completed(world([4], 4, policy=replace(SHORT, floor=4, tight_floor=3)))
    one.settle(within=250)
    assert one.serving("b") == 1
    assert any(pod.gone_by for pod in one.of("a"))
    one.now += DRAIN
    one.kubelet()
    one.nodes = [3]
    one.settle(within=899)
    assert one.serving() == 3
    one.settle()
    assert one.serving("a") == 0
    assert one.lowest == 2


def test_a_pod_that_the_api_server_refuses_is_no_reason_to_make_room() -> None:
    one = world([9], 3)
    one.refuses = frozenset("b")
    report = one.settle().report
    assert report is not None
    assert report.reason is Reason.ROLLED_BACK
    assert "AdmissionRefused: the API server refuses pods" in report.message
    assert one.lowest == 3


def test_gpus_of_a_pod_on_a_silent_node_are_not_waited_for() -> None:
    one = world([3, 1], 3)
    one.pods.append(Pod("a-lost", "a", NOW - 1e4, node=1, scheduled_at=NOW, gone_by=NOW + DRAIN))
    one.silent = frozenset({1})
    one.settle(within=DRAIN + 29)
    assert one.sets["a"].replicas == 3
    one.settle(within=60)
    assert one.sets["a"].replicas == 2


def test_an_old_pod_that_is_silent_for_long_makes_room() -> None:
    one = completed(world([1], 1, a=Kind(load=20), policy=ALONE))
    pod = one.alive("a")[0]
    one.kinds["a"] = Kind(load=1e9)
    one._unready(pod)
    one.look()
    start = one.now
    one.settle(within=299)
    assert one.sets["a"].replicas == 1
    assert one.settle().report is None
    assert one.serving("b") == 1
    assert one.now >= start + 300


def test_a_good_old_pod_that_loads_again_is_not_given_up_for_want_of_room() -> None:
    one = completed(world([1], 1, policy=ALONE))
    one.kinds["a"] = Kind(load=290)
    one.crash(one.alive("a")[0])
    one.look()
    one.settle(within=280)
    assert one.sets["a"].replicas == 1
    one.settle()
    assert one.serving("a") == 1


def test_nor_is_one_that_its_controller_is_about_to_replace() -> None:
    pending = PodSeen("b-1", NOW - 60, unschedulable_since=NOW - 60)
    old = RevisionSeen("a", 1, replicas=1, completed_at=1)
    new = RevisionSeen("b", 2, replicas=1, pods=(pending,))
    assert next_step(Seen((old, new)), "b", 1, ALONE, NOW).replicas["a"] == 1


def test_an_old_pod_that_has_just_become_ready_is_kept() -> None:
    one = world([1], 1, policy=ALONE)
    one.crash(one.alive("a")[0])
    one.look()
    one.kinds["a"] = Kind(load=10)
    for _ in range(20):
        one.settle(within=1)
        one.now += 1
        one.look()
        if one.serving("a"):
            assert one.sets["a"].replicas == 1
    assert one.serving("a") == 1


def test_nor_is_it_taken_for_one_that_has_yet_to_load() -> None:
    new = PodSeen("x-1", NOW - 60, ready=True, served=True, ready_since=NOW - 1, scheduled_at=1)
    loads = PodSeen("a-2", NOW - 60, scheduled_at=NOW - 60)
    old = RevisionSeen("a", 2, replicas=2, pods=(replace(READY, name="a-1"), loads))
    between = RevisionSeen("x", 1, replicas=1, pods=(new,))
    policy = replace(BASE, floor=2, tight_floor=1)
    assert next_step(Seen((old, between)), "b", 2, policy, NOW).replicas["x"] == 1
    serves = replace(old, pods=(replace(READY, name="a-1"), replace(READY, name="a-2")))
    assert next_step(Seen((serves, between)), "b", 2, policy, NOW).replicas["x"] == 1
    assert next_step(Seen((serves, between)), "b", 2, policy, NOW + 4).replicas["x"] == 0


def test_one_broken_old_pod_gives_its_gpu_to_the_fix() -> None:
    one = world([1], 1, a=Kind(crashes_after=5), policy=ALONE)
    one.settle(within=5)
    assert one.settle().report is None
    assert one.serving("b") == 1


def test_a_canary_keeps_the_others_at_their_number() -> None:
    policy = replace(
        BASE, strategy=Strategy.CANARY, floor=2, tight_floor=2, steps=(CanaryStep(1, None),)
    )
    one = world([9], 4, policy=policy)
    one.settle()
    assert one.picture() == "a:3(3/3) b:1(1/1)"


def test_a_revision_that_served_before_comes_back_with_all_replicas_at_once() -> None:
    one = world([9], 3, policy=replace(BASE, surge=3))
    one.settle()
    one.wanted = "a"
    assert one.decide().replicas == {"a": 3, "b": 3}


def test_the_revision_that_was_good_is_not_marked_when_it_is_gone_back_to() -> None:
    one = world([9], 3)
    one.settle(within=70)
    one.wanted = "a"
    for pod in one.alive("a"):
        pod.stuck = True
        one._unready(pod)
    one.look()
    one.now += 100
    assert one.decide().mark_failed is None


def test_one_restart_of_a_pod_is_no_missed_deadline() -> None:
    """The time to serve again counts from when it stopped, not from when it got its node."""
    policy = replace(BASE, strategy=Strategy.CANARY, steps=(CanaryStep(1, None),))
    one = world([9], 3, policy=policy)
    one.settle()
    one.now += 5000
    one.crash(one.alive("b")[0])
    one.look()
    one.settle()
    assert one.sets["b"].failed is None
    assert one.serving("b") == 1


READY = PodSeen("p", 1, ready=True, answers=True, served=True, ready_since=1, scheduled_at=1)
FAILED = FailedMark(CRASH, 1)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ({"failed": FAILED, "completed_at": None}, {"completed_at": None}),
        ({"completed_at": None}, {"completed_at": 5.0}),
        ({"completed_at": 5.0}, {"completed_at": 6.0}),
    ],
)
def test_which_of_two_old_revisions_goes_first(
    x: dict[str, float | FailedMark | None], y: dict[str, float | FailedMark | None]
) -> None:
    """The failed before the unproven, before those that served long ago."""
    for first, second in ((x, y), (y, x)):
        found = (
            RevisionSeen("a", 1, 1, (replace(READY, name="a-1"),), **first),  # type: ignore[arg-type]
            RevisionSeen("b", 2, 1, (replace(READY, name="b-1"),), **second),  # type: ignore[arg-type]
            RevisionSeen("w", 3, 2, (replace(READY, name="w-1"), replace(READY, name="w-2"))),
        )
        step = next_step(Seen(found), "w", 3, BASE, NOW)
        gone = "a" if first is x else "b"
        assert step.replicas == {"a": 1, "b": 1, "w": 2, gone: 0}
