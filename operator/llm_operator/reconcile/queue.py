"""A work queue of keys: each is there once, none runs twice at once, failures back off.

Two lanes: `urgent` keys (an object whose pods do not exist yet) go before the others, so that
under a burst every model starts loading before any bookkeeping is done.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BASE_DELAY = 0.05
MAX_DELAY = 60.0


class WorkQueue(Generic[K]):
    """Keys waiting for a worker. Seconds everywhere; time is the event loop's clock."""

    def __init__(self) -> None:
        self._urgent: OrderedDict[K, None] = OrderedDict()
        self._normal: OrderedDict[K, None] = OrderedDict()
        self._running: set[K] = set()
        self._again: dict[K, bool] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._signal = asyncio.Event()

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Have the key looked at; coalesces with what already waits."""
        self._cancel_timer(key)
        if key in self._running:
            self._again[key] = self._again.get(key, False) or urgent
            return
        if urgent:
            self._normal.pop(key, None)
            self._urgent.setdefault(key)
        elif key not in self._urgent:
            self._normal.setdefault(key)
        self._signal.set()

    def add_after(self, key: K, delay: float) -> None:
        """Look at the key in `delay` seconds, unless it is looked at before; the sooner wins."""
        if key in self._urgent or key in self._normal:
            return
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None and known.when() <= loop.time() + delay:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(delay, self._due, key)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Look again after a delay that doubles with each failure in a row; returns the delay."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        backoff = min(MAX_DELAY, BASE_DELAY * 2.0 ** min(count, 20))
        delay = max(backoff * random.uniform(0.5, 1.0), at_least)
        self.add_after(key, delay)
        return delay

    def forget_failures(self, key: K) -> None:
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, urgent ones first; `done` must follow."""
        while True:
            for lane in (self._urgent, self._normal):
                if lane:
                    key, _ = lane.popitem(last=False)
                    self._running.add(key)
                    return key
            self._signal.clear()
            await self._signal.wait()

    def done(self, key: K) -> None:
        """The worker has finished with the key; if it was added meanwhile it waits again."""
        self._running.discard(key)
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)

    @property
    def urgent_waiting(self) -> int:
        return len(self._urgent)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._normal) + len(self._running)

    def close(self) -> None:
        """Drop all timers; keys that run are left to their workers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
