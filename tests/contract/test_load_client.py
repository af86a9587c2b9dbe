"""The load's client against servers that misbehave, each in one way, on real connections."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llm_operator.cluster.load.client import Ask, Client, _is_closed, ask_again
from llm_operator.cluster.load.records import CHAT, Outcome

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STREAM = Ask("stream", 2)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@asynccontextmanager
async def server(*answers: Answer) -> AsyncIterator[str]:
    """Answers the first request with the first of `answers`, and so on; its URL."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while left and (head := await reader.readuntil(b"\r\n\r\n")):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await left.pop(0)(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"


def sending(*pieces: bytes, then: str = "") -> Answer:
    """Write these, then `close`, `reset`, or go on with the connection."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(pieces)
        await writer.drain()
        if then == "close":
            writer.close()
        if then == "reset":
            writer.transport.abort()

    return answer


def event(document: object) -> bytes:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    line = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


TOKEN = event({"choices": [{"delta": {"content": "a"}}], "model": "some/model"})
DONE = event(b"[DONE]")
WHOLE = sending(HEAD, TOKEN, TOKEN, DONE, END)


def in_one_piece(tokens: int) -> Answer:
    body = json.dumps({"model": "some/model", "usage": {"completion_tokens": tokens}}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return sending(head % len(body), body)


async def test_a_whole_stream_is_well() -> None:
    async with server(WHOLE) as url, Client(url, kept=False) as client:
        record = await client.ask(STREAM)
    assert (record.outcome, record.tokens, record.model) == (Outcome.OK, 2, "some/model")
    assert 0 < record.first <= record.seconds
    assert not record.reused


async def test_a_whole_answer_is_well_and_one_that_is_too_short_is_not() -> None:
    async with server(in_one_piece(2), in_one_piece(1)) as url, Client(url, kept=True) as client:
        assert (await client.ask(Ask(CHAT, 2))).outcome is Outcome.OK
        assert (await client.ask(Ask(CHAT, 2))).outcome is Outcome.CUT


@pytest.mark.parametrize(
    "cut",
    [
        sending(HEAD, then="close"),
        sending(HEAD, TOKEN, then="close"),
        sending(HEAD, TOKEN, then="reset"),
        sending(HEAD, TOKEN, END),
        sending(HEAD, TOKEN, DONE, END),
        sending(HEAD, TOKEN, TOKEN, END),
        sending(HEAD, TOKEN, event({"error": "x", "error_type": "y"}), DONE, END),
    ],
    ids=[
        "closed at once",
        "closed",
        "reset",
        "ended early",
        "too few tokens",
        "no end mark",
        "error",
    ],
)
async def test_a_stream_that_began_and_is_not_whole_is_cut(cut: Answer) -> None:
    async with server(cut) as url, Client(url, kept=False) as client:
        record = await client.ask(STREAM)
    assert record.outcome is Outcome.CUT
    assert record.detail


@pytest.mark.parametrize(
    "bad",
    [
        sending(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
        sending(then="close"),
        sending(then="reset"),
        sending(HEAD, event({"error": "x", "error_type": "y"}), DONE, END),
    ],
    ids=["503", "closed", "reset", "error at once"],
)
async def test_no_answer_on_a_fresh_connection_is_a_failure(bad: Answer) -> None:
    async with server(bad) as url, Client(url, kept=True) as client:
        record = await client.ask(STREAM)
    assert record.outcome is Outcome.FAILED
    assert record.detail


async def test_nobody_listens() -> None:
    async with server() as url:
        pass
    async with Client(url, kept=False) as client:
        record = await client.ask(STREAM)
    assert (record.outcome, record.detail) == (Outcome.FAILED, "no connection: Connection refused")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_has_gone_stale_is_told_apart_and_asked_anew(how: str) -> None:
    async with server(WHOLE, sending(then=how), WHOLE) as url, Client(url, kept=True) as client:
        assert (await client.ask(STREAM)).outcome is Outcome.OK
        stale, again = await ask_again(client, STREAM)
    assert (stale.outcome, stale.reused) == (Outcome.STALE, True)
    assert (again.outcome, again.reused) == (Outcome.OK, False)


async def test_a_connection_that_was_seen_to_be_closed_is_stale_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llm_operator.cluster.load.client.STALE_SECONDS", 0.0)
    answers = (WHOLE, sending(then="close"), WHOLE)
    async with server(*answers) as url, Client(url, kept=True) as client:
        await client.ask(STREAM)
        monkeypatch.setattr("llm_operator.cluster.load.client._is_closed", lambda _: True)
        stale, again = await ask_again(client, STREAM)
    assert (stale.outcome, again.outcome) == (Outcome.STALE, Outcome.OK)


def test_one_sees_that_the_other_side_has_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not _is_closed(ours)
        theirs.close()
        assert _is_closed(ours)


async def test_a_request_that_the_server_never_read_is_stale_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unread(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)  # close with a reset, as for data that nobody read
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    monkeypatch.setattr("llm_operator.cluster.load.client.STALE_SECONDS", 0.0)
    async with server(WHOLE, unread, WHOLE) as url, Client(url, kept=True) as client:
        await client.ask(STREAM)
        stale, again = await ask_again(client, STREAM)
    assert (stale.outcome, again.outcome) == (Outcome.STALE, Outcome.OK)


async def test_a_request_that_was_taken_and_then_dropped_is_a_failure_on_any_connection() -> None:
    async def take_and_drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        writer.transport.abort()

    async with server(WHOLE, take_and_drop) as url, Client(url, kept=True) as client:
        await client.ask(STREAM)
        (record,) = await ask_again(client, STREAM)
    assert (record.outcome, record.reused) == (Outcome.FAILED, True)


async def test_only_clients_that_keep_connections_use_them_again() -> None:
    for kept in (True, False):
        async with server(WHOLE, WHOLE) as url, Client(url, kept=kept) as client:
            await client.ask(STREAM)
            assert (await client.ask(STREAM)).reused is kept
