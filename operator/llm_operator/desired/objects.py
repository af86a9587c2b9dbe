"""The children of a deployment as server-side apply wants them.

Decides their names, owners, selectors and fields. Refuses to know which revision is wanted, how
many replicas it has, and whether a child is there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from llm_operator.api import names
from llm_operator.desired.revision import Record, record_to_json
from llm_operator.desired.template import deployment_labels

Json = dict[str, Any]

SERVICE_PORT: Final = 80
BUDGET_FROM_REPLICAS: Final = 2
"""With one replica a disruption budget of one protects nothing."""


@dataclass(frozen=True)
class Owner:
    """The LLMDeployment that a child belongs to."""

    name: str
    namespace: str
    uid: str


def replica_set_name(name: str, revision: str) -> str:
    """Name of the ReplicaSet of a revision."""
    return f"{name}-{revision}"


def replica_set(owner: Owner, record: Record, template: Json, replicas: int) -> Json:
    """The ReplicaSet of a revision. `template` comes from `render` or `restore`.

    It carries the record, so that the revision can be judged and restored without the operator's
    memory.
    """
    child = replica_set_shell(owner, record.revision, replicas)
    child["metadata"]["annotations"] = record_annotation(record)
    child["spec"]["template"] = template
    return child


def replica_set_shell(owner: Owner, revision: str, replicas: int) -> Json:
    """What may be put right on the ReplicaSet of a revision at any time: all but its template."""
    labels = {**deployment_labels(owner.name), names.LABEL_REVISION: revision}
    selector = {key: labels[key] for key in (names.LABEL_DEPLOYMENT, names.LABEL_REVISION)}
    name = replica_set_name(owner.name, revision)
    child = _child(owner, "apps/v1", "ReplicaSet", name, labels)
    child["spec"] = {"replicas": replicas, "selector": {"matchLabels": selector}}
    return child


def record_annotation(record: Record) -> dict[str, str]:
    """The annotation that holds a revision's record."""
    return {names.ANNOTATION_RECORD: record_to_json(record)}


def service(owner: Owner) -> Json:
    """The Service: every ready pod of the deployment, whatever its revision."""
    child = _child(owner, "v1", "Service", owner.name, deployment_labels(owner.name))
    child["spec"] = {
        "type": "ClusterIP",
        "selector": _all_pods(owner),
        "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}],
    }
    return child


def disruption_budget(owner: Owner) -> Json:
    """At most one serving pod goes at a time; a pod that never served blocks no node drain."""
    labels = deployment_labels(owner.name)
    child = _child(owner, "policy/v1", "PodDisruptionBudget", owner.name, labels)
    child["spec"] = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": _all_pods(owner)},
    }
    return child


def _all_pods(owner: Owner) -> dict[str, str]:
    return {names.LABEL_DEPLOYMENT: owner.name}


def _child(owner: Owner, api_version: str, kind: str, name: str, labels: dict[str, str]) -> Json:
    reference = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "ownerReferences": [reference],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
