"""What became of one request, and what many of them add up to. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import ceil

CHAT = "chat"
"""The kind of request whose answer comes in one piece; all others are streams."""


class Outcome(StrEnum):
    """How a request ended.

    OK: the whole answer came. FAILED: no answer, an error. REFUSED: the server had too many
    requests already, and said so at once. CUT: a part of the answer came, and never the rest.
    STALE: it was sent on a connection kept alive which the server was just closing, and not one
    byte of an answer came. HTTP/1.1 lets either side close an idle connection at any time, also as
    the other one sends (RFC 9112, 9.5). A client that knows that its request was not taken may send
    it again (RFC 9110, 9.2.2); ours does, and what becomes of the second one is a record of its
    own.
    """

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    CUT = "cut"
    STALE = "stale"


@dataclass(frozen=True)
class Record:
    """One request. Times in seconds, `began` since the epoch.

    `kept`: of a client that keeps its connection alive; `reused`: it was sent on one that had
    served before. `first`: until the first token came. `model`: who answered, by its own word.
    `late`: how long after its time it was sent, where it had one.
    """

    kind: str
    kept: bool
    began: float
    seconds: float
    outcome: Outcome
    reused: bool = False
    first: float = 0.0
    tokens: int = 0
    model: str = ""
    detail: str = ""
    late: float = 0.0
    input_tokens: int = 0

    @property
    def ended(self) -> float:
        return self.began + self.seconds

    @property
    def streamed(self) -> bool:
        return self.kind != CHAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Record:
        found = json.loads(line)
        return cls(**{**found, "outcome": Outcome(found["outcome"])})


@dataclass(frozen=True)
class Report:
    """What requests add up to. Seconds are those of requests that ended well: `slowest` to the end
    of an answer, `slowest_first` to the first token of a stream. `most_streams` were under way at
    once."""

    requests: int = 0
    ok: int = 0
    failed: int = 0
    refused: int = 0
    cut: int = 0
    stale: int = 0
    tokens: int = 0
    most_streams: int = 0
    slowest: float = 0.0
    slowest_first: float = 0.0
    models: dict[str, int] = field(default_factory=dict)
    details: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Report:
        """`details` counts what the requests that did not end well met with."""
        seen = list(records)
        count = Counter(record.outcome for record in seen)
        good = [record for record in seen if record.outcome is Outcome.OK]
        bad = [record for record in seen if record.outcome is not Outcome.OK]
        streams = [record for record in seen if record.streamed]
        return cls(
            requests=len(seen),
            ok=count[Outcome.OK],
            failed=count[Outcome.FAILED],
            refused=count[Outcome.REFUSED],
            cut=count[Outcome.CUT],
            stale=count[Outcome.STALE],
            tokens=sum(record.tokens for record in seen),
            most_streams=most_at_once(streams),
            slowest=max((record.seconds for record in good), default=0.0),
            slowest_first=max((record.first for record in good if record.streamed), default=0.0),
            models=dict(Counter(record.model for record in good if record.model)),
            details=dict(Counter(f"{record.outcome}: {record.detail}" for record in bad)),
        )

    @property
    def broken(self) -> int:
        """Requests that a user would call lost."""
        return self.failed + self.refused + self.cut


def between(records: Iterable[Record], since: float, until: float) -> list[Record]:
    """Those that were under way at any moment of this time (seconds since the epoch)."""
    return [record for record in records if record.began < until and record.ended > since]


def percentile(values: Iterable[float], share: float) -> float:
    """The value that a `share` (0 to 1) of them do not exceed, by nearest rank; 0 of none."""
    ranked = sorted(values)
    return ranked[max(0, ceil(share * len(ranked)) - 1)] if ranked else 0.0


def waits(records: Iterable[Record]) -> list[float]:
    """Seconds to the first token, of those that got one."""
    return [record.first for record in records if record.first]


def most_at_once(records: Sequence[Record]) -> int:
    """The largest number of requests under way at one moment."""
    changes = sorted(
        [(record.began, 1) for record in records] + [(record.ended, -1) for record in records]
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
