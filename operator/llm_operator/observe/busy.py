"""How many requests each pod has in hand: asked of the pods, so that the idlest can go first.

Best effort, in a second: a pod that does not say is unknown, never idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from llm_operator.facts.cluster import PodFact
from llm_operator.runtimes.base import Engine

TIMEOUT_SECONDS = 1.0


async def requests_in_hand(pods: Collection[PodFact], serving: Engine) -> Mapping[str, int]:
    """Requests running or queued, by pod name; pods that did not tell are left out."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        found = await asyncio.gather(*(_ask(http, pod, serving) for pod in pods))
    return {pod.name: n for pod, n in zip(pods, found, strict=True) if n is not None}


async def _ask(http: aiohttp.ClientSession, pod: PodFact, serving: Engine) -> int | None:
    if not pod.ip:
        return None
    url = f"http://{pod.ip}:{serving.port}{serving.metrics.path}"
    try:
        async with http.get(url) as response:
            response.raise_for_status()
            text = await response.text()
        return in_hand(text, serving)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def in_hand(exposition: str, serving: Engine) -> int:
    """From a metrics page. A series that is not there has not been counted yet: none.

    ValueError if the page is not in Prometheus' text format.
    """
    names = {serving.metrics.running_requests, serving.metrics.queued_requests}
    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(exposition)
            if family.name in names
            for sample in family.samples
        )
    )
