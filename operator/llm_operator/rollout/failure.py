"""Whether a revision has failed, and which one to go back to.

A failure is of the revision, not of the cluster: a pod without a node says nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llm_operator.api.status import Reason
from llm_operator.rollout.clock import Clock
from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import Cause, PodSeen, RevisionSeen

STUCK_SECONDS: Final = 30.0
"""A pod is given so long, since it has a node, before what keeps it from starting is believed."""
ENDED_PODS: Final = 3
"""So many pods that ended for good before they served are no coincidence."""


def is_failed(revision: RevisionSeen, retry: str | None) -> bool:
    """Its mark holds, as the user has not asked since to try it again.

    An annotation that has gone (a `replace` strips it) asks for nothing.
    """
    return revision.failure is not None and retry in (None, revision.failure.retry)


def left_over(revision: RevisionSeen) -> tuple[PodSeen, ...]:
    """Pods of an earlier try that are still stuck; they say nothing about this one."""
    if revision.failure is None:
        return ()
    at = revision.failure.at
    return tuple(p for p in revision.alive if p.stuck is not None and p.created <= at)


def cause_of_failure(scene: Scene) -> Cause | None:
    """Why the target cannot become what it should; None while it may."""
    target = scene.target
    if target is None:
        return None
    old = {pod.name for pod in left_over(target)}
    alive = [pod for pod in target.alive if pod.name not in old]
    return (
        _stuck(alive, scene.clock)
        or _ended(target)
        or _late(target, alive, scene)
        or _no_gain(scene)
    )


def last_good(others: Iterable[RevisionSeen], scene: Scene) -> RevisionSeen | None:
    """The revision to go back to: the latest that was all that served, else one that serves."""
    serving = {r.name for r in others if scene.kept(r, r.replicas)}
    good = [
        r for r in others if r.name in serving or (r.completed_at is not None and r.failure is None)
    ]
    return max(good, key=lambda r: (r.completed_at or 0.0, r.created, r.name), default=None)


def _stuck(pods: Iterable[PodSeen], clock: Clock) -> Cause | None:
    for pod in pods:
        if pod.stuck and clock.passed((pod.scheduled_at or pod.created) + STUCK_SECONDS):
            return pod.stuck
    return None


def _ended(target: RevisionSeen) -> Cause | None:
    ended = [pod for pod in target.pods if pod.ended and not pod.served]
    if target.failure is not None:
        ended = [pod for pod in ended if pod.created > target.failure.at]
    if len(ended) < ENDED_PODS:
        return None
    cause = next((pod.stuck for pod in ended if pod.stuck), None)
    return cause or Cause(Reason.CRASHED, f"{len(ended)} pods ended before they served")


def _late(target: RevisionSeen, alive: list[PodSeen], scene: Scene) -> Cause | None:
    """A pod with a node, or one that the API server refuses, has not come to serve in time.

    The time starts anew with every pod that does.
    """
    progress = max((pod.ready_since or 0.0 for pod in alive if pod.ready), default=0.0)
    since = [
        max(pod.scheduled_at, pod.unready_since or 0.0)
        for pod in alive
        if not pod.ready and pod.scheduled_at is not None
    ]
    deadline = scene.policy.deadline_seconds
    if since and scene.clock.passed(max(min(since), progress) + deadline):
        text = f"{len(since)} of its pods did not serve within {deadline:.0f} s of progress"
        return Cause(Reason.PROGRESS_DEADLINE_EXCEEDED, text)
    refused = target.refused
    if refused and not refused.quota and scene.clock.passed(refused.since + deadline):
        return refused.cause
    return None


def _no_gain(scene: Scene) -> Cause | None:
    """Room was made, and the target found none for long: what went for it had better come back."""
    since, target = scene.waiting_since, scene.target
    others = sum(r.replicas for r in scene.others)
    made = target is not None and scene.floor <= others < scene.replicas
    if since is None or scene.proven or not made or not scene.no_room:
        return None
    deadline = scene.policy.deadline_seconds
    if not scene.clock.passed(max(since, scene.freed_at) + deadline):
        return None
    text = f"no node had room for it in {deadline:.0f} s"
    return Cause(Reason.NO_SPARE_GPU, text)
