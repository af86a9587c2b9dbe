"""Upgrades to models that cannot be: each is undone by itself, and says why, where people look."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kstatus import argo_health, kstatus, kubectl_wait
from tests.operator_kit import Object, Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

IMAGE = "ghcr.io/huggingface/text-generation-inference"
QUESTION = {"prompt": "What is deep learning?", "maxTokens": 32}
LIMITS = {"maxConcurrentRequests": 7}
"""Something that makes a revision."""

REVISION = "llm-operator.dev/revision"

BAD: dict[str, dict[str, Any]] = {
    "crash": {"limits": LIMITS},
    "tag": {"runtime": {"image": f"{IMAGE}:does-not-exist", "version": "3.3.7"}},
    "garbage": {"limits": LIMITS},
    "slow": {"limits": LIMITS},
}
EXPECTED = {
    "crash": "ShardFailed",
    "tag": "ImagePullFailed",
    "garbage": "AcceptanceFailed",
    "slow": "AcceptanceFailed",
}
WORDS = {
    "crash": "back to revision",
    "tag": "the image cannot be pulled",
    "garbage": "the answer does not contain 'deep learning'",
    "slow": "wanted",
}


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Four deployments that serve, and then are changed for the worse all at once."""
    log = tmp_path_factory.mktemp("failures") / "operator.log"
    with room(cluster, log) as opened:
        for name in BAD:
            opened.want(name)
        opened.until_ready(*BAD, seconds=60)
        speed = tokens_per_second(opened, "slow")
        opened.fault("crash", "crash-loading")
        for name, change in BAD.items():
            opened.change(name, rollout=acceptance(name, speed), **change)
        for name, fault in (("garbage", "garbage"), ("slow", "slow=3")):
            opened.fault(name, fault, new_revision(opened, name))
        yield opened


def acceptance(name: str, speed: float) -> Object:
    expect = {
        "garbage": {"contains": "deep learning"},
        "slow": {"minTokensPerSecond": round(speed / 2, 1)},
    }.get(name)
    if expect is None:
        return {"drainSeconds": 1}
    return {"drainSeconds": 1, "acceptance": {"prompts": [{**QUESTION, "expect": expect}]}}


def tokens_per_second(scene: Room, name: str) -> float:
    """How fast the model that serves answers."""
    address = scene.get("Service", name)["spec"]["clusterIP"]
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 64}}
    began = time.monotonic()
    ask = ["curl", "-sSf", "-HContent-Type: application/json", f"-d{json.dumps(body)}"]
    with scene.cluster.run_inside([*ask, "-o/dev/null", f"http://{address}/generate"]) as asking:
        assert asking.wait(30) == 0
    return 64 / (time.monotonic() - began)


def new_revision(scene: Room, name: str) -> str:
    """The revision that a change has made, as soon as it exists: its pods load for seconds."""

    def newest() -> str:
        sets = sorted(
            scene.all("ReplicaSet", name), key=lambda one: one["metadata"]["creationTimestamp"]
        )
        return str(sets[-1]["metadata"]["labels"][REVISION]) if len(sets) == 2 else ""

    return until(newest)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upgrade_is_undone_by_itself_with_its_cause(scene: Room, name: str) -> None:
    condition = scene.until_reason(name, "RolledBack", 90)
    thing = scene.deployment(name)
    assert thing["status"]["reason"] == f"RolledBack: {EXPECTED[name]}"
    assert WORDS[name] in condition["message"]
    table = scene.cluster.kubectl("get", "llmd", name, f"--namespace={scene.namespace}")
    assert f"RolledBack: {EXPECTED[name]}" in table, table
    failed = next(r for r in thing["status"]["revisions"] if r["wanted"])
    assert (failed["state"], failed["reason"]) == ("Failed", EXPECTED[name])
    assert scene.condition(name, "Available")["status"] == "True"
    assert (kstatus(thing), argo_health(thing)[0]) == ("Failed", "Degraded")
    assert not kubectl_wait(thing, "Ready")


@pytest.mark.parametrize("name", BAD)
def test_the_old_pod_was_never_touched(scene: Room, name: str) -> None:
    scene.until_reason(name, "RolledBack", 90)
    until(lambda: len(scene.all("Pod", name)) == 1)
    (pod,) = scene.pods(name)
    serving = next(r for r in scene.status(name)["revisions"] if not r["wanted"])
    assert pod["metadata"]["labels"][REVISION] == serving["name"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    assert serving["ready"] == 1


def test_a_mended_wish_goes_through(scene: Room) -> None:
    scene.until_reason("tag", "RolledBack", 90)
    scene.change("tag", runtime={"image": f"{IMAGE}:3.3.7"})
    scene.until_ready("tag", seconds=60)
    assert scene.deployment("tag")["status"]["reason"] == "Ready"
