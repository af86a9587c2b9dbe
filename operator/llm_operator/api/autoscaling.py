"""What a user may write in `spec.autoscaling`: how many replicas follow from the load.

Nothing here reaches a pod, so nothing is part of a revision. Nothing has a default in the schema
either: what is left out is decided by `llm_operator.scaling`, from the plan where it can be.
Refuses to know any metric of an engine, any address, and what runs.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, model_validator

from llm_operator.api.part import Part
from llm_operator.api.rollout import PERCENTAGE

Mode = Literal["Auto", "Advise"]
Replicas = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[int, Field(ge=0, le=3600)]
CRON: Final = r"^[0-9A-Za-z*?,/#LW-]+( [0-9A-Za-z*?,/#LW-]+){4}$"


def _cron(value: str) -> str:
    """Fields that no calendar has pass every pattern, as do days that never come."""
    try:
        next(CronSim(value, datetime(2024, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(
            f"{value!r} is no moment of a calendar ({error or 'it never comes'}): write minute,"
            " hour, day of month, month and day of week, such as 0 8 * * 1-5"
        ) from None
    return value


def _time_zone(value: str) -> str:
    """Which names there are is known to the time zone data only."""
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{value!r} is no time zone: write a name of the IANA data, such as Europe/Berlin"
        ) from None
    return value


Cron = Annotated[str, Field(min_length=9, max_length=100, pattern=CRON), AfterValidator(_cron)]
TimeZone = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$"),
    AfterValidator(_time_zone),
]


def _change(value: int | str) -> int | str:
    if isinstance(value, str) and (value == "0%" or not re.match(PERCENTAGE, value)):
        raise ValueError("must be a number of replicas, or a share of them such as 100%")
    return value


Change = (
    Annotated[int, Field(ge=1, le=1000)]
    | Annotated[str, Field(max_length=4), AfterValidator(_change)]
)
"""Replicas that may come or go within a period: a number, or a percentage of those there are."""


class MetricTargets(Part):
    """What the load of one replica should be. The target that asks for most replicas decides."""

    waiting_requests: Annotated[float, Field(ge=0, le=10_000)] | None = Field(
        None,
        description="Requests waiting in a replica's queue, on average, above which there are too"
        " few replicas; for deep queues set runningShare to 0, which asks for more before any"
        " waits. Unset: a quarter of what may wait by the plan, at least 1 and at most 4. 0 means"
        " that none should wait. Held at 80% of what may wait, as more is refused.",
    )
    running_share: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None,
        description="Requests running in a replica, as a percentage of those that it can decode at"
        " once: by the plan, corrected by what is observed. Unset: 80. 0 leaves it out.",
    )
    queue_seconds: Annotated[float, Field(ge=0, le=3600)] | None = Field(
        None,
        description="95th percentile of the time that requests wait before they run; above it"
        " replicas are asked for in proportion, at most twice as many. Unset or 0: not looked at.",
    )


class Direction(Part):
    """How quickly the number of replicas may change in one direction."""

    stabilization_window_seconds: Seconds | None = Field(
        None,
        description="The most careful answer of so many seconds counts. Unset: 0 for up, 300 for"
        " down.",
    )
    max_change: Change | None = Field(
        None,
        description="Most replicas that come or go within periodSeconds: a number, or a percentage"
        " of those there are (rounded up). Unset: 100%, at least 4, for up; 1 for down.",
    )
    period_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        None, description="Period of maxChange. Unset: 60."
    )
    tolerance: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None,
        description="Percentage by which the load may be off its target before anything changes."
        " Unset: 10.",
    )


class Behavior(Part):
    """How quickly replicas come and go."""

    scale_up: Direction | None = None
    scale_down: Direction | None = None


class Floor(Part):
    """At least so many replicas from one moment of a calendar to another, again and again."""

    start: Cron = Field(description="When it begins: five fields of cron, e.g. 0 8 * * 1-5.")
    end: Cron = Field(description="When it ends, likewise.")
    time_zone: TimeZone | None = Field(None, description="Name such as Europe/Berlin. Unset: UTC.")
    min_replicas: Replicas = Field(description="Replicas that there are at least in between.")

    @model_validator(mode="after")
    def _ends_at_another_time(self) -> Self:
        if self.start == self.end:
            raise ValueError("end must be another time than start; for always, set minReplicas")
        return self


class Autoscaling(Part):
    """Replicas follow the load. `spec.replicas` is then ignored, as status says."""

    min_replicas: Replicas | None = Field(
        None, description="Fewest replicas, each with all GPUs of the plan. Unset: 1."
    )
    max_replicas: Replicas = Field(description="Most replicas.")
    mode: Mode | None = Field(
        None,
        description="Auto scales; Advise only writes what it would do into status, and"
        " spec.replicas stays in force. Unset: Auto.",
    )
    metric: MetricTargets | None = None
    behavior: Behavior | None = None
    schedule: Annotated[list[Floor], Field(max_length=16)] | None = Field(
        None, description="Times at which there are more replicas than minReplicas at least."
    )
    cold_start_awareness: bool | None = Field(
        None,
        description="Whether a rising load is looked at as far ahead as this model takes to load."
        " Unset: true.",
    )
