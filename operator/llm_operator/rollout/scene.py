"""One deployment between two revisions: what serves, what may go, whether there is room.

Counts only; what is done about them is decided in `stepper`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from llm_operator.rollout.clock import Clock
from llm_operator.rollout.policy import Policy
from llm_operator.rollout.seen import PodSeen, RevisionSeen

MIN_READY_SECONDS: Final = 5.0
"""A pod counts as serving this long after it is ready: by then its address is in every proxy."""
ROOM_SECONDS: Final = 15.0
"""How long the scheduler may look for GPUs before there are none. It answers within a second, and
within ten after a pod has left."""
STALE_SECONDS: Final = 30.0
"""A pod that is still there so long after its grace has ended is on a node that does not answer."""
UNREADY_SECONDS: Final = 300.0
"""A pod that has lost its readiness for so long is not merely busy with a long prompt."""


@dataclass(frozen=True)
class Scene:
    """A revision to go to, the others, and `replicas` wanted in all.

    `freed_at` as in `Seen`. `target` None: its ReplicaSet is not there yet.
    """

    target: RevisionSeen | None
    others: tuple[RevisionSeen, ...]
    replicas: int
    policy: Policy
    freed_at: float
    clock: Clock

    @cached_property
    def revisions(self) -> tuple[RevisionSeen, ...]:
        return (self.target, *self.others) if self.target else self.others

    @cached_property
    def room(self) -> int:
        """Pods that may come without there being more than wanted plus surge.

        None while there may be pods that we do not see.
        """
        if self.others and not self.settled:
            return 0
        return max(self.replicas + self.policy.surge - sum(r.replicas for r in self.revisions), 0)

    @cached_property
    def settled(self) -> bool:
        """What we see of pods already follows from what the ReplicaSets were last asked for."""
        return all(r.settled for r in self.revisions)

    @cached_property
    def serving(self) -> int:
        """Pods that serve, those that are doomed already left out."""
        return sum(self.kept(r, r.replicas) for r in self.revisions)

    @cached_property
    def arrived(self) -> int:
        """Pods of the target that serve."""
        return self.kept(self.target, self.target.replicas) if self.target else 0

    def available(self, pod: PodSeen) -> bool:
        """It serves users' requests, and all proxies know."""
        if not pod.alive or not pod.ready:
            return False
        return self.clock.passed((pod.ready_since or 0.0) + MIN_READY_SECONDS)

    def kept(self, revision: RevisionSeen, replicas: int) -> int:
        """Serving pods that are left for certain when the revision is asked for `replicas`.

        A ReplicaSet gives up pods that are not ready first.
        """
        alive = revision.alive
        available = sum(self.available(pod) for pod in alive)
        unready = sum(not pod.ready for pod in alive)
        doomed = max(len(alive) - replicas, 0)
        return max(available - max(doomed - unready, 0), 0)

    @cached_property
    def proven(self) -> bool:
        """The target may be trusted with all replicas: it serves, it did, or there is no better."""
        target = self.target
        if target is not None and (self.arrived or target.completed_at is not None):
            return True
        return not any(self._worth_keeping(r) for r in self.others)

    def _worth_keeping(self, revision: RevisionSeen) -> bool:
        if revision.completed_at is not None and revision.count:
            return True
        return any(not self.useless(pod, revision) for pod in revision.alive)

    def useless(self, pod: PodSeen, revision: RevisionSeen) -> bool:
        """It does not serve, and there is no reason to wait until it does."""
        if pod.ready:
            return False
        if pod.stuck is not None:
            return True
        if not pod.served:
            return revision.completed_at is None
        return self.clock.passed((pod.unready_since or self.clock.now) + UNREADY_SECONDS)

    @cached_property
    def leaving(self) -> tuple[PodSeen, ...]:
        """Pods on their way out whose GPUs will be free soon."""
        return tuple(
            pod
            for revision in self.revisions
            for pod in revision.pods
            if pod.gone_by is not None and not self.clock.passed(pod.gone_by + STALE_SECONDS)
        )

    @property
    def loading(self) -> bool:
        """The target has a pod with a node that has yet to serve for the first time."""
        alive = self.target.alive if self.target else ()
        new = [p for p in alive if p.scheduled_at is not None and (p.ready or not p.served)]
        return not all(map(self.available, new))

    @cached_property
    def waiting_since(self) -> float | None:
        """Since when the target waits for room; None if it does not."""
        if self.target is None:
            return None
        waiting = [p.unschedulable_since for p in self.target.alive if p.unschedulable_since]
        refused = self.target.refused
        if refused and refused.quota and len(self.target.alive) < self.target.replicas:
            waiting.append(refused.since)
        return min(waiting, default=None)

    @cached_property
    def no_room(self) -> bool:
        """There is no place for another replica of the target, nor will one come by itself.

        The scheduler has the word (or the quota). It is not asked while pods of ours are on their
        way out, since it may still say yes then.
        """
        if self.waiting_since is None or self.leaving or not self.settled:
            return False
        return self.clock.passed(max(self.waiting_since, self.freed_at) + ROOM_SECONDS)

    @cached_property
    def scarce(self) -> bool:
        """Room is made for the target's newest pod, or was.

        It waits, and it or one before it has waited for longer than the scheduler takes to say yes;
        or it has got its node so late, and the others were asked for fewer before it served.
        """
        alive = self.target.alive if self.target else ()
        if self.no_room or not alive or self.policy.surge == 0:
            return self.no_room
        *before, newest = sorted(alive, key=lambda pod: (pod.created, pod.name))
        if newest.scheduled_at is None:
            return any(map(self._waited, alive))
        kept = sum(r.replicas for r in self.others) + sum(pod.served for pod in before)
        return self._waited(newest) and kept < self.policy.floor

    def _waited(self, pod: PodSeen) -> bool:
        until = self.clock.now if pod.scheduled_at is None else pod.scheduled_at
        return until - pod.created >= ROOM_SECONDS

    @property
    def makes_room(self) -> bool:
        """Old pods go before new ones come: there is no room for a surge, or none is wanted."""
        return self.no_room or self.policy.surge == 0

    @property
    def floor(self) -> int:
        """Serving pods that must remain."""
        return self.tight_floor if self.no_room else self.policy.floor

    @property
    def tight_floor(self) -> int:
        """The same while room is made: never more than can serve at all."""
        least = self.policy.tight_floor
        return min(least, max(self.placed - 1, 1)) if self.policy.one_at_a_time else least

    @cached_property
    def placed(self) -> int:
        """Replicas that can be placed: that have a node, or are about to get one that is left."""
        return sum(r.placed for r in self.revisions) + len(self.leaving) + self._left_a_place

    @property
    def _left_a_place(self) -> bool:
        """A pod has left, and none of the target that waited for its place has come since.

        If somebody else has that place, he is not given a second one before the deadline.
        """
        since, freed_at = self.waiting_since, self.freed_at
        if since is None or since >= freed_at or self.leaving or self.loading:
            return False
        served = [p.ready_since for p in self.target.alive if p.ready_since] if self.target else []
        if served and max(served) + MIN_READY_SECONDS >= freed_at:
            return False
        return not self.clock.passed(freed_at + self.policy.deadline_seconds)
