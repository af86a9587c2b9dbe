"""The nouns of scaling: what is looked at, what is remembered, what is decided."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """What was seen at one tick. `demand`: requests running or waiting, over all replicas."""

    at: float
    demand: float
    serving: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """How many replicas a tick has asked for before stabilization and rates."""

    at: float
    replicas: int


@dataclass(frozen=True)
class History:
    """What the law remembers of one deployment, bounded. Empty at birth and after a restart.

    `observed_sequences`: requests that one replica was seen to decode at once while others waited.
    """

    samples: tuple[Sample, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    changes: tuple[Proposal, ...] = ()
    observed_sequences: float | None = None
    notes: tuple[str, ...] = field(default=())
