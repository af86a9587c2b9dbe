"""Doors from the host into the cluster's namespace: a port forwarder and a small HTTP proxy.

A listening socket bound before its process enters the namespace keeps accepting on the host, while
connections that the process opens afterwards are made inside. Both doors listen on loopback only;
the proxy leads to pods and Services and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from . import network

Resolve = Callable[[str], Awaitable[str | None]]
"""From a host name of the cluster to its address; None where there is no such name."""

_CHUNK = 1 << 16
_HEAD_TIMEOUT_S = 30.0


def host_socket(port: int = 0) -> socket.socket:
    """A socket listening on 127.0.0.1; port 0 takes a free one. OSError if the port is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


async def serve_forwarder(sock: socket.socket, host: str, port: int) -> asyncio.Server:
    """Pass every connection on `sock` to host:port, byte for byte."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await _splice(reader, writer, *await asyncio.open_connection(host, port))
        writer.close()

    return await asyncio.start_server(handle, sock=sock)


async def serve_proxy(sock: socket.socket, resolve: Resolve) -> asyncio.Server:
    """An HTTP proxy on `sock` (CONNECT and absolute-form requests, one per connection)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            refusal = await _proxy_one(reader, writer, resolve)
            if refusal:
                status, _, text = refusal.partition(": ")
                head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
                writer.write(f"{head}{text}\n".encode())
                await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, sock=sock)


async def _proxy_one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, resolve: Resolve
) -> str | None:
    """Serve one request; returns "<status line>: <text>" where it is refused."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_TIMEOUT_S)
        method, target, version, headers = _parse(head)
    except (TimeoutError, ValueError):
        return "400 Bad Request: not an HTTP request"
    try:
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = url.hostname or "", url.port or 80
    except ValueError:
        return f"400 Bad Request: not an address: {target}"
    if not host:
        return "400 Bad Request: this is a proxy: use it as `curl -x`, or as http_proxy"
    address = host if network.contains(host) else await resolve(host)
    if address is None or not network.contains(address):
        return f"403 Forbidden: {host} is no pod or Service of this cluster"
    try:
        inner_reader, inner_writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return f"502 Bad Gateway: {host}:{port}: {error.strerror or error}"
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        lines = [f"{method} {path} {version}", *headers, "Connection: close", "", ""]
        inner_writer.write("\r\n".join(lines).encode("latin-1"))
    await _splice(reader, writer, inner_reader, inner_writer)
    return None


def _parse(head: bytes) -> tuple[str, str, str, list[str]]:
    """Method, target, version and the headers that go on. ValueError if it is no request."""
    first, *headers = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, version = first.split(" ")
    hop_by_hop = ("connection:", "proxy-connection:", "proxy-authorization:")
    kept = [line for line in headers if not line.lower().startswith(hop_by_hop)]
    return method, target, version, kept


async def _splice(
    left_reader: asyncio.StreamReader,
    left_writer: asyncio.StreamWriter,
    right_reader: asyncio.StreamReader,
    right_writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until both sides have said all, passing on each half-close."""
    try:
        await asyncio.gather(_copy(left_reader, right_writer), _copy(right_reader, left_writer))
    finally:
        right_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
