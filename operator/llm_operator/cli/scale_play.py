"""What became of traffic while replicas followed it: figures, a table by time, a picture.

Decides how they are reckoned, from what clients and watches saw. Refuses to know where that comes
from, and takes nothing from what the operator says of itself but its decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from llm_operator.cli import timeline
from llm_operator.cli.timeline import Columns, Moment, Pods
from llm_operator.cluster.load.records import Outcome, Record, percentile, waits

_LOST = (Outcome.FAILED, Outcome.CUT)
_STEP_S = 1.0


@dataclass(frozen=True)
class Change:
    """A decision that changed the number of replicas, at a time since the epoch."""

    at: float
    previous: int
    replicas: int
    reason: str
    message: str

    @property
    def sign(self) -> str:
        return "▲" if self.replicas > self.previous else "▼"


@dataclass(frozen=True)
class Play:
    """What was seen from `began` to `ended` (since the epoch). `gpus`: of one replica."""

    began: float
    ended: float
    moments: Sequence[Moment]
    records: Sequence[Record] = ()
    changes: Sequence[Change] = ()
    gpus: int = 1


@dataclass(frozen=True)
class Figures:
    """What a play adds up to. Waits are seconds until the first token, of requests that got one.

    `gpu_seconds`: of all pods that there were, from their making until they were gone. `most`: the
    most that served at once. `latest`: how long after its time a request was sent, p99.
    """

    requests: int
    ok: int
    refused: int
    lost: int
    wait_p50: float
    wait_p95: float
    wait_p99: float
    most_waiting: int
    most: int
    changes: int
    gpu_seconds: float
    latest: float


@dataclass(frozen=True)
class Part:
    """A part of a play, from `since` on (seconds since its beginning).

    `rate`: requests that came per second; the rest as in Figures. `serving`: replicas at its end.
    """

    since: float
    rate: float
    most_waiting: int
    wait_p50: float
    wait_p95: float
    refused: int
    lost: int
    serving: int
    starting: int
    changes: tuple[Change, ...]


def figures(play: Play) -> Figures:
    """The whole of it."""
    firsts = waits(play.records)
    count = _count(play.records)
    return Figures(
        requests=len(play.records),
        ok=count[Outcome.OK],
        refused=count[Outcome.REFUSED],
        lost=sum(count[outcome] for outcome in _LOST),
        wait_p50=percentile(firsts, 0.5),
        wait_p95=percentile(firsts, 0.95),
        wait_p99=percentile(firsts, 0.99),
        most_waiting=max((number for _, number in waiting(play)), default=0),
        most=max((_sum(moment.pods.values()).serving for moment in play.moments), default=0),
        changes=len(play.changes),
        gpu_seconds=gpu_seconds(play),
        latest=percentile((record.late for record in play.records), 0.99),
    )


def parts(play: Play, seconds: float) -> list[Part]:
    """Part by part, of so many seconds each."""
    queue = waiting(play)
    found = []
    since = play.began
    while since < play.ended:
        until = min(since + seconds, play.ended)
        records = [record for record in play.records if since <= record.began < until]
        moments = [moment for moment in play.moments if moment.at < until]
        pods = _sum(moments[-1].pods.values()) if moments else Pods()
        count, firsts = _count(records), waits(records)
        found.append(
            Part(
                since=since - play.began,
                rate=len(records) / (until - since),
                most_waiting=max((n for at, n in queue if since <= at < until), default=0),
                wait_p50=percentile(firsts, 0.5),
                wait_p95=percentile(firsts, 0.95),
                refused=count[Outcome.REFUSED],
                lost=sum(count[outcome] for outcome in _LOST),
                serving=pods.serving,
                starting=pods.starting,
                changes=tuple(change for change in play.changes if since <= change.at < until),
            )
        )
        since = until
    return found


def waiting(play: Play) -> list[tuple[float, int]]:
    """Each second: how many requests were sent and had no token yet."""
    edges = sorted(
        [(record.began, 1) for record in play.records]
        + [(record.began + (record.first or record.seconds), -1) for record in play.records]
    )
    found, number, done = [], 0, 0
    at = play.began
    while at < play.ended:
        while done < len(edges) and edges[done][0] <= at:
            number += edges[done][1]
            done += 1
        found.append((at, number))
        at += _STEP_S
    return found


def gpu_seconds(play: Play) -> float:
    """GPUs held, over time: a pod holds its own until it is gone."""
    held = 0.0
    for moment, following in pairwise(play.moments):
        pods = _sum(moment.pods.values())
        number = pods.serving + pods.starting + pods.draining
        held += number * play.gpus * (following.at - moment.at)
    return held


def changes(decisions: Iterable[Mapping[str, Any]], since: float = 0.0) -> list[Change]:
    """Those of the scaler's decisions, as status has them, that changed anything since a time."""
    found = [
        Change(
            datetime.fromisoformat(one["time"]).timestamp(),
            one["previous"],
            one["replicas"],
            one["reason"],
            one["message"],
        )
        for one in decisions
        if one["previous"] != one["replicas"]
    ]
    return sorted((one for one in found if one.at >= since), key=lambda one: one.at)


def picture(play: Play, width: int) -> Group:
    """Arrivals, queue, losses and replicas over the same time, with the decisions above."""
    columns = Columns.over(play.began, play.ended, width)
    queue = _most(columns, waiting(play))
    arrivals = columns.count_of(record.began for record in play.records)
    lost = columns.count_of(r.began for r in play.records if r.outcome in (*_LOST, Outcome.REFUSED))
    serving = _most(columns, ((m.at, _sum(m.pods.values()).serving) for m in play.moments))
    loading = _most(columns, ((m.at, _sum(m.pods.values()).starting) for m in play.moments))
    rate = max(arrivals, default=0) / columns.seconds
    return Group(
        timeline.signs(columns, {change.at: change.sign for change in play.changes}),
        timeline.bars(f"requests, at most {rate:.1f} a second", arrivals),
        timeline.bars(f"waiting, at most {max(queue, default=0)}", queue, "yellow"),
        timeline.numbers("refused, failed or cut", lost),
        timeline.bars(f"replicas, at most {max(serving, default=0)}", serving, "green"),
        timeline.bars(f"loading, at most {max(loading, default=0)}", loading, "cyan"),
        timeline.axis(columns),
    )


def table(found: Iterable[Part]) -> Table:
    """A line for each part."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in TITLES:
        left = title == "DECISIONS"
        shown.add_column(title, justify="left" if left else "right", no_wrap=not left)
    for part in found:
        shown.add_row(*map(Text, cells(part)))
    return shown


TITLES = (
    "FROM",
    "REQUESTS/S",
    "WAITING",
    "FIRST TOKEN p50",
    "p95",
    "REFUSED",
    "LOST",
    "SERVE",
    "LOAD",
    "DECISIONS",
)


def cells(part: Part) -> tuple[str, ...]:
    """A part as a table shows it."""
    minutes, seconds = divmod(round(part.since), 60)
    told = ", ".join(f"{one.previous} -> {one.replicas} {one.reason}" for one in part.changes)
    return (
        f"{minutes}:{seconds:02}",
        f"{part.rate:.1f}",
        str(part.most_waiting),
        f"{part.wait_p50:.1f} s",
        f"{part.wait_p95:.1f} s",
        str(part.refused or ""),
        str(part.lost or ""),
        str(part.serving),
        str(part.starting or ""),
        told,
    )


def to_json(play: Play) -> dict[str, Any]:
    """A play as a document, for `from_json`."""
    return asdict(play)


def from_json(found: dict[str, Any]) -> Play:
    """The play that `to_json` wrote."""
    moments = [
        Moment(one["at"], {name: Pods(**pods) for name, pods in one["pods"].items()})
        for one in found["moments"]
    ]
    records = [Record(**{**one, "outcome": Outcome(one["outcome"])}) for one in found["records"]]
    changed = [Change(**one) for one in found["changes"]]
    return Play(**{**found, "moments": moments, "records": records, "changes": changed})


def _count(records: Iterable[Record]) -> dict[Outcome, int]:
    count = dict.fromkeys(Outcome, 0)
    for record in records:
        count[record.outcome] += 1
    return count


def _sum(pods: Iterable[Pods]) -> Pods:
    """Pods of all revisions."""
    serving = starting = draining = 0
    for one in pods:
        serving += one.serving
        starting += one.starting
        draining += one.draining
    return Pods(serving, starting, draining)


def _most(columns: Columns, values: Iterable[tuple[float, int]]) -> list[int]:
    """The largest value in each column; a column without one has that of the column before."""
    found: list[int | None] = [None] * columns.count
    for at, value in values:
        column = columns.of(at)
        if column is not None:
            found[column] = max(found[column] or 0, value)
    filled, last = [], 0
    for one in found:
        last = last if one is None else one
        filled.append(last)
    return filled
