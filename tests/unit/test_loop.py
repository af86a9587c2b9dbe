"""What keeps the passes going: first listing, events, workers, back-off, resync, liveness."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.fake_api import FakeApi
from tests.unit.status_samples import STARTED, ready

from llm_operator.api import names
from llm_operator.kube.client import ApiError
from llm_operator.kube.resources import WATCHED
from llm_operator.kube.store import Key, Store
from llm_operator.reconcile.loop import STUCK_SECONDS, Loop, Result, drain_end

pytestmark = pytest.mark.looptime

RESYNC = 600.0
LLAMA = Key("ns", "llama")
LABELS = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER, names.LABEL_DEPLOYMENT: "llama"}


def body(kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "ns", **metadata}, "spec": {}}


def root(name: str = "llama", seen: int = 1) -> dict[str, Any]:
    return body(names.KIND, name) | {"status": {"observedGeneration": seen}}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def make(api: FakeApi, workers: int = 2) -> Loop:
    return Loop(
        api,  # type: ignore[arg-type]
        Store(),
        namespace=None,
        workers=workers,
        resync_seconds=RESYNC,
    )


Pass = Callable[[Key], Any]


@asynccontextmanager
async def running(api: FakeApi, reconcile: Pass, workers: int = 2) -> AsyncIterator[Loop]:
    """A loop at work, its watch connected to `api`."""
    loop = make(api, workers)
    await loop.first_listing()
    api.events.clear()

    async def call(key: Key) -> Result:
        answer = reconcile(key)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return answer if isinstance(answer, Result) else Result()

    loop.start(call)
    try:
        yield loop
    finally:
        await loop.stop()


def deliver(api: FakeApi, loop: Loop) -> None:
    """Hand the watch's events over."""
    while api.events:
        loop.seen(*api.events.pop(0))


def settled() -> Any:
    """Let all that can go on at this moment go on."""
    return asyncio.sleep(0.001)


async def test_everything_is_looked_at_once_after_the_listing(api: FakeApi) -> None:
    for name in "abc":
        api.put(root(name))
    api.put(body("Node", "n1"))
    seen: list[Key] = []
    async with running(api, seen.append):
        await settled()
        assert sorted(seen) == [("ns", "a"), ("ns", "b"), ("ns", "c")]
        await asyncio.sleep(RESYNC / 2)
        assert len(seen) == 3


async def test_nothing_is_looked_at_before_everything_could_be_listed(api: FakeApi) -> None:
    api.put(root())
    failures = iter(range(3))

    def flaky(verb: str, kind: str, _: str) -> None:
        if kind == WATCHED[-1].kind and next(failures, None) is not None:
            raise ApiError(503, "ServiceUnavailable", "starting")

    api.before = flaky
    loop = make(api)
    start = asyncio.get_running_loop().time()
    assert loop.not_ready()
    await loop.first_listing()
    waited = asyncio.get_running_loop().time() - start
    assert 3 <= waited <= 4  # 0.5 + 1 + 2
    assert loop.not_ready()
    loop.start(lambda _: asyncio.sleep(0, Result()))
    assert loop.not_ready() is None
    await loop.stop()


async def test_new_objects_go_first(api: FakeApi) -> None:
    api.put(root("old-1"))
    api.put(root("old-2"))
    api.put(root("new", seen=-1))
    seen: list[Key] = []
    async with running(api, seen.append, workers=1):
        await settled()
        assert seen[0] == ("ns", "new")


async def test_an_event_of_a_child_has_its_owner_looked_at(api: FakeApi) -> None:
    api.put(root())
    seen: list[Key] = []
    async with running(api, seen.append) as loop:
        await settled()
        seen.clear()
        for change in (
            lambda: api.put(body("Pod", "p", labels=LABELS)),
            lambda: api.edit("Pod", "p", lambda pod: pod.update(status={"phase": "Running"})),
            lambda: api.drop("Pod", "p"),
        ):
            change()
            deliver(api, loop)
            await settled()
            assert seen == [LLAMA]
            seen.clear()


async def test_the_echo_of_what_is_known_causes_no_pass(api: FakeApi) -> None:
    """An answer to our own write is in the store before its watch event comes."""
    api.put(root())
    seen: list[Key] = []
    async with running(api, seen.append) as loop:
        await settled()
        seen.clear()
        for item in api.all(names.KIND):
            loop.seen("MODIFIED", item)
            loop.seen(None, item)
        await settled()
        assert seen == []


async def test_a_node_wakes_those_who_wait_for_one(api: FakeApi) -> None:
    api.put(root("a"))
    api.put(root("b"))
    seen: list[Key] = []
    async with running(api, seen.append) as loop:
        await settled()
        seen.clear()
        loop.waiting_for_nodes.add(Key("ns", "b"))
        api.put(body("Node", "n1"))
        deliver(api, loop)
        await settled()
        assert seen == [("ns", "b")]


async def test_one_key_is_never_in_two_passes_and_no_event_is_lost(api: FakeApi) -> None:
    api.put(root())
    active, most, passes = 0, 0, 0

    async def slow(_: Key) -> Result:
        nonlocal active, most, passes
        active += 1
        most = max(most, active)
        await asyncio.sleep(1)
        active -= 1
        passes += 1
        return Result()

    async with running(api, slow, workers=4) as loop:
        await asyncio.sleep(0.5)
        for number in range(5):
            labels = {**LABELS, "n": str(number)}
            api.put(body("Pod", f"p{number}", labels=labels))
        deliver(api, loop)
        await asyncio.sleep(5)
        assert (most, passes) == (1, 2)


async def test_different_keys_run_side_by_side_up_to_the_workers(api: FakeApi) -> None:
    for name in "abcdef":
        api.put(root(name))
    active, most = 0, 0

    async def slow(_: Key) -> Result:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(1)
        active -= 1
        return Result()

    async with running(api, slow, workers=3):
        await asyncio.sleep(5)
        assert most == 3


async def test_a_pass_that_fails_is_repeated_with_patience(api: FakeApi) -> None:
    api.put(root())
    times: list[float] = []

    def failing(_: Key) -> Result:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 6:
            raise RuntimeError("a defect")
        return Result()

    async with running(api, failing):
        await asyncio.sleep(30)
        waits = [b - a for a, b in itertools.pairwise(times)]
        assert len(times) == 6
        assert all(b > a for a, b in zip(waits, waits[2:], strict=False))


async def test_after_a_success_patience_starts_anew(api: FakeApi) -> None:
    api.put(root())
    count = 0

    def reconcile(_: Key) -> Result:
        nonlocal count
        count += 1
        if count != 8:
            raise RuntimeError("a defect")
        return Result(requeue_after=1000)

    async with running(api, reconcile) as loop:
        await asyncio.sleep(60)
        assert count == 8
        loop.queue.add(LLAMA)
        await asyncio.sleep(0.1)
        assert count >= 10


async def test_the_servers_wish_for_a_pause_is_respected(api: FakeApi) -> None:
    api.put(root())
    times: list[float] = []

    def busy(_: Key) -> Result:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise ApiError(429, "TooManyRequests", "later", retry_after=9)
        return Result()

    async with running(api, busy):
        await asyncio.sleep(30)
        assert times[1] - times[0] == pytest.approx(9, abs=0.01)


async def test_a_failing_object_does_not_hold_up_the_others(api: FakeApi) -> None:
    api.put(root("bad"))
    api.put(root("good"))
    seen: list[Key] = []

    def one_bad(key: Key) -> None:
        if key.name == "bad":
            raise RuntimeError("a defect")
        seen.append(key)

    async with running(api, one_bad, workers=1):
        await settled()
        assert seen == [("ns", "good")]


async def test_a_pass_can_ask_to_be_repeated(api: FakeApi) -> None:
    api.put(root())
    answers: Iterator[Result] = iter([Result(again=True), Result(requeue_after=5), Result()])
    times: list[float] = []

    def ask(_: Key) -> Result:
        times.append(asyncio.get_running_loop().time())
        return next(answers)

    async with running(api, ask):
        await asyncio.sleep(60)
        assert len(times) == 3
        assert times[1] - times[0] == pytest.approx(0, abs=0.01)
        assert times[2] - times[1] == pytest.approx(5, abs=0.01)


async def test_a_resync_finds_what_no_watch_has_told(api: FakeApi) -> None:
    api.put(root("a"))
    api.put(root("b"))
    seen: list[Key] = []
    async with running(api, seen.append) as loop:
        await settled()
        seen.clear()
        api.put(root("c"))
        api.drop(names.KIND, "a")
        api.events.clear()  # the watch is dead
        await asyncio.sleep(RESYNC + 1)
        assert sorted(seen) == [("ns", "b"), ("ns", "c")]
        assert loop.store.get(names.KIND, "ns", "a") is None


async def test_a_resync_that_fails_is_made_up_for_by_the_next(api: FakeApi) -> None:
    seen: list[Key] = []
    async with running(api, seen.append):
        api.put(root())

        def down(*_: str) -> None:
            raise ApiError(0, "Unreachable", "no route")

        api.before = down
        await asyncio.sleep(RESYNC + 1)
        assert seen == []
        api.before = lambda *_: None
        await asyncio.sleep(RESYNC)
        assert seen == [LLAMA]


async def test_a_hung_pass_is_told_by_liveness(api: FakeApi) -> None:
    api.put(root())
    async with running(api, lambda _: asyncio.Event().wait()) as loop:
        await asyncio.sleep(STUCK_SECONDS - 1)
        assert loop.not_alive() is None
        await asyncio.sleep(2)
        assert loop.not_alive() == "a pass over ns/llama hangs"


async def test_an_api_server_that_is_gone_for_long_is_told_by_liveness(api: FakeApi) -> None:
    async with running(api, lambda _: None) as loop:

        def down(*_: str) -> None:
            raise ApiError(0, "Unreachable", "no route")

        api.before = down
        await asyncio.sleep(3 * RESYNC)
        assert loop.not_alive() is None
        await asyncio.sleep(70)
        assert "could not be listed" in (loop.not_alive() or "")
        api.before = lambda *_: None
        await asyncio.sleep(RESYNC)
        assert loop.not_alive() is None


async def test_a_stopped_loop_does_nothing_more(api: FakeApi) -> None:
    api.put(root())
    seen: list[Key] = []

    def ask(key: Key) -> Result:
        seen.append(key)
        return Result(requeue_after=5)

    async with running(api, ask):
        await settled()
    await asyncio.sleep(3 * RESYNC)
    assert seen == [LLAMA]


def test_a_drain_has_ended_well_only_if_the_engine_ended_by_itself() -> None:
    gone = ready(deleting=True)
    ended = replace(STARTED, state="terminated", exit_code=0)
    assert drain_end(replace(gone, container=ended)) == "finished"
    assert drain_end(replace(gone, container=replace(ended, exit_code=143))) == "finished"
    assert drain_end(replace(gone, container=replace(ended, exit_code=137))) == "killed"
    # What was killed long ago, and was never seen to end, tells nothing of this drain.
    assert drain_end(replace(gone, container=replace(STARTED, exit_code=137))) == "lost"
    assert drain_end(replace(gone, container=None)) == "lost"
