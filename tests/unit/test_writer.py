"""Writes: what is ours is told from what is not, and each answer is known at once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.fake_api import FakeApi

from llm_operator.api import names
from llm_operator.kube.client import ApiError
from llm_operator.kube.store import Key, Store
from llm_operator.observe.slim import entry
from llm_operator.reconcile.writer import NameTaken, Writer

KEY = Key("ns", "llama")


def child(kind: str = "Service", owner: str = "u-llama", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": "llama",
            "namespace": "ns",
            "labels": {
                names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
                names.LABEL_DEPLOYMENT: "llama",
            },
            "ownerReferences": [
                {"kind": names.KIND, "name": "llama", "uid": owner, "controller": True}
            ],
            **metadata,
        },
        "spec": {"type": "ClusterIP"},
    }


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def writer(api: FakeApi, store: Store) -> Writer:
    return Writer(api, store)  # type: ignore[arg-type]


async def test_a_created_child_is_known_before_the_watch_tells(
    api: FakeApi, store: Store, writer: Writer
) -> None:
    assert await writer.create(child(), "u-llama") is None
    assert [e.name for e in store.owned(KEY, "Service")] == ["llama"]


async def test_a_child_that_was_there_and_is_ours_is_taken_as_it_is(
    api: FakeApi, store: Store, writer: Writer
) -> None:
    api.put(child() | {"spec": {"type": "NodePort"}})
    found = await writer.create(child(), "u-llama")
    assert found is not None
    assert found["spec"] == {"type": "NodePort"}
    assert [e.name for e in store.owned(KEY, "Service")] == ["llama"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"ownerReferences": []},
        {"ownerReferences": [{"kind": "Deployment", "name": "x", "uid": "d", "controller": True}]},
        # The children of a namesake that was deleted go soon, with it.
        {
            "ownerReferences": [
                {"kind": names.KIND, "name": "llama", "uid": "u-before", "controller": True}
            ]
        },
        {
            "ownerReferences": [
                {"kind": names.KIND, "name": "llama", "uid": "u-llama", "controller": False}
            ]
        },
    ],
    ids=["nobody's", "a Deployment's", "a namesake's", "not its controller"],
)
async def test_what_is_not_ours_is_never_adopted(
    api: FakeApi, store: Store, writer: Writer, foreign: dict[str, Any]
) -> None:
    before = api.put(child(**foreign))
    with pytest.raises(NameTaken, match="a Service named llama exists and is not ours"):
        await writer.create(child(), "u-llama")
    assert api.one("Service") == before
    assert store.get("Service", "ns", "llama") is None


async def test_other_refusals_are_the_callers(api: FakeApi, writer: Writer) -> None:
    def full(*_: str) -> None:
        raise ApiError(403, "Forbidden", "exceeded quota")

    api.before = full
    with pytest.raises(ApiError, match="exceeded quota"):
        await writer.create(child(), "u-llama")


@pytest.mark.parametrize("there", [True, False])
async def test_what_is_gone_is_not_repaired_but_forgotten(
    api: FakeApi, store: Store, writer: Writer, there: bool
) -> None:
    if there:
        api.put(child(uid="u-new"))
    store.put(entry(child(uid="u-old", resourceVersion="7")))
    with pytest.raises(ApiError, match=r"404|409"):
        await writer.repair(child(), child(uid="u-old"))
    assert len(store) == 0
    assert len(api.all("Service")) == there


async def test_repair_puts_our_fields_right_and_leaves_those_of_others(
    api: FakeApi, store: Store, writer: Writer
) -> None:
    actual = api.put(child() | {"spec": {"type": "NodePort", "sessionAffinity": "ClientIP"}})
    await writer.repair(child(), actual)
    assert api.one("Service")["spec"] == {"type": "ClusterIP", "sessionAffinity": "ClientIP"}
    kept = store.get("Service", "ns", "llama")
    assert kept is not None
    assert kept.fact["spec"]["type"] == "ClusterIP"


async def test_where_an_apply_would_be_invalid_our_parts_are_put_back_whole(
    api: FakeApi, writer: Writer
) -> None:
    """Two ports of one name: ours, and ours moved by hand."""
    wanted = child() | {"spec": {"type": "ClusterIP", "ports": [{"name": "http", "port": 80}]}}
    moved = {"type": "ClusterIP", "ports": [{"name": "http", "port": 81}], "theirs": 1}
    actual = api.put(child() | {"spec": moved})

    def invalid(verb: str, *_: str) -> None:
        if verb == "apply":
            raise ApiError(422, "Invalid", "spec.ports[1].name: Duplicate value")

    api.before = invalid
    await writer.repair(wanted, actual)
    assert api.one("Service")["spec"] == {**wanted["spec"], "theirs": 1}


async def test_a_template_is_replaced_whole(api: FakeApi, writer: Writer) -> None:
    template = {"spec": {"containers": [{"name": "tgi"}], "extra": 1}}
    actual = api.put(child("ReplicaSet") | {"spec": {"replicas": 2, "template": template}})
    await writer.replace_template(actual, {"spec": {"containers": [{"name": "tgi"}]}})
    assert api.one("ReplicaSet")["spec"] == {
        "replicas": 2,
        "template": {"spec": {"containers": [{"name": "tgi"}]}},
    }


async def test_a_deleted_child_is_forgotten_at_once(
    api: FakeApi, store: Store, writer: Writer
) -> None:
    await writer.create(child(), "u-llama")
    await writer.delete(api.one("Service"))
    assert api.all("Service") == []
    assert len(store) == 0
    await writer.delete(child(uid="u"))  # gone already: fine


async def test_a_namesake_is_not_deleted(api: FakeApi, store: Store, writer: Writer) -> None:
    api.put(child(uid="u-new"))
    store.put(entry(child(uid="u-old", resourceVersion="7")))
    await writer.delete(child(uid="u-old"))
    assert len(api.all("Service")) == 1
    assert len(store) == 0


async def test_find_reads_what_the_watch_does_not_show(
    api: FakeApi, store: Store, writer: Writer
) -> None:
    assert not await writer.find("ReplicaSet", "ns", "llama", "u-llama")
    api.put(child("ReplicaSet", labels={}) | {"spec": {"replicas": 1}})
    assert not await writer.find("ReplicaSet", "ns", "llama", "u-other")
    assert await writer.find("ReplicaSet", "ns", "llama", "u-llama")
    assert [e.name for e in store.owned(KEY, "ReplicaSet")] == ["llama"]


async def test_find_leaves_out_what_is_being_deleted(api: FakeApi, writer: Writer) -> None:
    api.put(child("ReplicaSet", deletionTimestamp="t") | {"spec": {"replicas": 1}})
    assert not await writer.find("ReplicaSet", "ns", "llama", "u-llama")


def root(uid: str = "u-llama") -> dict[str, Any]:
    return {
        "kind": names.KIND,
        "metadata": {"name": "llama", "namespace": "ns", "uid": uid},
        "spec": {},
    }


async def test_a_status_is_written_whole(api: FakeApi, store: Store, writer: Writer) -> None:
    api.put(root())
    assert await writer.status(KEY, "u-llama", {"ready": "1/1", "gpus": 2})
    assert await writer.status(KEY, "u-llama", {"ready": "0/1"})
    assert api.one(names.KIND)["status"] == {"ready": "0/1"}
    kept = store.get(names.KIND, "ns", "llama")
    assert kept is not None
    assert kept.fact["status"] == {"ready": "0/1"}


@pytest.mark.parametrize("there", [None, "u-namesake"])
async def test_the_status_of_an_object_that_is_gone_is_dropped(
    api: FakeApi, store: Store, writer: Writer, there: str | None
) -> None:
    ghost = api.put(root())
    store.put(entry(ghost))
    api.drop(names.KIND, "llama")
    if there:
        api.put(root(there))
    assert not await writer.status(KEY, "u-llama", {"ready": "0/1"})
    assert store.get(names.KIND, "ns", "llama") is None


async def test_a_conflict_of_another_kind_is_an_error(api: FakeApi, writer: Writer) -> None:
    def conflict(*_: str) -> None:
        raise ApiError(409, "Conflict", "the object has been modified")

    api.put(root())
    api.before = conflict
    with pytest.raises(ApiError, match="modified"):
        await writer.status(KEY, "u-llama", {})
