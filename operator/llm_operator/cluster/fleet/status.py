"""A pod's status from the states of its containers: phases, conditions, container statuses.

Pure, and stateless but for transition times, which it takes over from the status it replaces.
Rules: kubelet's `getPhase` and `GenerateContainersReadyCondition` of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .nodes import timestamp

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Waiting:
    """Not running yet, or not running again yet."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """Alive."""

    started_at: datetime


@dataclass(frozen=True)
class Terminated:
    """Ended. `reason` is Completed, Error, OOMKilled, StartError or Unknown."""

    exit_code: int
    reason: str
    message: str
    started_at: datetime
    finished_at: datetime
    container_id: str


State = Waiting | Running | Terminated


@dataclass(frozen=True)
class ContainerView:
    """All that a container status is made of."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    container_id: str = ""
    image_id: str = ""


@dataclass(frozen=True)
class PodView:
    """All that a pod status is made of. `terminal`: no container will run (again)."""

    pod: Manifest
    host_ip: str
    pod_ip: str | None
    started_at: datetime
    init: Sequence[ContainerView]
    main: Sequence[ContainerView]
    terminal: bool = False
    rejection: str | None = None


def build_pod_status(view: PodView, now: datetime) -> dict[str, Any]:
    """The status fields that a kubelet owns; a value of None means the field must be absent."""
    if view.rejection is not None:
        return {
            "phase": "Failed",
            "reason": "UnexpectedAdmissionError",
            "message": f"Pod was rejected: {view.rejection}",
            "startTime": timestamp(view.started_at),
            "conditions": _conditions(view, "Failed", now),
        }
    phase = pod_phase(view)
    return {
        "observedGeneration": view.pod["metadata"].get("generation"),
        "phase": phase,
        "conditions": _conditions(view, phase, now),
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "podIP": view.pod_ip,
        "podIPs": [{"ip": view.pod_ip}] if view.pod_ip else None,
        "startTime": timestamp(view.started_at),
        "initContainerStatuses": [container_status(each) for each in view.init] or None,
        "containerStatuses": [container_status(each) for each in view.main],
    }


def pod_phase(view: PodView) -> str:
    """Pending, Running, Succeeded or Failed."""
    policy = view.pod["spec"].get("restartPolicy", "Always")
    initialized, init_failed = _initialized(view)
    if init_failed and (policy == "Never" or view.terminal):
        return "Failed"
    waiting = [each for each in view.main if isinstance(each.state, Waiting) and each.last is None]
    if view.terminal and (waiting or not initialized):
        return "Failed"
    if waiting or not initialized:
        return "Pending"
    if any(isinstance(each.state, Running) for each in view.main):
        return "Running"
    ended = [_ended(each) for each in view.main]
    succeeded = all(end is not None and end.exit_code == 0 for end in ended)
    if view.terminal:
        return "Succeeded" if succeeded else "Failed"
    if policy == "Always":
        return "Running"
    if succeeded:
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _ended(view: ContainerView) -> Terminated | None:
    return view.state if isinstance(view.state, Terminated) else view.last


def _initialized(view: PodView) -> tuple[bool, bool]:
    """(every init container has succeeded, one has failed)."""
    ends = [each.state if isinstance(each.state, Terminated) else None for each in view.init]
    done = all(end is not None and end.exit_code == 0 for end in ends)
    return done, any(end is not None and end.exit_code != 0 for end in ends)


def _conditions(view: PodView, phase: str, now: datetime) -> list[dict[str, Any]]:
    before = {
        condition["type"]: condition
        for condition in (view.pod.get("status") or {}).get("conditions") or ()
    }
    initialized, _ = _initialized(view)
    incomplete = [each.name for each in view.init if _exit_code(each) != 0]
    verdicts = {
        "PodReadyToStartContainers": (view.pod_ip is not None, None, None),
        "Initialized": (initialized, None, None)
        if initialized
        else (
            False,
            "ContainersNotInitialized",
            f"containers with incomplete status: [{' '.join(incomplete)}]",
        ),
        "ContainersReady": _containers_ready(view, phase),
    }
    verdicts["Ready"] = _ready(view, verdicts["ContainersReady"], before)
    conditions = []
    for kind, (holds, reason, message) in verdicts.items():
        status = "True" if holds else "False"
        old = before.get(kind, {})
        same = old.get("status") == status and "lastTransitionTime" in old
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": old["lastTransitionTime"] if same else timestamp(now),
            }
        )
    return conditions


def _exit_code(view: ContainerView) -> int | None:
    return view.state.exit_code if isinstance(view.state, Terminated) else None


Verdict = tuple[bool, str | None, str | None]


def _containers_ready(view: PodView, phase: str) -> Verdict:
    if phase == "Succeeded":
        return False, "PodCompleted", None
    if phase == "Failed":
        return False, "PodFailed", None
    unready = [each.name for each in view.main if not each.ready]
    if unready:
        listed = " ".join(unready)
        return False, "ContainersNotReady", f"containers with unready status: [{listed}]"
    return True, None, None


def _ready(view: PodView, containers: Verdict, before: Mapping[str, Manifest]) -> Verdict:
    if not containers[0]:
        return containers
    complaints = []
    for gate in view.pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        status = before.get(kind, {}).get("status")
        if status is None:
            complaints.append(
                f'corresponding condition of pod readiness gate "{kind}" does not exist.'
            )
        elif status != "True":
            complaints.append(
                f'the status of pod readiness gate "{kind}" is not "True", but {status}'
            )
    if complaints:
        return False, "ReadinessGatesNotReady", ", ".join(complaints)
    return True, None, None


def container_status(view: ContainerView) -> dict[str, Any]:
    """One entry of containerStatuses."""
    status: dict[str, Any] = {
        "name": view.name,
        "image": view.image,
        "imageID": view.image_id,
        "ready": view.ready,
        "started": view.started,
        "restartCount": view.restarts,
        "state": _state(view.state),
        "lastState": _state(view.last) if view.last else {},
    }
    if view.container_id:
        status["containerID"] = view.container_id
    return status


def _state(state: State) -> dict[str, Any]:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            ended = {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "startedAt": timestamp(state.started_at),
                "finishedAt": timestamp(state.finished_at),
                "containerID": state.container_id,
            }
            return {"terminated": ended | ({"message": state.message} if state.message else {})}


def covers(observed: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there. None wants absence; conditions are matched by type."""
    if isinstance(wanted, Mapping):
        return isinstance(observed, Mapping) and all(
            covers(observed.get(key), value) for key, value in wanted.items()
        )
    if (
        isinstance(wanted, list)
        and wanted
        and isinstance(wanted[0], Mapping)
        and "type" in wanted[0]
    ):
        by_type = {item["type"]: item for item in observed or ()}
        return all(covers(by_type.get(item["type"]), item) for item in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(observed, list)
            and len(observed) == len(wanted)
            and all(map(covers, observed, wanted))
        )
    return bool(observed == wanted)
