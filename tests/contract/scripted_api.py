"""An API server that says what it is told to say, byte by byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What to say. `cut` closes the connection after so many bytes; `silent` says nothing at all;
    `reset` aborts the connection at once."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    silent: bool = False
    reset: bool = False

    def raw(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Said", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def says(body: Json, status: int = 200, **headers: str) -> Answer:
    """A JSON answer; header names with an underscore for each dash."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, json.dumps(body).encode(), (("Content-Type", "application/json"), *named))


def refuses(status: int, reason: str, message: str = "no", **headers: str) -> Answer:
    """As the API server refuses: a Status object."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message}
    return says(body | {"code": status}, status, **headers)


class ScriptedApi:
    """Give `script` the answers, in order; read `asked` for the requests."""

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.asked: list[Asked] = []
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self, tls: SSLContext | None = None) -> AsyncIterator[ScriptedApi]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        host, port = server.sockets[0].getsockname()
        self.url = f"http{'s' if tls else ''}://{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve(reader, writer):
                pass
        writer.close()
        self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = json.loads(data) if data else None
        self.asked.append(Asked(method, url.path, query, headers, body))
        answer = self.script.popleft() if self.script else Answer(500, b"nothing is scripted")
        if answer.reset:
            writer.transport.abort()
            return False
        if answer.silent:
            await asyncio.Event().wait()
        writer.write(answer.raw()[: answer.cut])
        await writer.drain()
        return answer.cut is None
