"""How others judge an object: kstatus (Flux, Helm 4), `kubectl wait`, and an Argo CD health check.

Written from these tools' rules, not from ours, so that the operator's conditions are held to them.
Knows only what a tool sees: metadata and status of one object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Object = Mapping[str, Any]
KStatus = Literal["Terminating", "InProgress", "Failed", "Current"]
Health = Literal["Progressing", "Degraded", "Suspended", "Healthy"]


def kstatus(thing: Object) -> KStatus:
    """The verdict of kstatus' generic rules, in their order; the first that applies wins."""
    metadata, status = thing["metadata"], thing.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    seen = status.get("observedGeneration")
    if seen is not None and seen != metadata["generation"]:
        return "InProgress"
    for condition in status.get("conditions") or ():
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    ready = _condition(status, "Ready")
    return "Current" if ready is None or ready["status"] == "True" else "InProgress"


def kubectl_wait(thing: Object, kind: str = "Ready", wanted: str = "True") -> bool:
    """Whether `kubectl wait --for=condition=KIND=WANTED` would return now."""
    status = thing.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"].lower() != kind.lower():
            continue
        seen = condition.get("observedGeneration", status.get("observedGeneration"))
        if seen is not None and seen < thing["metadata"]["generation"]:
            return False
        return bool(condition["status"].lower() == wanted.lower())
    return False


def argo_health(thing: Object) -> tuple[Health, str]:
    """Health and message of the check in docs/rollouts.md for users of Argo CD, line by line."""
    status = thing.get("status") or {}
    ready = _condition(status, "Ready")
    message = ready["message"] if ready else "waiting for the operator"
    if thing["metadata"].get("deletionTimestamp"):
        return "Progressing", "deleting"
    if status.get("observedGeneration") != thing["metadata"]["generation"]:
        return "Progressing", "waiting for the operator"
    stalled = _condition(status, "Stalled")
    if stalled and stalled["status"] == "True":
        return "Degraded", stalled["message"]
    if ready and ready["status"] == "True":
        return "Healthy", message
    if ready and ready["reason"] == "Paused":
        return "Suspended", message
    return "Progressing", message


def _condition(status: Object, kind: str) -> Mapping[str, Any] | None:
    return next((c for c in status.get("conditions") or () if c["type"] == kind), None)
