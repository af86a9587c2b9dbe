"""The way of every generation: a permit, validation, the queue, tokens, and what is counted.

Whichever endpoint it came by, a generation goes through `Generations.run`. Refuses to know HTTP;
statuses are those that the router gives its errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .driver import Driver, Ticket
from .engine import Request
from .metrics import Metrics
from .payload import Parameters
from .validation import Answer, Bounds, Invalid, settle

_GENERATION_ERROR = "Request failed during generation: Server error: CUDA out of memory"


class Failed(Exception):
    """A request ends with an error: HTTP status, text and `error_type`."""

    def __init__(self, status: int, text: str, kind: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.kind = kind


@dataclass(eq=False)
class Run:
    """A generation under way: its answer, its ticket, and when it came, passed and ended.

    The times are those of the event loop's clock, in seconds.
    """

    answer: Answer
    ticket: Ticket
    arrived: float
    validated: float
    finished: float = 0.0

    @property
    def total(self) -> float:
        return self.finished - self.arrived

    @property
    def validation(self) -> float:
        return self.validated - self.arrived

    @property
    def queue(self) -> float:
        return self._started - self.ticket.request.queued_at

    @property
    def inference(self) -> float:
        return self.finished - self._started

    @property
    def per_token(self) -> float:
        return self.inference / max(len(self.answer.tokens), 1)

    @property
    def _started(self) -> float:
        started = self.ticket.request.started_at
        return self.validated if started is None else started


class Generations:
    """Admits and runs generations for one replica. `faults` may change while it runs.

    `speaker` signs the answers; `on_answer` is called after each one that ended well.
    """

    def __init__(
        self,
        driver: Driver,
        metrics: Metrics,
        bounds: Bounds,
        most_at_once: int,
        speaker: str,
        faults: Mapping[str, str],
        on_answer: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._metrics = metrics
        self._bounds = bounds
        self._most_at_once = most_at_once
        self._speaker = speaker
        self._faults = faults
        self._on_answer = on_answer
        self._under_way = 0
        self._healthy = True
        self._clock = asyncio.get_running_loop().time

    async def healthy(self) -> bool:
        """Whether the model answers. After an error a probe runs one token through it."""
        await self._driver.between_passes()
        if not self._healthy:
            self._healthy = await self._driver.probe()
        return self._healthy

    async def complete(self, inputs: str, wishes: Parameters) -> Run:
        """Run a generation to its end. Raises Failed."""
        async with self.run(inputs, wishes) as run:
            await run.ticket.end()
            self._check_failed(run)
        return run

    async def indices(self, run: Run) -> AsyncIterator[int]:
        """The numbers of tokens as they are made, from 1. Raises Failed."""
        sent = 0
        while sent < len(run.answer.tokens):
            made = await run.ticket.beyond(sent)
            self._check_failed(run)
            for index in range(sent + 1, made + 1):
                yield index
            sent = made

    @asynccontextmanager
    async def run(self, inputs: str, wishes: Parameters) -> AsyncIterator[Run]:
        """Admit, validate and queue a generation; count it when it ends well. Raises Failed.

        A body that is left early (the client went away) drops the request from the engine.
        """
        arrived = self._clock()
        if self._under_way >= self._most_at_once:
            self._metrics.count("tgi_request_failure", err="overloaded")
            raise Failed(429, "Model is overloaded", "overloaded")
        self._under_way += 1
        try:
            run = self._submit(inputs, wishes, arrived)
            try:
                yield run
            finally:
                if not run.ticket.request.done:
                    run.ticket.request.dropped = True
            self._succeeded(run)
        finally:
            self._under_way -= 1

    def refused(self, error: Invalid) -> Failed:
        """Count a validation failure; what to raise for it."""
        self._metrics.count("tgi_request_failure", err="validation")
        return Failed(422, str(error), "validation")

    def _submit(self, inputs: str, wishes: Parameters, arrived: float) -> Run:
        garbage = self._faults.get("garbage")
        try:
            answer = settle(inputs, wishes, self._bounds, self._speaker, garbage=garbage)
        except Invalid as error:
            raise self.refused(error) from None
        self._metrics.observe("tgi_request_input_length", len(answer.input_tokens))
        self._metrics.observe("tgi_request_max_new_tokens", answer.reserve)
        work = Request(len(answer.input_tokens), len(answer.tokens), answer.reserve)
        return Run(answer, self._driver.submit(work), arrived, self._clock())

    def _check_failed(self, run: Run) -> None:
        if run.ticket.request.failed:
            self._healthy = False
            self._metrics.count("tgi_request_failure", err="generation")
            raise Failed(424, _GENERATION_ERROR, "generation")

    def _succeeded(self, run: Run) -> None:
        run.finished = self._clock()
        metrics = self._metrics
        metrics.count("tgi_request_success")
        metrics.observe("tgi_request_duration", run.total)
        metrics.observe("tgi_request_validation_duration", run.validation)
        metrics.observe("tgi_request_queue_duration", run.queue)
        metrics.observe("tgi_request_inference_duration", run.inference)
        metrics.observe("tgi_request_mean_time_per_token_duration", run.per_token)
        metrics.observe("tgi_request_generated_tokens", len(run.answer.tokens))
        self._on_answer()
