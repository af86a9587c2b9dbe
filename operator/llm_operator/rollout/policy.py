"""How the user wants upgrades done, resolved to numbers of replicas and seconds.

Decides roundings and defaults. Refuses to know what runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from llm_operator.api.rollout import Analysis, Canary, Rollout
from llm_operator.rollout.analysis import Limits

DEADLINE_MARGIN_SECONDS: Final = 600
"""For pulling the image and whatever else comes before loading."""
HISTORY: Final = 3
ALL_STEPS: Final = 1_000_000


class Strategy(StrEnum):
    """As in `spec.rollout.strategy`."""

    ROLLING_UPDATE = "RollingUpdate"
    RECREATE = "Recreate"
    CANARY = "Canary"


@dataclass(frozen=True)
class CanaryStep:
    """So many replicas of the new revision, then a pause; None: until the user promotes."""

    replicas: int
    pause_seconds: float | None


@dataclass(frozen=True)
class Policy:
    """`spec.rollout`, resolved for a number of replicas.

    surge: replicas that may exist above the wanted number.
    floor: replicas that serve at any time, as long as there is room for a surge.
    tight_floor: the same where there is none. one_at_a_time: as the user has not said how many,
    one fewer than can be placed at all, where these are fewer than `replicas`.
    deadline_seconds: how long a pod with a node may take to serve; `deadline_raised` where the
    user's was shorter than the start-up budget.
    """

    strategy: Strategy = Strategy.ROLLING_UPDATE
    surge: int = 1
    floor: int = 1
    tight_floor: int = 1
    one_at_a_time: bool = False
    deadline_seconds: float = DEADLINE_MARGIN_SECONDS
    deadline_raised: bool = False
    rollback: bool = True
    history: int = HISTORY
    paused: bool = False
    acceptance: bool = False
    steps: tuple[CanaryStep, ...] = ()
    analysis: Limits | None = None


def policy_from(rollout: Rollout | None, replicas: int, startup_seconds: float) -> Policy:
    """What `spec.rollout` means for `replicas` whose start-up probes allow `startup_seconds`.

    As in a Deployment a percentage of surge is rounded up and one of unavailability down, and one
    replica may be missing if both come to nothing; as in a PodDisruptionBudget a percentage of
    minimum availability is rounded up. With one replica `onNoSpareGPU` alone says whether it may go
    before its successor has come.
    """
    wish = rollout or Rollout()
    auto = wish.max_surge is None or wish.max_surge == "auto"
    surge = 1 if auto else _share(wish.max_surge or 0, replicas, math.ceil)
    unavailable = _share(wish.max_unavailable or 0, replicas, math.floor)
    floor = max(replicas - (unavailable or int(surge == 0)), 0)
    if replicas == 1:
        tight = 0 if wish.on_no_spare_gpu == "Recreate" else 1
    elif wish.min_available is None:
        tight = max(replicas - 1, 0)
    else:
        tight = _share(wish.min_available, replicas, math.ceil)
    strategy = Strategy(wish.strategy or Strategy.ROLLING_UPDATE)
    canary = wish.canary if strategy is Strategy.CANARY else None
    budget = startup_seconds + DEADLINE_MARGIN_SECONDS
    deadline = wish.progress_deadline_seconds or budget
    return Policy(
        strategy=strategy,
        surge=surge,
        floor=floor,
        tight_floor=min(floor, tight),
        one_at_a_time=replicas > 1 and wish.min_available is None,
        deadline_seconds=deadline if deadline > startup_seconds else budget,
        deadline_raised=deadline <= startup_seconds,
        rollback=wish.on_failure != "Hold",
        history=HISTORY if wish.history is None else wish.history,
        paused=bool(wish.paused),
        acceptance=wish.acceptance is not None,
        steps=_steps(canary, replicas) if canary else (),
        analysis=_limits(canary.analysis) if canary and canary.analysis else None,
    )


def promoted_steps(annotation: str | None, revision: str | None) -> int:
    """How many canary steps of `revision` the promote annotation releases.

    `<revision>` releases all, `<revision>/<n>` the first n.
    """
    name, _, step = (annotation or "").partition("/")
    if not name or name != revision:
        return 0
    if not step:
        return ALL_STEPS
    return int(step) if step.isdecimal() else 0


def _share(value: int | str, replicas: int, rounding: Callable[[float], int]) -> int:
    """Replicas meant by a number, or by a percentage such as `25%`."""
    if isinstance(value, int):
        return value
    return rounding(replicas * int(value.removesuffix("%")) / 100)


def _limits(wish: Analysis) -> Limits:
    """The default limits leave room for what a histogram's buckets blur: up to half of a time."""

    def or_else(value: float | None, default: float) -> float:
        return default if value is None else value

    return Limits(
        min_requests=wish.min_requests or 50,
        window_seconds=wish.window_seconds or 300,
        error_rate=or_else(wish.max_error_rate_increase, 5) / 100,
        latency=or_else(wish.max_latency_increase, 100) / 100,
        token_time=or_else(wish.max_token_time_increase, 50) / 100,
        timeout_seconds=wish.timeout_seconds or 900,
    )


def _steps(canary: Canary, replicas: int) -> tuple[CanaryStep, ...]:
    """At least one replica each, never fewer than the step before, never more than all."""
    found: list[CanaryStep] = []
    for step in canary.steps:
        least = found[-1].replicas if found else 1
        count = min(max(_share(step.replicas, replicas, math.ceil), least), replicas)
        found.append(CanaryStep(count, step.pause_seconds))
    return tuple(found)
