"""How the user wants replicas to follow the load, resolved to numbers.

Decides defaults, from the plan where they can come from it. Refuses to know what runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from llm_operator.api.autoscaling import Autoscaling, Behavior, Direction, Floor, MetricTargets

RUNNING_SHARE: Final = 0.8
WAITING_SHARE: Final = 0.25
WAITING_MOST: Final = 4.0
REACHABLE: Final = 0.8
"""Share of what may wait that a target is held below: one that cannot be passed never fires."""


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

    waiting_requests: float
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

    def most(self, replicas: int) -> int:
        """Replicas that may come or go within a period that began with so many."""
        return max(self.change, math.ceil(self.share * replicas))


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
    """What `spec.autoscaling` means for replicas of this capacity.

    Where the minimum is above the maximum, the maximum holds: it is what may be spent.
    """
    behavior = spec.behavior or Behavior()
    return Policy(
        minimum=min(spec.min_replicas or 1, spec.max_replicas),
        maximum=spec.max_replicas,
        targets=_targets(spec.metric or MetricTargets(), capacity),
        up=_rate(behavior.scale_up, Rate(0.0, 4, 1.0, 60.0, 0.1)),
        down=_rate(behavior.scale_down, Rate(300.0, 1, 0.0, 60.0, 0.1)),
        floors=tuple(spec.schedule or ()),
        cold_start_awareness=spec.cold_start_awareness is not False,
    )


def _targets(wish: MetricTargets, capacity: Capacity) -> Targets:
    """Requests that run and wait are never more than the engine's limit of concurrent requests."""
    may_wait = max(capacity.concurrent_requests - capacity.sequences, 0)
    waiting = wish.waiting_requests
    if waiting is None:
        waiting = min(max(WAITING_SHARE * may_wait, 1.0), WAITING_MOST)
    share = wish.running_share
    return Targets(
        waiting_requests=min(waiting, REACHABLE * may_wait),
        running_share=RUNNING_SHARE if share is None else (share / 100 or None),
        queue_seconds=wish.queue_seconds or None,
    )


def _rate(wish: Direction | None, default: Rate) -> Rate:
    if wish is None:
        return default
    change, share = default.change, default.share
    if isinstance(wish.max_change, int):
        change, share = wish.max_change, 0.0
    elif wish.max_change is not None:
        change, share = 0, int(wish.max_change.removesuffix("%")) / 100
    seconds, tolerance = wish.stabilization_window_seconds, wish.tolerance
    return Rate(
        stabilization_seconds=default.stabilization_seconds if seconds is None else float(seconds),
        change=change,
        share=share,
        period_seconds=float(wish.period_seconds or default.period_seconds),
        tolerance=default.tolerance if tolerance is None else tolerance / 100,
    )
