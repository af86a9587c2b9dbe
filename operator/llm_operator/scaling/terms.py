"""The nouns of scaling: what is looked at, what is remembered, what is decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llm_operator.facts.signals import Signals
from llm_operator.scaling.policy import Capacity, Policy


class State(StrEnum):
    """How much of the load is known. Coarse: a change of it is worth a status write."""

    COMPLETE = "Complete"
    PARTIAL = "Partial"
    MISSING = "Missing"


class Why(StrEnum):
    """The reason of a decision, one word for a table's column."""

    STEADY = "Steady"
    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    PANIC = "Panic"
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    SCHEDULED = "Scheduled"
    BOUNDS = "Bounds"
    WARMING_UP = "WarmingUp"
    COOLING_DOWN = "CoolingDown"
    ROLLING_OUT = "RollingOut"
    METRICS_MISSING = "MetricsMissing"
    METRICS_PARTIAL = "MetricsPartial"


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod that is not on its way out. `serving`: it gets requests; else it still loads.

    `load_seconds`: how long it took from its node to its first readiness, None while it has not.
    """

    name: str
    serving: bool
    load_seconds: float | None = None


@dataclass(frozen=True)
class Look:
    """All that one decision looks at. `current`: replicas asked for now, before this decision.

    `rolling_out`: revisions are being exchanged.
    """

    signals: Signals
    replicas: tuple[Replica, ...]
    current: int
    capacity: Capacity
    policy: Policy
    rolling_out: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the arithmetic: what, its value with its unit, and where it comes from."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Decision:
    """What to do: `replicas` instead of `previous`, at `at` (seconds since the epoch).

    `message` says it in one sentence with numbers; `why_not_more` and `why_not_less` say what
    stands against one replica more or less. `terms` is the arithmetic, top to bottom.
    """

    at: float
    previous: int
    replicas: int
    why: Why
    message: str
    state: State
    why_not_more: str = ""
    why_not_less: str = ""
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was known at one look: requests in hand (refused ones added), those of them that run."""

    at: float
    demand: float
    running: float
    serving: int


@dataclass(frozen=True, slots=True)
class Peak:
    """The extremes of the looks within a few seconds, up to `at`.

    `demand`: most requests in hand. `most`, `least`: replicas needed, not rounded.
    """

    at: float
    demand: float
    most: float
    least: float


@dataclass(frozen=True, slots=True)
class Change:
    """So many replicas came (or went, if negative) at a moment."""

    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Something has been so at every look from `since` until `until`, with no long gap."""

    since: float
    until: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


@dataclass(frozen=True)
class History:
    """What the law remembers of one deployment, bounded. Empty at birth and after a restart.

    `samples`: looks that knew all, of the last two minutes, oldest first. `peaks`: the windows of
    stabilization, by and large. `known`, `complete`: since when something, or all, is known of the
    serving replicas. `coming`: since when replicas are asked for that do not serve.
    `panic_until`: no replica goes before. `observed_sequences`: requests that a replica was seen to
    decode at once, None while nothing contradicts the plan. `looked`, `current`: when and at what
    the last look was.
    """

    samples: tuple[Sample, ...] = ()
    peaks: tuple[Peak, ...] = ()
    changes: tuple[Change, ...] = ()
    known: Stretch | None = None
    complete: Stretch | None = None
    coming: Stretch | None = None
    panic_until: float | None = None
    observed_sequences: float | None = None
    looked: float | None = None
    current: int | None = None
