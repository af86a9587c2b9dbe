"""How the command line speaks: results on stdout, everything else on stderr, plain in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160
_PIPE_PAUSE_S = 10.0


class CommandError(Exception):
    """What the user is told, in one line, when a command cannot do what it was asked."""


def console(*, stderr: bool = False) -> Console:
    """A console; in a pipe its tables are wide, so that `grep` finds whole lines."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PIPE_WIDTH
    return made


@contextmanager
def step(title: str, to: Console) -> Iterator[Callable[[str], None]]:
    """A step of work that takes a while; gives a function that is told what is being done now.

    On a terminal a spinner with the latest word and the time; in a pipe a line now and then. A
    step that raises leaves its title marked as failed.
    """
    started = time.monotonic()
    line = _Line(title, started) if to.is_terminal else _Printed(title, to)
    try:
        if isinstance(line, _Line):
            with Live(line, console=to, refresh_per_second=10, transient=True):
                yield line.tell
        else:
            yield line.tell
    except BaseException:
        to.print(f"[red]✗[/] {title}")
        raise
    to.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started:.1f} s[/]")


class _Line:
    """A spinner, the title, the latest word, the seconds."""

    def __init__(self, title: str, started: float) -> None:
        self._spinner, self._title, self._started, self._word = Spinner("dots"), title, started, ""

    def tell(self, word: str) -> None:
        self._word = word

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=options.max_width - 14)
        grid.add_column(no_wrap=True, justify="right")
        said = Text.assemble(self._title, (f"  {self._word}", "dim"))
        seconds = Text(f"{time.monotonic() - self._started:.0f} s", "dim")
        grid.add_row(self._spinner, said, seconds)
        yield grid


class _Printed:
    """A line at the start, and one for the latest word when the last line is long ago."""

    def __init__(self, title: str, to: Console) -> None:
        self._to, self._told = to, time.monotonic()
        to.print(f"… {title}")

    def tell(self, word: str) -> None:
        now = time.monotonic()
        if now - self._told >= _PIPE_PAUSE_S:
            self._told = now
            self._to.print(f"  {word}", markup=False)
