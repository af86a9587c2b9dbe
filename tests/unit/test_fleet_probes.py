"""Probes against real sockets on the loopback, and the thresholds that judge them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from llm_operator.cluster.fleet.probes import Probe, Threshold, check, resolve_port, run_probe

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[int]:
    handled: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handled.add(task)
        with suppress(OSError):
            await handler(reader, writer)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)
        await asyncio.gather(*handled)


def answering(text: str, requests: list[str] | None = None) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(head.decode())
        writer.write(text.replace("\n", "\r\n").encode())
        await writer.drain()

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


def probe(action: dict[str, Any], **fields: Any) -> Probe:
    found = Probe.of({"readinessProbe": action | fields}, "readiness")
    assert found is not None
    return found


def http(port: int | str, **fields: Any) -> dict[str, Any]:
    return {"httpGet": {"path": "/health", "port": port, **fields}}


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("HTTP/1.1 200 OK\n\n", None),
        ("HTTP/1.1 204 No Content\n\n", None),
        ("HTTP/1.0 302 Found\n\n", None),
        ("HTTP/1.1 404 Not Found\n\n", "HTTP probe failed with statuscode: 404"),
        ("HTTP/1.1 503 Unavailable\n\n", "HTTP probe failed with statuscode: 503"),
        ("nonsense\n\n", "EOF"),
    ],
)
async def test_a_status_of_200_to_399_is_success(answer: str, complaint: str | None) -> None:
    async with served(answering(answer)) as port:
        said = await check(probe(http(port)), {}, "127.0.0.1")
    assert said == complaint if complaint is None else complaint in str(said)


async def test_the_request_is_the_kubelet_s() -> None:
    requests: list[str] = []
    headers = [{"name": "X-Who", "value": "me"}]
    async with served(answering("HTTP/1.1 200 OK\n\n", requests)) as port:
        container = {"ports": [{"name": "web", "containerPort": port}]}
        assert await check(probe(http("web", httpHeaders=headers)), container, "127.0.0.1") is None
    line, *rest = requests[0].split("\r\n")
    assert line == "GET /health HTTP/1.1"
    assert {f"Host: 127.0.0.1:{port}", "X-Who: me", "Connection: close"} <= set(rest)
    assert any(header.startswith("User-Agent: kube-probe/") for header in rest)


async def test_a_closed_port_is_refused_at_once() -> None:
    async with served(silent) as port:
        pass
    said = await check(probe(http(port)), {}, "127.0.0.1")
    assert said == (
        f'Get "http://127.0.0.1:{port}/health": dial tcp 127.0.0.1:{port}: '
        "connect: connection refused"
    )


async def test_an_answer_that_does_not_come_in_time() -> None:
    async with served(silent) as port:
        said = await check(probe(http(port), timeoutSeconds=0.05), {}, "127.0.0.1")
    assert "context deadline exceeded" in str(said)


async def test_a_connection_that_is_hung_up() -> None:
    async with served(hangs_up) as port:
        assert "reset" in str(await check(probe(http(port)), {}, "127.0.0.1"))


async def test_a_tcp_probe_only_connects() -> None:
    async with served(silent) as port:
        assert await check(probe({"tcpSocket": {"port": port}}), {}, "127.0.0.1") is None
    refused = await check(probe({"tcpSocket": {"port": port}}), {}, "127.0.0.1")
    assert "connection refused" in str(refused)


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        ({"exec": {"command": ["true"]}}, "not simulated"),
        (http(80, scheme="HTTPS"), "not simulated: HTTPS"),
        (http("none"), "couldn't find port: none"),
    ],
)
async def test_what_is_not_simulated_fails_loudly(action: dict[str, Any], complaint: str) -> None:
    assert complaint in str(await check(probe(action), {}, "127.0.0.1"))


def test_ports_by_number_name_and_numeral() -> None:
    container = {"ports": [{"name": "http", "containerPort": 3000}]}
    assert [resolve_port(port, container) for port in (80, "http", "81")] == [80, 3000, 81]


def test_defaults_are_those_of_the_api() -> None:
    found = probe(http(80))
    assert (found.period, found.timeout, found.initial_delay) == (10, 1, 0)
    assert (found.success_threshold, found.failure_threshold) == (1, 3)
    assert Probe.of({}, "startup") is None


def test_thresholds_count_in_a_row() -> None:
    threshold = Threshold(probe(http(80), failureThreshold=3, successThreshold=2))
    results = [False, False, True, False, False, False, False, True, True]
    verdicts = [threshold.add(result) for result in results]
    assert verdicts == [None, None, None, None, None, False, False, None, True]


@pytest.mark.looptime
async def test_the_initial_delay_counts_from_the_container_s_start() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def note() -> None:
        times.append(loop.time())

    since = loop.time() - 20
    spec = probe(http(80), initialDelaySeconds=30, periodSeconds=7)
    task = asyncio.create_task(run_probe(spec, since, note, lambda _: None, lambda _: None))
    await asyncio.sleep(26)
    task.cancel()
    assert [round(time - since) for time in times] == [30, 37, 44]


@pytest.mark.looptime
async def test_a_fleet_that_stood_still_blames_nobody() -> None:
    verdicts: list[bool] = []

    async def too_late() -> str:
        await asyncio.sleep(5)
        return "context deadline exceeded"

    spec = probe(http(80), periodSeconds=1, timeoutSeconds=2, failureThreshold=1)
    task = asyncio.create_task(
        run_probe(spec, 0.0, too_late, verdicts.append, lambda text: verdicts.append(False))
    )
    await asyncio.sleep(20)
    task.cancel()
    assert verdicts == []
