"""The queue and the running batch: continuous batching with a paged cache, in virtual time.

A pass is one call of the model: a prefill of new requests, a decode of the running ones, or both at
once (chunked prefill). `begin` forms the next pass and says how long it takes; `finish` makes its
tokens. Between the two the caller lets time go by: with a clock (`driver`) or without. Decides who
is admitted when, by the router's rules: first come first served, prefill budget, blocks of the
cache. Refuses to know text, sockets, clocks and metric names; `gauges` is what the router shows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol


class Speed(Protocol):
    """Seconds per pass (`speed.Law`)."""

    def decode(self, contexts: Sequence[int]) -> float: ...

    def prefill(self, lengths: Sequence[int]) -> float: ...


@dataclass(frozen=True)
class Settings:
    """The router's knobs. `cache_tokens` is the KV cache's room; sizes in tokens."""

    cache_tokens: int
    prefill_tokens: int
    block_size: int = 1
    chunking: bool = True
    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20
    max_batch_size: int | None = None
    speculate: int = 0


@dataclass(eq=False)
class Request:
    """One generation. `reserve` is what admission sets aside, `tokens` what will be made.

    `produced` counts up to `tokens`; `queued_at` and `started_at` are virtual seconds.
    """

    input_tokens: int
    tokens: int
    reserve: int
    queued_at: float = 0.0
    started_at: float | None = None
    produced: int = 0
    unread: int = field(init=False)
    dropped: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        self.unread = self.input_tokens

    @property
    def done(self) -> bool:
        return self.failed or self.dropped or self.produced >= self.tokens

    @property
    def context(self) -> int:
        return self.input_tokens - self.unread + self.produced


@dataclass
class Gauges:
    """What /metrics shows of the engine; None until it was first set."""

    queue: int | None = None
    batch: int | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True)
class Pass:
    """One forward pass: what it was called for, how long, who was prefilled and who decoded.

    `concat` names why new requests joined a running batch. `admitted` counts the new requests.
    """

    method: str
    seconds: float
    prefilling: tuple[tuple[Request, int], ...]
    decoding: tuple[Request, ...]
    admitted: int
    concat: str | None


class Engine:
    """Requests in, passes out. Not thread-safe; one pass at a time."""

    def __init__(self, settings: Settings, speed: Speed) -> None:
        self._settings = settings
        self._speed = speed
        self._queue: deque[Request] = deque()
        self._running: list[Request] = []
        self._free_blocks = settings.cache_tokens // settings.block_size
        self._decode_due = False
        self._since_admission = 0
        self.gauges = Gauges()
        self.dropped = 0
        """Requests whose client went away before the end, counted when the engine notices."""

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def free_tokens(self) -> int:
        return self._free_blocks * self._settings.block_size

    @property
    def probe_seconds(self) -> float:
        """How long a prefill of one token takes."""
        return self._speed.prefill([1])

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. One that can never fit waits for ever: validation keeps it out."""
        request.queued_at = now
        self._queue.append(request)
        self.gauges.queue = (self.gauges.queue or 0) + 1

    def begin(self, now: float) -> Pass | None:
        """Form the next pass, or None when there is nothing to do."""
        if self._running:
            return self._continue(now)
        admitted = self._admit(now, None, self._settings.max_batch_size)
        if not admitted:
            return None
        self._since_admission = 1
        return self._make("prefill", admitted, (), None)

    def finish(self, done: Pass, *, failed: bool = False) -> list[Request]:
        """Make the tokens of a pass; return the requests that it gave a token or ended."""
        moved = []
        for request, tokens in done.prefilling:
            request.unread -= tokens
            if request.unread == 0 and not request.dropped:
                request.produced += 1
                moved.append(request)
        for request in done.decoding:
            if not request.dropped:
                request.produced += 1
                moved.append(request)
        if failed:
            moved = [*(request for request, _ in done.prefilling), *done.decoding]
            for request in moved:
                request.failed = True
        self._sweep()
        self._decode_due = done.method == "prefill" and not self._settings.chunking
        return moved

    def _continue(self, now: float) -> Pass | None:
        settings = self._settings
        if self._decode_due:  # a separate prefill is followed by a decode of all
            self._since_admission += 1
            return self._make("decode", [], self._decoders(), None)
        self._show_batch()
        admitted: list[Request] = []
        unfinished = sum(request.unread for request in self._running)
        concat = None
        room = None
        if settings.max_batch_size is not None:
            room = max(settings.max_batch_size - len(self._running), 0)
        if settings.chunking:
            admitted = self._admit(now, None, room, unfinished)
            concat = "chunking"
        else:
            patient = self._since_admission < settings.max_waiting_tokens
            least = int(len(self._running) * settings.waiting_served_ratio) if patient else None
            admitted = self._admit(now, least, room)
            concat = "backpressure" if patient else "wait_exceeded"
        if not admitted:
            self._since_admission += 1
            return self._make("decode", [], self._decoders(), None)
        self._since_admission = 1
        decoding = self._decoders() if settings.chunking else ()
        return self._make("prefill", admitted, decoding, concat)

    def _make(
        self,
        method: str,
        admitted: list[Request],
        decoding: tuple[Request, ...],
        concat: str | None,
    ) -> Pass:
        """A pass over `admitted`, what is left of long prompts, and `decoding`."""
        self._running.extend(admitted)
        budget = self._settings.prefill_tokens
        chunks = []
        for request in self._running:
            share = min(request.unread, budget if self._settings.chunking else request.unread)
            if share and (method == "prefill" or self._settings.chunking):
                chunks.append((request, share))
                budget -= share
        seconds = 0.0
        if chunks:
            seconds += self._speed.prefill([share for _, share in chunks])
        if decoding:
            seconds += self._speed.decode([request.context for request in decoding])
        return Pass(method, seconds, tuple(chunks), decoding, len(admitted), concat)

    def _decoders(self) -> tuple[Request, ...]:
        return tuple(request for request in self._running if request.unread == 0)

    def _admit(
        self, now: float, least: int | None, most: int | None, unfinished: int = 0
    ) -> list[Request]:
        """Take requests from the head of the queue while budget and cache allow.

        `least`: fewer than this are not worth a prefill. A prompt longer than the prefill budget
        is admitted alone when prompts are read in chunks.
        """
        if not self._queue:
            return []
        settings = self._settings
        admitted: list[Request] = []
        budget = settings.prefill_tokens - unfinished
        if least is None or len(self._queue) >= least:
            while self._queue and (most is None or len(admitted) < most):
                request = self._queue[0]
                if request.dropped:
                    self._queue.popleft()
                    self.dropped += 1
                    continue
                blocks = self._blocks(request)
                fits = request.input_tokens <= budget or (settings.chunking and budget > 0)
                if not fits or blocks > self._free_blocks:
                    break
                self._queue.popleft()
                self._free_blocks -= blocks
                budget -= request.input_tokens
                admitted.append(request)
        if least is not None and len(admitted) < least:
            for request in reversed(admitted):
                self._free_blocks += self._blocks(request)
                self._queue.appendleft(request)
            admitted = []
        for request in admitted:
            request.started_at = now
        self.gauges.queue = len(self._queue)
        return admitted

    def _sweep(self) -> None:
        """Let go of requests that are done, and of the batch when none is left."""
        stay = []
        for request in self._running:
            if request.done:
                self._free_blocks += self._blocks(request)
                self.dropped += request.dropped
            else:
                stay.append(request)
        self._running = stay
        if not stay:
            self.gauges.batch = self.gauges.batch_tokens = 0

    def _show_batch(self) -> None:
        self.gauges.batch = len(self._running)
        blocks = sum(self._blocks(request) for request in self._running)
        self.gauges.batch_tokens = blocks * self._settings.block_size

    def _blocks(self, request: Request) -> int:
        tokens = request.input_tokens + request.reserve + self._settings.speculate - 1
        return ceil(tokens / self._settings.block_size)
