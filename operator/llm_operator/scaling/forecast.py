"""Where the load will be when a replica that is asked for now has loaded.

Looks only upwards, only at what runs (a queue is a backlog, which the demand holds already), and
only where it has risen in every quarter of two minutes: a step, however high, is no trend. Refuses
to know how many replicas there are.
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
LOAD_SHARE: Final = 0.1
"""Share of the time that loading may take at most that it takes, while none has been measured."""
LOAD_SECONDS_MOST: Final = 600.0
"""Nothing is foreseen beyond."""


def load_seconds(replicas: tuple[Replica, ...], capacity: Capacity) -> tuple[float, bool]:
    """How long a new replica takes to serve, and whether that has been measured."""
    measured = [r.load_seconds for r in replicas if r.load_seconds is not None]
    usual = median(measured) if measured else LOAD_SHARE * capacity.startup_seconds
    return min(max(usual, 0.0), LOAD_SECONDS_MOST), bool(measured)


def slope(samples: tuple[Sample, ...], now: float) -> float:
    """Requests per second by which what runs has risen all the time, 0 if it has not.

    The least of the differences between the means of successive quarters: a step is in two of the
    three differences at most.
    """
    width = TREND_SECONDS / QUARTERS
    sums, counts = [0.0] * QUARTERS, [0] * QUARTERS
    for sample in samples:
        quarter = QUARTERS - 1 - int((now - sample.at) / width)
        if 0 <= quarter < QUARTERS:
            sums[quarter] += sample.running
            counts[quarter] += 1
    if not all(counts):
        return 0.0
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    if means[-1] - means[0] <= NOISE * math.sqrt(means[-1]):
        return 0.0
    return max(min(b - a for a, b in pairwise(means)) / width, 0.0)
