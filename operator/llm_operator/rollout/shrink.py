"""Which of the other revisions' replicas may go now.

The failed, the unproven and the oldest go first. What serves goes only down to the floor. What does
not serve goes if there is no hope for it, or if as many pods as the floor remain that serve or may
serve again.
"""

from __future__ import annotations

from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import RevisionSeen


def shrunk(scene: Scene, most: int) -> dict[str, int]:
    """Replicas of the others, where the target may have `most` for the time being.

    Nothing goes while what we see is not yet what was last asked for.
    """
    goals = {r.name: r.replicas for r in scene.others}
    if not scene.settled:
        return goals
    limit = _limit(scene, sum(goals.values()), most)
    spare = scene.serving - scene.floor
    for one in sorted(scene.others, key=_dispensable):
        while limit > 0 and goals[one.name] > 0:
            goal = goals[one.name] - 1
            lost = scene.kept(one, goals[one.name]) - scene.kept(one, goal)
            remaining = scene.arrived + sum(goals.values()) - 1
            if lost > max(spare, 0):
                break
            if not lost and remaining < scene.floor and not _hopeless(scene, one):
                break
            goals[one.name] = goal
            spare -= lost
            limit -= 1
    return goals


def _limit(scene: Scene, total: int, most: int) -> int:
    """How many of the others' `total` replicas may go at once.

    Before the target is proven they keep all replicas that are wanted. Where room must be made, one
    goes at a time.
    """
    excess = total - scene.replicas
    if scene.no_room:
        return min(max(excess, 1), excess + most)
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
