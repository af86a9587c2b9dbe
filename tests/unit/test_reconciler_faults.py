"""Whatever fails, at whichever write: the end is the same, and then there is rest."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import looptime
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.kstatus import kstatus
from tests.unit.world import RESYNC, World

from llm_operator.api import names
from llm_operator.facts.acceptance import Proof, Result
from llm_operator.kube.client import ApiError
from llm_operator.rollout.policy import HISTORY

TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z")
CHILDREN = ("ReplicaSet", "Service", "PodDisruptionBudget")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Failures are told in the log; that is not what is looked at here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def state(world: World) -> dict[str, Any]:
    """Everything that a user can see, but for uids, versions and times."""
    seen: dict[str, Any] = {}
    for kind in (*CHILDREN, names.KIND):
        for thing in world.api.all(kind):
            metadata = thing["metadata"]
            notes = {key: TIME.sub("", v) for key, v in metadata.get("annotations", {}).items()}
            kept = {"labels": metadata.get("labels"), "annotations": notes}
            seen[f"{kind}/{metadata['name']}"] = kept | {"spec": thing["spec"]}
    status = world.status()
    conditions = [
        {k: v for k, v in c.items() if k != "lastTransitionTime"} for c in status["conditions"]
    ]
    return seen | {"status": {**status, "conditions": conditions}}


async def story(world: World) -> None:
    """Creation, scaling, a new revision, scaling down."""
    for spec in (
        {},
        {"replicas": 2},
        {"replicas": 2, "limits": {"maxConcurrentRequests": 7}},
        {"replicas": 1, "limits": {"maxConcurrentRequests": 7}},
    ):
        world.want(**spec)
        await world.serve()


ASKED = {"acceptance": {"prompts": [{"prompt": "2 + 2 =", "expect": {"contains": "4"}}]}}
BAD = Proof((Result(8, 0.5, "the answer does not contain '4'"),), 1)


async def story_of_acceptance(world: World) -> None:
    """A revision that is accepted, and one that is not and is rolled back."""
    world.want(rollout=ASKED, replicas=2)
    await world.serve()
    world.answers = BAD
    world.want(rollout=ASKED, replicas=2, limits={"maxConcurrentRequests": 7})
    await world.serve()


STORIES = {"scaling and a change": story, "acceptance and a rollback": story_of_acceptance}


def is_write(verb: str, kind: str) -> bool:
    return verb != "list" and kind != "Event"


async def reference(name: str) -> tuple[dict[str, Any], int]:
    """The end of a story without any failure, and how many writes it took."""
    world = World()
    async with world.operator():
        await STORIES[name](world)
    return state(world), len(world.writes())


def run(work: Any) -> Any:
    loop = looptime.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


ENDS = {name: run(reference(name)) for name in STORIES}
WRITES = [(name, number) for name, (_, writes) in ENDS.items() for number in range(writes)]


@pytest.mark.looptime
@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize(("name", "number"), WRITES)
async def test_one_write_fails(name: str, number: int, lost: str) -> None:
    """The API server does not get the n-th write, or its answer does not come back."""
    world = World()
    count = -1

    def fail(verb: str, kind: str, _: str) -> None:
        nonlocal count
        count += is_write(verb, kind)
        if count == number and is_write(verb, kind):
            count += 1000
            raise ApiError(0, "Unreachable", "reset")

    if lost == "request":
        world.api.before = fail
    else:
        world.api.after = fail
    async with world.operator():
        await STORIES[name](world)
        assert count >= 1000
        assert state(world) == ENDS[name][0]
        world.writes()
        await world.settle(2 * RESYNC)
        assert world.writes() == []


@pytest.mark.looptime
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("name", "number"), WRITES)
async def test_the_operator_is_killed_at_a_write(name: str, number: int, moment: str) -> None:
    """The process ends right before, or right after, its n-th write; another one takes over."""
    world = World()
    killed = asyncio.Event()
    count = -1

    def kill(verb: str, kind: str, _: str) -> None:
        nonlocal count
        if killed.is_set():
            raise asyncio.CancelledError
        count += is_write(verb, kind)
        if count == number and is_write(verb, kind):
            killed.set()
            raise asyncio.CancelledError

    setattr(world.api, moment, kill)
    telling = asyncio.create_task(STORIES[name](world))
    async with world.operator():
        await killed.wait()
    setattr(world.api, moment, lambda *_: None)
    async with world.operator():
        await telling
        await world.serve()
        assert state(world) == ENDS[name][0]
        world.writes()
        await world.settle(2 * RESYNC)
        assert world.writes() == []


class Chaos(RuleBasedStateMachine):
    """Users, admins, failures and restarts in any order; then peace. It must end as wished."""

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.WARNING)
        self.loop = looptime.new_event_loop()
        self.world = World()
        self.operator: Any = None
        self.spec: dict[str, Any] = {}
        self.failing = 0
        self.world.api.before = self.fail

    def fail(self, verb: str, kind: str, name: str) -> None:
        if self.failing > 0 and is_write(verb, kind):
            self.failing -= 1
            raise ApiError(500, "InternalError", "etcd is busy")

    def do(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.start()
        self.want({})

    def start(self) -> None:
        self.operator = self.world.operator()
        self.do(self.operator.__aenter__())

    def stop(self) -> None:
        self.do(self.operator.__aexit__(None, None, None))

    def want(self, spec: dict[str, Any]) -> None:
        async def ask() -> None:
            self.world.want(**self.spec)

        self.spec = {"replicas": 1, "limits": None, **self.spec, **spec}
        self.do(ask())

    @rule(replicas=st.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.want({"replicas": replicas})

    @rule(requests=st.sampled_from([7, 8, 9]))
    def change(self, requests: int) -> None:
        self.want({"limits": {"maxConcurrentRequests": requests}})

    @rule(kind=st.sampled_from(CHILDREN), data=st.data())
    def delete_child(self, kind: str, data: st.DataObject) -> None:
        async def drop() -> None:
            found = [thing["metadata"]["name"] for thing in self.world.api.all(kind)]
            if found:
                self.world.api.drop(kind, data.draw(st.sampled_from(found)))

        self.do(drop())

    @rule(replicas=st.integers(0, 3), data=st.data())
    def scale_child(self, replicas: int, data: st.DataObject) -> None:
        async def edit() -> None:
            found = [thing["metadata"]["name"] for thing in self.world.api.all("ReplicaSet")]
            if found:
                name = data.draw(st.sampled_from(found))
                self.world.api.edit(
                    "ReplicaSet", name, lambda r: r["spec"].update(replicas=replicas)
                )

        self.do(edit())

    @rule(count=st.integers(1, 3))
    def api_fails(self, count: int) -> None:
        self.failing = count

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()

    @rule()
    def watch_breaks(self) -> None:
        """What happens now is told by no watch; the next listing must find it."""

        async def cut() -> None:
            loop, self.world.loop = self.world.loop, None
            self.world.want(**self.spec)
            self.world.play(ready=False)
            self.world.loop = loop

        self.do(cut())

    @rule(ready=st.booleans())
    def kubelets(self, ready: bool) -> None:
        async def play() -> None:
            self.world.play(ready=ready)

        self.do(play())

    @rule(seconds=st.sampled_from([0.005, 0.05, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @invariant()
    def status_is_no_lie(self) -> None:
        for thing in self.world.api.all(names.KIND):
            if kstatus(thing) != "Current":
                continue
            wanted = thing["status"]["currentRevision"]
            limits = (thing["spec"].get("limits") or {}).get("maxConcurrentRequests")
            found = [r for r in self.world.api.all("ReplicaSet") if wanted in r["metadata"]["name"]]
            for replica_set in found:
                arguments = replica_set["spec"]["template"]["spec"]["containers"][0]["args"]
                told = arguments[arguments.index("--max-concurrent-requests") + 1]
                assert told == str(limits or 128)

    def teardown(self) -> None:
        world = self.world
        self.failing = 0
        try:
            if self.operator is not None:
                self.do(self.peace(world))
        finally:
            if self.operator is not None:
                self.stop()
            self.loop.close()
            logging.disable(logging.NOTSET)

    async def peace(self, world: World) -> None:
        await world.serve()
        await world.settle(RESYNC)  # what a broken watch has missed
        await world.serve()
        replicas = self.spec["replicas"]
        asked = {r["metadata"]["name"]: r["spec"]["replicas"] for r in world.api.all("ReplicaSet")}
        assert asked.pop(world.current()["metadata"]["name"]) == replicas
        assert set(asked.values()) <= {0}
        assert len(asked) <= HISTORY
        assert len(world.api.all("Service")) == 1
        assert len(world.api.all("PodDisruptionBudget")) == (replicas > 1)
        assert kstatus(world.api.one(names.KIND)) == "Current"
        world.writes()
        await world.settle(2 * RESYNC)
        assert world.writes() == []


Chaos.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestChaos = Chaos.TestCase
