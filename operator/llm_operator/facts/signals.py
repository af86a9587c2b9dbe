"""How busy pods are, as far as anybody knows: one reading for each pod, of one of five kinds.

The kinds are types, so that "no data" can never be taken for "no load": only `Fresh` and `Idle`
carry a load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Load:
    """What one replica has in hand.

    `queued`, `running`: requests now. `served_rate`, `refused_rate`: requests per second, over the
    last minute; refused are those above the engine's limit of concurrent requests.
    `queue_seconds`: 95th percentile of the wait over the last minute, None if none has waited or
    nobody keeps count.
    """

    queued: float
    running: float
    served_rate: float = 0.0
    refused_rate: float = 0.0
    queue_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Fresh:
    """Read from the pod at `at` (seconds since the epoch), recently enough."""

    load: Load
    at: float


@dataclass(frozen=True, slots=True)
class Idle:
    """The pod was read, and has no series yet: it has never had a request. Zero by design."""

    at: float


@dataclass(frozen=True, slots=True)
class Stale:
    """The last time that the pod could be read is too long ago."""

    at: float


@dataclass(frozen=True, slots=True)
class Absent:
    """Nobody reads this pod: it is no target, or not under the names that we look for."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What was read is no load: the scrape failed, or a value is NaN, infinite or negative."""

    why: str


Reading: TypeAlias = Fresh | Idle | Stale | Absent | Broken


@dataclass(frozen=True)
class Signals:
    """The readings of one deployment's pods, by pod name, as of `at` (seconds since the epoch).

    `source`: who was asked, for a person ("Prometheus", "the pods"). `outage`: why nothing could be
    asked at all, or ""; the readings are empty then.
    """

    at: float
    readings: Mapping[str, Reading] = field(default_factory=dict)
    source: str = "Prometheus"
    outage: str = ""

    def of(self, pod: str) -> Reading:
        """The reading of a pod; one that nobody mentions is absent."""
        return self.readings.get(pod, Absent())
