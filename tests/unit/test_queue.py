"""The work queue: each key once, never two workers on one key, patience that grows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import looptime
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm_operator.reconcile.queue import BASE_DELAY, MAX_DELAY, WorkQueue

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


async def taken(queue: WorkQueue[str], within: float = 0.0) -> str | None:
    """The next key and how it is taken; None if there is none in `within` seconds."""
    try:
        async with asyncio.timeout(within):
            return await queue.get()
    except TimeoutError:
        return None


async def test_a_key_added_twice_is_there_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get(), await taken(queue)] == ["a", "b", None]


async def test_urgent_keys_go_first_and_a_waiting_key_can_become_urgent() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "c"):
        queue.add(key)
    queue.add("c", urgent=True)
    queue.add("d", urgent=True)
    queue.add("d")  # is not made less urgent
    assert queue.urgent_waiting == 2
    assert [await queue.get() for _ in range(4)] == ["c", "d", "a", "b"]


async def test_a_key_in_work_waits_until_it_is_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a", urgent=True)
    queue.add("a")  # is not made less urgent
    assert await taken(queue) is None
    queue.done("a")
    assert queue.urgent_waiting == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert await taken(queue) is None
    assert len(queue) == 0


async def test_a_worker_that_waits_is_woken_and_each_key_goes_to_one() -> None:
    queue: WorkQueue[str] = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(1)
    for key in ("a", "b", "c"):
        queue.add(key)
    assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


async def test_add_after_waits_and_the_sooner_time_wins() -> None:
    queue: WorkQueue[str] = WorkQueue()
    start = now()
    queue.add_after("a", 30)
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    assert await queue.get() == "a"
    assert now() - start == pytest.approx(10)
    queue.done("a")
    assert await taken(queue, within=100) is None


async def test_an_event_cancels_the_wait() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 30)
    queue.add("a")
    queue.add_after("a", 20)  # it waits already: nothing to schedule
    assert await taken(queue) == "a"
    queue.done("a")
    assert await taken(queue, within=100) is None


async def test_a_time_asked_for_during_the_work_is_kept() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add_after("a", 5)
    queue.done("a")
    start = now()
    assert await queue.get() == "a"
    assert now() - start == pytest.approx(5)


async def test_failures_in_a_row_double_the_delay_up_to_a_limit() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = []
    for count in range(15):
        delay = queue.retry("a")
        full = min(MAX_DELAY, BASE_DELAY * 2**count)
        assert full / 2 <= delay <= full
        start = now()
        assert await queue.get() == "a"
        assert now() - start == pytest.approx(delay, abs=1e-5)
        queue.done("a")
        delays.append(delay)
    assert max(delays) > MAX_DELAY / 2
    queue.forget_failures("a")
    assert queue.retry("a") <= BASE_DELAY


async def test_failures_of_one_key_do_not_slow_another() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(8):
        queue.retry("a")
    assert queue.retry("b") <= BASE_DELAY


async def test_a_delay_that_the_server_asks_for_is_respected() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.retry("a", at_least=7) == 7
    assert await taken(queue, within=6.9) is None
    assert await taken(queue, within=0.2) == "a"


async def test_delays_are_spread() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert len({queue.retry(f"k{number}") for number in range(20)}) > 10


async def test_a_closed_queue_wakes_nothing_any_more() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 1)
    queue.close()
    assert await taken(queue, within=60) is None


KEYS = st.sampled_from("abc")


class QueueModel(RuleBasedStateMachine):
    """The queue beside what is promised of it: two lanes in order, timers, keys in work."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop()
        self.queue: WorkQueue[str] = WorkQueue()
        self.urgent: list[str] = []
        self.normal: list[str] = []
        self.timers: dict[str, float] = {}
        self.running: dict[str, bool | None] = {}
        """Keys in work, and whether (and how urgently) they were asked for meanwhile."""
        self.time = 0.0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.queue.close()
        self.loop.close()

    def expect(self, key: str, urgent: bool) -> None:
        self.timers.pop(key, None)
        if key in self.running:
            self.running[key] = bool(self.running[key]) or urgent
        elif urgent and key not in self.urgent:
            self.normal = [other for other in self.normal if other != key]
            self.urgent.append(key)
        elif key not in self.urgent + self.normal:
            self.normal.append(key)

    @rule(key=KEYS, urgent=st.booleans())
    def add(self, key: str, urgent: bool) -> None:
        self.queue.add(key, urgent=urgent)
        self.expect(key, urgent)

    @rule(key=KEYS, delay=st.integers(1, 4))
    def add_after(self, key: str, delay: int) -> None:
        async def ask() -> None:
            self.queue.add_after(key, delay)

        self.run(ask())
        if key not in self.urgent + self.normal:
            due = self.time + delay
            self.timers[key] = min(self.timers.get(key, math.inf), due)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        # Half a tick later, so that what is due now has been put into its lane.
        self.run(asyncio.sleep(self.time + seconds + 0.5 - self.loop.time()))
        self.time += seconds
        for key, due in sorted(self.timers.items(), key=lambda item: item[1]):
            if due <= self.time:
                self.expect(key, urgent=False)

    @rule()
    def take(self) -> None:
        key = self.run(taken(self.queue))
        lane = self.urgent or self.normal
        if not lane:
            assert key is None
            return
        # Timers of one moment may fire in any order.
        assert key in lane
        lane.remove(key)
        assert key not in self.running
        self.running[key] = None

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.done(key)
        asked = self.running.pop(key)
        if asked is not None:
            self.expect(key, asked)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.urgent_waiting == len(self.urgent)
        assert len(self.queue) == len(self.urgent) + len(self.normal) + len(self.running)


QueueModel.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestQueueModel = QueueModel.TestCase
