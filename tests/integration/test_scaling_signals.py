"""The one query, on a real Prometheus: what it makes of what pods show and of how it is scraped.

Pods are pages of a web server on the loopback, with labels as any scrape configuration gives them.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import yaml
from tests.unit.status_samples import ready

from llm_operator.cluster import binaries
from llm_operator.facts.signals import Absent, Broken, Fresh, Idle, Load, Reading, Signals
from llm_operator.kube.store import Key
from llm_operator.observe.prometheus import Prometheus, PrometheusConfig
from llm_operator.observe.signals import FromPrometheus
from llm_operator.runtimes.base import engine

pytestmark = pytest.mark.timeout(300)  # the program may have to be got first

DATA = Path(__file__).parents[1] / "data"
RECORDED = json.loads((DATA / "tgi_router_recorded.json").read_text())
SIDECAR = "# TYPE envoy_server_live gauge\nenvoy_server_live 1\n"
INTERVAL = 0.5


def recorded(case: str) -> str:
    """A page of the router's own; its file leaves most buckets out, with a line that says so."""
    lines = RECORDED[case]["body"].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("..."))


def gauges(queued: str = "3", running: str = "2") -> str:
    return f"tgi_queue_size {queued}\ntgi_batch_current_size {running}\n"


def at_work(step: int) -> str:
    """Each look a request more was served and refused; half of them waited 1 s, half 3 s."""
    return gauges() + (
        f"# TYPE tgi_request_success counter\ntgi_request_success {step}\n"
        f'# TYPE tgi_request_failure counter\ntgi_request_failure{{err="overloaded"}} {step}\n'
        f'tgi_request_failure{{err="validation"}} {50 * step}\n'
        "# TYPE tgi_request_queue_duration histogram\n"
        f'tgi_request_queue_duration_bucket{{le="1"}} {step}\n'
        f'tgi_request_queue_duration_bucket{{le="3"}} {2 * step}\n'
        f'tgi_request_queue_duration_bucket{{le="+Inf"}} {2 * step}\n'
        f"tgi_request_queue_duration_sum {4 * step}\ntgi_request_queue_duration_count {2 * step}\n"
    )


PODS: dict[str, list[str | None]] = {
    # what each job that scrapes the pod finds; None: it fails
    "busy": [gauges()],
    "idle": [recorded("metrics_before_any_request")],
    "first": [recorded("metrics_after_one_request")],
    "loaded": [recorded("metrics_under_load")],
    "queue-only": ["tgi_queue_size 1\n"],
    "down": [None],
    "sidecar": [SIDECAR],
    "sidecar-up": [None, SIDECAR],
    "idle-with-sidecar": [SIDECAR, ""],
    "busy-with-sidecar": [gauges(), SIDECAR],
    "dropped": ["tgi_request_count 7\n"],
    "twice": [gauges(), gauges()],
    "twice-half-down": [None, gauges()],
    "nan": [gauges(queued="NaN")],
    "at-work": ["steps"],
}


def expected(at: float) -> dict[str, Reading]:
    fresh, no_load = Fresh(Load(3, 2), at), "its page has series, but none that tells its load"
    return {
        "busy": fresh,
        "idle": Idle(at),
        "first": Fresh(Load(0, 0), at),
        "queue-only": Fresh(Load(1, 0), at),
        "down": Broken("its last scrape failed"),
        "sidecar": Broken(no_load),
        "sidecar-up": Broken(no_load),
        "idle-with-sidecar": Idle(at),
        "busy-with-sidecar": fresh,
        "dropped": Broken(no_load),
        "twice": fresh,
        "twice-half-down": fresh,
        "nan": Broken("nan queued requests"),
        "unheard-of": Absent(),
    }


class Pages(BaseHTTPRequestHandler):
    """`/<pod>/<job>` is what that job finds there."""

    steps = itertools.count(1)

    def do_GET(self) -> None:
        _, pod, job = self.path.split("?")[0].split("/")
        page = PODS[pod][int(job)]
        body = (at_work(next(self.steps)) if page == "steps" else page or "").encode()
        self.send_response(503 if page is None else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped all pages a few times."""
    program = binaries.need("prometheus")["prometheus"]
    folder = tmp_path_factory.mktemp("prometheus")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=pages.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{pages.server_port}"
    jobs = [
        {
            "job_name": f"{pod}-{job}",
            "metrics_path": f"/{pod}/{job}",
            "static_configs": [
                {"targets": [address], "labels": {"namespace": "models", "pod": pod}}
            ],
        }
        for pod, found in PODS.items()
        for job in range(len(found))
    ]
    every = f"{round(INTERVAL * 1000)}ms"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every},
        "scrape_configs": jobs,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as free:
        listens = f"127.0.0.1:{free.server_port}"
    command = [
        str(program),
        f"--config.file={folder}/config.yaml",
        f"--storage.tsdb.path={folder}/data",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={listens}"], stdout=log, stderr=log
        )
    try:
        jobs_scraped = quote(f"min(count_over_time(up[1h])) and count(up) == {len(jobs)}")
        query = f"http://{listens}/api/v1/query?query={jobs_scraped}"
        until_scraped(query, process, folder / "log")
        yield f"http://{listens}"
    finally:
        process.kill()
        process.wait()
        pages.shutdown()
        pages.server_close()


def until_scraped(query: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    scrapes = 0.0
    while scrapes < 4:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
        try:
            with urllib.request.urlopen(query, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except (OSError, urllib.error.HTTPError):
            continue
        scrapes = float(found[0]["value"][1]) if found else 0.0


@asynccontextmanager
async def looking(url: str, **config: Any) -> AsyncIterator[FromPrometheus]:
    prometheus = Prometheus(PrometheusConfig(url, scrape_interval_seconds=INTERVAL, **config))
    reader = FromPrometheus(prometheus, [engine("tgi").metrics])
    yield reader
    reader.close()


async def look(url: str, namespace: str = "models", **config: Any) -> Signals:
    """The readings of all pods."""
    key = Key(namespace, "any")
    async with looking(url, **config) as reader:
        return (await reader.read({key: [ready(name) for name in [*PODS, "unheard-of"]]}))[key]


@pytest_asyncio.fixture
async def seen(url: str) -> Signals:
    return await look(url)


async def test_the_query_is_understood_and_the_answer_recent(seen: Signals) -> None:
    assert seen.outage == ""
    assert abs(seen.at - time.time()) < 5
    reading = seen.of("busy")
    assert isinstance(reading, Fresh)
    assert 0 <= seen.at - reading.at < 4 * INTERVAL + 1


@pytest.mark.parametrize("pod", expected(0))
async def test_each_pod_is_what_it_shows(seen: Signals, pod: str) -> None:
    reading = seen.of(pod)
    at = getattr(reading, "at", 0.0)
    assert reading == expected(at)[pod]


async def test_what_was_recorded_of_a_busy_engine_is_its_load(seen: Signals) -> None:
    reading = seen.of("loaded")
    assert isinstance(reading, Fresh)
    assert (reading.load.queued, reading.load.running) == (0, 4)


async def test_rates_and_waits_are_of_the_pods_requests(seen: Signals) -> None:
    reading = seen.of("at-work")
    assert isinstance(reading, Fresh)
    assert reading.load.served_rate > 0
    assert reading.load.refused_rate == pytest.approx(reading.load.served_rate)
    assert reading.load.queue_seconds == pytest.approx(2.8)  # 0.9 of the way from 1 s to 3 s


async def test_pods_of_the_same_name_elsewhere_are_not_ours(url: str) -> None:
    elsewhere = await look(url, namespace="others")
    assert set(elsewhere.readings.values()) == {Absent()}


async def test_matchers_narrow_what_counts(url: str) -> None:
    narrowed = await look(url, matchers='job=~"busy-.*|idle-.*"')
    assert isinstance(narrowed.of("busy"), Fresh)
    assert isinstance(narrowed.of("idle"), Idle)
    assert narrowed.of("twice") == Absent()


async def test_labels_of_other_names_find_nothing(url: str) -> None:
    lost = await look(url, pod_label="kubernetes_pod_name")
    assert lost.outage == ""
    assert set(lost.readings.values()) == {Absent()}


async def test_each_look_is_computed_anew(url: str) -> None:
    async with looking(url) as reader:
        key = Key("models", "any")
        for _ in range(5):
            assert (await reader.read({key: [ready("busy")]}))[key].outage == ""
