"""The next step towards the wanted revision.

The wanted revision gets all its replicas at once; what ran before goes when the new one serves.
Surge, proof before traffic and rollback will take this place without a change to the callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Revision:
    """What is seen of one revision. `replicas` is what its ReplicaSet is asked for."""

    name: str
    created: str
    replicas: int
    ready: int


@dataclass(frozen=True)
class Step:
    """What to do now: how many replicas each revision should have, and which may be deleted."""

    replicas: dict[str, int]
    delete: tuple[str, ...] = ()


def next_step(revisions: Sequence[Revision], wanted: str | None, replicas: int) -> Step:
    """Decide from the revisions there are.

    The wanted revision need not exist yet: it is then in `Step.replicas` to be created. `wanted`
    None: the wish is held, so nothing comes or goes but replicas of what serves.
    """
    others = sorted(
        (r for r in revisions if r.name != wanted), key=lambda r: (r.ready, r.created, r.name)
    )
    keep = others[-1] if others else None
    superseded = tuple(r.name for r in others[:-1])
    if wanted is None:
        goals = {r.name: r.replicas for r in others}
        return Step({**goals, keep.name: replicas} if keep else {})
    current = next((r for r in revisions if r.name == wanted), None)
    if current is not None and current.replicas == replicas and current.ready >= replicas:
        return Step({wanted: replicas}, tuple(r.name for r in others))
    goals = {wanted: replicas}
    if keep is not None:
        goals[keep.name] = keep.replicas
    return Step(goals, superseded)
