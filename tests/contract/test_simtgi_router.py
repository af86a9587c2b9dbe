"""The simulated router against the answers that the real 3.3.7 router gave, request by request.

All recorded requests are sent, in their order, to one server with the same limits; then each answer
is held against its recording.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.simtgi import Up, demo, serving

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "tgi_router_recorded.json").read_text()
)
REQUESTS = [name for name, case in RECORDED.items() if "request" in case]
LIMITS = (
    *("--max-concurrent-requests", "4"),
    *("--max-input-tokens", "1000"),
    *("--max-total-tokens", "2000"),
)
# Null in the recording because the router ran outside of its image.
SET_IN_THE_IMAGE = {"docker_label"}


@dataclass
class Seen:
    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Page:
    """A /metrics page: type and help per family, values per series, buckets per histogram."""

    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Page:
        page, last = cls(), ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, kind, name, rest = line.split(" ", 3)
                (page.helps if kind == "HELP" else page.types)[name] = rest
            elif left_out := re.match(r"\.\.\. (\d+) more buckets", line):
                page.buckets[last] += ["..."] * int(left_out[1])
            elif line:
                series, value = line.rsplit(" ", 1)
                if "_bucket{" in series:
                    last, bound = re.sub(r'le="[^"]*"', "", series), re.search('le="(.*?)"', series)
                    assert bound is not None
                    page.buckets.setdefault(last, []).append(bound[1])
                else:
                    page.values[series] = float(value)
        return page

    @property
    def labels(self) -> set[str]:
        """Every series by name and labels."""
        return set(self.values) | set(self.buckets)


async def _send(up: Up, request: dict[str, Any]) -> Seen:
    inputs = request.get("json", {}).get("inputs")
    body: dict[str, Any] = {}
    if "json" in request:
        # "hello x 1500" stands for the word said 1,500 times.
        repeated = re.fullmatch(r"(\w+) x (\d+)", inputs or "")
        words = " ".join([repeated[1]] * int(repeated[2])) if repeated else inputs
        body["json"] = request["json"] | ({"inputs": words} if inputs else {})
    elif "data" in request:
        body = {"data": request["data"], "headers": {"Content-Type": "application/json"}}
    async with up.http.request(request["method"], up.url + request["path"], **body) as response:
        return Seen(response.status, dict(response.headers), await response.text())


async def _overload(up: Up, faults: dict[str, str]) -> tuple[Seen, list[Seen]]:
    """Nine requests at once; the page while the four that were let in are being decoded."""
    faults["slow"] = "3000"
    request = {
        "method": "POST",
        "path": "/generate",
        "json": {"inputs": "hello", "parameters": {"max_new_tokens": 40}},
    }
    # The first one comes a moment before the others, as it did then.
    nine = [asyncio.create_task(_send(up, request))]
    await _page_with(up, 'tgi_batch_inference_count{method="prefill"} 9')
    nine += [asyncio.create_task(_send(up, request)) for _ in range(8)]
    page = await _page_with(up, "tgi_batch_current_size 4")
    del faults["slow"]
    return page, await asyncio.gather(*nine)


async def _page_with(up: Up, line: str) -> Seen:
    while True:
        page = await _send(up, {"method": "GET", "path": "/metrics"})
        if line in page.body.splitlines():
            return page


async def _replay() -> tuple[dict[str, Seen], list[Seen]]:
    # The shards behind the recorded router had no chunked prefill.
    container = demo(*LIMITS, env={"PREFILL_CHUNKING": "0"})
    faults = container.faults
    assert isinstance(faults, dict)
    seen: dict[str, Seen] = {}
    nine: list[Seen] = []
    async with serving(container) as up:
        for name in REQUESTS:
            if name == "metrics_under_load":
                seen[name], nine = await _overload(up, faults)
                continue
            if name == "err_generation":
                faults["generation-error"] = ""
            if name == "health_after_recovery":
                del faults["generation-error"]
            seen[name] = await _send(up, RECORDED[name]["request"])
    return seen, nine


@pytest.fixture(scope="module")
def replayed() -> tuple[dict[str, Seen], list[Seen]]:
    return asyncio.run(_replay())


@pytest.fixture(params=REQUESTS)
def case(
    request: pytest.FixtureRequest, replayed: tuple[dict[str, Seen], list[Seen]]
) -> tuple[dict[str, Any], Seen]:
    return RECORDED[request.param], replayed[0][request.param]


def _told(headers: dict[str, str]) -> dict[str, str]:
    return {
        key.lower(): value
        for key, value in headers.items()
        if key.lower() == "content-type" or key.lower().startswith("x-")
    }


def test_status(case: tuple[dict[str, Any], Seen]) -> None:
    recorded, seen = case
    assert seen.status == recorded["status"]


def test_headers(case: tuple[dict[str, Any], Seen]) -> None:
    recorded, seen = _told(case[0]["headers"]), _told(case[1].headers)
    assert recorded.keys() == seen.keys()
    for name in recorded:
        if name.endswith(("-tokens", "-type", "-characters", "-buffering")):
            assert seen[name] == recorded[name], name
        else:  # a time: whole milliseconds, seconds in one case
            assert re.fullmatch(r"\d+\.\d+" if "." in recorded[name] else r"\d+", seen[name]), name


def _events(body: str) -> list[str]:
    assert body.endswith("\n\n")
    events = body.split("\n\n")[:-1]
    assert all(event.startswith("data: ") for event in events)
    return [event.removeprefix("data: ") for event in events]


def _shape(value: Any, key: str = "") -> Any:
    """The structure of a document: keys and types, no values."""
    if isinstance(value, dict):
        return {name: _shape(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return "any" if key in SET_IN_THE_IMAGE else type(value).__name__


def test_body(case: tuple[dict[str, Any], Seen]) -> None:
    recorded, seen = case
    if recorded["request"]["path"] == "/metrics":
        return  # has tests of its own
    kind = recorded["headers"].get("Content-Type")
    if kind == "application/json":
        ours, theirs = json.loads(seen.body), json.loads(recorded["body"])
        assert _shape(ours) == _shape(theirs)
        if "error" in theirs:
            assert ours == theirs
    elif kind == "text/event-stream":
        pairs = list(zip(_events(seen.body), _events(recorded["body"]), strict=True))
        for mine, other in pairs:
            if other == "[DONE]":
                assert mine == "[DONE]"
            else:
                assert _shape(json.loads(mine)) == _shape(json.loads(other))
    else:
        assert seen.body == recorded["body"]


def test_values_that_do_not_depend_on_the_model(
    replayed: tuple[dict[str, Seen], list[Seen]],
) -> None:
    for name in ("get/info", "get/v1/models"):
        ours, theirs = json.loads(replayed[0][name].body), json.loads(RECORDED[name]["body"])
        differ = {key for key in theirs if ours[key] != theirs[key]}
        assert differ <= {"sha", "docker_label"}
    chat, stream = (
        json.loads(source)
        for source in (replayed[0]["chat"].body, _events(replayed[0]["chat_stream"].body)[-2])
    )
    assert chat["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert stream["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    tokens = json.loads(replayed[0]["tokenize"].body)
    assert [(t["text"], t["start"], t["stop"]) for t in tokens] == [
        ("hello", 0, 5),
        ("world", 6, 11),
    ]


def test_overload(replayed: tuple[dict[str, Seen], list[Seen]]) -> None:
    recorded, nine = RECORDED["overload_9_requests_limit_4"], replayed[1]
    assert Counter(seen.status for seen in nine) == Counter(recorded["statuses"])
    assert {seen.body for seen in nine if seen.status == 429} == {recorded["body_429"]}


@pytest.fixture(params=["metrics_after_one_request", "metrics_under_load", "metrics_at_end"])
def pages(
    request: pytest.FixtureRequest, replayed: tuple[dict[str, Seen], list[Seen]]
) -> tuple[Page, Page]:
    return (
        Page.parse(RECORDED[request.param]["body"]),
        Page.parse(replayed[0][request.param].body),
    )


def test_metrics_start_empty(replayed: tuple[dict[str, Seen], list[Seen]]) -> None:
    assert replayed[0]["metrics_before_any_request"].body == ""


def test_metric_names_types_helps_and_labels(pages: tuple[Page, Page]) -> None:
    recorded, seen = pages
    # The stand-in for the shards reported no time for merging batches; real shards do. One
    # request of the recording was dropped by its client.
    merging = {name for name in seen.labels if name.startswith("tgi_batch_concat_duration")}
    dropped = {'tgi_request_failure{err="dropped"}'}
    assert seen.labels - merging == recorded.labels - dropped
    families = {name: kind for name, kind in seen.types.items() if "concat_duration" not in name}
    assert families == recorded.types
    assert seen.helps == recorded.helps


def test_metric_buckets(pages: tuple[Page, Page]) -> None:
    recorded, seen = pages
    for name, bounds in recorded.buckets.items():
        assert len(seen.buckets[name]) == len(bounds), name
        for ours, theirs in zip(seen.buckets[name], bounds, strict=True):
            assert theirs in ("...", ours), name


def test_metric_counts_under_load(replayed: tuple[dict[str, Seen], list[Seen]]) -> None:
    """What was counted does not depend on speed, but for the passes of the batch under way."""
    recorded = Page.parse(RECORDED["metrics_under_load"]["body"])
    seen = Page.parse(replayed[0]["metrics_under_load"].body)
    moving = ("decode", "skipped_tokens", "_sum", "concat_duration")
    for name, value in recorded.values.items():
        if not any(part in name for part in moving):
            assert seen.values[name] == value, name
    for name in ("tgi_request_input_length_sum", "tgi_request_max_new_tokens_sum"):
        assert seen.values[name] == recorded.values[name]


def test_metric_counts_after_one_request(replayed: tuple[dict[str, Seen], list[Seen]]) -> None:
    recorded = Page.parse(RECORDED["metrics_after_one_request"]["body"])
    seen = Page.parse(replayed[0]["metrics_after_one_request"].body)
    for name, value in recorded.values.items():
        if "duration_sum" not in name:
            assert seen.values[name] == value, name
