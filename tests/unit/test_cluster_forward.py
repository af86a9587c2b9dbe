"""The doors from the host: what the proxy lets through, and that both pass bytes both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from llm_operator.cluster import forward, network

Exchange = Callable[[bytes], Awaitable[bytes]]


@pytest.fixture
async def upstream() -> AsyncIterator[int]:
    """A server that sends back what it was sent, once that has ended; gives its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + await reader.read())
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


async def resolve(host: str) -> str | None:
    return {"llama.default": "127.0.0.1", "headless.default": "None"}.get(host)


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Exchange]:
    """Send bytes to a proxy in whose cluster 127.0.0.1 is the only address."""
    monkeypatch.setattr(network, "contains", lambda address: address == "127.0.0.1")
    sock = forward.host_socket()
    port: int = sock.getsockname()[1]
    async with await forward.serve_proxy(sock, resolve):
        yield lambda request: exchange(port, request)


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_forwarder_passes_bytes_both_ways(upstream: int) -> None:
    sock = forward.host_socket()
    port: int = sock.getsockname()[1]
    async with await forward.serve_forwarder(sock, "127.0.0.1", upstream):
        assert (await exchange(port, b"\x00\xffany bytes")).endswith(b"\r\n\r\n\x00\xffany bytes")


async def test_forwarder_closes_where_nobody_listens() -> None:
    sock = forward.host_socket()
    port: int = sock.getsockname()[1]
    async with await forward.serve_forwarder(sock, "127.0.0.1", 9):
        assert await exchange(port, b"hello") == b""


async def test_absolute_form_becomes_origin_form(proxy: Exchange, upstream: int) -> None:
    request = (
        f"POST http://llama.default:{upstream}/generate?a=b HTTP/1.1\r\nHost: llama\r\n"
        "Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"
    )
    answer = await proxy(request.encode())
    assert answer.decode().split("\r\n")[2:] == [
        "POST /generate?a=b HTTP/1.1",
        "Host: llama",
        "Content-Length: 2",
        "Connection: close",
        "",
        "{}",
    ]


async def test_connect_is_a_tunnel(proxy: Exchange, upstream: int) -> None:
    answer = await proxy(f"CONNECT 127.0.0.1:{upstream} HTTP/1.1\r\n\r\nraw".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"raw")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET http://192.0.2.1/ HTTP/1.1", "403"),
        ("GET http://unknown.default/ HTTP/1.1", "403"),
        ("GET http://headless.default/ HTTP/1.1", "403"),
        ("CONNECT 192.0.2.1:443 HTTP/1.1", "403"),
        ("GET http://127.0.0.1:9/ HTTP/1.1", "502"),
        ("GET /health HTTP/1.1", "400"),
        ("GET http://127.0.0.1:port/ HTTP/1.1", "400"),
        ("hello", "400"),
    ],
)
async def test_the_proxy_refuses(proxy: Exchange, request_line: str, status: str) -> None:
    answer = await proxy(f"{request_line}\r\n\r\n".encode())
    assert answer.decode().split(" ")[1] == status
