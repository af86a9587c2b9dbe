"""How busy our pods are: one question for all deployments of the cluster, one reading for each pod.

Decides what is asked of Prometheus and which kind of reading an answer is. Refuses to know what
follows from it, and any name of an engine's series.

One query for the whole set, so that all of it is of the same moment and either there or not: there
is never half a picture, rates and waits included, since a refusal that is overlooked would be as
wrong as a queue that is. Each kind of signal is an operand of `or`, told apart by a label. `max by`
the pod, so that two jobs which read the same pod do not double it. Of the samples only those of our
own pods count; who else lives in the cluster is passed over.

How old a reading is follows from when the pod was last scraped, by the server's own clock; a gauge
that is no longer scraped would be repeated for minutes. Without gauges, a pod is idle only if some
scrape of it went well and its page was empty, as that of an engine before its first request is. If
the page has series, but none of these, then somebody drops them, or it is another program's page
(a sidecar's): that is unknown, not zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from llm_operator.facts.cluster import PodFact
from llm_operator.facts.signals import Absent, Broken, Idle, Reading, Signals, Stale
from llm_operator.kube.store import Key
from llm_operator.observe.prometheus import (
    MetricsUnavailable,
    Prometheus,
    PrometheusConfig,
    Sample,
)
from llm_operator.observe.scrape import FromPods, judged
from llm_operator.runtimes.base import ENGINES, MetricNames, engine

SOURCE: Final = "Prometheus"
SIGNAL: Final = "signal"
"""Label that tells the operands of the query apart."""
QUANTILE: Final = 0.95

OLDEST_SECONDS: Final = 45.0
"""A reading is stale after three scrape intervals, and not before this."""
WINDOW_SECONDS: Final = 60.0
"""Rates and waits are over four scrape intervals, and not over less than this."""

SCRAPED, EMPTY = "scraped", "empty"
QUEUED, RUNNING, SERVED, REFUSED, WAIT = "queued", "running", "served", "refused", "wait"

Place = tuple[str, str]
"""Namespace and name of a pod."""


class PodSource(Protocol):
    """Who tells how busy pods are."""

    async def read(self, wanted: Mapping[Key, Collection[PodFact]]) -> Mapping[Key, Signals]:
        """The readings of all these pods, of now, by deployment. Never raises."""
        ...

    def close(self) -> None:
        """Ask no more."""
        ...


def source(prometheus: Prometheus | None) -> PodSource:
    """Prometheus where there is one, else the pods themselves."""
    if prometheus is None:
        return FromPods(engine(None))
    return FromPrometheus(prometheus, [engine(name).metrics for name in ENGINES])


class FromPrometheus:
    """One query per read, whatever the number of deployments."""

    def __init__(
        self,
        prometheus: Prometheus,
        engines: Sequence[MetricNames],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since the epoch."""
        self._prometheus = prometheus
        self._config = prometheus.config
        self._query = question(prometheus.config, engines)
        self._oldest = max(3 * prometheus.config.scrape_interval_seconds, OLDEST_SECONDS)
        self._clock = clock
        self._computed_at = -math.inf

    async def read(self, wanted: Mapping[Key, Collection[PodFact]]) -> Mapping[Key, Signals]:
        """As PodSource. Times are by our clock: the server's tells only how old a reading is."""
        ours = {(key.namespace, pod.name) for key, pods in wanted.items() for pod in pods}
        try:
            samples = await self._ask() if ours else []
        except MetricsUnavailable as error:
            at = self._clock()
            return {key: Signals(at, source=SOURCE, outage=str(error)) for key in wanted}
        at = self._clock()
        values = self._values(samples, ours)
        behind = at - self._computed_at  # our clock is, against the server's

        def read_of(pod: Place) -> Reading:
            return reading(values.get(pod, {}), self._computed_at, self._oldest, behind)

        return {
            key: Signals(at, {p.name: read_of((key.namespace, p.name)) for p in pods}, SOURCE)
            for key, pods in wanted.items()
        }

    def close(self) -> None:
        """Ask no more."""
        self._prometheus.close()

    async def _ask(self) -> list[Sample]:
        """MetricsUnavailable also if it was computed when the last answer was: a cache's, then."""
        samples = await self._prometheus.query(self._query)
        if samples:
            before, self._computed_at = self._computed_at, samples[0].at
            if before == self._computed_at:
                raise MetricsUnavailable("Prometheus repeats an old answer")
        return samples

    def _values(
        self, samples: Sequence[Sample], ours: Collection[Place]
    ) -> dict[Place, dict[str, float]]:
        """By signal, of our own pods."""
        found: dict[Place, dict[str, float]] = {}
        namespace_label, pod_label = self._config.namespace_label, self._config.pod_label
        for sample in samples:
            labels = sample.labels
            place = labels.get(namespace_label, ""), labels.get(pod_label, "")
            if place not in ours:
                continue
            signal, values = labels.get(SIGNAL, ""), found.setdefault(place, {})
            if values.setdefault(signal, sample.value) != sample.value:
                values[signal] = math.nan  # the server contradicts itself
        return found


def question(config: PrometheusConfig, engines: Sequence[MetricNames]) -> str:
    """The query, in PromQL: an operand for each signal, of whichever engine a pod has.

    `timestamp` tells a sample's own time only of a plain selector; a scrape that failed counts 0.
    """
    conditions = [f'{config.pod_label}!=""', *filter(None, [config.matchers])]
    by = f"{config.namespace_label}, {config.pod_label}"
    over = f"[{max(4 * config.scrape_interval_seconds, WINDOW_SECONDS):.0f}s]"

    def series(name: str, *more: str) -> str:
        return f"{name}{{{','.join([*conditions, *more])}}}"

    def refusals(names: MetricNames) -> str:
        return series(names.failed_requests, f'{names.failure_label}="{names.refused}"')

    up, lines = series("up"), series("scrape_samples_scraped")
    queued = (series(e.queued_requests) for e in engines)
    running = (series(e.running_requests) for e in engines)
    served = (f"rate({series(e.succeeded_requests)}{over})" for e in engines)
    refused = (f"rate({refusals(e)}{over})" for e in engines)
    waits = (f"rate({series(e.queue_seconds + '_bucket')}{over})" for e in engines)
    operands = {
        SCRAPED: f"max by ({by}) (timestamp({up}) * {up})",
        EMPTY: f"max by ({by}) (timestamp({up}) and {lines} == 0 and {up} == 1)",
        QUEUED: f"max by ({by}) ({' or '.join(queued)})",
        RUNNING: f"max by ({by}) ({' or '.join(running)})",
        SERVED: f"max by ({by}) ({' or '.join(served)})",
        REFUSED: f"max by ({by}) ({' or '.join(refused)})",
        WAIT: f"histogram_quantile({QUANTILE}, max by ({by}, le) ({' or '.join(waits)}))",
    }
    return " or ".join(
        f'label_replace({operand}, "{SIGNAL}", "{signal}", "", "")'
        for signal, operand in operands.items()
    )


def reading(
    values: Mapping[str, float], computed_at: float, oldest: float, behind: float = 0.0
) -> Reading:
    """Of one pod, from its values by signal, computed at `computed_at` by the server's clock.

    `oldest`: age in seconds up to which it is no stale one. `behind`: added to the server's times.
    """
    queued, running = values.get(QUEUED), values.get(RUNNING)
    has_load = queued is not None or running is not None
    scraped = values.get(SCRAPED if has_load else EMPTY, values.get(SCRAPED))
    if scraped is None:
        return Broken("its load is there, but not when it was read") if has_load else Absent()
    if scraped == 0:
        return Broken("its last scrape failed")
    if not abs(computed_at - scraped) < math.inf or scraped > computed_at + oldest:
        return Broken("the time of its last scrape cannot be")
    if computed_at - scraped > oldest:
        return Stale(scraped + behind)
    if has_load:
        at = scraped + behind
        return judged(
            at, queued, running, values.get(SERVED), values.get(REFUSED), values.get(WAIT)
        )
    if EMPTY in values:
        return Idle(scraped + behind)
    return Broken("its page has series, but none that tells its load")
