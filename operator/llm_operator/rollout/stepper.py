"""The next step of a rollout, and nothing but the next: from what is seen now.

Stateless, so that a restart, a second edit or a lost node is nothing special. Decides how many
replicas each revision is asked for, what is marked, deleted and asked. Two rules come before all:
no step takes a serving pod if fewer than the policy's floor would be left, and none asks for more
pods than wanted plus surge. Both hold for every order in which the parts of a step are carried out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llm_operator.api.status import Reason
from llm_operator.facts.canary import Trial
from llm_operator.rollout import report
from llm_operator.rollout.canary import Stage, stage
from llm_operator.rollout.clock import Clock
from llm_operator.rollout.failure import cause_of_failure, is_failed, last_good, left_over
from llm_operator.rollout.history import newly_complete, stable, to_delete
from llm_operator.rollout.policy import Policy, Strategy
from llm_operator.rollout.report import Report
from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import Cause, RevisionSeen, Seen
from llm_operator.rollout.shrink import shrunk


@dataclass(frozen=True)
class MarkFailed:
    """A revision to be given up, and why."""

    revision: str
    cause: Cause


@dataclass(frozen=True)
class Ask:
    """The pod to be asked the acceptance prompts of its revision."""

    revision: str
    pod: str


@dataclass(frozen=True)
class Step:
    """What to do now, in any order.

    replicas: what each revision is to be asked for; one that is not there is to be created.
    delete: revisions to delete. target: the revision that pods go towards (the wanted one, or the
    one before where that failed). mark_failed, mark_accepted, mark_completed: marks to write.
    ask, trial: who is to be asked, and which requests are to be measured, from now on.
    report: what to say, None where nothing is exchanged. wake_after: seconds until time alone may
    lead to another step.
    """

    replicas: Mapping[str, int]
    delete: tuple[str, ...] = ()
    target: str | None = None
    mark_failed: MarkFailed | None = None
    mark_accepted: str | None = None
    mark_completed: str | None = None
    ask: Ask | None = None
    trial: Trial | None = None
    report: Report | None = None
    wake_after: float | None = None


def next_step(seen: Seen, wanted: str | None, replicas: int, policy: Policy, now: float) -> Step:
    """Decide the next step towards `replicas` pods of the revision `wanted`.

    `wanted` need not exist yet. None: the wish is held, so nothing is exchanged and only the number
    of replicas is followed. `now` in seconds since the epoch.
    """
    clock = Clock(now)
    by_name = {r.name: r for r in seen.revisions}
    current = by_name.get(wanted) if wanted else None
    others = tuple(r for r in seen.revisions if r.name != wanted)
    scene = Scene(current, others, replicas, policy, seen.freed_at, clock)
    step = _decide(scene, seen, wanted)
    if wanted is not None:
        keep = {wanted, step.target}
        if good := stable(seen.revisions):
            keep.add(good.name)
        gone = to_delete(scene, {name for name in keep if name})
        goals = {name: n for name, n in step.replicas.items() if name not in gone}
        step = replace(
            step, replicas=goals, delete=gone, mark_completed=newly_complete(scene, wanted)
        )
    return replace(step, wake_after=clock.wake_after)


def _decide(scene: Scene, seen: Seen, wanted: str | None) -> Step:
    current = scene.target
    if wanted is None:
        return Step(_hold(scene))
    if scene.policy.paused and any(r.count for r in scene.others):
        return Step(_hold(scene), target=wanted, report=report.paused(scene))
    if current is not None and is_failed(current, seen.retry):
        return _after_failure(scene, current)
    acceptance = _acceptance(scene, seen)
    if acceptance.mark_failed:
        return replace(acceptance, replicas=_hold(scene), target=wanted)
    at = stage(scene, seen.promoted, seen.measured) if _is_canary(scene) else None
    cause = None
    if current is not None and current is not stable(scene.revisions):
        cause = cause_of_failure(scene) or (at.failure if at else None)
    if cause and current and last_good(scene.others, scene):
        mark = MarkFailed(current.name, cause)
        return Step(_hold(scene), target=wanted, mark_failed=mark)
    goals = _goals(scene, wanted, at)
    said = _say(scene, goals, at, cause, asking=acceptance.ask is not None)
    trial = at.trial if at else None
    return replace(acceptance, replicas=goals, target=wanted, trial=trial, report=said)


def _after_failure(scene: Scene, failed: RevisionSeen) -> Step:
    """Back to what was good, or stop."""
    assert failed.failure is not None
    good = last_good(scene.others, scene) if scene.policy.rollback else None
    if good is None:
        said = report.failed(scene, failed, failed.failure.cause)
        return Step(_hold(scene), target=failed.name, report=said)
    others = tuple(r for r in scene.revisions if r is not good)
    back = Scene(good, others, scene.replicas, scene.policy, scene.freed_at, scene.clock)
    said = report.failed(back, failed, failed.failure.cause)
    return Step(_goals(back, good.name, None), target=good.name, report=said)


def _acceptance(scene: Scene, seen: Seen) -> Step:
    """Ask the target's first pod, or take note of what it said."""
    target = scene.target
    if target is None or not target.gated or target.accepted:
        return Step({})
    verdict = seen.verdict
    if not scene.policy.acceptance:
        return Step({}, mark_accepted=target.name)
    if verdict is not None and verdict.revision == target.name:
        if verdict.failure is None:
            return Step({}, mark_accepted=target.name)
        return Step({}, mark_failed=MarkFailed(target.name, verdict.failure))
    up = [pod for pod in target.alive if pod.answers]
    first = min(up, key=lambda pod: (pod.created, pod.name), default=None)
    return Step({}, ask=Ask(target.name, first.name) if first else None)


def _is_canary(scene: Scene) -> bool:
    """Steps are for a revision that is new, beside one that serves."""
    if scene.policy.strategy is not Strategy.CANARY:
        return False
    good = stable(scene.revisions)
    new = scene.target is None or scene.target is not good
    return new and scene.replicas > 0 and any(r.count for r in scene.others)


def _goals(scene: Scene, name: str, at: Stage | None) -> dict[str, int]:
    """Replicas of the target (of that name) and of all others."""
    if scene.policy.strategy is Strategy.RECREATE:
        return _recreated(scene, name)
    most = scene.replicas if scene.proven else min(1, scene.replicas)
    goal = _grown(scene, min(most, at.replicas) if at else most)
    goals = shrunk(scene, at.replicas if at else scene.replicas)
    # Without surge a canary goes on where the others are fewer: filled up, they would undo that.
    if _has_its_place(scene, goal) and (at is None or scene.policy.surge):
        goals = _filled_up(scene, goals, goal)
    return {**goals, name: goal}


def _has_its_place(scene: Scene, goal: int) -> bool:
    """Every pod that the target may have now has a node: others that come take nothing from it."""
    target = scene.target
    if target is None or goal > target.replicas or scene.waiting_since is not None:
        return False
    return all(pod.scheduled_at is not None for pod in target.alive)


def _filled_up(scene: Scene, goals: dict[str, int], goal: int) -> dict[str, int]:
    """What is wanted beyond the target's `goal`, as when the load has grown, the best of the others
    has: it may be long until the target may have more."""
    more = min(scene.replicas - sum(goals.values()) - goal, scene.room)
    good = [r for r in scene.others if r.count and r.failure is None]
    if more <= 0 or not good:
        return goals
    best = max(good, key=lambda r: (scene.kept(r, r.replicas), *_worth(r)))
    return {**goals, best.name: goals[best.name] + more}


def _recreated(scene: Scene, name: str) -> dict[str, int]:
    """First all others go, and their pods too; then the target comes at once.

    It must exist by then, so that nothing goes for a revision that the API server refuses.
    """
    goals = {r.name: r.replicas for r in scene.others}
    busy = any(r.count or not r.settled for r in scene.others)
    if scene.target is None:
        return {**goals, name: 0 if busy else scene.replicas}
    goals = dict.fromkeys(goals, 0)
    draining = {pod.name for pod in scene.leaving} - {pod.name for pod in scene.target.pods}
    if busy or draining:
        return {**goals, name: min(scene.target.replicas, scene.replicas)}
    return {**goals, name: _grown(scene, scene.replicas)}


def _grown(scene: Scene, most: int) -> int:
    """Replicas of the target: towards `most`, as far as surge allows.

    It is lowered only where it has more than wanted, or to be rid of pods of an earlier try.
    """
    target = scene.target
    asked = target.replicas if target else 0
    if target is not None and left_over(target):
        return min(sum(pod.ready for pod in target.alive), asked)
    if asked >= most:
        return min(asked, scene.replicas)
    return min(most, asked + scene.room)


def _hold(scene: Scene) -> dict[str, int]:
    """Nothing is exchanged, only the number of replicas is followed, by what serves best.

    Where a rollout stands still, the surge stays.
    """
    goals = {r.name: r.replicas for r in scene.revisions}
    ranked = sorted(scene.revisions, key=lambda r: (scene.kept(r, r.replicas), *_worth(r)))
    running = sum(r.count > 0 for r in ranked)
    surge = scene.policy.surge if running > 1 and scene.replicas else 0
    excess = sum(goals.values()) - scene.replicas - surge
    for revision in ranked:
        less = min(max(excess, 0), goals[revision.name])
        goals[revision.name] -= less
        excess -= less
    missing = scene.replicas - sum(goals.values())
    if ranked and missing > 0:
        goals[ranked[-1].name] += min(missing, scene.room)
    return goals


def _worth(revision: RevisionSeen) -> tuple[float, int, float, str]:
    return (
        revision.completed_at or 0.0,
        revision.replicas,
        revision.created,
        revision.name,
    )


def _say(
    scene: Scene, goals: Mapping[str, int], at: Stage | None, cause: Cause | None, asking: bool
) -> Report | None:
    """What to tell; None where nothing is exchanged and nothing is late."""
    exchanging = any(r.count or r.name in _draining(scene) for r in scene.others)
    if cause and (exchanging or cause.reason == Reason.PROGRESS_DEADLINE_EXCEEDED):
        return report.hopeless(scene, cause)
    if not exchanging:
        return None
    if at is not None and at.pausing:
        return report.stage(scene, at)
    if scene.no_room:
        goes_on = scene.loading or any(goals[r.name] < r.replicas for r in scene.others)
        return report.no_room(scene, goes_on)
    if scene.waiting_since is not None and scene.leaving:
        return report.draining(scene)
    return report.updating(scene, asking)


def _draining(scene: Scene) -> set[str]:
    leaving = {pod.name for pod in scene.leaving}
    return {r.name for r in scene.others if any(p.name in leaving for p in r.pods)}
