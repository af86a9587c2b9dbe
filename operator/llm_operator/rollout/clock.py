"""The moment of one decision, and when the same question would be answered otherwise.

Seconds since the epoch. Reads no real clock.
"""

from __future__ import annotations


class Clock:
    """`now`, and the nearest of the moments that were asked for and have not come."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._next: float | None = None

    def passed(self, moment: float) -> bool:
        """Whether the moment has come; if not, the decision is due again then."""
        if self.now >= moment:
            return True
        self._next = moment if self._next is None else min(self._next, moment)
        return False

    @property
    def wake_after(self) -> float | None:
        """Seconds until one of those moments; None if there is none."""
        return None if self._next is None else self._next - self.now
