"""Asks the cluster's Prometheus: an instant vector, or one line that says why there is none.

Decides where it is, how long an answer may take and what may go wrong. Refuses to know any metric.
The library is synchronous, so each query has a thread for as long as it takes, a few at most: one
that hangs delays nobody, and a server that always hangs costs no more than these few. Nothing is
tried again here: the next tick asks anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

THREADS: Final = 4

_LABEL: Final = r"[a-zA-Z_][a-zA-Z0-9_]*"
_MATCHER: Final = rf'{_LABEL}\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\.)*"'
_MATCHERS: Final = rf"(?:{_MATCHER}(?:\s*,\s*{_MATCHER})*)?"


class MetricsUnavailable(Exception):
    """No answer, and why: one line for a status, without address, token or the body of an answer.

    What Prometheus itself says of a query is part of it.
    """


class WrongConfig(ValueError):
    """What the operator was told about its Prometheus cannot be."""


@dataclass(frozen=True)
class PrometheusConfig:
    """Where Prometheus is and what it calls things. WrongConfig if that cannot be.

    The token's file is read at each query, since tokens are exchanged. `matchers` narrow every
    selector, e.g. `cluster="a"`. `scrape_interval_seconds` is how often it looks at our pods.
    """

    url: str
    ca_file: Path | None = None
    token_file: Path | None = None
    namespace_label: str = "namespace"
    pod_label: str = "pod"
    matchers: str = ""
    timeout_seconds: float = 10.0
    scrape_interval_seconds: float = 15.0

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.url)
            _ = url.port
        except ValueError:
            raise WrongConfig("the URL of Prometheus cannot be read") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise WrongConfig("the URL of Prometheus must be like https://prometheus.example:9090")
        if url.username is not None or url.query or url.fragment:
            raise WrongConfig("the URL of Prometheus holds no credentials and no query")
        for label in (self.namespace_label, self.pod_label):
            if not re.fullmatch(_LABEL, label):
                raise WrongConfig(f"{label!r} cannot be the name of a label in Prometheus")
        if not re.fullmatch(_MATCHERS, self.matchers):
            raise WrongConfig(f'{self.matchers!r} is not like cluster="a",job=~"b|c"')
        if min(self.timeout_seconds, self.scrape_interval_seconds) <= 0:
            raise WrongConfig("seconds must be more than 0")


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of an instant vector. `at`: when the server computed it, by its own clock.

    `value` can be NaN or infinite.
    """

    labels: Mapping[str, str]
    value: float
    at: float


class Prometheus:
    """One server. Usable from one event loop."""

    def __init__(self, config: PrometheusConfig) -> None:
        self.config = config
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="prometheus")
        self._free = asyncio.Semaphore(THREADS)

    async def query(self, promql: str) -> list[Sample]:
        """The instant vector, as of now. MetricsUnavailable after `timeout_seconds` at most."""
        try:
            async with asyncio.timeout(self.config.timeout_seconds):
                await self._free.acquire()
                asked = self._threads.submit(self._ask, promql)
                asked.add_done_callback(partial(self._ended, asyncio.get_running_loop()))
                return await asyncio.wrap_future(asked)
        except TimeoutError:
            raise MetricsUnavailable(no_answer_within(self.config.timeout_seconds)) from None

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, promql: str) -> list[Sample]:
        """In a thread. The client takes memory, so it is imported by those only who use it."""
        from llm_operator.observe import prometheus_request

        return prometheus_request.ask(self.config, promql)

    def _ended(self, loop: asyncio.AbstractEventLoop, _: Future[list[Sample]]) -> None:
        """In the thread: it is free again only now, even if nobody waits for its answer."""
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._free.release)


def no_answer_within(seconds: float) -> str:
    return f"Prometheus does not answer within {seconds:g} s"
