"""When requests come and how large they are: made up, or read from a recorded trace. Pure.

Open loop: a request comes when it comes, whether or not earlier ones were answered. Refuses to know
who answers.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds since the start, tokens of its prompt, tokens of its answer."""

    at: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which requests per second go evenly from `rate` to `until`."""

    seconds: float
    rate: float
    until: float

    @classmethod
    def steady(cls, seconds: float, rate: float) -> Stretch:
        return cls(seconds, rate, rate)


def poisson(
    stretches: Sequence[Stretch], input_tokens: int, output_tokens: int, seed: int = 1
) -> list[Arrival]:
    """A Poisson process whose rate follows the stretches (by thinning: Lewis and Shedler, 1979).

    Lengths vary by half around their means, evenly. The same seed gives the same arrivals.
    """
    chance = random.Random(seed)
    found: list[Arrival] = []
    began = 0.0
    for stretch in stretches:
        most = max(stretch.rate, stretch.until)
        at = 0.0
        while most > 0 and (at := at + chance.expovariate(most)) < stretch.seconds:
            rate = stretch.rate + (stretch.until - stretch.rate) * at / stretch.seconds
            if chance.random() * most < rate:
                lengths = (_around(mean, chance) for mean in (input_tokens, output_tokens))
                found.append(Arrival(began + at, *lengths))
        began += stretch.seconds
    return found


def _around(mean: int, chance: random.Random) -> int:
    return max(1, round(mean * chance.uniform(0.5, 1.5)))


JITTER_SECONDS = 3.0
"""Traces in milliseconds put arrivals on a grid of about this width: they are spread within it."""


def read_trace(path: Path, seed: int = 1) -> list[Arrival]:
    """The requests of a CSV file, by time, from 0 on.

    Columns ContextTokens, GeneratedTokens, and TIMESTAMP (a date and time, as in Azure's traces) or
    TIMESTAMP_MS (as in Mooncake's). Raises ValueError for another file.
    """
    chance = random.Random(seed)
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        columns = set(rows.fieldnames or ())
        stamps = columns & {"TIMESTAMP", "TIMESTAMP_MS"}
        if not stamps or not {"ContextTokens", "GeneratedTokens"} <= columns:
            raise ValueError(
                f"{path}: a trace has the columns TIMESTAMP or TIMESTAMP_MS, ContextTokens and"
                f" GeneratedTokens; this has {', '.join(sorted(columns))}"
            )
        (stamp,) = stamps
        found = [
            Arrival(
                _seconds(row[stamp], chance), int(row["ContextTokens"]), int(row["GeneratedTokens"])
            )
            for row in rows
        ]
    return _from_zero(found)


def _seconds(stamp: str, chance: random.Random) -> float:
    try:
        return int(stamp) / 1000 + chance.uniform(0, JITTER_SECONDS)
    except ValueError:
        return datetime.fromisoformat(stamp).timestamp()


def window(arrivals: Iterable[Arrival], start: float, seconds: float) -> list[Arrival]:
    """Those of so many seconds from `start` on, counted from there."""
    return [
        replace(arrival, at=arrival.at - start)
        for arrival in arrivals
        if start <= arrival.at < start + seconds
    ]


def busiest(arrivals: Sequence[Arrival], seconds: float, step: float = 60.0) -> float:
    """Where the window with the most arrivals begins, looked for in steps."""
    last = max((arrival.at for arrival in arrivals), default=0.0)
    starts = [number * step for number in range(max(1, int((last - seconds) / step) + 1))]
    return max(starts, key=lambda start: len(window(arrivals, start, seconds)))


def fitted(
    arrivals: Iterable[Arrival], *, share: float, most_input: int, most_output: int
) -> list[Arrival]:
    """A `share` (0 to 1) of them, evenly taken, with lengths cut to what the server allows."""
    taken, due = [], 0.0
    for arrival in arrivals:
        due += share
        if due >= 1:
            due -= 1
            taken.append(
                Arrival(
                    arrival.at,
                    max(1, min(arrival.input_tokens, most_input)),
                    max(1, min(arrival.output_tokens, most_output)),
                )
            )
    return taken


def _from_zero(arrivals: Iterable[Arrival]) -> list[Arrival]:
    found = sorted(arrivals, key=lambda arrival: arrival.at)
    return [replace(arrival, at=arrival.at - found[0].at) for arrival in found]
