"""A picture of a number of replicas over time: a column per moment, as high as there were replicas.

Pure. Takes seconds since the epoch, draws from the first step until now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group
from rich.text import Text

_BARS = " ▁▂▃▄▅▆▇█"
_ROWS, _COLUMNS, _LABEL = 6, 100, 5


def picture(steps: Sequence[tuple[float, int]], now: float, width: int) -> Group:
    """`steps` says from when on how many, oldest first; at most `width` cells wide."""
    if not steps:
        return Group()
    count = max(min(width - _LABEL, _COLUMNS), 10)
    heights = columns(steps, now, count)
    most = max(max(heights), 1)
    rows = min(most, _ROWS)
    lines = [_row(heights, row, rows, most) for row in range(rows, 0, -1)]
    return Group(*lines, _axis(steps[0][0], now, count))


def columns(steps: Sequence[tuple[float, int]], now: float, count: int) -> list[int]:
    """The most replicas in each of `count` equal parts of the time, so that no peak is lost."""
    start = steps[0][0]
    each = max(now - start, 1.0) / count
    heights, current, following = [], steps[0][1], list(steps[1:])
    for column in range(1, count + 1):
        height = current
        while following and (following[0][0] < start + column * each or column == count):
            current = following.pop(0)[1]
            height = max(height, current)
        heights.append(height)
    return heights


def _row(heights: Sequence[int], row: int, rows: int, most: int) -> Text:
    """One line of the picture, `rows` being the uppermost; its label is what its top stands for."""
    top = most * row / rows
    label = f"{top:g}" if top == int(top) else ""
    line = Text(no_wrap=True, overflow="crop").append(f"{label:>{_LABEL - 2}} ┤", "dim")
    for height in heights:
        filled = height * rows / most - (row - 1)
        line.append(_BARS[math.ceil(min(max(filled, 0.0), 1.0) * (len(_BARS) - 1))], "green")
    return line


def _axis(start: float, now: float, count: int) -> Text:
    """The time of day at both ends, in UTC; with the date where they are of different days."""
    first, last = (datetime.fromtimestamp(at, UTC) for at in (start, now))
    form = "%H:%M:%S" if first.date() == last.date() else "%m-%d %H:%M"
    left, right = first.strftime(form), f"{last.strftime(form)} UTC"
    gap = max(count - len(left) - len(right), 1)
    return Text(f"{'':{_LABEL}}{left}{'':{gap}}{right}", "dim", no_wrap=True, overflow="crop")
