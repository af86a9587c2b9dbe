"""Proof before traffic on a real control plane: the gate, the questions, and life without us."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kstatus import argo_health, kstatus
from tests.operator_kit import Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

GATE = "llm-operator.dev/accepted"
FAILED = "llm-operator.dev/failed"
QUESTION = {"prompt": "What is deep learning?", "maxTokens": 8}
EASY = {"prompts": [QUESTION | {"expect": {"contains": "deep learning", "maxLatencySeconds": 60}}]}
HARD = {"prompts": [QUESTION | {"expect": {"contains": "no model says this"}}]}


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    log = tmp_path_factory.mktemp("acceptance") / "operator.log"
    with room(cluster, log) as opened:
        opened.want("proud", rollout=rollout(EASY))
        for name in ("humble", "crowd"):
            opened.want(name)
        yield opened


def rollout(acceptance: dict[str, Any]) -> dict[str, Any]:
    return {"drainSeconds": 1, "acceptance": acceptance}


def gates(thing: dict[str, Any]) -> list[str]:
    return [gate["conditionType"] for gate in thing.get("readinessGates", ())]


def test_an_accepted_revision_needs_no_operator_any_more(scene: Room) -> None:
    scene.until_ready("proud")
    scene.change("crowd", replicas=2)  # for later: it takes its time
    (replica_set,) = scene.all("ReplicaSet", "proud")
    assert gates(replica_set["spec"]["template"]["spec"]) == []
    assert json.loads(replica_set["metadata"]["annotations"][GATE])["results"][0]["tokens"] == 8
    (first,) = scene.pods("proud")
    assert gates(first["spec"]) == [GATE]
    (told,) = scene.status("proud")["revisions"]
    assert told["state"] == "Serving"
    assert told["acceptance"][0]["tokens"] == 8
    until(lambda: "Accepted" in [e["reason"] for e in scene.all("Event")])

    scene.operator.stop()
    try:
        scene.delete("Pod", first["metadata"]["name"])
        until(lambda: [name for name in _ready_pods(scene, "proud") if name != _name(first)])
        (second,) = scene.pods("proud")
        assert gates(second["spec"]) == []
    finally:
        scene.operator.start()
    scene.until_ready("proud")


def test_a_revision_that_answers_otherwise_never_serves(scene: Room) -> None:
    scene.until_ready("humble")
    (old,) = scene.pods("humble")
    scene.change("humble", limits={"maxConcurrentRequests": 7}, rollout=rollout(HARD))
    condition = scene.until_reason("humble", "RolledBack", 60)
    assert "prompt 1 of 1: the answer does not contain 'no model says this'" in condition["message"]
    thing = scene.deployment("humble")
    assert thing["status"]["reason"] == "RolledBack: AcceptanceFailed"
    assert kstatus(thing) == "Failed"
    assert argo_health(thing)[0] == "Degraded"
    until(lambda: [_name(pod) for pod in scene.pods("humble")] == [_name(old)])
    failed = next(r for r in scene.status("humble")["revisions"] if r["wanted"])
    assert (failed["state"], failed["reason"]) == ("Failed", "AcceptanceFailed")

    # Other questions alone are no reason to try again, nor is an operator that has forgotten all.
    scene.operator.kill()
    scene.operator.start()
    scene.change("humble", rollout=rollout(EASY))
    until(lambda: scene.reason("humble") == "RolledBack")
    assert [_name(pod) for pod in scene.pods("humble")] == [_name(old)]
    scene.patch(
        "LLMDeployment", "humble", {"metadata": {"annotations": {"llm-operator.dev/retry": "1"}}}
    )
    scene.until_ready("humble", seconds=90)
    sets = {s["metadata"]["name"]: s for s in scene.all("ReplicaSet", "humble")}
    assert len(sets) == 2
    marks = [s["metadata"]["annotations"].get(FAILED) for s in sets.values()]
    assert marks == [None, None]


def _name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def _ready_pods(scene: Room, name: str) -> list[str]:
    return [
        _name(pod)
        for pod in scene.pods(name)
        for condition in pod["status"].get("conditions", ())
        if condition["type"] == "Ready" and condition["status"] == "True"
    ]


def test_of_two_pods_the_idle_one_goes(scene: Room, cluster: LocalCluster) -> None:
    """Busy is the one that would go otherwise: it has been ready for less time."""
    scene.change("crowd", replicas=2)
    scene.until_ready("crowd")
    busy = max(scene.pods("crowd"), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    question = {"inputs": "Tell me all.", "parameters": {"max_new_tokens": 1000}}
    url = f"http://{busy['status']['podIP']}:8080"
    command = ["curl", "-sS", "-x", cluster.proxy_url, f"{url}/generate", "--json"]
    with subprocess.Popen([*command, json.dumps(question)], stdout=subprocess.PIPE) as asking:
        until(lambda: "tgi_batch_current_size 1" in _get(cluster, f"{url}/metrics"))
        scene.change("crowd", replicas=1)
        until(lambda: len(scene.pods("crowd")) == 1)
        assert [_name(pod) for pod in scene.pods("crowd")] == [_name(busy)]
        answer, _ = asking.communicate(timeout=60)
    assert "generated_text" in json.loads(answer)


def _get(cluster: LocalCluster, url: str) -> str:
    command = ["curl", "-sS", "--max-time", "5", "-x", cluster.proxy_url, url]
    return subprocess.run(command, capture_output=True, text=True).stdout
