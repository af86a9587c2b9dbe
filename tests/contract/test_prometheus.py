"""A Prometheus that misbehaves in every way we could think of: one line, never a wrong load."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.contract.scripted_api import Answer, ScriptedApi, says
from tests.unit.status_samples import ready

from llm_operator.facts.signals import Absent, Broken, Fresh, Idle, Load, Signals, Stale
from llm_operator.kube.store import Key
from llm_operator.observe import prometheus_request
from llm_operator.observe.prometheus import (
    THREADS,
    MetricsUnavailable,
    Prometheus,
    PrometheusConfig,
    Sample,
)
from llm_operator.observe.signals import FromPrometheus, source
from llm_operator.runtimes.base import engine

NOW = 1_700_000_000.0
OURS = Key("models", "llama")
Element = dict[str, Any]


def element(pod: str, signal: str, value: str, at: float = NOW, **labels: str) -> Element:
    """One of an instant vector, as our query labels it."""
    metric = {"namespace": "models", "pod": pod, "signal": signal, **labels}
    return {"metric": metric, "value": [at, value]}


def vector(*elements: Element) -> Answer:
    return says({"status": "success", "data": {"resultType": "vector", "result": elements}})


def busy(pod: str, queued: str = "3", running: str = "2", at: float = NOW) -> list[Element]:
    """A pod that was scraped five seconds ago."""
    return [
        element(pod, "scraped", str(at - 5), at),
        element(pod, "queued", queued, at),
        element(pod, "running", running, at),
    ]


@asynccontextmanager
async def asking(**config: Any) -> AsyncIterator[tuple[ScriptedApi, Prometheus]]:
    """A server to script, and a client of it that has little patience."""
    async with ScriptedApi().running() as server:
        prometheus = Prometheus(
            PrometheusConfig(**{"url": server.url, "timeout_seconds": 2.0, **config})
        )
        try:
            yield server, prometheus
        finally:
            prometheus.close()


async def look(server: ScriptedApi, prometheus: Prometheus, answer: Answer, *pods: str) -> Signals:
    """What is known of the pods after this answer."""
    server.script.append(answer)
    reader = FromPrometheus(prometheus, [engine("tgi").metrics], clock=lambda: NOW)
    found = await reader.read({OURS: [ready(name) for name in pods]})
    assert found.keys() == {OURS}
    return found[OURS]


async def test_a_query_is_sent_as_it_is_and_its_vector_comes_back() -> None:
    async with asking() as (server, prometheus):
        server.script.append(vector(element("p", "queued", "NaN"), element("q", "queued", "7")))
        samples = await prometheus.query('max by (pod) (up{a="b"})')
        asked = server.asked[0]
    assert (asked.method, asked.path) == ("GET", "/api/v1/query")
    assert asked.query == {
        "query": 'max by (pod) (up{a="b"})', "timeout": "2s", "partial_response": "false"
    }  # fmt: skip
    assert "authorization" not in asked.headers
    assert samples[1] == Sample(element("q", "queued", "7")["metric"], 7.0, NOW)
    assert samples[0].value != samples[0].value


UNAVAILABLE: dict[str, tuple[Answer, str]] = {
    "500": (Answer(500, b"<html>oops</html>"), "Prometheus answers 500"),
    "401": (Answer(401, b"who are you?"), "Prometheus answers 401"),
    "503 of a proxy": (Answer(503, b"\xff\xfe"), "Prometheus answers 503"),
    "error of the query": (
        says({"status": "error", "errorType": "timeout", "error": "query\n timed out"}, 503),
        "Prometheus answers 503: query timed out",
    ),
    "complaint that is no text": (says({"error": {"a": 1}}, 400), "answers 400: {'a': 1}"),
    "redirect": (Answer(302, b"", (("Location", "http://127.0.0.1:1/"),)), "answers 302"),
    "empty body": (Answer(200, b""), "does not speak JSON"),
    "no JSON": (Answer(200, b"<html>login</html>"), "does not speak JSON"),
    "cut in the middle": (Answer(200, b'{"status": "success"}', cut=50), "no connection"),
    "no data": (says({"status": "success"}), "no instant vector"),
    "a list": (Answer(200, b"[1]"), "no instant vector"),
    "no result": (says({"data": {"result": None}}), "no instant vector"),
    "string": (says({"data": {"resultType": "string", "result": [NOW, "a"]}}), "no instant vector"),
    "scalar": (says({"data": {"resultType": "scalar", "result": [NOW, "1"]}}), "no instant vector"),
    "matrix": (
        says({"data": {"result": [{"metric": {}, "values": [[NOW, "1"]]}]}}),
        "no instant vector",
    ),
    "native histogram": (
        says({"data": {"result": [{"metric": {}, "histogram": [NOW, {}]}]}}),
        "no instant vector",
    ),
    "no number": (vector(element("p", "queued", "many")), "no instant vector"),
    "null": (says({"data": {"result": [{"metric": {}, "value": None}]}}), "no instant vector"),
    "reset": (Answer(reset=True), "no connection with Prometheus"),
    "gzip that is none": (Answer(200, b"abc", (("Content-Encoding", "gzip"),)), "no connection"),
}


@pytest.mark.parametrize("fault", UNAVAILABLE)
async def test_no_answer_says_why_in_one_line(fault: str) -> None:
    answer, why = UNAVAILABLE[fault]
    async with asking() as (server, prometheus):
        server.script.append(answer)
        with pytest.raises(MetricsUnavailable) as failure:
            await prometheus.query("up")
        assert len(server.asked) == 1, "nothing is tried again"
    assert why in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "127.0.0.1" not in str(failure.value)


@pytest.mark.parametrize("fault", UNAVAILABLE)
async def test_half_a_picture_is_none_and_the_next_one_is_whole(fault: str) -> None:
    async with asking() as (server, prometheus):
        seen = await look(server, prometheus, UNAVAILABLE[fault][0], "p")
        assert seen.outage
        assert not seen.readings
        again = await look(server, prometheus, vector(*busy("p")), "p")
    assert (again.outage, again.of("p")) == ("", Fresh(Load(3, 2), NOW - 5))


async def test_nobody_listens() -> None:
    async with asking() as (server, _):
        port = server.url.rpartition(":")[2]
    closed = Prometheus(PrometheusConfig(f"http://127.0.0.1:{port}"))
    with pytest.raises(
        MetricsUnavailable, match=r"^no connection with Prometheus: Connection refused$"
    ):
        await closed.query("up")
    closed.close()


async def test_a_server_that_hangs_delays_nobody_and_keeps_no_threads() -> None:
    def threads() -> int:
        return sum(t.name.startswith("prometheus") for t in threading.enumerate())

    async with asking(timeout_seconds=0.2) as (server, prometheus):
        for _ in range(3 * THREADS):
            server.script.append(Answer(silent=True))
        started = time.monotonic()
        asked = [prometheus.query("up") for _ in range(3 * THREADS)]
        said = await asyncio.gather(*asked, return_exceptions=True)
        assert time.monotonic() - started < 2
        assert {str(error) for error in said} == {"Prometheus does not answer within 0.2 s"}
        assert threads() <= THREADS
        server.script.clear()
        async with asyncio.timeout(10):
            while True:  # as soon as the sockets have given up, too
                server.script.append(vector())
                try:
                    assert await prometheus.query("up") == []
                    break
                except MetricsUnavailable:
                    server.script.clear()


@asynccontextmanager
async def dripping(head: bytes) -> AsyncIterator[PrometheusConfig]:
    """A server that says this, and then a byte now and then, so that no socket is ever silent."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        drips.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        with suppress(OSError):
            while not ended.is_set():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.transport.abort()

    ended, drips = asyncio.Event(), set[asyncio.Task[None] | None]()
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield PrometheusConfig(f"http://127.0.0.1:{port}", timeout_seconds=0.2)
        ended.set()
        await asyncio.gather(*filter(None, drips))


async def test_an_answer_that_drips_ends_its_thread() -> None:
    started = time.monotonic()
    async with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as config:
        with pytest.raises(MetricsUnavailable, match="not answer within"):
            await asyncio.to_thread(prometheus_request.ask, config, "up")
        assert time.monotonic() - started < 2


async def test_a_head_that_drips_delays_nobody() -> None:
    """Nothing ends such a thread; the others go on."""
    started = time.monotonic()
    async with dripping(b"HTTP/1.1 200 OK\r\nX: ") as config:
        prometheus = Prometheus(config)
        for _ in range(2 * THREADS):
            with pytest.raises(MetricsUnavailable, match="not answer within"):
                await prometheus.query("up")
        assert time.monotonic() - started < 2 * THREADS * 0.2 + 2
        prometheus.close()


async def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_request, "LARGEST_ANSWER", 1 << 20)
    async with asking() as (server, prometheus):
        server.script.append(Answer(200, b" " * (2 << 20)))
        with pytest.raises(MetricsUnavailable, match="more than 1 MiB"):
            await prometheus.query("up")


async def test_the_token_is_read_each_time_and_goes_nowhere_else(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with asking(token_file=token) as (server, prometheus), ScriptedApi().running() as other:
        for written in ("first\n", "second"):
            token.write_text(written)
            server.script.append(vector())
            await prometheus.query("up")
        assert [a.headers["authorization"] for a in server.asked] == [
            "Bearer first",
            "Bearer second",
        ]
        server.script.append(Answer(307, b"", (("Location", f"{other.url}/api/v1/query"),)))
        with pytest.raises(MetricsUnavailable, match="307"):
            await prometheus.query("up")
        assert other.asked == []
        for unusable in ("", None):
            token.unlink() if unusable is None else token.write_text(unusable)
            with pytest.raises(MetricsUnavailable, match="token for Prometheus cannot be read"):
                await prometheus.query("up")
        token.write_text("two\nlines")
        with pytest.raises(MetricsUnavailable) as failure:
            await prometheus.query("up")
        assert "lines" not in str(failure.value)


async def test_proxies_and_netrc_of_the_environment_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc, token = tmp_path / "netrc", tmp_path / "token"
    netrc.write_text("default login somebody password else\n")
    token.write_text("ours")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with asking(token_file=token) as (server, prometheus):
        server.script.append(vector())
        await prometheus.query("up")
        assert server.asked[0].headers["authorization"] == "Bearer ours"


def certify(folder: Path, name: str) -> None:
    """A key, and a certificate for the loopback that vouches for itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=prometheus", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", folder / f"{name}.key",
         "-out", folder / f"{name}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_its_certificate_is_checked_against_the_authority_given(tmp_path: Path) -> None:
    certify(tmp_path, "ours")
    certify(tmp_path, "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ours.crt", tmp_path / "ours.key")
    async with ScriptedApi().running(context) as server:
        trusting = Prometheus(PrometheusConfig(server.url, tmp_path / "ours.crt"))
        server.script.append(vector(element("p", "queued", "1")))
        assert [s.value for s in await trusting.query("up")] == [1.0]
        wrong = {
            "other.crt": "no TLS with Prometheus: .*self.signed certificate",
            "missing.crt": "cannot be asked|no connection",
        }
        for file, why in wrong.items():
            distrusting = Prometheus(PrometheusConfig(server.url, tmp_path / file))
            with pytest.raises(MetricsUnavailable, match=why):
                await distrusting.query("up")
            distrusting.close()
        unknown = Prometheus(PrometheusConfig(server.url))
        with pytest.raises(MetricsUnavailable, match="no TLS"):
            await unknown.query("up")
        unknown.close()
        trusting.close()
        assert len(server.asked) == 1


PICTURES: dict[str, tuple[list[Element], object]] = {
    "busy": (busy("p"), Fresh(Load(3, 2), NOW - 5)),
    "all of it": (
        [
            *busy("p"),
            element("p", "served", "1.5"),
            element("p", "refused", "0.5"),
            element("p", "wait", "2.25"),
        ],
        Fresh(Load(3, 2, 1.5, 0.5, 2.25), NOW - 5),
    ),
    "nobody waited": ([*busy("p"), element("p", "wait", "NaN")], Fresh(Load(3, 2), NOW - 5)),
    "only a queue yet": (busy("p")[:2], Fresh(Load(3, 0), NOW - 5)),
    "no queue yet": (busy("p")[::2], Fresh(Load(0, 2), NOW - 5)),
    "never asked": (
        [element("p", "scraped", str(NOW - 5)), element("p", "empty", str(NOW - 5))],
        Idle(NOW - 5),
    ),
    "its gauges are dropped": (
        [element("p", "scraped", str(NOW - 5))],
        Broken("its page has series, but none that tells its load"),
    ),
    "it was empty long ago, a sidecar is read": (
        [element("p", "scraped", str(NOW - 5)), element("p", "empty", str(NOW - 90))],
        Stale(NOW - 90),
    ),
    "nothing": ([], Absent()),
    "others": (busy("q"), Absent()),
    "elsewhere": ([e | {"metric": e["metric"] | {"namespace": "x"}} for e in busy("p")], Absent()),
    "no labels": ([{"metric": {}, "value": [NOW, "1"]}], Absent()),
    "other labels": (
        [{"metric": {"kubernetes_pod_name": "p"}, "value": [NOW, "1"]}],
        Absent(),
    ),
    "a load of unknown age": (busy("p")[1:], Broken("its load is there, but not when it was read")),
    "scrape failed": ([element("p", "scraped", "0")], Broken("its last scrape failed")),
    "just not stale": ([element("p", "scraped", str(NOW - 45)), *busy("p")[1:]], None),
    "stale": ([element("p", "scraped", str(NOW - 46)), *busy("p")[1:]], Stale(NOW - 46)),
    "stale and never asked": ([element("p", "empty", str(NOW - 300))], Stale(NOW - 300)),
    "from the future": (
        [element("p", "scraped", str(NOW + 3600)), *busy("p")[1:]],
        Broken("the time of its last scrape cannot be"),
    ),
    "scraped NaN ago": (
        [element("p", "scraped", "NaN"), *busy("p")[1:]],
        Broken("the time of its last scrape cannot be"),
    ),
    "scraped never": (
        [element("p", "scraped", "-Inf"), *busy("p")[1:]],
        Broken("the time of its last scrape cannot be"),
    ),
    "NaN": (busy("p", queued="NaN"), Broken("nan queued requests")),
    "Inf": (busy("p", running="+Inf"), Broken("inf running requests")),
    "negative": (busy("p", queued="-1"), Broken("-1 queued requests")),
    "a negative rate": (
        [*busy("p"), element("p", "served", "-1")],
        Broken("-1 requests per second"),
    ),
    "an endless wait": (
        [*busy("p"), element("p", "wait", "+Inf")],
        Broken("inf seconds of waiting"),
    ),
    "twice the same": ([*busy("p"), *busy("p")], Fresh(Load(3, 2), NOW - 5)),
    "twice, differently": ([*busy("p"), *busy("p", queued="9")], Broken("nan queued requests")),
}


@pytest.mark.parametrize("picture", PICTURES)
async def test_each_kind_of_answer_is_a_kind_of_reading(picture: str) -> None:
    elements, expected = PICTURES[picture]
    async with asking() as (server, prometheus):
        seen = await look(server, prometheus, vector(*elements), "p")
    assert seen.outage == ""
    assert seen.of("p") == (expected or Fresh(Load(3, 2), NOW - 45))


async def test_half_of_the_pods_and_all_deployments_in_one_request() -> None:
    async with asking() as (server, prometheus):
        server.script.append(vector(*busy("a"), *busy("c", queued="0")))
        reader = FromPrometheus(prometheus, [engine("tgi").metrics], clock=lambda: NOW)
        other = Key("models", "other")
        found = await reader.read({OURS: [ready("a"), ready("b")], other: [ready("c")]})
        assert len(server.asked) == 1
        assert isinstance(found[OURS].of("a"), Fresh)
        assert found[OURS].of("b") == Absent()
        assert "c" not in found[OURS].readings
        assert isinstance(found[other].of("c"), Fresh)
        assert await reader.read({OURS: []}) == {OURS: Signals(NOW)}
        assert len(server.asked) == 1, "nobody to ask for"


async def test_a_cache_that_repeats_itself_is_found_out() -> None:
    async with asking() as (server, prometheus):
        reader = FromPrometheus(prometheus, [engine("tgi").metrics])
        said = []
        for at in (NOW, NOW, NOW, NOW + 15, NOW - 30, NOW - 15):
            server.script.append(vector(*busy("p", at=at)))
            said.append((await reader.read({OURS: [ready("p")]}))[OURS].outage)
    assert said == ["", *2 * ["Prometheus repeats an old answer"], "", "", ""]


@pytest.mark.parametrize("ours", [NOW + 7200, NOW - 7200])
async def test_ages_are_by_its_clock_and_times_by_ours(ours: float) -> None:
    elements = [
        *busy("p"),
        element("idle", "empty", str(NOW - 7)),
        element("stale", "scraped", str(NOW - 100)),
    ]
    async with asking() as (server, prometheus):
        server.script.append(vector(*elements))
        reader = FromPrometheus(prometheus, [engine("tgi").metrics], clock=lambda: ours)
        pods = [ready(name) for name in ("p", "idle", "stale")]
        seen = (await reader.read({OURS: pods}))[OURS]
    assert seen.at == ours
    assert seen.readings == {
        "p": Fresh(Load(3, 2), ours - 5),
        "idle": Idle(ours - 7),
        "stale": Stale(ours - 100),
    }


async def test_labels_are_called_as_configured() -> None:
    config = {"namespace_label": "kubernetes_namespace", "pod_label": "kubernetes_pod"}
    async with asking(**config, matchers='cluster="a"') as (server, prometheus):
        labels = {"kubernetes_namespace": "models", "kubernetes_pod": "p"}
        elements = [e | {"metric": {**labels, "signal": e["metric"]["signal"]}} for e in busy("p")]
        seen = await look(server, prometheus, vector(*elements), "p")
        assert isinstance(seen.of("p"), Fresh)
        query = server.asked[0].query["query"]
    assert "max by (kubernetes_namespace, kubernetes_pod)" in query
    assert 'tgi_queue_size{kubernetes_pod!="",cluster="a"}' in query
    assert 'tgi_request_failure{kubernetes_pod!="",cluster="a",err="overloaded"}[60s]' in query


async def test_a_slow_scrape_interval_makes_for_patience() -> None:
    async with asking(scrape_interval_seconds=60) as (server, prometheus):
        elements = [element("p", "scraped", str(NOW - 170)), *busy("p")[1:]]
        seen = await look(server, prometheus, vector(*elements), "p")
        assert isinstance(seen.of("p"), Fresh)
        assert "tgi_request_success" in server.asked[0].query["query"]
        assert "[240s]" in server.asked[0].query["query"]


async def test_without_a_prometheus_the_pods_are_asked() -> None:
    reader = source(None)
    assert (await reader.read({OURS: [ready("p")]}))[OURS].source == "the pods"
    reader.close()
    asked = source(Prometheus(PrometheusConfig("http://127.0.0.1:1")))
    seen = (await asked.read({OURS: [ready("p")]}))[OURS]
    assert seen.source == "Prometheus"
    assert "Connection refused" in seen.outage
    asked.close()


WRONG: list[Callable[[], PrometheusConfig]] = [
    lambda: PrometheusConfig("prometheus:9090"),
    lambda: PrometheusConfig("file:///etc/passwd"),
    lambda: PrometheusConfig("http://"),
    lambda: PrometheusConfig("http://a:b@c"),
    lambda: PrometheusConfig("http://[::1"),
    lambda: PrometheusConfig("http://a:99999999"),
    lambda: PrometheusConfig("http://a/?query=b"),
    lambda: PrometheusConfig("http://a", pod_label="a-b"),
    lambda: PrometheusConfig("http://a", namespace_label=""),
    lambda: PrometheusConfig("http://a", matchers="a=b"),
    lambda: PrometheusConfig("http://a", matchers='a="b"} or up{'),
    lambda: PrometheusConfig("http://a", timeout_seconds=0),
]


@pytest.mark.parametrize("made", WRONG)
def test_what_cannot_be_is_refused_at_the_start(made: Callable[[], PrometheusConfig]) -> None:
    with pytest.raises(ValueError, match=r"Prometheus|seconds|like"):
        made()


def test_matchers_may_be_several() -> None:
    for good in ("", 'a="b"', 'a=~"b|c", d!="\\"x"', 'a!~".+",b="}"'):
        assert PrometheusConfig("https://a:1/prefix/", matchers=good).matchers == good
