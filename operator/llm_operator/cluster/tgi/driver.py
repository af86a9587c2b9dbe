"""Lets an engine run in real time inside the event loop, and tells its story to the metrics.

A task exists only while there is work, so that a thousand idle servers cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .engine import Engine, Gauges, Pass, Request
from .metrics import Metrics

_LATEST_CATCH_UP = 0.05


class Ticket:
    """A submitted request as its waiter sees it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._changed = asyncio.Event()

    async def beyond(self, tokens: int) -> int:
        """Wait for more than `tokens` tokens or the end; returns how many there are."""
        while self.request.produced <= tokens and not self.request.done:
            self._changed.clear()
            await self._changed.wait()
        return self.request.produced

    async def end(self) -> None:
        """Wait until the request is done."""
        while not self.request.done:
            self._changed.clear()
            await self._changed.wait()

    def notify(self) -> None:
        self._changed.set()


class Driver:
    """Runs one engine. `pace` multiplies every pass; `fails` says whether a pass goes wrong."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        pace: Callable[[], float],
        fails: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._pace = pace
        self._fails = fails
        self._tickets: dict[Request, Ticket] = {}
        self._task: asyncio.Task[None] | None = None
        self._between = asyncio.Event()
        self._between.set()
        self._dropped = 0

    @property
    def gauges(self) -> Gauges:
        return self._engine.gauges

    def submit(self, request: Request) -> Ticket:
        """Queue a request; its ticket tells of its tokens."""
        ticket = self._tickets[request] = Ticket(request)
        self._engine.submit(request, asyncio.get_running_loop().time())
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return ticket

    async def between_passes(self) -> None:
        """Wait for the pass that runs now: the shards answer one call at a time."""
        await self._between.wait()

    async def probe(self) -> bool:
        """A one-token prefill outside of the queue: whether the model answers."""
        await asyncio.sleep(self._engine.probe_seconds * self._pace())
        return not self._fails()

    def stop(self) -> None:
        """Drop everything at once."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while (step := self._engine.begin(loop.time())) is not None:
            self._note_begin(step)
            self._between.clear()
            due = max(due, loop.time() - _LATEST_CATCH_UP) + step.seconds * self._pace()
            await asyncio.sleep(due - loop.time())
            failed = step.method == "prefill" and self._fails()
            moved = self._engine.finish(step, failed=failed)
            self._note_end(step, len(moved), failed)
            self._between.set()
            for request in moved:
                self._tickets[request].notify()
                if request.done:
                    del self._tickets[request]
            self._note_dropped()
        self._note_dropped()
        self._task = None

    def _note_begin(self, step: Pass) -> None:
        if step.admitted:
            self._metrics.observe("tgi_batch_next_size", step.admitted)
        if step.concat is not None:
            self._metrics.count("tgi_batch_concat", reason=step.concat)
        self._metrics.count("tgi_batch_inference_count", method=step.method)

    def _note_end(self, step: Pass, tokens: int, failed: bool) -> None:
        if failed:
            self._metrics.count("tgi_batch_inference_failure", method=step.method)
            return
        seconds = step.seconds * self._pace()
        for name, value in (
            ("forward", seconds * 0.97),
            ("decode", seconds * 0.02),
            ("filter", 0.00005),
            ("inference", seconds),
        ):
            self._metrics.observe(f"tgi_batch_{name}_duration", value, method=step.method)
        if step.concat is not None:
            self._metrics.observe("tgi_batch_concat_duration", 0.0002, method="decode")
        self._metrics.count("tgi_batch_inference_success", method=step.method)
        self._metrics.tokens(tokens)

    def _note_dropped(self) -> None:
        if self._engine.dropped > self._dropped:
            gone = self._engine.dropped - self._dropped
            self._metrics.count("tgi_request_failure", gone, err="dropped")
            self._dropped = self._engine.dropped
            for request in [r for r in self._tickets if r.dropped]:
                del self._tickets[request]
