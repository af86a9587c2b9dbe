"""Without a Prometheus: pods asked for their pages, whatever they answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from tests.unit.status_samples import ready

from llm_operator.facts.cluster import PodFact
from llm_operator.facts.signals import Absent, Broken, Fresh, Idle, Load, Reading
from llm_operator.kube.store import Key
from llm_operator.observe import scrape
from llm_operator.observe.scrape import AT_ONCE, FromPods
from llm_operator.runtimes.base import engine

NOW = 1_700_000_000.0
OURS = Key("models", "llama")


def page(
    queued: str = "3", running: str = "2", served: int = 0, refused: int = 0, slow: int = 0
) -> bytes:
    """Of an engine; `slow` of the served waited 1 to 3 s, the others less."""
    return (
        f"tgi_queue_size {queued}\ntgi_batch_current_size {running}\n"
        f"tgi_request_success {served}\n"
        f'tgi_request_failure{{err="overloaded"}} {refused}\n'
        f'tgi_request_failure{{err="validation"}} {7 * served}\n'
        f'tgi_request_queue_duration_bucket{{le="1"}} {served - slow}\n'
        f'tgi_request_queue_duration_bucket{{le="3"}} {served}\n'
        f'tgi_request_queue_duration_bucket{{le="+Inf"}} {served}\n'
    ).encode()


@dataclass
class Pods:
    """Pods on loopback addresses of their own: what each says, byte by byte, by its name."""

    says: dict[str, bytes | None] = field(default_factory=dict)
    port: int = 0
    addresses: dict[str, str] = field(default_factory=dict)
    open: int = 0
    most: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> object:
        return engine("tgi").metrics

    def facts(self) -> list[PodFact]:
        return [ready(name, ip=ip) for name, ip in self.addresses.items()]


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def pods(says: Mapping[str, bytes | None]) -> AsyncIterator[Pods]:
    """None: it accepts and says nothing."""
    there = Pods(dict(says))
    servers = []
    for number, name in enumerate(says):

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name
        ) -> None:
            there.open += 1
            there.most = max(there.most, there.open)
            with suppress(asyncio.IncompleteReadError, OSError):
                head = await reader.readuntil(b"\r\n\r\n")
                there.asked.append(head.split(b" ")[1].decode())
                said = there.says[name]
                if said is None:
                    await reader.read()
                writer.write(said or b"")
                await writer.drain()
            there.open -= 1
            writer.close()

        ip = f"127.3.{number // 250}.{number % 250 + 1}"
        server = await asyncio.start_server(serve, ip, there.port)
        there.port = server.sockets[0].getsockname()[1]
        there.addresses[name] = ip
        servers.append(server)
    try:
        yield there
    finally:
        for server in servers:
            server.close()


def reader(there: Pods, **limits: float) -> FromPods:
    return FromPods(there, clock=lambda: NOW, **limits)  # type: ignore[arg-type]


async def read(of: FromPods, there: Pods, *more: PodFact) -> Mapping[str, Reading]:
    return (await of.read({OURS: [*there.facts(), *more]}))[OURS].readings


SAID: dict[str, tuple[bytes | None, Reading]] = {
    "busy": (ok(page()), Fresh(Load(3, 2), NOW)),
    "idle": (ok(b""), Idle(NOW)),
    "queue-only": (ok(b"tgi_queue_size 1\n"), Fresh(Load(1, 0), NOW)),
    "other-series": (ok(b"tgi_request_count 1\n"), Idle(NOW)),
    "nan": (ok(page(queued="NaN")), Broken("nan queued requests")),
    "inf": (ok(page(running="+Inf")), Broken("inf running requests")),
    "negative": (ok(page(queued="-2")), Broken("-2 queued requests")),
    "html": (ok(b"<html></html>"), Broken("its metrics page cannot be read")),
    "no-text": (ok(b"\xff\xfe"), Broken("cannot be reached (UnicodeDecodeError)")),
    "no-bound": (
        ok(page() + b'tgi_request_queue_duration_bucket{up="1"} 1\n'),
        Broken("its metrics page cannot be read"),
    ),
    "error": (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Broken("answers 503")),
    "elsewhere": (
        b"HTTP/1.1 302 Go\r\nLocation: http://127.3.0.1/\r\nContent-Length: 0\r\n\r\n",
        Broken("answers 302"),
    ),
    "cut": (ok(page())[:-20], Broken("cannot be reached (ClientPayloadError)")),
    "hangs": (None, Broken("does not answer")),
    "no-http": (b"SSH-2.0\r\n", Broken("cannot be reached (ClientResponseError)")),
}


async def test_each_pod_is_what_it_says() -> None:
    async with pods({name: said for name, (said, _) in SAID.items()}) as there:
        of = reader(there, seconds=0.5)
        gone = ready("gone", ip="127.3.9.9")
        seen = await read(of, there, gone, ready("no-address", ip=""))
    assert {name: seen[name] for name in SAID} == {name: r for name, (_, r) in SAID.items()}
    assert seen["gone"] == Broken("cannot be reached (ClientConnectorError)")
    assert seen["no-address"] == Absent()
    assert set(there.asked) == {"/metrics"}


async def test_a_page_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "LARGEST_PAGE", 1000)
    async with pods({"p": ok(page() + b"#" * 2000)}) as there:
        assert await read(reader(there), there) == {"p": Broken("has too long a page")}


async def test_rates_are_of_what_was_counted_in_between() -> None:
    async with pods({"p": ok(page(served=100, refused=50, slow=100))}) as there:
        of = reader(there)
        first = (await read(of, there))["p"]
        assert first == Fresh(Load(3, 2), NOW), "what was before is not of the last minute"
        await asyncio.sleep(0.05)
        there.says["p"] = ok(page(served=110, refused=54, slow=105))
        second = (await read(of, there))["p"]
        assert isinstance(second, Fresh)
        load = second.load
        assert load.served_rate == pytest.approx(2.5 * load.refused_rate)
        assert 10 / 5 < load.served_rate <= 10 / 0.05
        assert load.queue_seconds == pytest.approx(2.8)
        there.says["p"] = ok(page(served=3))  # it has begun anew
        third = (await read(of, there))["p"]
        assert third == Fresh(Load(3, 2), NOW)
        there.says["p"] = ok(page(served=4))
        fourth = (await read(of, there))["p"]
        assert isinstance(fourth, Fresh)
        assert fourth.load.served_rate > 0


async def test_the_window_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "WINDOW_SECONDS", 0.1)
    async with pods({"p": ok(page(served=0))}) as there:
        of = reader(there)
        await read(of, there)
        there.says["p"] = ok(page(served=1000))
        await read(of, there)
        rates: list[float] = []
        async with asyncio.timeout(10):
            while not rates or rates[-1] > 0:
                await asyncio.sleep(0.02)
                reading = (await read(of, there))["p"]
                assert isinstance(reading, Fresh)
                rates.append(reading.load.served_rate)
        assert max(rates) > 0


async def test_many_pods_are_asked_a_few_at_a_time_and_not_for_ever() -> None:
    silent: dict[str, bytes | None] = {f"p{n}": None for n in range(AT_ONCE + 10)}
    async with pods(silent) as there:
        started = time.monotonic()
        seen = await read(reader(there, seconds=5, all_seconds=0.5), there)
        assert time.monotonic() - started < 3
        assert 1 < there.most <= AT_ONCE
    assert set(seen.values()) == {Broken("no time to ask")}


async def test_what_is_gone_is_forgotten() -> None:
    async with pods({"p": ok(page(served=5))}) as there:
        of = reader(there)
        await read(of, there)
        assert (await of.read({OURS: []}))[OURS].readings == {}
        there.says["p"] = ok(page(served=500))
        reading = (await read(of, there))["p"]
        assert isinstance(reading, Fresh)
        assert reading.load.served_rate == 0
        assert reading.load.queue_seconds is None
