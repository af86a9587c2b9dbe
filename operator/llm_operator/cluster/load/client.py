"""One HTTP client: asks, reads the answer to its end, and says how that went.

Decides which ends of a connection are whose fault. A stream is whole only if it has all the tokens
that were asked for and the end mark: an early end that looks tidy is a cut one.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from dataclasses import dataclass, field
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import aiohttp

from .records import CHAT, Outcome, Record

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 30.0

STALE_SECONDS = 0.25
"""An orderly end later than this after a request was sent is that of a server which had taken the
request. Sooner, and before any byte of an answer, the connection was being closed already; so it
was, at any time, where the end was seen before sending, or where the server reset the connection:
its kernel does so for what nobody has read."""

_TOO_MANY = 429
_OVERLOADED = "Model is overloaded"
"""What the engine says in a stream, whose status is 200 already."""

_PROMPT = "Tell me what a tensor-parallel shard is, and do not stop too early."


@dataclass
class _Progress:
    """What has come of an answer so far."""

    began: float
    clock: float
    reused: bool = False
    closed: bool = False
    answering: bool = False
    refused: bool = False
    overloaded: bool = False
    reset: bool = False
    first: float = 0.0
    tokens: int = 0
    model: str = ""
    whole: bool = False
    problem: str = ""

    def count(self, tokens: int, model: str) -> None:
        """So many tokens have come, from this model."""
        if not self.tokens:
            self.first = time.monotonic() - self.clock
        self.tokens += tokens
        self.model = model


@dataclass(frozen=True)
class Ask:
    """What to ask for: an answer of so many tokens, in one piece (`CHAT`) or as a stream."""

    kind: str
    tokens: int
    prompt: str = _PROMPT

    @property
    def streamed(self) -> bool:
        return self.kind != CHAT

    def body(self) -> dict[str, Any]:
        message = {"role": "user", "content": self.prompt}
        return {
            "model": "tgi",
            "messages": [message],
            "max_tokens": self.tokens,
            "stream": self.streamed,
        }


@dataclass
class Client:
    """A user of the model at `url`, with one connection at a time. Use as a context manager.

    `silence`: seconds without a byte after which an answer will not come.
    """

    url: str
    kept: bool
    silence: float = SILENCE_SECONDS
    _session: aiohttp.ClientSession = field(init=False, repr=False)
    _socket: socket.socket = field(init=False, repr=False)

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(self._note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=1,
                force_close=not self.kept,
                keepalive_timeout=60 if self.kept else None,
                socket_factory=self._make_socket,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=self.silence
            ),
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    def _make_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        return self._socket

    async def _note_reuse(
        self,
        _: aiohttp.ClientSession,
        context: SimpleNamespace,
        __: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        progress: _Progress = context.trace_request_ctx
        progress.reused = True
        progress.closed = _is_closed(self._socket)

    async def ask(self, ask: Ask) -> Record:
        """One request, to its end. Never raises for what the other side does."""
        progress = _Progress(time.time(), time.monotonic())
        try:
            await self._send(ask, progress)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            progress.problem = progress.problem or _words(error)
            progress.reset = isinstance(error, OSError) and error.errno == errno.ECONNRESET
        seconds = time.monotonic() - progress.clock
        return Record(
            kind=ask.kind,
            kept=self.kept,
            began=progress.began,
            seconds=seconds,
            outcome=_outcome(progress, seconds),
            reused=progress.reused,
            first=progress.first,
            tokens=progress.tokens,
            model=progress.model,
            detail="" if progress.whole else progress.problem or "ended early",
        )

    async def _send(self, ask: Ask, progress: _Progress) -> None:
        request = self._session.post(
            f"{self.url}/v1/chat/completions", json=ask.body(), trace_request_ctx=progress
        )
        async with request as response:
            progress.answering = True
            if response.status != 200:
                progress.problem, progress.refused = f"status {response.status}", True
                progress.overloaded = response.status == _TOO_MANY
                await response.read()
            elif ask.streamed:
                await _read_stream(response, ask, progress)
            else:
                answer = await response.json()
                progress.count(answer["usage"]["completion_tokens"], answer["model"])
                progress.whole = progress.tokens == ask.tokens


async def _read_stream(response: aiohttp.ClientResponse, ask: Ask, progress: _Progress) -> None:
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        text = line[5:].strip()
        if text == b"[DONE]":
            progress.whole = progress.tokens == ask.tokens and not progress.problem
            continue
        event = json.loads(text)
        if "choices" not in event:
            progress.problem, progress.refused = "error in the stream", True
            progress.overloaded = _OVERLOADED in str(event)
            continue
        progress.count(1, event["model"])


def _outcome(progress: _Progress, seconds: float) -> Outcome:
    if progress.whole:
        return Outcome.OK
    if progress.overloaded and not progress.tokens:
        return Outcome.REFUSED
    if progress.answering:
        return Outcome.FAILED if progress.refused and not progress.tokens else Outcome.CUT
    not_taken = progress.closed or progress.reset or seconds < STALE_SECONDS
    if progress.reused and not_taken:
        return Outcome.STALE
    return Outcome.FAILED


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection, which nobody may have noticed yet."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _words(error: Exception) -> str:
    """What went wrong, without addresses, so that alike things count together."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {os.strerror(error.os_error.errno or 0)}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "connection closed without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


async def ask_again(client: Client, ask: Ask) -> list[Record]:
    """Ask; where the connection had gone stale, once more on a fresh one, as clients do."""
    record = await client.ask(ask)
    return [record] if record.outcome is not Outcome.STALE else [record, await client.ask(ask)]
