"""Pods and nodes, reduced to a few hundred bytes each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContainerFact:
    """State of one container: `state` is waiting, running or terminated, `reason` as kubelet says.

    `message` and `exit_code` are those of the last termination: now, or before a back-off.
    `started`: its start-up probe has passed; `served`: it has been ready since it started.
    """

    state: str
    reason: str
    message: str
    exit_code: int | None
    ended_reason: str
    restarts: int
    started: bool
    served: bool = False


@dataclass(frozen=True, slots=True)
class PodFact:
    """One pod of ours. Times are RFC 3339 in UTC, "" where it has not happened.

    `gate` is the state of its acceptance gate, None where it has none. `containers_ready`: it would
    serve, were it not for the gate. `scheduled_at` and `ready_at` are since when `scheduled` and
    `ready` are what they are. `gone_by`: it is being deleted, and killed then. `deletion_cost`: of
    two pods the one with less goes first.
    """

    name: str
    revision: str
    created: str
    phase: str
    reason: str
    message: str
    ready: bool
    deleting: bool
    node: str
    scheduled: bool
    unschedulable: str
    container: ContainerFact | None
    uid: str = ""
    ip: str = ""
    gate: bool | None = None
    containers_ready: bool = False
    scheduled_at: str = ""
    ready_at: str = ""
    gone_by: str = ""
    deletion_cost: int = 0


@dataclass(frozen=True, slots=True)
class NodeFact:
    """A node as a home for pods: its GPU labels and what it can give."""

    name: str
    product: str
    memory_mib: int | None
    compute_capability: tuple[int, int] | None
    allocatable: tuple[tuple[str, int], ...]
    ready: bool
    schedulable: bool
