"""How busy a pod is, by its own metrics page."""

from __future__ import annotations

import asyncio

import pytest
from tests.simtgi import demo, serving, until
from tests.unit.status_samples import ready

from llm_operator.observe.busy import in_hand, requests_in_hand
from llm_operator.runtimes.base import Engine, engine


class Elsewhere:
    """The engine on a port that the test was given."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.metrics = engine("tgi").metrics


async def test_a_pod_counts_what_it_works_on() -> None:
    async with serving(demo()) as up:
        assert up.process.port is not None
        host = up.url.removeprefix("http://").split(":")[0]
        place: Engine = Elsewhere(up.process.port)  # type: ignore[assignment]
        pods = [ready("a", ip=host), ready("b", ip="127.9.9.9"), ready("c")]
        assert await requests_in_hand(pods, place) == {"a": 0}
        body = {"inputs": "x", "parameters": {"max_new_tokens": 2000}}
        asked = [asyncio.create_task(up.http.post(f"{up.url}/generate", json=body)) for _ in "123"]
        found: dict[str, int] = {}

        async def look() -> None:
            while found.get("a") != 3:
                found.update(await requests_in_hand(pods[:1], place))

        async with asyncio.timeout(10):
            await look()
        for task in asked:
            task.cancel()
        await until(lambda: all(task.done() for task in asked))


def test_queued_requests_count_and_nothing_else_does() -> None:
    page = "# TYPE tgi_queue_size gauge\ntgi_queue_size 2\n# TYPE other gauge\nother 9\n"
    page += "# TYPE tgi_batch_current_size gauge\ntgi_batch_current_size 3\n"
    assert in_hand(page, engine("tgi")) == 5
    assert in_hand("", engine("tgi")) == 0
    with pytest.raises(ValueError, match="could not convert"):
        in_hand("tgi_queue_size many\n", engine("tgi"))
