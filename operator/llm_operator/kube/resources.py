"""Where each kind lives in the API: the paths of the objects the operator reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llm_operator.api import names


@dataclass(frozen=True)
class Resource:
    """A kind's place in the REST API. `api_version` as written in manifests."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    label_selector: str | None = None

    def path(self, namespace: str | None, name: str | None = None, sub: str = "") -> str:
        root = (
            f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        )
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "") + sub


OURS: Final = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"

LLM_DEPLOYMENT: Final = Resource(names.API_VERSION, names.KIND, names.PLURAL)
REPLICA_SET: Final = Resource("apps/v1", "ReplicaSet", "replicasets", label_selector=OURS)
POD: Final = Resource("v1", "Pod", "pods", label_selector=OURS)
SERVICE: Final = Resource("v1", "Service", "services", label_selector=OURS)
BUDGET: Final = Resource(
    "policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", label_selector=OURS
)
NODE: Final = Resource("v1", "Node", "nodes", namespaced=False)
EVENT: Final = Resource("events.k8s.io/v1", "Event", "events")

WATCHED: Final = (LLM_DEPLOYMENT, REPLICA_SET, POD, SERVICE, BUDGET, NODE)
BY_KIND: Final = {resource.kind: resource for resource in (*WATCHED, EVENT)}
