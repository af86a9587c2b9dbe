"""What is judged: the wish, the revisions that exist, and what stands in the way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from llm_operator.api.status import Reason, RevisionState, ScalingStatus
from llm_operator.facts.acceptance import Result
from llm_operator.facts.cluster import PodFact
from llm_operator.runtimes.terms import Plan


@dataclass(frozen=True)
class Held:
    """Why the wish is not carried out. `stuck`: only a change by the user (or admin) will help."""

    reason: Reason
    message: str
    stuck: bool = True


@dataclass(frozen=True)
class Progress:
    """What the stepper says of the way to the wish. `stuck`: only the user or an admin can help."""

    reason: Reason
    message: str
    stuck: bool = False

    @property
    def is_plain(self) -> bool:
        """It goes on, and only trouble with pods would be worth telling instead."""
        return self.reason in (Reason.UPDATING, Reason.NO_SPARE_GPU) and not self.stuck


@dataclass(frozen=True)
class RevisionSeen:
    """One revision with its pods. `refused` is the API server's word on why it has too few.

    `failed` is the reason and message with which it was given up, `answers` how it was accepted.
    `floats`: the branch or tag of the model that each of its pods resolves for itself.
    """

    name: str
    wanted: bool
    replicas: int
    image: str | None
    gpus_per_replica: int
    pods: tuple[PodFact, ...]
    refused: str | None = None
    created: str = ""
    model: str | None = None
    commit: str | None = None
    floats: str | None = None
    failed: tuple[str, str] | None = None
    answers: tuple[Result, ...] = ()

    @property
    def ready(self) -> int:
        """Pods that get requests."""
        return sum(pod.ready and not pod.deleting for pod in self.pods)

    @property
    def up(self) -> int:
        """Pods whose engine answers, whether they get requests yet or not."""
        return sum((pod.ready or pod.containers_ready) and not pod.deleting for pod in self.pods)

    @property
    def draining(self) -> int:
        return sum(pod.deleting for pod in self.pods)

    @property
    def state(self) -> RevisionState:
        """What it is about, in one word."""
        if self.failed is not None:
            return RevisionState.FAILED
        if self.replicas == 0:
            return RevisionState.DRAINING if self.left else RevisionState.RETIRED
        if self.ready >= self.replicas:
            return RevisionState.SERVING
        return RevisionState.ASKED if self.up > self.ready else RevisionState.LOADING

    @property
    def left(self) -> tuple[PodFact, ...]:
        """Pods that still have something. What was evicted has not, though it may stay for long."""
        return tuple(pod for pod in self.pods if pod.phase != "Failed")

    @property
    def alive(self) -> tuple[PodFact, ...]:
        """Pods that count: neither on their way out nor ended for good."""
        return tuple(p for p in self.pods if not p.deleting and p.phase != "Failed")


@dataclass(frozen=True)
class ScalingSeen:
    """What the scaler tells: `shown` as it is, and whether its decisions have any effect."""

    shown: ScalingStatus
    active: bool
    reason: Reason
    message: str


@dataclass(frozen=True)
class Situation:
    """All that `summarise` looks at. `plan` is the wanted revision's, or the refused one."""

    generation: int
    replicas: int
    revisions: tuple[RevisionSeen, ...]
    plan: Plan | None = None
    held: Held | None = None
    progress: Progress | None = None
    drifted: str | None = None
    endpoint: str | None = None
    selector: str = ""
    lost_nodes: Collection[str] = field(default=())
    scaling: ScalingSeen | None = None

    @property
    def wanted(self) -> RevisionSeen | None:
        return next((r for r in self.revisions if r.wanted), None)

    @property
    def ready(self) -> int:
        return sum(r.ready for r in self.revisions)
