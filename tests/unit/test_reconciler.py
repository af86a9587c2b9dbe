"""Passes over an object: what is written, in which order, and above all what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.kstatus import kstatus, kubectl_wait
from tests.unit.desired_inputs import plan
from tests.unit.world import MODEL, RESYNC, World

from llm_operator.api import names
from llm_operator.api.status import Reason
from llm_operator.desired.revision import Defaults
from llm_operator.kube.client import ApiError
from llm_operator.reconcile.reconciler import CONFLICT_RETRY_SECONDS
from llm_operator.reconcile.wishes import Answer
from llm_operator.status.situation import Held

pytestmark = pytest.mark.looptime

REFUSED = Answer(held=Held(Reason.PLAN_REFUSED, "needs 810 GB"), plan=plan(fits=False))
EDITED = [{"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {}}}}}]


@pytest.fixture
def world() -> World:
    return World()


def replica_sets(world: World) -> dict[str, int]:
    """Replicas by name, those left out that are only kept to go back to."""
    return {
        o["metadata"]["name"]: o["spec"]["replicas"]
        for o in world.api.all("ReplicaSet")
        if o["spec"]["replicas"] or o["metadata"]["name"] == world.current()["metadata"]["name"]
    }


async def test_the_pods_come_first_then_the_way_to_them_then_the_status(world: World) -> None:
    async with world.operator():
        world.want()
        await world.settle()
        name = world.api.one("ReplicaSet")["metadata"]["name"]
        assert world.writes() == [
            ("create", "ReplicaSet", name),
            ("create", "Service", "llama"),
            ("status", names.KIND, "llama"),
        ]
        assert name == f"llama-{world.status()['currentRevision']}"
        assert world.condition() == ("False", "Creating")


async def test_from_creation_to_ready_in_children_plus_three_writes(world: World) -> None:
    async with world.operator():
        world.want()
        await world.settle()
        world.play(ready=False)
        await world.settle()
        world.play()
        await world.settle()
        assert world.condition() == ("True", "Ready")
        assert len(world.writes()) <= 2 + 3
        assert kubectl_wait(world.api.one(names.KIND))
        assert kstatus(world.api.one(names.KIND)) == "Current"


async def test_events_tell_the_transitions(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        told = [event["reason"] for event in world.api.all("Event")]
        assert sorted(told) == ["Creating", "Ready"]


async def test_at_rest_and_after_a_restart_nothing_is_written(world: World) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.serve()
        world.writes()
        before = world.versions()
        await world.settle(10 * RESYNC)
    async with world.operator():
        await world.settle(3 * RESYNC)
    assert world.writes() == []
    assert world.versions() == before


async def test_another_operator_with_other_defaults_restarts_nothing(world: World) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.serve()
        world.writes()
    world.wishes.defaults = Defaults(repository="registry.example/tgi", version="3.3.5")
    async with world.operator():
        await world.settle(3 * RESYNC)
        assert world.writes() == []
        assert world.wishes.asked == 1  # for the first object; what runs is not planned again
        world.want(replicas=3)
        await world.serve()
        assert len(replica_sets(world)) == 1
        world.want(replicas=3, runtime={"validationWorkers": 4})
        await world.serve()
        container = world.current()["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "registry.example/tgi:3.3.5"


async def test_a_changed_wish_is_a_new_revision_and_the_old_one_serves_until_it_does(
    world: World,
) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        (old,) = replica_sets(world)
        world.want(limits={"maxConcurrentRequests": 7})
        await world.settle()
        world.play(ready=False)
        world.api.edit("Pod", f"{old}-0", _ready)
        await world.settle()
        assert replica_sets(world).pop(old) == 1
        assert len(replica_sets(world)) == 2
        assert world.condition() == ("False", "Updating")
        assert world.condition("Available")[0] == "True"
        await world.serve()
        assert old not in replica_sets(world)
        assert len(replica_sets(world)) == 1
        assert world.condition() == ("True", "Ready")


async def test_a_model_whose_commit_floats_is_warned_of_until_it_is_pinned(world: World) -> None:
    async with world.operator():
        world.want(model={**MODEL, "revision": "v2"})
        await world.serve()
        (warning,) = world.status()["plan"]["warnings"]
        assert "each pod loads what 'v2' of the model is when it starts" in warning
        world.want(model={**MODEL, "revision": "0" * 40})
        await world.serve()
        assert world.status()["plan"]["warnings"] == []


async def test_going_back_takes_the_revision_that_is_still_there(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        before = replica_sets(world)
        world.want(limits={"maxConcurrentRequests": 7})
        await world.settle()
        world.want()
        await world.serve()
        assert replica_sets(world) == before
        creates = [write for write in world.writes() if write[:2] == ("create", "ReplicaSet")]
        assert len(creates) == 2


async def test_a_change_that_means_the_same_pod_restarts_nothing_ever(world: World) -> None:
    """To write down a default is no change for the pod; nor is anything that follows."""
    async with world.operator():
        world.want()
        await world.serve()
        uid = world.api.one("ReplicaSet")["metadata"]["uid"]
        for spec in (
            {"parallelism": {"tensor": 1}},
            {"parallelism": {"tensor": 1}, "replicas": 2},
            {"parallelism": {"tensor": 1}, "replicas": 3},
            {"replicas": 3},
            {"replicas": 1},
        ):
            world.want(**spec)
            await world.serve()
            assert world.api.one("ReplicaSet")["metadata"]["uid"] == uid, spec
            assert world.condition() == ("True", "Ready")
    async with world.operator():
        await world.settle()
        assert world.api.one("ReplicaSet")["metadata"]["uid"] == uid


async def test_scaling_writes_the_replica_set_and_guards_from_two_on(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        world.writes()
        world.want(replicas=2)
        await world.settle()
        name = world.api.one("ReplicaSet")["metadata"]["name"]
        assert world.writes()[:2] == [
            ("apply", "ReplicaSet", name),
            ("create", "PodDisruptionBudget", "llama"),
        ]
        await world.serve()
        assert world.status()["ready"] == "2/2"
        world.want(replicas=1)
        await world.serve()
        assert world.api.all("PodDisruptionBudget") == []
        world.want(replicas=0)
        await world.serve()
        assert world.condition() == ("True", "ScaledToZero")
        assert list(replica_sets(world).values()) == [0]


# repairs


def _ready(pod: dict[str, Any]) -> None:
    pod["status"]["conditions"][0]["status"] = "True"


def _unlabel(thing: dict[str, Any]) -> None:
    thing["metadata"]["labels"] = {}


REPAIRS: dict[str, Callable[[World, str], None]] = {
    "Service deleted": lambda w, rs: w.api.drop("Service", "llama"),
    "Service port edited": lambda w, rs: w.api.edit(
        "Service", "llama", lambda s: s["spec"].update(ports=[])
    ),
    "Service selector extended": lambda w, rs: w.api.edit(
        "Service", "llama", lambda s: s["spec"]["selector"].update(app="other")
    ),
    "Service unlabelled": lambda w, rs: w.api.edit("Service", "llama", _unlabel),
    "budget deleted": lambda w, rs: w.api.drop("PodDisruptionBudget", "llama"),
    "budget edited": lambda w, rs: w.api.edit(
        "PodDisruptionBudget", "llama", lambda b: b["spec"].update(maxUnavailable=2)
    ),
    "scaled by hand": lambda w, rs: w.api.edit(
        "ReplicaSet", rs, lambda r: r["spec"].update(replicas=0)
    ),
    "ReplicaSet unlabelled": lambda w, rs: w.api.edit("ReplicaSet", rs, _unlabel),
    "ReplicaSet's owner removed": lambda w, rs: w.api.edit(
        "ReplicaSet", rs, lambda r: r["metadata"]["labels"].update({names.LABEL_DEPLOYMENT: "x"})
    ),
    "record removed": lambda w, rs: w.api.edit(
        "ReplicaSet", rs, lambda r: r["metadata"].update(annotations={})
    ),
    "record spoilt": lambda w, rs: w.api.edit(
        "ReplicaSet",
        rs,
        lambda r: r["metadata"].update(annotations={names.ANNOTATION_RECORD: "{"}),
    ),
    "template edited": lambda w, rs: w.api.edit("ReplicaSet", rs, _edit_template),
}


def _edit_template(replica_set: dict[str, Any]) -> None:
    replica_set["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    replica_set["metadata"]["managedFields"] = EDITED


def essence(thing: dict[str, Any]) -> dict[str, Any]:
    """What of a child a user cares for."""
    keep = {"name", "uid", "labels", "annotations", "ownerReferences"}
    metadata = {k: v for k, v in thing["metadata"].items() if k in keep}
    return {"metadata": metadata, "spec": thing["spec"]}


@pytest.mark.parametrize("name", REPAIRS)
async def test_what_was_changed_by_hand_is_put_right(world: World, name: str) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.serve()
        kinds = ("ReplicaSet", "Service", "PodDisruptionBudget")
        before = {kind: essence(world.api.one(kind)) for kind in kinds}
        REPAIRS[name](world, world.api.one("ReplicaSet")["metadata"]["name"])
        await world.serve()
        for kind in kinds:
            after = essence(world.api.one(kind))
            if "deleted" in name:
                after["metadata"].pop("uid")
                before[kind]["metadata"].pop("uid")
            assert after == before[kind]
        assert world.condition() == ("True", "Ready")
        world.writes()
        await world.settle(2 * RESYNC)
        assert world.writes() == []


async def test_a_deleted_replica_set_comes_back_as_the_same_revision(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        before = world.api.one("ReplicaSet")
        world.api.drop("ReplicaSet", before["metadata"]["name"])
        await world.serve()
        after = world.api.one("ReplicaSet")
        assert after["metadata"]["name"] == before["metadata"]["name"]
        assert after["spec"] == before["spec"]


async def test_a_revision_lost_from_sight_is_found_before_another_is_made(world: World) -> None:
    """Its labels were edited, and a newer operator would plan it otherwise."""
    async with world.operator():
        world.want()
        await world.serve()
        before = world.api.one("ReplicaSet")
    world.api.edit("ReplicaSet", before["metadata"]["name"], _unlabel)
    world.wishes.defaults = Defaults(version="3.3.5")
    async with world.operator():
        await world.serve()
        assert essence(world.api.one("ReplicaSet")) == essence(before)


async def test_an_edited_template_that_cannot_be_told_is_named_and_left_alone(
    world: World,
) -> None:
    """Made by another operator version, which renders otherwise."""
    async with world.operator():
        world.want()
        await world.serve()
        name = world.api.one("ReplicaSet")["metadata"]["name"]

        def spoil(replica_set: dict[str, Any]) -> None:
            annotations = replica_set["metadata"]["annotations"]
            record = annotations[names.ANNOTATION_RECORD]
            rendering = record.split('"rendering":"')[1][:64]
            annotations[names.ANNOTATION_RECORD] = record.replace(rendering, "0" * 64)
            _edit_template(replica_set)

        world.writes()
        world.api.edit("ReplicaSet", name, spoil)
        await world.serve()
        assert world.condition("Drifted") == ("True", "TemplateEdited")
        assert world.condition() == ("True", "Ready")
        assert {write[1] for write in world.writes()} == {names.KIND}
        template = world.api.one("ReplicaSet")["spec"]["template"]
        assert template["spec"]["containers"][0]["image"] == "other"


# what is not ours


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "ReplicaSet"])
async def test_an_object_of_somebody_else_is_refused_and_never_touched(
    world: World, kind: str
) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.settle()
        name = world.api.one(kind)["metadata"]["name"]
        world.api.drop(names.KIND, "llama")
        for mine in ("ReplicaSet", "Service", "PodDisruptionBudget"):
            world.api.drop(mine, world.api.one(mine)["metadata"]["name"])
        await world.settle()
        body = {"kind": kind, "metadata": {"name": name, "namespace": "ns"}}
        foreign = world.api.put(body | {"spec": {"replicas": 1, "theirs": True}})
        world.want(replicas=2)
        await world.settle()
        assert world.condition("Stalled") == ("True", "NameConflict")
        message = world.status()["conditions"][0]["message"]
        assert f"a {kind} named {name} exists and is not ours" in message
        await world.settle(5 * CONFLICT_RETRY_SECONDS)
        now = next(o for o in world.api.all(kind) if o["metadata"]["name"] == name)
        assert now == foreign
        world.api.drop(kind, name)
        await world.settle(CONFLICT_RETRY_SECONDS)
        await world.serve()
        assert world.condition() == ("True", "Ready")


# wishes that are held


async def test_what_ran_before_goes_on_while_the_wish_is_refused(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        before, uids = replica_sets(world), {o["metadata"]["uid"] for o in world.api.all("Pod")}
        world.wishes.answer = REFUSED
        world.want(model={"id": "meta-llama/Llama-3.1-405B-Instruct"})
        await world.serve()
        assert replica_sets(world) == before
        assert {o["metadata"]["uid"] for o in world.api.all("Pod")} == uids
        assert world.condition("Stalled") == ("True", "PlanRefused")
        assert world.condition("Available")[0] == "True"
        assert "goes on: 1 replica" in world.status()["conditions"][0]["message"]
        world.want(model={"id": "meta-llama/Llama-3.1-405B-Instruct"}, replicas=2)
        await world.serve()
        assert list(replica_sets(world).values()) == [2]
        world.wishes.answer = None
        world.want(replicas=2)
        await world.serve()
        assert set(replica_sets(world)) == set(before)
        assert world.condition() == ("True", "Ready")


async def test_a_wish_that_waits_for_nodes_is_looked_at_when_one_comes(world: World) -> None:
    held = Held(Reason.WAITING_FOR_GPU, "no node", stuck=False)
    world.wishes.answer = Answer(held=held, depends_on_nodes=True)
    async with world.operator():
        world.want()
        await world.settle()
        assert world.condition() == ("False", "WaitingForGPU")
        assert world.api.all("ReplicaSet") == []
        world.wishes.answer = None
        await world.settle()
        assert world.api.all("ReplicaSet") == []
        world.api.put({"kind": "Node", "metadata": {"name": "n1"}})
        await world.serve()
        assert world.condition() == ("True", "Ready")
        asked = world.wishes.asked
        world.api.put({"kind": "Node", "metadata": {"name": "n2"}})
        await world.settle()
        assert world.wishes.asked == asked


async def test_a_wish_that_only_time_can_help_is_looked_at_again(world: World) -> None:
    held = Held(Reason.HUB_UNREACHABLE, "timeout", stuck=False)
    world.wishes.answer = Answer(held=held, retry_after=60)
    async with world.operator():
        world.want()
        await world.settle()
        world.wishes.answer = None
        await world.settle(50)
        assert world.api.all("ReplicaSet") == []
        await world.settle(10)
        assert len(world.api.all("ReplicaSet")) == 1


async def test_a_spec_that_cannot_be_read_holds_what_runs(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        before = replica_sets(world)
        world.want(model={"id": "meta-llama/x", "revision": 7})
        await world.serve()
        assert replica_sets(world) == before
        assert world.condition("Stalled") == ("True", "InvalidSpec")
        assert "spec.model.revision" in world.status()["conditions"][0]["message"]


@pytest.mark.parametrize("code", [400, 403, 422])
async def test_a_child_that_the_api_server_refuses_is_told_and_tried_again(
    world: World, code: int
) -> None:
    refuse = True

    def before(verb: str, kind: str, _: str) -> None:
        if refuse and (verb, kind) == ("create", "ReplicaSet"):
            raise ApiError(code, "Invalid", "spec.template: no")

    world.api.before = before
    async with world.operator():
        world.want()
        await world.settle()
        assert world.condition("Stalled") == ("True", "AdmissionRefused")
        assert "spec.template: no" in world.status()["conditions"][0]["message"]
        refuse = False
        await world.settle(CONFLICT_RETRY_SECONDS)
        await world.serve()
        assert world.condition() == ("True", "Ready")


@pytest.mark.parametrize("code", [0, 409, 429, 500, 503])
async def test_trouble_that_passes_is_not_told_and_soon_over(world: World, code: int) -> None:
    left = 3

    def before(verb: str, kind: str, _: str) -> None:
        nonlocal left
        if (verb, kind) == ("create", "ReplicaSet") and left > 0:
            left -= 1
            raise ApiError(code, "Busy", "later")

    world.api.before = before
    async with world.operator():
        world.want()
        await world.settle(1)
        assert len(replica_sets(world)) == 1
        assert world.condition("Stalled") == ("", "")


# races


async def test_a_wish_that_changes_during_a_pass_is_not_called_served(world: World) -> None:
    """The pass decided on generation 1: it must not say that it saw 2."""
    async with world.operator():
        world.want()
        await world.serve()
        (first,) = replica_sets(world)
        told: list[dict[str, Any]] = []

        def change(verb: str, kind: str, _: str) -> None:
            if (verb, kind) == ("create", "Service"):
                world.want(limits={"maxConcurrentRequests": 7})
                assert world.loop is not None
                world.loop.seen("MODIFIED", world.api.one(names.KIND))
            if verb == "status":
                told.append(world.api.one(names.KIND))

        world.api.after = change
        world.api.drop("Service", "llama")
        await world.settle()
        assert told
        assert [kstatus(thing) for thing in told] == ["InProgress"] * len(told)
        world.api.after = lambda *_: None
        await world.serve()
        assert first not in replica_sets(world)
        assert world.condition() == ("True", "Ready")


async def test_a_wish_that_changes_during_the_status_write_is_seen(world: World) -> None:
    """The answer to our write brings the new spec; its own watch event then tells nothing new."""
    async with world.operator():
        world.want()
        await world.settle()
        changed = False

        def change(verb: str, kind: str, _: str) -> None:
            nonlocal changed
            if verb == "status" and not changed:
                changed = True
                world.want(limits={"maxConcurrentRequests": 7})

        world.api.before = change
        world.play()
        await world.settle()
        assert changed
        assert len(replica_sets(world)) == 2
        await world.serve()
        only = world.current()
        assert (
            '"maxConcurrentRequests":7' in only["metadata"]["annotations"][names.ANNOTATION_RECORD]
        )
        assert world.status()["observedGeneration"] == 2


async def test_an_object_that_goes_during_a_pass_gets_no_more(world: World) -> None:
    async with world.operator():

        def vanish(verb: str, kind: str, _: str) -> None:
            if (verb, kind) == ("create", "ReplicaSet"):
                world.api.drop(names.KIND, "llama")

        world.api.after = vanish
        world.want()
        await world.settle()
        for kind in ("ReplicaSet", "Service"):  # as garbage collection does
            for thing in world.api.all(kind):
                world.api.drop(kind, thing["metadata"]["name"])
        world.writes()
        await world.settle()
        assert world.writes() == []
        assert world.api.all("ReplicaSet") == []


async def test_what_is_being_deleted_gets_no_children(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        world.writes()
        world.api.edit(
            names.KIND, "llama", lambda o: o["metadata"].update(deletionTimestamp="2026-01-01")
        )
        world.api.drop("ReplicaSet", world.api.one("ReplicaSet")["metadata"]["name"])
        world.api.drop("Service", "llama")
        await world.settle(2 * RESYNC)
        assert world.writes() == []


async def test_a_namesake_made_at_once_gets_its_own_children(world: World) -> None:
    async with world.operator():
        world.want()
        await world.serve()
        world.api.drop(names.KIND, "llama")
        world.want()
        await world.settle(0.1)
        for kind in ("ReplicaSet", "Service", "Pod"):  # garbage collection comes a bit later
            for thing in world.api.all(kind):
                if thing["metadata"]["name"].startswith("llama"):
                    world.api.drop(kind, thing["metadata"]["name"])
        await world.settle(CONFLICT_RETRY_SECONDS + 1)
        await world.serve()
        uid = world.api.one(names.KIND)["metadata"]["uid"]
        for kind in ("ReplicaSet", "Service"):
            assert world.api.one(kind)["metadata"]["ownerReferences"][0]["uid"] == uid
        assert world.condition() == ("True", "Ready")


async def test_in_a_burst_all_pods_come_before_any_bookkeeping(world: World) -> None:
    async with world.operator(workers=2):
        for number in range(20):
            world.want(f"m{number:02}")
        await world.settle()
        writes = world.writes()
        kinds = [kind for _, kind, _ in writes]
        last_set = max(i for i, kind in enumerate(kinds) if kind == "ReplicaSet")
        # Passes that were under way when the last one came may have gone on.
        assert len([k for k in kinds[:last_set] if k != "ReplicaSet"]) <= 4
        assert len(writes) == 20 * 3


async def test_counts_that_change_quickly_are_written_together(world: World) -> None:
    async with world.operator():
        world.want(replicas=8)
        await world.settle()
        world.play(ready=False)
        await world.settle()
        world.writes()
        for number, pod in enumerate(world.api.all("Pod")):
            world.api.edit("Pod", pod["metadata"]["name"], _ready)
            await asyncio.sleep(0.05)
            assert number < 8
        await world.settle()
        assert world.status()["ready"] == "8/8"
        assert world.condition() == ("True", "Ready")
        assert len(world.writes()) <= 4
