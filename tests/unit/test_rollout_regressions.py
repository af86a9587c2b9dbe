"""Faults that other operators had in their upgrades, each with where it was reported."""

from __future__ import annotations

import pytest
from tests.unit.rollout_world import Kind, World, world

from llm_operator.api.status import Reason
from llm_operator.rollout.policy import Policy
from llm_operator.rollout.scene import MIN_READY_SECONDS
from llm_operator.rollout.stepper import Step


def ends_with(one: World, revision: str, replicas: int) -> bool:
    """Only that revision runs, all of it serves, and nothing more is to be done."""
    step = one.settle()
    others = [s.replicas for name, s in one.sets.items() if name != revision]
    return (
        step.report is None
        and not any(others)
        and one.serving(revision) == replicas == one.serving()
    )


def run_until(one: World, picture: str) -> Step:
    """Passes until the picture is this one."""
    for _ in range(200):
        one.settle_controllers()
        if one.picture() == picture:
            return one.decide()
        step = one.decide()
        moved = one.carry_out(step)
        one.answer()
        if not moved:
            moment = one.next_event(step.wake_after)
            assert moment is not None, f"stands still at {one.picture()}"
            one.now = moment
    raise AssertionError(f"never came to {picture}: {one.picture()}")


def test_old_pods_do_not_count_as_updated() -> None:
    """dynamo#3567: "successful" while the old pods made up the number."""
    one = world([9], 3, b=Kind(load=1e9))
    step = run_until(one, "a:3(3/3) b:1(0/1)")
    assert step.report is not None
    assert step.report.reason is Reason.UPDATING
    assert step.report.message.startswith("0/3 replicas updated")


def test_two_edits_in_a_row_take_no_pod_that_serves() -> None:
    """dynamo#13353: all pods down after two quick edits."""
    one = world([9], 3)
    run_until(one, "a:2(2/2) b:2(1/2)")
    one.wanted = "c"
    one.carry_out(one.decide())
    one.wanted = "d"
    assert ends_with(one, "d", 3)
    assert one.lowest == 3


def test_going_back_in_the_middle_keeps_what_serves() -> None:
    """dynamo#13620: the serving pods of the wanted revision were deleted."""
    one = world([9], 3)
    run_until(one, "a:2(2/2) b:2(1/2)")
    serving = {p.name for p in one.alive("a")}
    one.wanted = "a"
    assert ends_with(one, "a", 3)
    assert one.lowest == 3
    assert serving <= {p.name for p in one.alive("a")}


def test_an_old_pod_stays_until_requests_can_reach_the_new_one() -> None:
    """dynamo#13622: ready, but not yet known to the proxies."""
    one = world([9], 1)
    step = run_until(one, "a:1(1/1) b:1(1/1)")
    assert step.replicas["a"] == 1
    assert step.wake_after == MIN_READY_SECONDS
    one.now += MIN_READY_SECONDS
    assert one.decide().replicas["a"] == 0


def test_annotations_that_are_stripped_start_nothing() -> None:
    """dynamo#13495: `kubectl replace` strips annotations; state must not live there."""
    one = world([9], 1, b=Kind(crashes_after=5))
    one.retry = "once"
    told, created = one.settle().report, one.created
    one.retry = None
    assert one.settle().report == told
    assert one.created == created


def test_dead_old_pods_are_not_counted_on() -> None:
    """dynamo#8823: old pods that had died were trusted to serve."""
    one = world([9], 3)
    run_until(one, "a:3(3/3) b:1(1/1)")
    one.crash(one.alive("a")[0])
    one.crash(one.alive("a")[1])
    one.look()
    one.now += MIN_READY_SECONDS
    # Two serve, three should: nothing that serves may go.
    assert one.decide().replicas["a"] >= 2
    assert ends_with(one, "b", 3)
    assert one.lowest == 2


@pytest.mark.parametrize(("gpus", "replicas"), [(3, 3), (2, 2), (5, 5)])
def test_no_spare_gpu_is_no_deadlock(gpus: int, replicas: int) -> None:
    """llmkube#192, kuberay#4239: the surge pod was pending for ever."""
    one = world([gpus], replicas)
    said = []
    step = one.settle(lambda s: said.append(s.report.reason) if s.report else None)
    assert step.report is None
    assert one.serving("b") == replicas
    assert one.lowest == replicas - 1
    assert Reason.NO_SPARE_GPU in said


def test_with_one_replica_and_no_spare_gpu_it_says_what_to_do() -> None:
    """kaito#1132: an outage of minutes that nobody had asked for."""
    one = world([1], 1)
    step = one.settle()
    assert one.lowest == 1
    assert step.report is not None
    assert step.report.stalled
    assert step.report.reason is Reason.NO_SPARE_GPU
    assert "Free 1 GPU, or set rollout.onNoSpareGPU to Recreate" in step.report.message


def test_with_one_replica_and_no_spare_gpu_it_recreates_where_that_was_said() -> None:
    one = world([1], 1, policy=Policy(surge=1, floor=1, tight_floor=0, deadline_seconds=900))
    assert ends_with(one, "b", 1)


@pytest.mark.parametrize(("nodes", "replicas"), [([9], 4), ([5], 4), ([4], 4), ([9], 1), ([3], 0)])
def test_template_and_replicas_changed_together(nodes: list[int], replicas: int) -> None:
    """lws#996: it hung where there was no GPU to spare."""
    one = world(nodes, 2)
    one.replicas = replicas
    assert ends_with(one, "b", replicas)


def test_template_and_replicas_changed_together_beyond_what_there_is() -> None:
    """lws#996 again: what there is is exchanged, and the rest waits."""
    one = world([2], 2)
    one.replicas = 4
    assert one.settle().report is None
    assert one.lowest == 1
    assert one.picture() == "a:0(0/0) b:4(2/4)"


def test_template_and_replicas_changed_together_where_nothing_may_go() -> None:
    """lws#996 again: what cannot end says why."""
    one = world([2], 2, policy=Policy(surge=1, floor=4, tight_floor=3, deadline_seconds=900))
    one.replicas = 4
    step = one.settle()
    assert one.lowest == 2
    assert step.report is not None
    assert step.report.reason is Reason.NO_SPARE_GPU
    assert step.report.stalled
    assert "2 serve, at least 3 of 4 must" in step.report.message


@pytest.mark.parametrize("nodes", [[4], [3]])
def test_a_fix_gets_through_when_old_and_new_are_broken(nodes: list[int]) -> None:
    """lws#567: broken old pods blocked the way of the fix."""
    one = world(nodes, 3, a=Kind(crashes_after=5), b=Kind(crashes_after=5))
    one.settle()
    assert one.serving() == 0
    one.wanted = "c"
    assert ends_with(one, "c", 3)


def test_a_restart_in_the_middle_restarts_nothing() -> None:
    """lws#225: a restart of the operator restarted groups once more."""
    calm = world([9], 3)
    calm.settle()
    for cut in range(calm.writes + 1):
        one = world([9], 3)
        left = cut
        while left >= 0:
            one.settle_controllers()
            step = one.decide()
            writes = one.writes_of(step)
            for write in writes[:left]:
                write()
            left -= max(len(writes), 1)
        one.freed_at = one.now  # all that a new process does not know
        assert ends_with(one, "b", 3)
        assert one.created == calm.created


def test_one_new_pod_for_each_old_one() -> None:
    """kubeai#442: a second new pod for the same old one."""
    for nodes in ([9], [3]):
        one = world(nodes, 3)
        before = one.created
        assert ends_with(one, "b", 3)
        assert one.created - before == 3


def test_a_slow_healthy_load_is_waited_for() -> None:
    """ome, lws#725: a deadline that was shorter than loading takes; patience until it is over."""
    one = world([9], 2, b=Kind(load=899))
    assert ends_with(one, "b", 2)


def test_a_load_that_never_ends_fails_at_the_deadline_and_not_before() -> None:
    one = world([9], 2, b=Kind(load=1e9))
    start = one.now
    step = one.settle(lambda s: _not_before(s, one, start + 900))
    assert step.report is not None
    assert step.report.reason is Reason.ROLLED_BACK
    assert "ProgressDeadlineExceeded" in step.report.message
    assert one.lowest == 2


def _not_before(step: Step, one: World, moment: float) -> None:
    assert step.mark_failed is None or one.now >= moment


def test_nothing_is_scaled_away_while_it_loads() -> None:
    """sie#293: a model was scaled to zero while it loaded."""
    one = world([9], 2)
    one.settle(lambda s: _grows(s, one))


def _grows(step: Step, one: World) -> None:
    asked = one.sets["b"].replicas if "b" in one.sets else 0
    assert step.replicas["b"] >= asked


def test_pods_in_their_drain_are_neither_serving_nor_gone() -> None:
    """kserve#5485, llmkube#192: GPUs of draining pods were taken for free."""
    one = world([3], 3)
    step = run_until(one, "a:2(2/2) b:1(0/1)")
    # One pod of `a` drains and holds its GPU: no second one goes for the same need.
    assert any(p.gone_by is not None for p in one.of("a"))
    for _ in range(4):
        assert step.replicas["a"] == 2
        one.now += 20
        one.look()
        step = one.decide()
    assert ends_with(one, "b", 3)


def test_a_surge_pod_that_quota_refuses_counts_as_no_room() -> None:
    """kueue#8769: quota and admission hold pods as well as the scheduler does."""
    one = world([9], 3)
    one.quota = 3
    assert ends_with(one, "b", 3)
    assert one.lowest == 2


def test_another_number_of_gpus_is_planned_for() -> None:
    """Each old pod holds one GPU of two on its node, each new one needs both."""
    one = world([2, 2], 2, b=Kind(gpus=2))
    first, second = one.alive("a")
    first.node, second.node = 0, 1
    assert ends_with(one, "b", 2)
    assert one.lowest == 1


def test_what_went_for_nothing_comes_back() -> None:
    """Room was made for a replica that no node can take: the old one gets its replica back."""
    one = world([2, 1], 3, b=Kind(gpus=3))
    step = one.settle()
    assert one.serving("a") == 3
    assert step.report is not None
    assert step.report.reason is Reason.ROLLED_BACK
    assert "NoSpareGPU" in step.report.message


def test_a_lost_node_in_the_middle_ends_well() -> None:
    one = world([2, 2, 2], 3)
    run_until(one, "a:2(2/2) b:2(1/2)")
    one.lose_node(0)
    one.look()
    assert ends_with(one, "b", 3)


def test_a_crash_that_passes_is_no_failure() -> None:
    one = world([9], 2)
    run_until(one, "a:2(2/2) b:1(0/1)")
    one.crash(one.alive("b")[0])
    one.look()
    assert ends_with(one, "b", 2)
    assert one.sets["b"].failed is None


def test_a_failure_that_was_overcome_is_forgotten() -> None:
    """Stripping the annotation that asked for the retry does not bring the failure back."""
    one = world([9], 1, b=Kind(crashes_after=5))
    one.settle()
    one.kinds["b"] = Kind()
    one.retry = "now"
    assert ends_with(one, "b", 1)
    one.retry = None
    assert ends_with(one, "b", 1)
