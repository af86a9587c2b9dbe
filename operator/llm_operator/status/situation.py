"""What is judged: the wish, the revisions that exist, and what stands in the way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from llm_operator.api.status import Reason
from llm_operator.facts.cluster import PodFact
from llm_operator.runtimes.terms import Plan


@dataclass(frozen=True)
class Held:
    """Why the wish is not carried out. `stuck`: only a change by the user (or admin) will help."""

    reason: Reason
    message: str
    stuck: bool = True


@dataclass(frozen=True)
class RevisionSeen:
    """One revision with its pods. `refused` is the API server's word on why it has too few."""

    name: str
    wanted: bool
    replicas: int
    image: str | None
    gpus_per_replica: int
    pods: tuple[PodFact, ...]
    refused: str | None = None

    @property
    def ready(self) -> int:
        return sum(pod.ready and not pod.deleting for pod in self.pods)

    @property
    def alive(self) -> tuple[PodFact, ...]:
        """Pods that count: neither on their way out nor ended for good."""
        return tuple(p for p in self.pods if not p.deleting and p.phase != "Failed")


@dataclass(frozen=True)
class Situation:
    """All that `summarise` looks at. `plan` is the wanted revision's, or the refused one."""

    generation: int
    replicas: int
    revisions: tuple[RevisionSeen, ...]
    plan: Plan | None = None
    held: Held | None = None
    drifted: str | None = None
    endpoint: str | None = None
    selector: str = ""
    lost_nodes: Collection[str] = field(default=())
    deleting: bool = False

    @property
    def wanted(self) -> RevisionSeen | None:
        return next((r for r in self.revisions if r.wanted), None)

    @property
    def ready(self) -> int:
        return sum(r.ready for r in self.revisions)
