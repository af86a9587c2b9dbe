"""What others do to an object's children: put right, refused, or followed into the grave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.operator_kit import CHILDREN, Object, Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAMES = ("mended", "scaled", "gone-back", "gone-fore", "same")


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """One deployment for each kind of test, all loading at once."""
    log = tmp_path_factory.mktemp("repairs") / "operator.log"
    with room(cluster, log, gpus=16) as opened:
        for name in NAMES:
            opened.want(name, replicas=2 if name in ("mended", "gone-fore") else 1)
        yield opened


def child(scene: Room, kind: str, name: str) -> Object:
    (found,) = scene.all(kind, name)
    return found


def essence(thing: Object) -> Object:
    keep = ("name", "labels", "annotations", "ownerReferences")
    return {
        "metadata": {key: thing["metadata"].get(key) for key in keep},
        "spec": {k: v for k, v in thing["spec"].items() if not k.startswith("clusterIP")},
    }


def container(replica_set: Object) -> Object:
    (found,) = replica_set["spec"]["template"]["spec"]["containers"]
    return dict(found)


# What is done to a child -> how: its kind and a merge patch (None: it is deleted).
HARM: dict[str, tuple[str, Callable[[Object], Object | None]]] = {
    "Service deleted": ("Service", lambda _: None),
    "Service's port moved": (
        "Service",
        lambda s: {"spec": {"ports": [{**s["spec"]["ports"][0], "port": 81}]}},
    ),
    "Service's ports replaced": ("Service", lambda _: {"spec": {"ports": [{"port": 81}]}}),
    "Service's selector narrowed": (
        "Service",
        lambda _: {"spec": {"selector": {"app": "elsewhere"}}},
    ),
    "Service unlabelled": (
        "Service",
        lambda s: {"metadata": {"labels": dict.fromkeys(s["metadata"]["labels"])}},
    ),
    "budget deleted": ("PodDisruptionBudget", lambda _: None),
    "budget loosened": ("PodDisruptionBudget", lambda _: {"spec": {"maxUnavailable": 2}}),
    "ReplicaSet scaled by hand": ("ReplicaSet", lambda _: {"spec": {"replicas": 3}}),
    "ReplicaSet unlabelled": (
        "ReplicaSet",
        lambda r: {"metadata": {"labels": dict.fromkeys(r["metadata"]["labels"])}},
    ),
    "record removed": (
        "ReplicaSet",
        lambda r: {"metadata": {"annotations": dict.fromkeys(r["metadata"]["annotations"])}},
    ),
    "template edited": (
        "ReplicaSet",
        lambda r: {
            "spec": {"template": {"spec": {"containers": [{**container(r), "image": "other"}]}}}
        },
    ),
    "template extended": (
        "ReplicaSet",
        lambda r: {"spec": {"template": {"spec": {"hostNetwork": True}}}},
    ),
}


def test_what_was_changed_by_hand_is_put_right_and_no_pod_goes(scene: Room) -> None:
    scene.until_ready("mended")
    before = {kind: essence(child(scene, kind, "mended")) for kind in CHILDREN}
    pods = {pod["metadata"]["uid"] for pod in scene.pods("mended")}

    def is_as_before() -> bool:
        return all(
            [essence(found) for found in scene.all(kind, "mended")] == [before[kind]]
            for kind in CHILDREN
        )

    for harm, (kind, how) in HARM.items():
        thing = child(scene, kind, "mended")
        patch, name = how(thing), thing["metadata"]["name"]
        if patch is None:
            scene.delete(kind, name)
        else:
            scene.patch(kind, name, patch)
        until(is_as_before, 30, lambda harm=harm: (harm, scene.story("mended")))  # type: ignore[misc]
    scene.until_ready("mended", seconds=30)
    assert pods <= {pod["metadata"]["uid"] for pod in scene.pods("mended")}


def test_a_killed_pod_is_replaced(scene: Room) -> None:
    scene.until_ready("scaled")
    (pod,) = scene.pods("scaled")
    scene.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=0)
    scene.until_reason("scaled", "Loading", 30)
    assert scene.condition("scaled", "Available")["status"] == "False"
    scene.until_ready("scaled")
    (other,) = scene.pods("scaled")
    assert other["metadata"]["uid"] != pod["metadata"]["uid"]


def test_scaling_by_kubectl_and_by_the_subresource(scene: Room, cluster: LocalCluster) -> None:
    scene.until_ready("scaled")
    where = f"--namespace={scene.namespace}"
    before = child(scene, "ReplicaSet", "scaled")["metadata"]["uid"]
    cluster.kubectl("scale", "llmd/scaled", "--replicas=2", where)
    until(lambda: len(scene.pods("scaled")) == 2, 30)
    until(lambda: scene.find("PodDisruptionBudget", "scaled"), 30)
    scale = scene.api.request("GET", scene.path("LLMDeployment", "scaled") + "/scale")
    selector = scale["status"]["selector"]
    assert scale["spec"]["replicas"] == 2
    found = scene.api.request("GET", scene.path("Pod") + f"?labelSelector={selector}")["items"]
    assert {p["metadata"]["name"] for p in found} >= {
        p["metadata"]["name"] for p in scene.pods("scaled")
    }
    scene.patch("LLMDeployment", "scaled", {"spec": {"replicas": 0}}, sub="/scale")
    scene.until_reason("scaled", "ScaledToZero", 30)
    assert scene.is_ready("scaled")
    assert scene.status("scaled")["ready"] == "0/0"
    assert scene.find("PodDisruptionBudget", "scaled") is None
    assert child(scene, "ReplicaSet", "scaled")["metadata"]["uid"] == before
    until(lambda: scene.pods("scaled") == [], 30)


def test_a_change_that_means_the_same_pod_restarts_nothing(scene: Room) -> None:
    """What the plan chose is written down, then the count changes: one ReplicaSet, one pod."""
    scene.until_ready("same")
    (pod,) = scene.pods("same")
    before = child(scene, "ReplicaSet", "same")["metadata"]["uid"]
    for spec in (
        {"parallelism": {"tensor": 1}},
        {"replicas": 2},
        {"parallelism": None},
        {"replicas": 1},
    ):
        generation = scene.change("same", **spec)["metadata"]["generation"]
        until(lambda g=generation: scene.status("same")["observedGeneration"] == g, 30)  # type: ignore[misc]
        assert child(scene, "ReplicaSet", "same")["metadata"]["uid"] == before, spec
    scene.until_ready("same", seconds=30)
    assert [p["metadata"]["uid"] for p in scene.pods("same")] == [pod["metadata"]["uid"]]


@pytest.mark.parametrize("kind", ["Service", "ReplicaSet"])
def test_an_object_of_somebody_else_is_refused_and_never_adopted(scene: Room, kind: str) -> None:
    name = f"taken-{kind.lower()}"
    # Which name a ReplicaSet will have is known from the same wish, made and taken back before.
    wish = scene.manifest(name, gpu={"products": [scene.product]}, replicas=0)
    scene.create("LLMDeployment", wish)
    scene.until_reason(name, "ScaledToZero", 30)
    theirs = child(scene, kind, name)["metadata"]["name"]
    scene.delete("LLMDeployment", name)
    until(lambda: not any(scene.all(k, name) for k in CHILDREN), 30)
    pod = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [_pause()]}}
    spec: dict[str, Any] = {
        "Service": {"ports": [{"port": 80}]},
        "ReplicaSet": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": pod},
    }
    foreign = scene.create(kind, {"metadata": {"name": theirs}, "spec": spec[kind]})
    scene.create("LLMDeployment", wish)
    condition = scene.until_reason(name, "NameConflict", 30)
    assert f"a {kind} named {theirs} exists and is not ours" in condition["message"]
    assert scene.condition(name, "Stalled")["status"] == "True"
    now = scene.get(kind, theirs)
    assert "ownerReferences" not in now["metadata"]
    assert now["metadata"]["uid"] == foreign["metadata"]["uid"]
    assert now["spec"] == foreign["spec"]
    managers = {field["manager"] for field in now["metadata"]["managedFields"]}
    assert "llm-operator" not in managers


def _pause() -> Object:
    return {"name": "main", "image": "pause"}


def test_deleting_leaves_nothing_behind(scene: Room, cluster: LocalCluster) -> None:
    """In background and in foreground; and no child is made once the operator knows.

    The watches are not in step: a child's end may be heard of before its owner's. So one that is
    made again once is nobody's fault, and goes as well.
    """
    scene.until_ready("gone-back", "gone-fore")
    mark = cluster.audit_log.mark()
    scene.delete("LLMDeployment", "gone-back", propagationPolicy="Background")
    scene.delete("LLMDeployment", "gone-fore", propagationPolicy="Foreground")
    for name in ("gone-back", "gone-fore"):
        until(lambda name=name: left(scene, name) == [], 90, lambda: scene.all("Pod"))  # type: ignore[misc]
    made = [write for write in scene.writes(mark) if "gone-" in write]
    assert len(set(made)) == len(made), made


def left(scene: Room, name: str) -> list[str]:
    kinds = ("LLMDeployment", *CHILDREN, "Pod", "EndpointSlice")
    found = [f"{kind}/{o['metadata']['name']}" for kind in kinds for o in scene.all(kind)]
    return [one for one in found if one.split("/")[1].startswith(name)]


def test_an_owner_that_is_removed_makes_the_child_somebody_elses(scene: Room) -> None:
    scene.want("orphaned", replicas=0)
    scene.until_reason("orphaned", "ScaledToZero", 30)
    scene.patch("Service", "orphaned", {"metadata": {"ownerReferences": []}})
    scene.until_reason("orphaned", "NameConflict", 30)
    assert "ownerReferences" not in scene.get("Service", "orphaned")["metadata"]
