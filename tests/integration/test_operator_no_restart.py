"""Nothing but the user's own change restarts a model: no write at all, as the audit log sees it.

Nor does an operator stumble over a CRD that is older than itself.

On a cluster of its own, since the CRD and the nodes change under it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster_fixture import CRDS, install_crds
from tests.operator_kit import Room, room, until

from llm_operator.api.names import KIND
from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAMES = ("one", "two", "held")
RESYNC = "--resync-seconds=1"
LATER_FIELDS = ("serving", "draining", "acceptance", "state")


@pytest.fixture(scope="module")
def cluster_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster.start(
        "own",
        state_dir=tmp_path_factory.mktemp("own") / "own",
        die_with=os.getpid(),
        nodes="t4=1x1",
    )
    try:
        install_crds(cluster)
        yield cluster
    finally:
        cluster.stop()


def snapshot(scene: Room) -> dict[str, Any]:
    """Every child by uid and resourceVersion, every pod by uid, every status."""
    seen: dict[str, Any] = {}
    for name in NAMES:
        thing = scene.deployment(name)
        seen[name] = (thing["status"], thing["metadata"]["generation"])
        seen |= scene.versions(name)
        seen[f"pods of {name}"] = sorted(p["metadata"]["uid"] for p in scene.all("Pod", name))
    return seen


def looked_at(scene: Room, resyncs: int) -> None:
    """Wait until every object has had this many passes more."""
    before = scene.operator.passes()
    until(lambda: scene.operator.passes() >= before + resyncs * len(NAMES), 90)


def distribution(folder: Path, version: str) -> dict[str, str]:
    """An environment in which the package says that it is another version."""
    info = folder / f"llm_operator-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: llm-operator\nVersion: {version}\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(CRDS.parent / "operator")])}


def evolved_crd() -> str:
    """The CRD of a later release: one field more, with a default, and another default."""
    (file,) = CRDS.glob("*.yaml")
    crd = yaml.safe_load(file.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["speculativeFuture"] = {"type": "string", "default": "on"}
    assert spec["properties"]["replicas"]["default"] == 1
    spec["properties"]["replicas"]["default"] = 2
    return str(yaml.safe_dump(crd))


def older_crd() -> str:
    """The CRD of an earlier release, in whose status some fields were not there yet."""
    (file,) = CRDS.glob("*.yaml")
    crd = yaml.safe_load(file.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    for name in LATER_FIELDS:
        del schema["properties"]["revisions"]["items"]["properties"][name]
    del schema["properties"]["endpoint"]
    return str(yaml.safe_dump(crd))


@contextmanager
def untouched(scene: Room, what: str, before: dict[str, Any], mark: int) -> Iterator[None]:
    yield
    assert scene.writes(mark) == [], what
    assert snapshot(scene) == before, what


def test_nothing_but_the_users_own_change_restarts_a_model(
    cluster_of_its_own: LocalCluster, tmp_path: Path
) -> None:
    cluster = cluster_of_its_own
    with room(cluster, tmp_path / "operator.log", RESYNC) as scene:
        scene.want("one")
        scene.want("two", replicas=2, limits={"maxInputTokens": 1000, "maxTotalTokens": 1500})
        scene.want("held", "nobody/knows-this-one")
        scene.until_ready("one", "two")
        scene.until_reason("held", "ModelShapeUnknown")
        looked_at(scene, 1)
        before, mark = snapshot(scene), cluster.audit_log.mark()

        with untouched(scene, "ten resyncs", before, mark):
            looked_at(scene, 10)
        with untouched(scene, "a restart", before, mark):
            assert scene.operator.stop() == 0
            scene.operator.start(RESYNC)
            looked_at(scene, 1)
        with untouched(scene, "a crash, then another version with other defaults", before, mark):
            scene.operator.kill()
            options = (
                "--image-repository=registry.example/text-generation-inference",
                "--engine-version=3.3.5",
            )
            scene.operator.start(RESYNC, *options, env=distribution(tmp_path, "9.9.9"))
            looked_at(scene, 2)
        with untouched(scene, "a node more, then one less", before, mark):
            node = scene.add_node("more", 8)
            looked_at(scene, 1)
            scene.remove_node(node)
            looked_at(scene, 1)
        with untouched(scene, "a CRD with a new field and another default", before, mark):
            cluster.kubectl(
                "apply", "--server-side", "--force-conflicts", "-f", "-", input=evolved_crd()
            )
            until(lambda: scene.deployment("one")["spec"].get("speculativeFuture") == "on")
            looked_at(scene, 2)
            scene.operator.stop()
            scene.operator.start(RESYNC, *options)
            looked_at(scene, 1)

        # It is not that nothing works: the user's own change is a new revision, by new defaults.
        old = scene.status("one")["currentRevision"]
        scene.change("one", limits={"maxInputTokens": 1000, "maxTotalTokens": 1500})
        new = until(lambda: (now := scene.status("one")["currentRevision"]) != old and now, 30)
        replica_set = scene.get("ReplicaSet", f"one-{new}")
        (container,) = replica_set["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/text-generation-inference:3.3.5"
        assert snapshot(scene)["pods of two"] == before["pods of two"]


def keeps_endpoints(scene: Room, name: str) -> bool:
    """Whether the API server takes this field of the status; what it does not know it drops."""
    body = {"status": {"endpoint": "http://asked"}}
    answer = scene.patch(KIND, name, body, sub="/status?dryRun=All")
    return bool(answer["status"].get("endpoint") == "http://asked")


def test_an_operator_newer_than_the_crd_works_on(
    cluster_of_its_own: LocalCluster, tmp_path: Path
) -> None:
    cluster = cluster_of_its_own

    def apply(crd: str) -> None:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=crd)

    with room(cluster, tmp_path / "operator.log", RESYNC) as scene:
        scene.want("model")
        scene.until_ready("model")
        apply(older_crd())
        until(lambda: "endpoint" not in scene.status("model"))
        mark = cluster.audit_log.mark()
        scene.change("model", limits={"maxConcurrentRequests": 7})
        scene.until_ready("model")
        scene.change("model", replicas=0)
        scene.until_reason("model", "ScaledToZero")
        for one in scene.status("model")["revisions"]:
            assert not one.keys() & set(LATER_FIELDS)
        refused = [e for e in cluster.audit_log.writes(mark) if e.code == 500]
        assert 1 <= len(refused) <= 1 + len(LATER_FIELDS), "once for each field"
        assert scene.operator.log.read_text().count("is older than this operator") == 1
        mark = cluster.audit_log.mark()
        looked_at(scene, 1)
        assert scene.writes(mark) == []

        apply(CRDS.joinpath("llmdeployments.yaml").read_text())
        until(lambda: keeps_endpoints(scene, "model"))
        scene.operator.stop()
        scene.operator.start(RESYNC)
        until(lambda: "endpoint" in scene.status("model"))
        assert scene.is_ready("model")
