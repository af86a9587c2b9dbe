"""Everything known about one LLMDeployment at one moment, from the store alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_operator.api import names
from llm_operator.facts.cluster import NodeFact, PodFact
from llm_operator.kube.store import Key, Store
from llm_operator.observe.slim import controller_uid


@dataclass(frozen=True)
class Observed:
    """The object and its children. `replica_sets`, `service` and `budget` are ours by owner uid."""

    key: Key
    deployment: dict[str, Any]
    replica_sets: tuple[dict[str, Any], ...]
    pods: tuple[PodFact, ...]
    service: dict[str, Any] | None
    budget: dict[str, Any] | None

    @property
    def uid(self) -> str:
        return str(self.deployment["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.deployment["metadata"]["generation"])

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.deployment["metadata"]


def gather(store: Store, key: Key) -> Observed | None:
    """The facts about one object, or None if it is not there."""
    root = store.get(names.KIND, key.namespace, key.name)
    if root is None:
        return None

    def ours(kind: str) -> list[dict[str, Any]]:
        return [e.fact for e in store.owned(key, kind) if controller_uid(e.fact) == root.uid]

    services, budgets = ours("Service"), ours("PodDisruptionBudget")
    return Observed(
        key=key,
        deployment=root.fact,
        replica_sets=tuple(ours("ReplicaSet")),
        pods=tuple(e.fact for e in store.owned(key, "Pod")),
        service=next((s for s in services if s["metadata"]["name"] == key.name), None),
        budget=next((b for b in budgets if b["metadata"]["name"] == key.name), None),
    )


def nodes(store: Store) -> tuple[NodeFact, ...]:
    """All nodes, by name."""
    return tuple(sorted((e.fact for e in store.all("Node")), key=lambda node: node.name))
