"""Which of the other revisions' replicas may go now.

The failed, the unproven and the oldest go first. What serves goes only down to the floor. What does
not serve goes if there is no hope for it, or if as many pods as the floor remain that serve or may
serve again. Where there is no room, pods without a node are no reason to keep anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import RevisionSeen


def shrunk(scene: Scene, most: int) -> dict[str, int]:
    """Replicas of the others, where the target may have `most` for the time being.

    Nothing goes while what we see is not yet what was last asked for.
    """
    asked = {r.name: r.replicas for r in scene.others}
    if not scene.settled:
        return asked
    if scene.no_room:
        placed = {r.name: min(r.replicas, r.placed) for r in scene.others}
        goals = _lowered(scene, placed, _places(scene, sum(placed.values()), most))
        # Those without a node may go alone where the target serves: it has their share then.
        if scene.proven or goals != placed:
            return goals
    return _lowered(scene, asked, _surplus(scene, sum(asked.values()), most))


def _lowered(scene: Scene, goals: Mapping[str, int], limit: int) -> dict[str, int]:
    """At most `limit` fewer, as far as they may go."""
    goals = dict(goals)
    spare = scene.serving - scene.floor
    for one in sorted(scene.others, key=_dispensable):
        while limit > 0 and goals[one.name] > 0:
            goal = goals[one.name] - 1
            # One that is ready has requests, though it does not count as serving yet.
            lost = goals[one.name] <= sum(pod.ready for pod in one.alive)
            remaining = scene.arrived + sum(goals.values()) - 1
            if lost > max(spare, 0):
                break
            if not lost and remaining < scene.floor and not _hopeless(scene, one):
                break
            goals[one.name] = goal
            spare -= lost
            limit -= 1
    return goals


def _places(scene: Scene, total: int, most: int) -> int:
    """How many of the others' `total` replicas with a node may go at once: to make room, one."""
    excess = total - min(scene.replicas, scene.placed)
    return min(max(excess, 1), excess + most)


def _surplus(scene: Scene, total: int, most: int) -> int:
    """How many of the others' `total` replicas are too many.

    Before the target is proven they keep all replicas that are wanted.
    """
    excess = total - scene.replicas
    if scene.proven:
        return excess + most
    first = scene.target is None or scene.target.replicas == 0
    return max(excess, 1) if scene.makes_room and scene.room == 0 and first else excess


def _hopeless(scene: Scene, revision: RevisionSeen) -> bool:
    """None of its pods that do not serve is worth waiting for."""
    missing = revision.replicas > len(revision.alive)
    if missing and revision.completed_at is not None:
        return False
    return all(scene.available(pod) or scene.useless(pod, revision) for pod in revision.alive)


def _dispensable(revision: RevisionSeen) -> tuple[bool, float, float, str]:
    return (
        revision.failure is None,
        revision.completed_at or 0.0,
        revision.created,
        revision.name,
    )
