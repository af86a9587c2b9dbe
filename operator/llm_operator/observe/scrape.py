"""Reads the metrics pages of pods: how busy each one is, asked of the pods themselves.

Decides what of a page counts and when it is no load. Refuses to know what is done with it. The
parser reads only the few series that it is asked for: a page has a thousand lines, and a fleet a
thousand pages.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import aiohttp

from llm_operator.facts.cluster import PodFact
from llm_operator.facts.signals import (
    Absent,
    Broken,
    Fresh,
    Idle,
    Load,
    Reading,
    Signals,
)
from llm_operator.kube.store import Key
from llm_operator.runtimes.base import Engine

SOURCE: Final = "the pods"
AT_ONCE: Final = 64
SECONDS: Final = 2.0
"""For one page."""
ALL_SECONDS: Final = 10.0
"""For all pages of a tick; who was not asked by then is not known."""
WINDOW_SECONDS: Final = 60.0
"""Of rates and waits."""
LARGEST_PAGE: Final = 4 << 20

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Unread:
    """Why a page could not be read."""

    why: str


def series(page: str, names: Collection[str]) -> list[Series]:
    """The series of these names. ValueError if the page is not in Prometheus' text format."""
    found = []
    for line in page.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise ValueError("this is no metrics page")
        value = float(match[3])
        if match[1] in names:
            found.append(Series(match[1], dict(_LABEL.findall(match[2] or "")), value))
    return found


def total(found: Collection[Series], name: str, **labels: str) -> float | None:
    """Sum of the series of a name, and with these labels; None if there is none."""
    values = [s.value for s in found if s.name == name and labels.items() <= s.labels.items()]
    return sum(values) if values else None


async def pages(
    pods: Collection[PodFact], serving: Engine, *, seconds: float, all_seconds: float
) -> list[str | Unread]:
    """The metrics page of each pod, in their order. No redirect is followed."""
    places = asyncio.Semaphore(AT_ONCE)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # a pod that drains must be let go
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:

        async def ask(pod: PodFact) -> str | Unread:
            async with places:
                return await _ask(http, f"http://{pod.ip}:{serving.port}{serving.metrics.path}")

        with _cancelled_at_the_end([asyncio.create_task(ask(pod)) for pod in pods]) as tasks:
            if tasks:
                await asyncio.wait(tasks, timeout=all_seconds)
            return [task.result() if task.done() else Unread("no time to ask") for task in tasks]


@contextmanager
def _cancelled_at_the_end(
    tasks: list[asyncio.Task[str | Unread]],
) -> Iterator[list[asyncio.Task[str | Unread]]]:
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()


async def _ask(http: aiohttp.ClientSession, url: str) -> str | Unread:
    try:
        async with http.get(url, allow_redirects=False) as response:
            if response.status != 200:
                return Unread(f"answers {response.status}")
            content = b""
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > LARGEST_PAGE:
                    return Unread("has too long a page")
            return content.decode()
    except TimeoutError:
        return Unread("does not answer")
    except (aiohttp.ClientError, ValueError) as error:
        return Unread(f"cannot be reached ({type(error).__name__})")


def judged(
    at: float,
    queued: float | None,
    running: float | None,
    served: float | None = None,
    refused: float | None = None,
    wait: float | None = None,
) -> Fresh | Broken:
    """What was read at `at`, if it can be a load. None: nothing of the kind has been counted yet.

    A wait of NaN seconds is a quantile of nothing: nobody has waited.
    """
    load = Load(queued or 0.0, running or 0.0, served or 0.0, refused or 0.0)
    numbers = {
        "queued requests": load.queued,
        "running requests": load.running,
        "requests per second": load.served_rate,
        "refusals per second": load.refused_rate,
    }
    if wait is not None and not math.isnan(wait):
        load = replace(load, queue_seconds=wait)
        numbers["seconds of waiting"] = wait
    for what, number in numbers.items():
        if not math.isfinite(number) or number < 0:
            return Broken(f"{number:g} {what}")
    return Fresh(load, at)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a pod has counted since it began. `waits`: requests that waited so long at most."""

    served: float
    refused: float
    waits: Mapping[float, float]

    def is_after(self, earlier: _Counted) -> bool:
        """Whether it can have come from there. After a restart the counters begin again."""
        pairs = [(self.served, earlier.served), (self.refused, earlier.refused)]
        pairs += [(self.waits.get(le, 0.0), count) for le, count in earlier.waits.items()]
        return all(now >= before for now, before in pairs)


class FromPods:
    """Asks every pod itself, for clusters without a Prometheus. Rates are differences of pages."""

    def __init__(
        self,
        serving: Engine,
        *,
        clock: Callable[[], float] = time.time,
        seconds: float = SECONDS,
        all_seconds: float = ALL_SECONDS,
    ) -> None:
        """`clock`: seconds since the epoch. `seconds` for one page, `all_seconds` for a tick."""
        self._serving = serving
        self._clock = clock
        self._limits = seconds, all_seconds
        self._past: dict[tuple[str, str], deque[tuple[float, _Counted]]] = {}

    async def read(self, wanted: Mapping[Key, Collection[PodFact]]) -> Mapping[Key, Signals]:
        """One page of each pod that has an address. Never raises."""
        pods = {
            (key.namespace, pod.name): pod for key, some in wanted.items() for pod in some if pod.ip
        }
        self._past = {pod: past for pod, past in self._past.items() if pod in pods}
        seconds, all_seconds = self._limits
        answers = await pages(
            pods.values(), self._serving, seconds=seconds, all_seconds=all_seconds
        )
        at = self._clock()
        readings = {
            pod: self._reading(pod, answer, at) for pod, answer in zip(pods, answers, strict=True)
        }
        return {
            key: Signals(
                at,
                {pod.name: readings.get((key.namespace, pod.name), Absent()) for pod in some},
                SOURCE,
            )
            for key, some in wanted.items()
        }

    def close(self) -> None:
        """Nothing is kept open."""

    def _reading(self, pod: tuple[str, str], answer: str | Unread, at: float) -> Reading:
        if isinstance(answer, Unread):
            return Broken(answer.why)
        names = self._serving.metrics
        buckets = f"{names.queue_seconds}_bucket"
        wanted = {
            names.queued_requests,
            names.running_requests,
            names.succeeded_requests,
            names.failed_requests,
            buckets,
        }
        try:
            found = series(answer, wanted)
            waits = {float(s.labels["le"]): s.value for s in found if s.name == buckets}
        except (ValueError, KeyError):
            return Broken("its metrics page cannot be read")
        queued, running = total(found, names.queued_requests), total(found, names.running_requests)
        counted = _Counted(
            total(found, names.succeeded_requests) or 0.0,
            total(found, names.failed_requests, **{names.failure_label: names.refused}) or 0.0,
            waits,
        )
        since, before = self._earlier(pod, counted)
        if queued is None and running is None:
            return Idle(at)
        served = refused = 0.0
        if since > 0:
            served = (counted.served - before.served) / since
            refused = (counted.refused - before.refused) / since
        more = {le: count - before.waits.get(le, 0.0) for le, count in waits.items()}
        return judged(at, queued, running, served, refused, quantile(0.95, more))

    def _earlier(self, pod: tuple[str, str], counted: _Counted) -> tuple[float, _Counted]:
        """Seconds since the oldest page of the window, and what it had counted; keeps this one."""
        now = asyncio.get_running_loop().time()
        past = self._past.setdefault(pod, deque())
        while past and now - past[0][0] > WINDOW_SECONDS:
            past.popleft()
        if past and not counted.is_after(past[-1][1]):
            past.clear()
        past.append((now, counted))
        return now - past[0][0], past[0][1]


def quantile(share: float, cumulative: Mapping[float, float]) -> float | None:
    """Of a histogram's counts by upper bound, as PromQL's `histogram_quantile`. None if empty.

    Linear within a bucket; beyond the last finite bound it is that bound.
    """
    bounds = sorted(cumulative)
    if not bounds or cumulative[bounds[-1]] <= 0:
        return None
    rank = share * cumulative[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        count = cumulative[bound]
        if count >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / (count - below) if count > below else low
        low, below = bound, count
    return low
