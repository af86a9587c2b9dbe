"""A picture of revisions and traffic over time: a line for each revision, a column per moment.

Decides how it looks. Refuses to know where pods and requests come from; takes times in seconds
since the epoch, and draws the time from the first moment to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.text import Text

from llm_operator.cluster.load.records import Outcome, Record

_BARS = "▁▂▃▄▅▆▇█"
_DRAINING, _STARTING, _NOTHING = "▒", "·", " "
_LABEL = 40
_STEPS = (10, 20, 30, 60, 120, 300)


@dataclass(frozen=True)
class Pods:
    """Pods of a revision at one moment, by what they do."""

    serving: int = 0
    starting: int = 0
    draining: int = 0


@dataclass(frozen=True)
class Moment:
    """What was seen at a time: the pods of each revision, by its name."""

    at: float
    pods: Mapping[str, Pods]


@dataclass(frozen=True)
class Story:
    """All that is drawn. `about` says what each revision is; `marks` are signs at times."""

    moments: Sequence[Moment]
    records: Sequence[Record] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[float, str] = field(default_factory=dict)


def picture(story: Story, width: int) -> Group:
    """The picture in `width` cells: revisions in the order in which they came, requests, time."""
    if not story.moments:
        return Group()
    columns = Columns.over(story.moments[0].at, story.moments[-1].at, width)
    names = list(dict.fromkeys(name for moment in story.moments for name in moment.pods))
    most = max((p.serving for m in story.moments for p in m.pods.values()), default=1) or 1
    lines = [signs(columns, story.marks)]
    lines += [_revision(columns, story, name, most) for name in names]
    lines += [_answers(columns, story.records), _losses(columns, story.records)]
    return Group(*lines, axis(columns), _legend())


@dataclass(frozen=True)
class Columns:
    """The time from `start` on, cut into `count` columns of `seconds` each."""

    start: float
    seconds: float
    count: int

    @classmethod
    def over(cls, start: float, end: float, width: int) -> Columns:
        """From one time to another, in a picture of so many cells."""
        count = max(width - _LABEL, 20)
        return cls(start, max(end - start, 1.0) / count, count)

    def of(self, at: float) -> int | None:
        """The column of a time; None outside of the picture."""
        column = int((at - self.start) / self.seconds)
        if column == self.count:
            column -= 1
        return column if 0 <= column < self.count else None

    def count_of(self, times: Iterable[float]) -> list[int]:
        """How many of these times lie in each column."""
        counts = [0] * self.count
        for at in times:
            if (column := self.of(at)) is not None:
                counts[column] += 1
        return counts


def _revision(columns: Columns, story: Story, name: str, most: int) -> Text:
    """Its serving pods as bars; where none serves, whether any starts or leaves."""
    cells: list[Pods | None] = [None] * columns.count
    for moment in story.moments:
        column = columns.of(moment.at)
        if column is not None:
            cells[column] = moment.pods.get(name, Pods())
    about = story.about.get(name, "").rpartition("/")[2]
    line = label(f"{name}  {about}")
    pods = Pods()
    for cell in cells:
        pods = pods if cell is None else cell
        line.append(*_cell(pods, most))
    return line


def _cell(pods: Pods, most: int) -> tuple[str, str]:
    if pods.serving:
        height = -(-pods.serving * len(_BARS) // most)
        return _BARS[height - 1], "cyan" if pods.starting or pods.draining else "green"
    if pods.starting:
        return _STARTING, "yellow"
    return (_DRAINING, "dim") if pods.draining else (_NOTHING, "")


def _answers(columns: Columns, records: Iterable[Record]) -> Text:
    """How many answers ended in each column."""
    return bars("answers", columns.count_of(r.ended for r in records if r.outcome is Outcome.OK))


def _losses(columns: Columns, records: Iterable[Record]) -> Text:
    bad = (Outcome.FAILED, Outcome.CUT, Outcome.REFUSED)
    return numbers("failed or cut", columns.count_of(r.ended for r in records if r.outcome in bad))


def bars(name: str, values: Sequence[float], style: str = "blue") -> Text:
    """A bar for each column, of which the tallest is the largest value."""
    most = max(values, default=0.0) or 1.0
    line = label(name)
    for value in values:
        line.append(_BARS[int(value * (len(_BARS) - 1) / most)] if value else " ", style)
    return line


def numbers(name: str, counts: Sequence[int]) -> Text:
    """A count for each column, where there is any: a digit, where there is room for it."""
    line = label(name)
    for count in counts:
        line.append(
            str(count) if 0 < count < 10 else "!" if count else "·", "red" if count else "dim"
        )
    return line


def signs(columns: Columns, marks: Mapping[float, str]) -> Text:
    """A sign at each of these times."""
    cells = [" "] * columns.count
    for at, sign in marks.items():
        column = columns.of(at)
        if column is not None:
            free = (n for n in range(column, columns.count) if cells[n] == " ")
            cells[next(free, column)] = sign
    return label("").append("".join(cells), "bold")


def axis(columns: Columns) -> Text:
    """Seconds since the start, at round numbers that leave room for each other."""
    whole = columns.count * columns.seconds
    step = next((s for s in _STEPS if whole / s <= columns.count / 8), _STEPS[-1])
    cells = [" "] * columns.count
    for second in range(0, int(whole) + 1, step):
        text = f"{second}s"
        column = int(second / columns.seconds)
        if column + len(text) <= columns.count:
            cells[column : column + len(text)] = text
    return label("").append("".join(cells), "dim")


def _legend() -> Text:
    words = (
        f"{_BARS[-1]} serve   ",
        f"{_STARTING} load   ",
        f"{_DRAINING} drain",
    )
    return label("").append("".join(words), "dim")


def label(text: str) -> Text:
    """The beginning of a line, which says what it shows."""
    line = Text(no_wrap=True, overflow="crop")
    shown = text if len(text) < _LABEL else text[: _LABEL - 2] + "…"
    return line.append(shown.ljust(_LABEL), "bold")
