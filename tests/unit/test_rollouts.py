"""Upgrades by passes over an object: what is written in between, and what the pods see of it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tests.kstatus import kstatus, kubectl_wait
from tests.unit.world import RESYNC, World, is_ready

from llm_operator.api import names
from llm_operator.facts.acceptance import Proof, Result

pytestmark = pytest.mark.looptime

NEW: dict[str, Any] = {"limits": {"maxConcurrentRequests": 7}}
ASKED: dict[str, Any] = {
    "acceptance": {"prompts": [{"prompt": "2 + 2 =", "expect": {"contains": "4"}}]}
}
BAD = Proof((Result(8, 0.5, "the answer does not contain '4'"),), 1)


@pytest.fixture
def world() -> World:
    return World()


def sets(world: World) -> dict[str, int]:
    """Replicas of all ReplicaSets."""
    return {o["metadata"]["name"]: o["spec"]["replicas"] for o in world.api.all("ReplicaSet")}


def states(world: World) -> list[str]:
    """What its revisions are about, as status says."""
    return [one["state"] for one in world.status()["revisions"]]


def gated(thing: dict[str, Any]) -> bool:
    return "readinessGates" in thing["spec"].get("template", thing)["spec"]


def marks_on(world: World, name: str) -> dict[str, Any]:
    (found,) = (o for o in world.api.all("ReplicaSet") if o["metadata"]["name"] == name)
    kept: dict[str, Any] = found["metadata"]["annotations"]
    return kept


def annotate(world: World, **values: str | None) -> None:
    """The user's word on the object."""
    marks = {f"{names.GROUP}/{key}": value for key, value in values.items() if value is not None}
    world.api.edit(names.KIND, "llama", lambda o: o["metadata"].update(annotations=marks))


def counted(world: World) -> list[tuple[int, int]]:
    """Pods that serve and pods there are, from now on at every event."""
    counts = []
    told = world.api.watch

    def count(verb: str, body: dict[str, Any]) -> None:
        pods = world.api.all("Pod")
        counts.append((sum(map(is_ready, pods)), len(pods)))
        told(verb, body)

    world.api.watch = count
    return counts


async def test_never_fewer_serve_and_never_more_than_one_above(world: World) -> None:
    async with world.operator():
        world.want(replicas=3)
        await world.serve()
        (old,) = sets(world)
        counts = counted(world)
        world.want(replicas=3, **NEW)
        await world.serve()
        assert min(ready for ready, _ in counts) == 3
        assert max(total for _, total in counts) == 4
        assert sets(world).pop(old) == 0
        assert world.condition() == ("True", "Ready")
        assert kubectl_wait(world.api.one(names.KIND))


async def test_the_old_revision_is_kept_and_going_back_takes_it(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        (old,) = sets(world)
        world.want(**NEW)
        await world.serve()
        world.writes()
        world.want()
        await world.serve()
        assert sets(world)[old] == 1
        assert "create" not in [verb for verb, kind, _ in world.writes() if kind == "ReplicaSet"]
        assert world.condition() == ("True", "Ready")


async def test_no_more_revisions_are_kept_than_wished_for(world: World) -> None:
    async with world.operator():
        for requests in range(1, 6):
            world.want(rollout={"history": 2}, limits={"maxConcurrentRequests": requests})
            await world.serve()
        assert sorted(sets(world).values()) == [0, 0, 1]


# acceptance


async def test_no_request_before_the_revision_is_accepted(world: World) -> None:
    async with world.operator():
        world.want(rollout=ASKED)
        await world.settle()
        (name,) = sets(world)
        assert gated(world.api.one("ReplicaSet"))
        world.play()
        world.answer_seconds = 60.0
        await world.settle(30)
        world.play()
        assert world.asked == ["http://10.0.0.1:8080"]
        assert not any(map(is_ready, world.api.all("Pod")))
        assert kstatus(world.api.one(names.KIND)) == "InProgress"
        await world.settle(40)
        world.writes()
        await world.serve()
        assert not gated(world.api.one("ReplicaSet"))
        mark = json.loads(marks_on(world, name)[names.ANNOTATION_ACCEPTED])
        assert mark["results"] == [{"tokens": 8, "seconds": 0.5, "fault": ""}]
        assert is_ready(world.api.one("Pod"))
        assert world.condition() == ("True", "Ready")
        assert len(world.asked) == 1
        # Whoever comes later depends on nobody.
        world.api.drop("Pod", f"{name}-0")
        await world.serve()
        assert not gated(world.api.one("Pod"))


async def test_from_creation_to_ready_acceptance_takes_three_writes_more(world: World) -> None:
    async with world.operator():
        world.want(rollout=ASKED)
        await world.serve()
        assert world.condition() == ("True", "Ready")
        assert len(world.writes()) <= 2 + 3 + 3  # the mark, the pod's gate, a status in between
        await world.settle(3 * RESYNC)
        assert world.writes() == []


async def test_a_revision_that_answers_otherwise_is_taken_back(world: World) -> None:
    async with world.operator():
        world.want(rollout=ASKED, replicas=2)
        await world.serve()
        (old,) = sets(world)
        good, world.answers = world.answers, BAD
        world.want(rollout=ASKED, replicas=2, **NEW)
        served = set()
        for _ in range(12):
            await world.settle()
            world.play()
            served |= {p["metadata"]["name"][:-2] for p in world.api.all("Pod") if is_ready(p)}
        assert served == {old}
        assert world.condition("Stalled") == ("True", "RolledBack")
        assert world.status()["reason"] == "RolledBack: AcceptanceFailed"
        assert "prompt 1 of 1: the answer does not contain '4'" in str(world.status())
        found = sets(world)
        assert found.pop(old) == 2
        assert list(found.values()) == [0]
        # At rest, and after a restart, nothing is tried again.
        world.writes()
        asked = len(world.asked)
        await world.settle(2 * RESYNC)
    async with world.operator():
        await world.settle(2 * RESYNC)
        assert len(world.asked) == asked
        assert world.writes() == []

        # The user says so: then it is, and it is forgiven for good.
        world.answers = good
        annotate(world, retry="1")
        await world.settle()
        assert "Failed" not in states(world)
        await world.serve()
        assert world.condition() == ("True", "Ready")
        assert sets(world) == {old: 0, **dict.fromkeys(found, 2)}
        annotate(world)
        await world.settle(2 * RESYNC)
        assert world.condition() == ("True", "Ready")
        assert sorted(states(world)) == ["Retired", "Serving"]


async def test_what_has_failed_goes_at_once(world: World) -> None:
    """Nothing else need happen for it."""
    async with world.operator():
        world.want(rollout=ASKED)
        await world.serve()
        world.answers = BAD
        world.want(rollout=ASKED, **NEW)
        await world.settle()
        world.play()
        await world.settle(1.5)
        assert world.current()["spec"]["replicas"] == 0
        assert world.condition("Stalled") == ("True", "RolledBack")


async def test_bad_answers_of_a_pod_that_has_left_mean_nothing(world: World) -> None:
    async with world.operator():
        world.want(rollout=ASKED)
        await world.settle()
        world.play()
        world.answer_seconds = 20.0
        good, world.answers = world.answers, BAD
        await world.settle(10)
        world.api.drop("Pod", world.api.one("Pod")["metadata"]["name"])
        await world.settle(15)
        world.answers = good
        await world.serve()
        await world.settle(30)
        await world.serve()
        assert len(world.asked) == 2
        assert world.condition() == ("True", "Ready")


async def test_questions_that_are_withdrawn_open_the_gate(world: World) -> None:
    world.answer_seconds = 1e6
    async with world.operator():
        world.want(rollout=ASKED)
        await world.serve()
        assert not is_ready(world.api.one("Pod"))
        world.want()
        await world.serve()
        assert is_ready(world.api.one("Pod"))
        assert not gated(world.api.one("ReplicaSet"))
        assert world.condition() == ("True", "Ready")


async def test_other_questions_are_asked_anew(world: World) -> None:
    world.answer_seconds = 1e6
    async with world.operator():
        world.want(rollout=ASKED)
        await world.serve()
        world.answer_seconds = 1.0
        world.want(rollout={"acceptance": {"prompts": [{"prompt": "1 + 1 ="}]}})
        await world.serve()
        assert len(world.asked) == 2
        assert world.condition() == ("True", "Ready")


async def test_a_template_is_restored_with_its_gate(world: World) -> None:
    world.answer_seconds = 1e6

    def edit(replica_set: dict[str, Any]) -> None:
        replica_set["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
        replica_set["metadata"]["managedFields"] = [
            {"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:template": {}}}}
        ]

    async with world.operator():
        world.want(rollout=ASKED)
        await world.serve()
        before = world.api.one("ReplicaSet")["spec"]
        world.api.edit("ReplicaSet", next(iter(sets(world))), edit)
        await world.settle()
        assert world.api.one("ReplicaSet")["spec"] == before
        assert gated(world.api.one("ReplicaSet"))


# who goes first


def costs(world: World) -> dict[str, str]:
    """Deletion costs by the last letter of the pods' names."""
    found = {}
    for pod in world.api.all("Pod"):
        if cost := pod["metadata"].get("annotations", {}).get(names.ANNOTATION_DELETION_COST):
            found[pod["metadata"]["name"][-1]] = cost
    return found


async def test_the_least_busy_pods_are_to_go_first(world: World) -> None:
    async with world.operator():
        world.want(replicas=4)
        await world.serve()
        (name,) = sets(world)
        world.load = {f"{name}-0": 3, f"{name}-1": 0, f"{name}-3": 1}  # 2 does not tell
        world.writes()
        world.want(replicas=2)
        await world.settle()
        assert costs(world) == {"1": "-1", "3": "-1"}
        kinds = [kind for verb, kind, _ in world.writes() if verb == "apply"]
        assert kinds == ["Pod", "Pod", "ReplicaSet"]


async def test_what_was_said_of_a_pod_before_is_taken_back(world: World) -> None:
    async with world.operator():
        world.want(replicas=3)
        await world.serve()
        (name,) = sets(world)
        pods = [f"{name}-{number}" for number in range(3)]
        world.api.edit(
            "Pod",
            pods[0],
            lambda p: p["metadata"].update(annotations={names.ANNOTATION_DELETION_COST: "-1"}),
        )
        world.load = dict(zip(pods, (5, 0, 5), strict=True))
        await world.settle()
        world.want(replicas=2)
        await world.settle()
        assert costs(world) == {"0": "0", "1": "-1"}


async def test_nobody_is_asked_where_there_is_no_choice(world: World) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.serve()
        world.load = {pod["metadata"]["name"]: 1 for pod in world.api.all("Pod")}
        world.want(replicas=0)
        await world.settle()
        assert costs(world) == {}
        assert list(sets(world).values()) == [0]


# no room


async def test_without_room_replicas_are_exchanged_one_at_a_time(world: World) -> None:
    async with world.operator():
        world.want(replicas=3)
        await world.serve()
        world.room = 3
        world.want(replicas=3, **NEW)
        counts, reasons = counted(world), list[str]()
        for _ in range(60):
            await world.settle()
            world.play()
            reasons.append(world.status()["reason"])
        assert min(ready for ready, _ in counts) == 2
        # Said from the first to the last replica, without a word in between.
        told = [reason for reason, _ in itertools.groupby(reasons)]
        first, last = told.index("NoSpareGPU 0/3"), told.index("NoSpareGPU 2/3")
        assert set(told[:first]) == {"Updating 0/3"}
        assert told[first : last + 1] == [f"NoSpareGPU {done}/3" for done in range(3)]
        assert world.condition() == ("True", "Ready")


async def test_a_floor_that_lets_nothing_go_stalls_with_the_way_out(world: World) -> None:
    floor: dict[str, Any] = {"rollout": {"minAvailable": "100%"}}
    async with world.operator():
        world.want(replicas=2, **floor)
        await world.serve()
        (old,) = sets(world)
        world.room = 2
        world.want(replicas=2, **floor, **NEW)
        await world.serve()
        await world.settle(2 * 3600)
        assert world.condition("Stalled") == ("True", "NoSpareGPU")
        assert "rollout.minAvailable" in world.status()["conditions"][0]["message"]
        assert sets(world)[old] == 2
        assert sum(map(is_ready, world.api.all("Pod"))) == 2
        world.writes()
        await world.settle(2 * RESYNC)
        assert world.writes() == []
        # A node comes.
        world.room = 3
        await world.serve()
        assert world.condition() == ("True", "Ready")


async def test_paused_is_said_and_kept(world: World) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.serve()
        before = sets(world)
        world.want(replicas=2, rollout={"paused": True}, **NEW)
        await world.serve()
        assert sets(world) == before
        assert world.condition("Reconciling") == ("True", "Paused")
        assert world.condition("Available")[0] == "True"
        world.want(replicas=2, rollout={}, **NEW)
        await world.serve()
        assert world.condition() == ("True", "Ready")


async def test_a_canary_waits_for_the_users_word(world: World) -> None:
    canary: dict[str, Any] = {
        "strategy": "Canary",
        "canary": {"steps": [{"replicas": 1}, {"replicas": "50%"}]},
    }
    async with world.operator():
        world.want(replicas=4)
        await world.serve()
        (old,) = sets(world)
        world.want(replicas=4, rollout=canary, **NEW)
        await world.serve()
        assert sets(world)[old] == 3
        assert world.condition("Reconciling") == ("True", "Paused")
        annotate(world, promote=world.status()["currentRevision"])
        await world.serve()
        assert sets(world)[old] == 0
        assert world.condition() == ("True", "Ready")
