"""Open-loop traffic against a stand-in engine: it waits for nobody, and knows a refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest
from aiohttp import web

from llm_operator.cluster.load import replay
from llm_operator.cluster.load.arrivals import Arrival
from llm_operator.cluster.load.records import Outcome, Record

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records of requests that have ended."""
    found: list[Record] = []
    monkeypatch.setattr(replay, "_tell", found.append)
    return found


@asynccontextmanager
async def engine(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def stream(request: web.Request, *events: object) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


def tokens(number: int) -> list[dict[str, object]]:
    return [{"model": "m", "choices": [{}]}] * number


async def test_requests_come_at_their_times_whatever_became_of_others(told: list[Record]) -> None:
    under_way, most = 0, 0
    all_there = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            all_there.set()
        await all_there.wait()  # nobody is answered before the last one has come
        return await stream(request, *tokens(4))

    async with engine(handle) as url:
        await replay.replay(url, [Arrival(at / 50, 20, 4) for at in range(3)])
    assert most == 3
    assert [record.outcome for record in told] == [Outcome.OK] * 3
    assert all(record.tokens == 4 and record.input_tokens == 20 for record in told)
    assert all(0 <= record.late < 1 for record in told)


async def test_a_prompt_is_as_long_as_the_arrival_says(told: list[Record]) -> None:
    lengths = []

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        lengths.append(len(body["messages"][0]["content"].split()))
        return await stream(request, *tokens(body["max_tokens"]))

    async with engine(handle) as url:
        await replay.replay(url, [Arrival(0, 500, 3), Arrival(0, 1, 1)])
    assert [record.outcome for record in told] == [Outcome.OK] * 2
    assert sorted(lengths) == [1, 500 - replay._TEMPLATE_TOKENS]


@pytest.mark.parametrize("status", [429, 200, 503])
async def test_too_many_requests_are_no_failure(told: list[Record], status: int) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if status != 200:
            return web.json_response({"error": "Model is overloaded"}, status=status)
        error = {"message": "Model is overloaded", "http_status_code": 422}
        return await stream(request, {"error": error})

    async with engine(handle) as url:
        await replay.replay(url, [Arrival(0, 10, 3)])
    (record,) = told
    assert record.outcome is (Outcome.FAILED if status == 503 else Outcome.REFUSED)
    assert record.first == 0


async def test_each_request_has_a_connection_of_its_own(told: list[Record]) -> None:
    numbers, seen = count(), {}

    async def handle(request: web.Request) -> web.StreamResponse:
        seen[request.transport] = next(numbers)
        return await stream(request, *tokens(1))

    async with engine(handle) as url:
        await replay.replay(url, [Arrival(at / 50, 10, 1) for at in range(3)])
    assert len(seen) == 3
    assert not any(record.reused for record in told)
