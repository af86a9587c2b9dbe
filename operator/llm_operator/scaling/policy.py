"""How the user wants replicas to follow the load, resolved to numbers.

Decides defaults, from the plan where they can come from it. Refuses to know what runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_operator.api.autoscaling import Autoscaling, Floor


@dataclass(frozen=True)
class Capacity:
    """What the plan says of one replica: requests decoded at once, and running + waiting at most.

    `startup_seconds`: the longest time that it may take to load.
    """

    sequences: int
    concurrent_requests: int
    startup_seconds: float


@dataclass(frozen=True)
class Targets:
    """What one replica's load should be; None where it is not looked at.

    `running_share` from 0 to 1 of the sequences that it can decode at once.
    """

    waiting_requests: float | None
    running_share: float | None
    queue_seconds: float | None


@dataclass(frozen=True)
class Rate:
    """How quickly replicas change in one direction.

    Within `period_seconds` at most `change` replicas, or `share` (0 to 1) of those there are,
    whichever is more. `tolerance` from 0 to 1.
    """

    stabilization_seconds: float
    change: int
    share: float
    period_seconds: float
    tolerance: float


@dataclass(frozen=True)
class Policy:
    """`spec.autoscaling`, resolved. `minimum` <= `maximum` holds."""

    minimum: int
    maximum: int
    targets: Targets
    up: Rate
    down: Rate
    floors: tuple[Floor, ...] = ()
    cold_start_awareness: bool = True


def policy_from(spec: Autoscaling, capacity: Capacity) -> Policy:
    """Placeholder by the lead; helper A replaces it."""
    rate = Rate(0, 4, 1.0, 60, 0.1)
    return Policy(spec.min_replicas or 1, spec.max_replicas, Targets(4, 0.8, None), rate, rate)
