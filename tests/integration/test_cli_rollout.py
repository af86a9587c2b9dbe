"""`llm-operator rollout` on the real control plane: what its user sees, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.operator_kit import Object, Room, room
from typer.testing import CliRunner, Result

from llm_operator.cli import rollout_edit
from llm_operator.cli.console import CommandError
from llm_operator.cli.main import app
from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


first: dict[str, str] = {}
"""Revisions before the changes."""


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    log = tmp_path_factory.mktemp("cli-rollout") / "operator.log"
    with room(cluster, log, gpus=16) as opened:
        opened.want("back", limits={"maxTotalTokens": 2048}, replicas=2)
        opened.want("halted")
        opened.want("canary", replicas=2)
        opened.want("tried")
        opened.until_ready("canary", "tried")
        # These two take their time; who asks for them comes later.
        canary = {"strategy": "Canary", "canary": {"steps": [{"replicas": 1}]}}
        opened.change("canary", limits={"maxTotalTokens": 1024}, rollout=canary)
        first["tried"] = current(opened, "tried")
        opened.fault("tried", "crash-loading")
        opened.change("tried", limits={"maxTotalTokens": 1024})
        yield opened


def call(scene: Room, command: str, name: str, *options: str) -> Result:
    arguments = ["rollout", command, name, f"--namespace={scene.namespace}"]
    arguments += [f"--kubeconfig={scene.cluster.kubeconfig}", *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert isinstance(done, Result)
    return done


def current(scene: Room, name: str) -> str:
    return str(scene.status(name)["currentRevision"])


def replica_sets(scene: Room, name: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in scene.all("ReplicaSet", name)}


def managers(thing: Object) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in thing["metadata"]["managedFields"]}


def test_an_upgrade_is_followed_compared_and_undone(scene: Room) -> None:
    scene.until_ready("back")
    first = current(scene, "back")
    uid = replica_sets(scene, "back")[f"back-{first}"]["metadata"]["uid"]

    scene.change("back", limits={"maxTotalTokens": 1024}, parallelism={"tensor": 1})
    followed = call(scene, "status", "back", "--timeout=150")
    second = current(scene, "back")
    assert followed.exit_code == 0, followed.output
    assert followed.output.splitlines()[-1] == f"back is ready: all 2/2 of revision {second}"
    assert f"old {first} " in followed.output

    listed = json.loads(call(scene, "history", "back", "--output=json").stdout)
    assert [one["name"] for one in listed] == [second, first]
    assert listed[1]["spec"]["limits"] == {"maxTotalTokens": 2048}
    changed = call(scene, "history", "back").stdout  # in a column that may wrap
    assert "limits.maxTotalTokens" in changed
    assert "parallelism" in changed
    compared = call(scene, "diff", "back").stdout
    assert f"--- {first}" in compared
    assert "-    maxTotalTokens: 2048" in compared

    scene.change("back", replicas=3)
    printed = call(scene, "undo", "back", "--print-patch").stdout
    assert yaml.safe_load(printed) == [
        {"op": "replace", "path": "/spec/limits/maxTotalTokens", "value": 2048},
        {"op": "remove", "path": "/spec/parallelism"},
    ]
    assert current(scene, "back") == second
    done = call(scene, "undo", "back")
    assert done.exit_code == 0, done.output
    assert call(scene, "status", "back", "--timeout=150").exit_code == 0

    assert current(scene, "back") == first
    assert replica_sets(scene, "back")[f"back-{first}"]["metadata"]["uid"] == uid
    found = scene.deployment("back")
    assert found["spec"]["replicas"] == 3
    assert found["spec"]["limits"] == {"maxTotalTokens": 2048}
    written = managers(found)["llm-operator-cli"]
    assert written == {"f:spec": {"f:limits": {"f:maxTotalTokens": {}}}}


def test_a_paused_rollout_stays_where_it_is(scene: Room) -> None:
    scene.until_ready("halted")
    assert call(scene, "pause", "halted").exit_code == 0
    pods = {pod["metadata"]["name"] for pod in scene.pods("halted")}
    scene.change("halted", limits={"maxTotalTokens": 1024})
    scene.until_reason("halted", "Paused")
    assert {pod["metadata"]["name"] for pod in scene.pods("halted")} == pods
    assert call(scene, "resume", "halted").exit_code == 0
    assert call(scene, "status", "halted", "--timeout=150").exit_code == 0
    assert "paused" not in scene.deployment("halted")["spec"]["rollout"]


def test_a_canary_goes_on_when_it_is_promoted(scene: Room) -> None:
    with pytest.raises(CommandError, match="has no canary"):
        call(scene, "promote", "halted")
    paused = scene.until_reason("canary", "Paused")
    assert "step 1 of 1: waits for `llm-operator rollout promote`" in paused["message"]
    assert call(scene, "promote", "canary").exit_code == 0
    assert call(scene, "status", "canary", "--timeout=150").exit_code == 0


def test_a_failed_revision_is_tried_again_when_asked(scene: Room) -> None:
    old = first["tried"]
    followed = call(scene, "status", "tried", "--timeout=170")
    assert followed.exit_code == 1
    assert "RolledBack" in followed.output
    assert "Failed" in call(scene, "history", "tried").stdout
    assert call(scene, "history", "tried", f"--revision={old}").stdout.startswith("spec:\n")

    scene.heal(scene.faults[-1])
    assert call(scene, "retry", "tried").exit_code == 0
    assert call(scene, "status", "tried", "--timeout=170").exit_code == 0, scene.story("tried")
    assert current(scene, "tried") != old


def test_a_change_in_between_is_a_conflict(scene: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is what is changed, or nothing is."""
    honest = rollout_edit.guarded
    monkeypatch.setattr(rollout_edit, "guarded", lambda patch, _: honest(patch, "1"))
    with pytest.raises(CommandError, match="the object has been modified"):
        call(scene, "pause", "halted")
