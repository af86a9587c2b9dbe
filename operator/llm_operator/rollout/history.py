"""Which revisions are kept without pods, and which has been all that served.

The mark of completion is how an earlier revision is known to be good later, when none of its pods
is left. The first revision of all needs none while it is the only one.
"""

from __future__ import annotations

from collections.abc import Collection

from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import RevisionSeen


def stable(revisions: Collection[RevisionSeen]) -> RevisionSeen | None:
    """The revision that last was all that served, by its mark."""
    marked = [r for r in revisions if r.completed_at is not None]
    return max(marked, key=lambda r: r.completed_at or 0.0, default=None)


def newly_complete(scene: Scene, wanted: str | None) -> str | None:
    """The revision to be marked: it alone runs, it serves, and the latest mark is not its own.

    The wanted one must serve with all replicas that there is room for; for what ran before it is
    enough to serve.
    """
    running = [r for r in scene.revisions if r.count]
    if len(running) != 1:
        return None
    only = running[0]
    first = len(scene.revisions) == 1 and only.name == wanted
    if only.failure is None and (first or only is stable(scene.revisions)):
        return None
    wished = only.placed if scene.no_room else scene.replicas
    least = max(wished, 1) if only.name == wanted else 1
    return only.name if scene.kept(only, only.replicas) >= least else None


def to_delete(scene: Scene, keep: Collection[str]) -> tuple[str, ...]:
    """Revisions beyond the history: without pods, the oldest ones, and none of `keep`."""
    idle = [
        r
        for r in scene.others
        if r.name not in keep
        and r.settled  # a pod that we do not see yet may have come
        and not r.count
        and not any(p.gone_by is not None for p in r.pods)
    ]
    idle.sort(key=lambda r: (max(r.created, r.completed_at or 0.0), r.name), reverse=True)
    return tuple(r.name for r in idle[scene.policy.history :])
