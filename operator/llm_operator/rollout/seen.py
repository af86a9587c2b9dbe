"""What the stepper looks at: every revision and pod of one deployment at one moment.

Facts only, with times in seconds since the epoch. How they are read from Kubernetes, and what they
mean for the rollout, is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_operator.facts.canary import Measured


@dataclass(frozen=True)
class Cause:
    """Why something does not work: a reason in CamelCase, and a message for a person."""

    reason: str
    message: str


@dataclass(frozen=True)
class PodSeen:
    """One pod.

    `answers`: its engine is up; `ready`: users' requests may reach it as well (the readiness gate
    is open or there is none), since `ready_since`. `served`: it is ready, or was at any time;
    `unready_since` where it is not ready now.
    `scheduled_at` None: it has no node; `unschedulable_since`: the scheduler has said why.
    `gone_by`: it is being deleted, and killed then. `ended`: it has failed or succeeded for good
    and its ReplicaSet has replaced it.
    `stuck`: it does not serve, and waiting longer will not help.
    """

    name: str
    created: float
    ready: bool = False
    answers: bool = False
    served: bool = False
    ready_since: float | None = None
    unready_since: float | None = None
    scheduled_at: float | None = None
    unschedulable_since: float | None = None
    gone_by: float | None = None
    ended: bool = False
    stuck: Cause | None = None

    @property
    def alive(self) -> bool:
        """Its ReplicaSet counts it: neither on its way out nor ended."""
        return self.gone_by is None and not self.ended


@dataclass(frozen=True)
class FailedMark:
    """The mark on a revision that failed. `retry`: the user's retry annotation at that time."""

    cause: Cause
    at: float
    retry: str | None = None


@dataclass(frozen=True)
class Refused:
    """The API server does not let a ReplicaSet make pods. `quota`: for want of room, not rights."""

    cause: Cause
    since: float
    quota: bool = False


@dataclass(frozen=True)
class RevisionSeen:
    """One revision with its pods.

    `replicas` is what its ReplicaSet is asked for. `settled`: the ReplicaSet's controller has acted
    on that, and agrees with us on how many pods there are. `gpus` per replica.
    `gated`: its template has the readiness gate; `accepted`: the mark of passed acceptance is on
    it. `completed_at`: when it last was the one revision that served all replicas (a mark).
    """

    name: str
    created: float
    replicas: int
    pods: tuple[PodSeen, ...] = ()
    gpus: int = 1
    settled: bool = True
    gated: bool = False
    accepted: bool = False
    completed_at: float | None = None
    failed: FailedMark | None = None
    refused: Refused | None = None

    @property
    def failure(self) -> FailedMark | None:
        """The mark of its failure, unless it has served with all replicas since."""
        if self.failed is None or (self.completed_at or 0.0) > self.failed.at:
            return None
        return self.failed

    @property
    def alive(self) -> tuple[PodSeen, ...]:
        return tuple(p for p in self.pods if p.alive)

    @property
    def placed(self) -> int:
        """Pods that have a node."""
        return sum(pod.ready or pod.scheduled_at is not None for pod in self.alive)

    @property
    def count(self) -> int:
        """Pods that are there or may come at any moment."""
        return max(self.replicas, len(self.alive))


@dataclass(frozen=True)
class Verdict:
    """What asking a pod of `revision` the acceptance prompts has shown; `failure` None: passed."""

    revision: str
    failure: Cause | None = None


@dataclass(frozen=True)
class Seen:
    """All revisions of one deployment.

    `retry`: the user's annotation. `promoted`: how many canary steps of the wanted revision the
    user has released (`policy.promoted_steps`). `verdict`: the acceptance result that is not on the
    children yet. `measured`: how the requests of a canary go. `freed_at`: when a pod last left, at
    the earliest when this process started: the scheduler needs a moment to use its GPUs.
    """

    revisions: tuple[RevisionSeen, ...] = ()
    retry: str | None = None
    promoted: int = 0
    verdict: Verdict | None = None
    freed_at: float = 0.0
    measured: Measured | None = None
