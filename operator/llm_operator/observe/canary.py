"""Measures how the requests of two revisions go, in the background, while a canary is at a step.

Decides which series are read, and how counters become counts within a time. Refuses to judge them:
that is `rollout.analysis`.

Two readings, one of now and one of the window's beginning, are subtracted here. PromQL's `increase`
would miss what a counter already had when it was first seen, and an engine's failures appear with
the first one; it would also estimate, where requests can be counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from llm_operator.facts.canary import Histogram, Measured, Trial, Window
from llm_operator.kube.store import Key
from llm_operator.observe.prometheus import MetricsUnavailable, PrometheusConfig, Sample
from llm_operator.runtimes.base import MetricNames

log = logging.getLogger(__name__)

LOOKS_PER_WINDOW: Final = 20
FASTEST_SECONDS: Final = 1.0
SLOWEST_SECONDS: Final = 15.0
GENERATED_NAME_LENGTH: Final = 58
"""The API server cuts a pod's name to so many characters before it adds five of its own."""
NO_PROMETHEUS: Final = Measured(None, outage="the operator has no Prometheus (--prometheus-url)")

Page = Mapping[tuple[str, str], float]
"""The series of one pod: by name, and bucket or cause of a failure ("" for others)."""


class Queries(Protocol):
    """What is needed of `observe.prometheus.Prometheus`."""

    config: PrometheusConfig

    async def query(self, promql: str) -> list[Sample]: ...


@dataclass(frozen=True)
class Side:
    """One revision. `serving`: names of its pods, with since when they serve, as far as is known.

    Seconds since the epoch.
    """

    replica_set: str
    metrics: MetricNames
    serving: Mapping[str, float]


@dataclass(frozen=True)
class Question:
    """What to measure: the two sides of a trial."""

    trial: Trial
    namespace: str
    new: Side
    old: Side


async def measure(prometheus: Queries, question: Question, now: float) -> Measured:
    """One measurement. Never raises."""
    seconds = min(max(now - question.trial.since, 1.0), question.trial.window_seconds)
    try:
        return await _measured(prometheus, question, now, seconds)
    except MetricsUnavailable as error:
        return Measured(question.trial, seconds, outage=str(error))
    except Exception as error:
        log.exception("measuring %s", question.trial.new)
        return Measured(
            question.trial, seconds, outage=f"measuring failed ({type(error).__name__})"
        )


async def _measured(
    prometheus: Queries, question: Question, now: float, seconds: float
) -> Measured:
    selector = _selector(prometheus.config, question)
    now_there = await prometheus.query(selector)
    before = await prometheus.query(f"{selector} offset {seconds:.0f}s")
    present = _pages(now_there, prometheus.config, question)
    past = _pages(before, prometheus.config, question)
    newer = now - seconds - 2 * prometheus.config.scrape_interval_seconds
    new, unread = _window(question.new, present, past, newer)
    old, _ = _window(question.old, present, past, newer)
    return Measured(question.trial, seconds, new, old, unread)


class Analyst:
    """Measures for each LLMDeployment that asks, again and again until it asks no more.

    `found(key)` is called when what was measured has changed. `clock` gives seconds since the
    epoch. Without a Prometheus every answer is that there is none.
    """

    def __init__(
        self,
        found: Callable[[Key], None],
        prometheus: Queries | None,
        clock: Callable[[], float],
    ) -> None:
        self._found = found
        self._prometheus = prometheus
        self._clock = clock
        self._asked: dict[Key, Question] = {}
        self._measured: dict[Key, Measured] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def ask(self, key: Key, question: Question) -> None:
        """See to it that this is being measured from now on, and nothing else for the object."""
        if self._prometheus is None:
            return
        known = self._asked.get(key)
        if known is not None and known.trial != question.trial:
            self.forget(key)
        self._asked[key] = question
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._watch(key, self._prometheus))

    def result(self, key: Key) -> Measured | None:
        """The last measurement; None while there is none."""
        return NO_PROMETHEUS if self._prometheus is None else self._measured.get(key)

    def forget(self, key: Key) -> None:
        """Measure no more for this object."""
        self._asked.pop(key, None)
        self._measured.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop measuring."""
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, key: Key, prometheus: Queries) -> None:
        while True:
            question = self._asked[key]
            measured = await measure(prometheus, question, self._clock())
            known = self._measured.get(key)
            self._measured[key] = measured
            if known is None or replace(known, seconds=measured.seconds) != measured:
                self._found(key)
            pause = question.trial.window_seconds / LOOKS_PER_WINDOW
            await asyncio.sleep(min(max(pause, FASTEST_SECONDS), SLOWEST_SECONDS))


def _selector(config: PrometheusConfig, question: Question) -> str:
    """All series that are needed, of all pods that either revision has or had."""
    names, pods = {"up"}, []
    for side in (question.new, question.old):
        names |= {side.metrics.succeeded_requests, side.metrics.failed_requests}
        for histogram in (side.metrics.request_seconds, side.metrics.token_seconds):
            names |= {f"{histogram}_bucket", f"{histogram}_sum"}
        pods.append(f"{side.replica_set}-"[:GENERATED_NAME_LENGTH] + "[a-z0-9]+")
    parts = [
        f'__name__=~"{"|".join(sorted(names))}"',
        f'{config.namespace_label}="{question.namespace}"',
        f'{config.pod_label}=~"{"|".join(pods)}"',
        config.matchers,
    ]
    return "{" + ",".join(filter(None, parts)) + "}"


def _pages(
    samples: Iterable[Sample], config: PrometheusConfig, question: Question
) -> dict[str, Page]:
    """The series by pod. Of a pod that several jobs read the larger counts."""
    causes = [side.metrics.failure_label for side in (question.new, question.old)]
    pages: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for sample in samples:
        labels = sample.labels
        page = pages[labels.get(config.pod_label, "")]
        series = (
            labels.get("__name__", ""),
            next((labels[kind] for kind in ("le", *causes) if kind in labels), ""),
        )
        known = page.get(series)
        page[series] = sample.value if known is None else max(known, sample.value)
    return dict(pages)


def _is_read(page: Page) -> bool:
    """Prometheus could read the pod, and found counts."""
    return page.get(("up", "")) == 1 and all(math.isfinite(v) and v >= 0 for v in page.values())


def _window(
    side: Side, present: Mapping[str, Page], past: Mapping[str, Page], newer: float
) -> tuple[Window | None, int]:
    """The requests of one revision within the window, and how many of its pods cannot be read.

    A pod that was read at the window's beginning and had no series had no request yet. One that was
    not read then must have come to serve after `newer`.
    """
    total: dict[tuple[str, str], float] = defaultdict(float)
    read = 0
    for pod, since in side.serving.items():
        page, base = present.get(pod, {}), past.get(pod, {})
        if not _is_read(page) or not (_is_read(base) or since >= newer):
            continue
        read += 1
        for series, value in _gained(page, base).items():
            total[series] += value
    unread = len(side.serving) - read
    return (_counted(total, side.metrics) if read else None), unread


def _gained(page: Page, base: Page) -> Page:
    """What has been counted since; of an engine that has started again, all that it has."""
    counters = {series: value for series, value in base.items() if series[0] != "up"}
    if any(page.get(series, 0.0) < value for series, value in counters.items()):
        return page
    return {series: value - counters.get(series, 0.0) for series, value in page.items()}


def _counted(total: Page, metrics: MetricNames) -> Window:
    succeeded = total.get((metrics.succeeded_requests, ""), 0.0)
    failures = sum(
        value
        for (name, cause), value in total.items()
        if name == metrics.failed_requests and cause not in metrics.client_failures
    )
    return Window(
        succeeded + failures,
        failures,
        _histogram(total, metrics.request_seconds),
        _histogram(total, metrics.token_seconds),
    )


def _histogram(total: Page, name: str) -> Histogram:
    """From cumulative buckets."""
    found = (
        (float(bound), value)
        for (series, bound), value in total.items()
        if series == f"{name}_bucket"
    )
    below, bounds, counts = 0.0, [], []
    for bound, value in sorted(found):
        bounds.append(bound)
        counts.append(max(value - below, 0.0))
        below = max(value, below)
    if not counts:
        return Histogram()
    return Histogram(tuple(bounds[:-1]), tuple(counts), total.get((f"{name}_sum", ""), 0.0))
