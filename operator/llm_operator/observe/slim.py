"""Slim copies of watched objects: just what decisions and status need.

A pod or node becomes a frozen fact of a few hundred bytes; objects that are compared with what we
want (ReplicaSet, Service, PodDisruptionBudget) and the LLMDeployment keep their fields as a dict
without managed fields.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from llm_operator.api import names
from llm_operator.facts.cluster import ContainerFact, NodeFact, PodFact
from llm_operator.kube.store import Entry, Key
from llm_operator.runtimes.base import ENGINES

Object = Mapping[str, Any]


def entry(body: Object) -> Entry:
    """The slim copy of any watched object, with its place and its owner (by our label)."""
    metadata = body["metadata"]
    kind = sys.intern(str(body["kind"]))
    namespace = sys.intern(metadata.get("namespace") or "")
    owner: Key | None = None
    fact: Any
    if kind == names.KIND:
        owner = Key(namespace, metadata["name"])
        fact = _object(body)
    else:
        owner = _owner(metadata, namespace)
        if kind == "Pod":
            fact = pod(body)
        elif kind == "Node":
            fact = node(body)
        else:
            fact = _object(body)
    return Entry(
        kind=kind,
        namespace=namespace,
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        owner=owner,
        fact=fact,
    )


def _owner(metadata: Object, namespace: str) -> Key | None:
    """By the controlling owner, else (a pod's is its ReplicaSet) by our label."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") == names.KIND:
            return Key(namespace, sys.intern(reference["name"]))
    label = (metadata.get("labels") or {}).get(names.LABEL_DEPLOYMENT)
    return Key(namespace, sys.intern(label)) if label and namespace else None


def controller_uid(body: Object) -> str | None:
    """Uid of the controlling owner, if there is one."""
    for reference in body["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return None


def pod(body: Object) -> PodFact:
    """What matters of a pod. Its engine is the container named like one, whatever else is there."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled, readiness = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    statuses = status.get("containerStatuses") or ()
    engines = [s for s in statuses if s.get("name") in ENGINES]
    return PodFact(
        name=metadata["name"],
        revision=sys.intern((metadata.get("labels") or {}).get(names.LABEL_REVISION, "")),
        created=metadata.get("creationTimestamp") or "",
        phase=sys.intern(status.get("phase") or "Pending"),
        reason=status.get("reason") or "",
        message=(status.get("message") or "")[:1024],
        ready=readiness.get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        node=sys.intern(spec.get("nodeName") or ""),
        scheduled=scheduled.get("status") == "True",
        unschedulable=(scheduled.get("message") or "")[:1024]
        if scheduled.get("reason") == "Unschedulable"
        else "",
        container=container(engines[0], readiness) if engines else None,
        uid=metadata.get("uid") or "",
        ip=status.get("podIP") or "",
        gate=_gate(spec, conditions),
        containers_ready=conditions.get("ContainersReady", {}).get("status") == "True",
        scheduled_at=scheduled.get("lastTransitionTime") or "",
        ready_at=readiness.get("lastTransitionTime") or "",
        gone_by=metadata.get("deletionTimestamp") or "",
        deletion_cost=_cost(metadata.get("annotations") or {}),
    )


def _gate(spec: Object, conditions: Mapping[str, Object]) -> bool | None:
    if not has_gate(spec):
        return None
    return conditions.get(names.GATE_ACCEPTED, {}).get("status") == "True"


def has_gate(pod_spec: Object) -> bool:
    """Whether a pod of this spec is ready only once its revision is accepted."""
    gates = pod_spec.get("readinessGates") or ()
    return any(gate.get("conditionType") == names.GATE_ACCEPTED for gate in gates)


def _cost(annotations: Mapping[str, str]) -> int:
    try:
        return int(annotations.get(names.ANNOTATION_DELETION_COST) or 0)
    except ValueError:
        return 0


def container(status: Object, readiness: Object) -> ContainerFact:
    """The state of one container, with how it last ended, and its pod's Ready condition."""
    state = status.get("state") or {}
    name = next(iter(state), "waiting")
    now = state.get(name) or {}
    ended = now if name == "terminated" else (status.get("lastState") or {}).get("terminated") or {}
    return ContainerFact(
        state=sys.intern(name),
        reason=sys.intern(now.get("reason") or ""),
        message=(ended.get("message") or "")[-2048:],
        exit_code=ended.get("exitCode"),
        ended_reason=sys.intern(ended.get("reason") or ""),
        restarts=status.get("restartCount") or 0,
        started=bool(status.get("started")),
        # RFC 3339 in UTC sorts as text: readiness has changed after the container's start.
        served=(readiness.get("lastTransitionTime") or "") > (now.get("startedAt") or "~"),
    )


def node(body: Object) -> NodeFact:
    """What matters of a node. GPU figures are those of GPU feature discovery's labels."""
    labels = body["metadata"].get("labels") or {}
    spec, status = body.get("spec") or {}, body.get("status") or {}
    major = _number(labels.get("nvidia.com/gpu.compute.major"))
    minor = _number(labels.get("nvidia.com/gpu.compute.minor"))
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    allocatable = status.get("allocatable") or {}
    return NodeFact(
        name=body["metadata"]["name"],
        product=labels.get("nvidia.com/gpu.product", ""),
        memory_mib=_number(labels.get("nvidia.com/gpu.memory")),
        compute_capability=(major, minor) if major is not None and minor is not None else None,
        allocatable=tuple(
            (sys.intern(name), count)
            for name, value in sorted(allocatable.items())
            if "/" in name and (count := _number(value))
        ),
        ready=conditions.get("Ready") == "True",
        schedulable=not spec.get("unschedulable"),
    )


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isdigit() else None


def _object(body: Object) -> dict[str, Any]:
    metadata = {
        key: value
        for key, value in body["metadata"].items()
        if key not in ("managedFields", "selfLink")
    }
    annotations = metadata.get("annotations")
    if annotations:
        metadata["annotations"] = {
            key: value
            for key, value in annotations.items()
            if key != "kubectl.kubernetes.io/last-applied-configuration"
        }
    rest = {key: value for key, value in body.items() if key not in ("metadata", "kind")}
    slim = {"kind": body["kind"], "metadata": metadata, **rest}
    if body["kind"] == "ReplicaSet":
        # The template is large, and who edited it says all that is needed of it.
        slim["spec"] = {key: value for key, value in body["spec"].items() if key != "template"}
        slim["templateEditors"] = template_editors(body)
        slim["gated"] = has_gate(body["spec"].get("template", {}).get("spec") or {})
    elif body["kind"] == names.KIND:
        slim["scaledBy"] = scale_writers(body)
    return slim


def scale_writers(body: Object) -> tuple[str, ...]:
    """Field managers that own `spec.replicas` by way of the scale subresource."""
    return tuple(
        sorted(
            entry.get("manager", "?")
            for entry in body["metadata"].get("managedFields") or ()
            if entry.get("subresource") == "scale"
            and "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        )
    )


def template_editors(body: Object) -> tuple[str, ...]:
    """Field managers other than us that own fields of a ReplicaSet's pod template."""
    return tuple(
        sorted(
            entry.get("manager", "?")
            for entry in body["metadata"].get("managedFields") or ()
            if entry.get("manager") != names.FIELD_MANAGER
            and "f:template" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        )
    )
