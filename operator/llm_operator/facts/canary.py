"""How the requests of two revisions went over the same time, as far as anybody knows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Trial:
    """What is to be measured: the requests of `new` and of `old`, two revisions, since `since`.

    Seconds since the epoch; of a longer time than `window_seconds` only the last part counts. A
    step of a canary is one trial; its measurements say nothing about another one.
    """

    new: str
    old: str
    since: float
    window_seconds: float


@dataclass(frozen=True)
class Histogram:
    """Observations by size: `counts[i]` are at most `bounds[i]` and above the bound before.

    One count more than bounds: the last is of all that is beyond. `total` is the sum of what was
    observed, in the unit of the bounds.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = (0.0,)
    total: float = 0.0

    @property
    def number(self) -> float:
        return sum(self.counts)


@dataclass(frozen=True)
class Window:
    """The requests of one revision within a time; those that their client spoiled are left out.

    `failures` are among `requests`. `seconds`: from a request to the end of its answer;
    `seconds_per_token`: a request's mean. Both are of requests that succeeded.
    """

    requests: float
    failures: float
    seconds: Histogram = field(default_factory=Histogram)
    seconds_per_token: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class Measured:
    """Both sides of a trial over the last `seconds`; None where no pod of a revision can be read.

    `unread`: serving pods of the new revision that cannot be read, beside those that can.
    `outage`: why nothing could be measured at all, or ""; the rest means nothing then. `trial`
    None: that holds for any.
    """

    trial: Trial | None
    seconds: float = 0.0
    new: Window | None = None
    old: Window | None = None
    unread: int = 0
    outage: str = ""
