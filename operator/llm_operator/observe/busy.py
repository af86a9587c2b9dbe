"""How many requests each pod has in hand: asked of the pods, so that the idlest can go first.

Best effort, in a second: a pod that does not say is unknown, never idle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from llm_operator.facts.cluster import PodFact
from llm_operator.facts.signals import Broken
from llm_operator.observe import scrape
from llm_operator.runtimes.base import Engine

TIMEOUT_SECONDS = 1.0


async def requests_in_hand(pods: Collection[PodFact], serving: Engine) -> Mapping[str, int]:
    """Requests running or queued, by pod name; pods that did not tell are left out."""
    asked = [pod for pod in pods if pod.ip]
    found = await scrape.pages(asked, serving, seconds=TIMEOUT_SECONDS, all_seconds=TIMEOUT_SECONDS)
    counted = {}
    for pod, page in zip(asked, found, strict=True):
        if isinstance(page, str):
            with suppress(ValueError):
                counted[pod.name] = in_hand(page, serving)
    return counted


def in_hand(page: str, serving: Engine) -> int:
    """From a metrics page. A series that is not there has not been counted yet: none.

    ValueError if the page is not in Prometheus' text format, or says what cannot be.
    """
    names = serving.metrics.queued_requests, serving.metrics.running_requests
    found = scrape.series(page, names)
    load = scrape.judged(0.0, *(scrape.total(found, name) for name in names))
    if isinstance(load, Broken):
        raise ValueError(load.why)
    return int(load.load.queued + load.load.running)
