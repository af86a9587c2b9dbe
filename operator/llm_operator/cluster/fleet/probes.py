"""Startup, readiness and liveness probes: real requests to the container's own address.

Decides when a container counts as started, ready or dead. Refuses to know what follows from it.
Each probe is one connection and one GET without a session or a parser of bodies: a fleet makes
hundreds of them every second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

STALL_SECONDS = 0.5
"""A failure that took so much longer than its time-out is the fleet's own: it had stood still."""


@dataclass(frozen=True)
class Probe:
    """A probe of the API with its defaults filled in. Times in seconds."""

    kind: str
    action: Mapping[str, Any]
    initial_delay: float
    period: float
    timeout: float
    success_threshold: int
    failure_threshold: int
    grace: float | None

    @classmethod
    def of(cls, container: Mapping[str, Any], kind: str) -> Probe | None:
        """The container's probe of that kind: startup, readiness or liveness."""
        spec = container.get(f"{kind}Probe")
        if not spec:
            return None
        return cls(
            kind,
            spec,
            float(spec.get("initialDelaySeconds") or 0),
            float(spec.get("periodSeconds") or 10),
            float(spec.get("timeoutSeconds") or 1),
            int(spec.get("successThreshold") or 1),
            int(spec.get("failureThreshold") or 3),
            spec.get("terminationGracePeriodSeconds"),
        )


@dataclass
class Threshold:
    """Turns single results into a verdict: so many equal ones in a row."""

    probe: Probe
    _last: bool | None = None
    _run: int = 0

    def add(self, success: bool) -> bool | None:
        """The verdict that this result completes, or None while it is not decided."""
        self._run = self._run + 1 if success == self._last else 1
        self._last = success
        needed = self.probe.success_threshold if success else self.probe.failure_threshold
        return success if self._run >= needed else None


def resolve_port(port: int | str, container: Mapping[str, Any]) -> int:
    """A number as it is, a name by the container's ports. Raises ValueError for an unknown name."""
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    if port.isdigit():
        return int(port)
    raise ValueError(f"couldn't find port: {port}")


async def check(probe: Probe, container: Mapping[str, Any], ip: str) -> str | None:
    """Probe once. Returns None on success, else the kubelet's words for what went wrong."""
    try:
        if "httpGet" in probe.action:
            return await http_get(probe.action["httpGet"], container, ip, probe.timeout)
        if "tcpSocket" in probe.action:
            target = probe.action["tcpSocket"]
            port = resolve_port(target["port"], container)
            await _converse(target.get("host") or ip, port, None, probe.timeout)
            return None
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"dial tcp {ip}: {_words(error)}"
    return "not simulated: only httpGet and tcpSocket probes are"


async def http_get(
    action: Mapping[str, Any], container: Mapping[str, Any], ip: str, timeout: float
) -> str | None:
    """One GET as the kubelet does it for probes and hooks: success is a status of 200 to 399."""
    if action.get("scheme", "HTTP") != "HTTP":
        return "not simulated: HTTPS"
    port = resolve_port(action["port"], container)
    path = action.get("path") or "/"
    host = action.get("host") or ip
    url = f'Get "http://{host}:{port}{path}"'
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*"}
    headers |= {entry["name"]: entry["value"] for entry in action.get("httpHeaders") or ()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode()
    try:
        line = await _converse(host, port, request, timeout)
    except TimeoutError:
        return f"{url}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    except OSError as error:
        return f"{url}: dial tcp {host}:{port}: connect: {_words(error)}"
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[1].isdigit():
        return f"{url}: EOF"
    code = int(parts[1])
    return None if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"


def _words(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "connection reset by peer"
    return error.strerror or "i/o timeout"


class _StatusLine(asyncio.Protocol):
    """Sends a request and keeps the first line of the answer."""

    def __init__(self, request: bytes | None) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self.line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._request is None:
            self._finish(b"")
        else:
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        # Up to the end of the headers: hanging up earlier would reset the server's connection.
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._finish(self._head.partition(b"\r\n")[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.line.done():
            self.line.set_exception(exc if isinstance(exc, OSError) else ConnectionResetError())
            self.line.exception()  # seen: whoever waited may have given up already

    def _finish(self, line: bytes) -> None:
        if not self.line.done():
            self.line.set_result(line)
        if self._transport is not None:
            self._transport.close()


async def _converse(host: str, port: int, request: bytes | None, timeout: float) -> bytes:
    """The first line of the answer, or nothing where only a connection was asked for."""
    loop = asyncio.get_running_loop()
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(timeout):
            transport, protocol = await loop.create_connection(
                lambda: _StatusLine(request), host, port
            )
            return await protocol.line
    finally:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


async def run_probe(
    probe: Probe,
    running_since: float,
    check_once: Callable[[], Awaitable[str | None]],
    on_verdict: Callable[[bool], None],
    on_failure: Callable[[str], None],
) -> None:
    """Probe for ever. `on_verdict` hears each decided result, `on_failure` each single failure.

    `running_since` is the container's start by the loop's clock: the initial delay counts from it.
    """
    loop = asyncio.get_running_loop()
    threshold = Threshold(probe)
    delay = running_since + probe.initial_delay - loop.time()
    await asyncio.sleep(max(0.0, delay) + random.uniform(0, 0.2))
    while True:
        began = loop.time()
        complaint = await check_once()
        if complaint is None or loop.time() - began < probe.timeout + STALL_SECONDS:
            if complaint is not None:
                on_failure(complaint)
            verdict = threshold.add(complaint is None)
            if verdict is not None:
                on_verdict(verdict)
        await asyncio.sleep(max(0.0, began + probe.period - loop.time()))
