"""When pods have left: the scheduler needs a moment to use what they had.

Keeps what a restart may forget. Refuses to know what follows from it.
"""

from __future__ import annotations

from collections.abc import Collection

from llm_operator.facts.cluster import PodFact
from llm_operator.kube.store import Key


class Departures:
    """When pods were last seen to have left. `started`: what was before is not known."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._there: dict[Key, frozenset[str]] = {}
        self._last: dict[Key, float] = {}

    def last(self, key: Key, pods: Collection[PodFact], now: float) -> float:
        """When one of the object's pods last left, given those that are there `now`."""
        there = frozenset(pod.name for pod in pods)
        if self._there.get(key, there) - there:
            self._last[key] = now
        self._there[key] = there
        return self._last.get(key, self._started)

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._there.pop(key, None)
        self._last.pop(key, None)
