"""Following collections, recording events, writing statuses: the fleet's dealings with the API."""

from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from tests.unit.fleet_fakes import POD, FakeApi, pod

from llm_operator.cluster.fleet.api import Api, ApiError, Credentials, Object
from llm_operator.cluster.fleet.events import QUEUE, EventRecorder
from llm_operator.cluster.fleet.runtime import utc_now
from llm_operator.cluster.fleet.watching import Follower
from llm_operator.cluster.fleet.writer import StatusWriter

pytestmark = pytest.mark.looptime


def item(name: str, version: int, uid: str = "") -> Object:
    metadata = {"name": name, "uid": uid or name, "resourceVersion": str(version)}
    return {"metadata": metadata}


class Script:
    """An API server whose lists and watches are written down beforehand."""

    def __init__(self, lists: list[list[Object] | Exception], watches: list[list[Any]]) -> None:
        self.lists = lists
        self.watches = watches
        self.asked: list[str] = []

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"metadata": {"resourceVersion": "10"}, "items": answer}

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncIterator[Object]:
        self.asked.append(params["resourceVersion"])
        if not self.watches:
            await asyncio.Event().wait()
        for step in self.watches.pop(0):
            if isinstance(step, Exception):
                raise step
            kind, what = step
            yield {"type": kind, "object": what}


async def follow(script: Script) -> list[tuple[str, str, str]]:
    seen: list[tuple[str, str, str]] = []

    def on_change(kind: str, what: Object) -> None:
        metadata = what["metadata"]
        seen.append((kind, metadata["name"], metadata["resourceVersion"]))

    task = asyncio.create_task(Follower(cast(Api, script), "/x", on_change).run())
    await asyncio.sleep(60)
    task.cancel()
    return seen


async def test_a_watch_goes_on_where_it_broke_off() -> None:
    script = Script(
        [[item("a", 1)]],
        [
            [("MODIFIED", item("a", 11)), ("BOOKMARK", item("", 15)), ConnectionResetError()],
            [("ADDED", item("b", 16))],
        ],
    )
    assert await follow(script) == [
        ("ADDED", "a", "1"),
        ("MODIFIED", "a", "11"),
        ("ADDED", "b", "16"),
    ]
    assert script.asked == ["10", "15", "16"]


async def test_deletions_missed_are_told_after_a_new_list() -> None:
    gone = ApiError(410, "Expired", "too old")
    script = Script(
        [[item("a", 1), item("b", 2)], ApiError(503, "", "away"), [item("b", 12, uid="other")]],
        [[gone]],
    )
    assert await follow(script) == [
        ("ADDED", "a", "1"),
        ("ADDED", "b", "2"),
        ("DELETED", "a", "1"),
        ("DELETED", "b", "2"),
        ("ADDED", "b", "12"),
    ]


async def test_a_deletion_is_told_once() -> None:
    script = Script([[item("a", 1)]], [[("DELETED", item("a", 11)), ("ADDED", item("a", 12))]])
    assert [kind for kind, _, _ in await follow(script)] == ["ADDED", "DELETED", "ADDED"]


class EventApi:
    def __init__(self) -> None:
        self.writes: list[tuple[str, Object]] = []

    async def create(self, path: str, body: Object) -> Object:
        self.writes.append(("POST", copy.deepcopy(body)))
        return body

    async def patch(self, path: str, body: Object, kind: str = "strategic") -> Object:
        self.writes.append(("PATCH", body))
        return body


async def test_repeated_events_are_counted_and_seldom_written() -> None:
    api = EventApi()
    recorder = EventRecorder(cast(Api, api), utc_now)
    task = asyncio.create_task(recorder.run())
    for _ in range(300):
        recorder.record(pod(), "Unhealthy", "probe failed", "main", "Warning")
        await asyncio.sleep(1)
    task.cancel()
    (first, event), *rest = api.writes
    assert (first, event["count"], event["type"]) == ("POST", 1, "Warning")
    assert event["involvedObject"]["fieldPath"] == "spec.containers{main}"
    assert [body["count"] for _, body in rest] == [11, 22, 44, 88, 176]


async def test_in_a_crowd_warnings_come_before_the_usual() -> None:
    api = EventApi()
    recorder = EventRecorder(cast(Api, api), utc_now)
    for number in range(2 * QUEUE):
        recorder.record(pod(), "Pulled", f"image {number}")
    recorder.record(pod(), "Failed", "no image", kind="Warning")
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(1)
    task.cancel()
    reasons = [body["reason"] for _, body in api.writes]
    assert len(reasons) < QUEUE
    assert "Failed" in reasons


class Subject:
    """A pod whose wish changes while it is being written."""

    path = POD
    uid = "uid-1"

    def __init__(self, api: FakeApi) -> None:
        self.pod = api.put(POD, pod())
        self.wish: dict[str, Any] | None = {"message": "0"}

    def wanted_status(self) -> dict[str, Any] | None:
        return self.wish

    def update(self, pod: Object) -> None:
        self.pod = pod


async def test_writes_of_one_pod_never_overtake_each_other() -> None:
    class Slow(FakeApi):
        under_way = 0

        async def patch(self, path: str, body: Object, kind: str = "strategic") -> Object:
            self.under_way += 1
            assert self.under_way == 1
            await asyncio.sleep(0.3)
            self.under_way -= 1
            return await super().patch(path, body, kind)

    api = Slow()
    subject = Subject(api)
    writer = StatusWriter(api)
    task = asyncio.create_task(writer.run())
    for number in range(20):
        subject.wish = {"message": str(number)}
        writer.mark(subject)
        await asyncio.sleep(0.1)
    await writer.flush(subject)
    assert api.objects[POD]["status"]["message"] == "19"
    assert len(api.writes) < 10
    task.cancel()


async def test_a_flush_ends_when_the_pod_is_gone() -> None:
    api = FakeApi()
    subject = Subject(api)
    del api.objects[POD]
    writer = StatusWriter(api)
    task = asyncio.create_task(writer.run())
    async with asyncio.timeout(5):
        await writer.flush(subject)
    task.cancel()


def test_credentials_come_from_the_current_context(tmp_path: Path) -> None:
    def named(name: str, key: str, value: Object) -> Object:
        return {"name": name, key: value}

    (tmp_path / "token-user").write_text("unused")
    config = {
        "current-context": "two",
        "contexts": [
            named("one", "context", {"cluster": "c1", "user": "u1"}),
            named("two", "context", {"cluster": "c2", "user": "u2"}),
        ],
        "clusters": [
            named("c1", "cluster", {"server": "http://wrong"}),
            named("c2", "cluster", {"server": "http://127.0.0.1:6443/"}),
        ],
        "users": [
            named("u1", "user", {}),
            named("u2", "user", {"token": base64.b64encode(b"x").decode()}),
        ],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    assert Credentials.load(path) == Credentials("http://127.0.0.1:6443", "eA==", None)
