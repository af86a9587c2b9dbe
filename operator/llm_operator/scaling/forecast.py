"""Where the load will be when a replica that is asked for now has loaded.

Looks only upwards, and only where what runs has risen in every quarter of two minutes: a step,
however high, is no trend. Nor is there one to be seen where requests have waited: what runs is then
as much as there are replicas for, and rises when they come. Refuses to know how many there are.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median
from typing import Final

from llm_operator.scaling.memory import TREND_SECONDS
from llm_operator.scaling.policy import Capacity
from llm_operator.scaling.terms import Replica, Sample

QUARTERS: Final = 4
NOISE: Final = 2.0
"""A rise counts from so many standard deviations: independent requests scatter by their root."""
WAITED: Final = 1.1
"""Demand over what runs from which on requests have waited; one alone may just have come."""
LOAD_SHARE: Final = 0.1
"""Share of the time that loading may take at most that it takes, while none has been measured."""
LOAD_SECONDS_MOST: Final = 600.0
"""Nothing is foreseen beyond."""


def load_seconds(replicas: tuple[Replica, ...], capacity: Capacity) -> tuple[float, bool]:
    """How long a new replica takes to serve, and whether that has been measured."""
    measured = [r.load_seconds for r in replicas if r.load_seconds is not None]
    usual = median(measured) if measured else LOAD_SHARE * capacity.startup_seconds
    return min(max(usual, 0.0), LOAD_SECONDS_MOST), bool(measured)


def slope(before: tuple[Sample, ...], new: Sample) -> float:
    """Requests per second by which what runs has risen all the time, 0 if it has not.

    The least of the differences between the means of successive quarters: a step is in two of the
    three differences at most. Whether requests wait is judged by the looks `before`, so that more
    of them now never ask for less.
    """
    recent = [s for s in before if new.at - s.at < TREND_SECONDS]
    if any(s.demand > s.running * WAITED + 1 for s in recent):
        return 0.0
    quarters: list[list[float]] = [[] for _ in range(QUARTERS)]
    for sample in (*recent, new):
        age = int((new.at - sample.at) * QUARTERS / TREND_SECONDS)
        quarters[QUARTERS - 1 - age].append(sample.running)
    if not all(quarters):
        return 0.0
    means = [math.fsum(quarter) / len(quarter) for quarter in quarters]
    if means[-1] - means[0] <= NOISE * math.sqrt(means[-1]):
        return 0.0
    return max(min(b - a for a, b in pairwise(means)) * QUARTERS / TREND_SECONDS, 0.0)
