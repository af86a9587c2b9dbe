"""Whole rollouts as the tools see them: at no moment does one call done what is not, nor failed
what goes on. Judged at every change of the object, against the pods that there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.kstatus import Health, KStatus, argo_health, kstatus, kubectl_wait
from tests.unit.world import World, is_ready

from llm_operator.api import names
from llm_operator.facts.acceptance import Proof, Result

pytestmark = pytest.mark.looptime

REPLICAS = 3
NEW: dict[str, Any] = {"limits": {"maxConcurrentRequests": 7}}
ASKED: dict[str, Any] = {"acceptance": {"prompts": [{"prompt": "2 + 2 ="}]}}
NONSENSE = Proof((Result(8, 0.5, "the answer is empty"),), 1)
CANARY: dict[str, Any] = {"strategy": "Canary", "canary": {"steps": [{"replicas": 1}]}}


@dataclass(frozen=True)
class Story:
    """How the upgrade is wished for, what stands in its way, and what is said in the end.

    `then`: what the user does about it, after which it must be Current.
    """

    rollout: dict[str, Any] = field(default_factory=dict)
    end: KStatus = "Current"
    argo: Health = "Healthy"
    room: int = 1000
    nonsense: bool = False
    then: dict[str, Any] | None = None
    promote: bool = False


STORIES = {
    "with room": Story(),
    "without room": Story(room=REPLICAS),
    "without room, and none may be made": Story(
        {"minAvailable": "100%"}, "Failed", "Degraded", room=REPLICAS, then={}
    ),
    "all at once": Story({"maxSurge": "100%"}),
    "recreate": Story({"strategy": "Recreate"}),
    "accepted": Story(ASKED),
    "nonsense": Story(ASKED, "Failed", "Degraded", nonsense=True),
    "nonsense, held": Story({**ASKED, "onFailure": "Hold"}, "Failed", "Degraded", nonsense=True),
    "canary": Story(CANARY, "InProgress", "Suspended", promote=True),
    "paused": Story({"paused": True}, "InProgress", "Suspended", then={}),
}


@dataclass
class Watcher:
    """Looks at the object whenever anything changes; `old` is the revision before."""

    world: World
    old: str
    verdicts: list[KStatus] = field(default_factory=list)
    healths: list[Health] = field(default_factory=list)

    def begin(self) -> None:
        told = self.world.api.watch

        def look(verb: str, body: dict[str, Any]) -> None:
            self.look()
            told(verb, body)

        self.world.api.watch = look

    def look(self) -> None:
        thing = self.world.api.one(names.KIND)
        verdict, health = kstatus(thing), argo_health(thing)[0]
        self.verdicts.append(verdict)
        self.healths.append(health)
        assert (verdict == "Current") == kubectl_wait(thing) == (health == "Healthy"), thing
        if verdict == "Current":
            assert self.is_done(), thing["status"]

    def is_done(self) -> bool:
        """Every pod is of the new revision and serves, and there are as many as wanted."""
        pods = self.world.api.all("Pod")
        is_new = (not pod["metadata"]["name"].startswith(self.old) for pod in pods)
        return len(pods) == REPLICAS and all(is_new) and all(map(is_ready, pods))


async def play(world: World, rounds: int = 70) -> None:
    for _ in range(rounds):
        await world.settle()
        world.play()
        await world.settle(1)
        served = any(map(is_ready, world.api.all("Pod")))
        assert kubectl_wait(world.api.one(names.KIND), "Available") == served


@pytest.mark.parametrize("name", STORIES)
async def test_every_tool_judges_every_moment_rightly(name: str) -> None:
    story, world = STORIES[name], World()
    async with world.operator():
        world.want(replicas=REPLICAS)
        await world.serve()
        (old,) = world.api.all("ReplicaSet")
        watcher = Watcher(world, old["metadata"]["name"])
        watcher.begin()
        world.room = story.room
        if story.nonsense:
            world.answers = NONSENSE
        world.want(replicas=REPLICAS, rollout=story.rollout, **NEW)
        await play(world)
        await world.settle(2 * 3600)
        watcher.look()
        assert (watcher.verdicts[-1], watcher.healths[-1]) == (story.end, story.argo)
        assert watcher.is_done() == (story.end == "Current")
        if story.end != "Current":
            assert "Current" not in watcher.verdicts
        if story.end != "Failed":
            assert "Failed" not in watcher.verdicts
        if story.then is not None:
            world.want(replicas=REPLICAS, rollout=story.then, **NEW)
        if story.promote:
            mark = {names.ANNOTATION_PROMOTE: world.status()["currentRevision"]}
            world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(annotations=mark))
        if story.then is not None or story.promote:
            await play(world)
            watcher.look()
            assert watcher.verdicts[-1] == "Current"
