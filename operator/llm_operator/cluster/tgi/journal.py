"""What a container prints: bounded lines in the launcher's format, and the tail it leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

_LINES = 200
_TAIL_LINES = 80
_TAIL_BYTES = 2048


class Journal:
    """The log of one container. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines: deque[str] = deque(maxlen=_LINES)

    def text(self) -> str:
        """The last lines."""
        return "\n".join(self._lines)

    def tail(self) -> str:
        """What a kubelet keeps of it: at most 80 lines and 2,048 bytes."""
        text = "\n".join(list(self._lines)[-_TAIL_LINES:]).encode()
        return text[-_TAIL_BYTES:].decode(errors="ignore")

    def raw(self, text: str) -> None:
        """Print as it is."""
        self._lines.extend(text.split("\n"))

    def info(self, text: str) -> None:
        self._line("INFO", text)

    def warn(self, text: str) -> None:
        self._line("WARN", text)

    def error(self, text: str) -> None:
        self._line("ERROR", text)

    def traceback(self, heading: str, last_line: str) -> None:
        """A Python failure as the launcher relays it, cut to the line that says what happened."""
        self.error(f"{heading}\nTraceback (most recent call last):\n{last_line}")

    def _line(self, level: str, text: str) -> None:
        moment = datetime.fromtimestamp(self._clock(), UTC)
        self.raw(f"{moment:%Y-%m-%dT%H:%M:%S.%fZ} {level:>5} text_generation_launcher: {text}")
