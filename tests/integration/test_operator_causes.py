"""Why it does not serve: named in `status` and in `kubectl get llmd` soon after it happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from tests.operator_kit import Object, Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LIMIT_SECONDS = 10.0
GATED = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class Case:
    """How a deployment fails, and what its status must say."""

    reason: str
    message: str
    wish: Object
    fault: str = ""
    model: str = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    stalls: bool = False


CASES = {
    "crash": Case("ShardFailed", "a shard of the engine failed", {}, "crash-loading"),
    "oom": Case("GPUOutOfMemory", "warming up with", {}, "oom"),
    "oom-host": Case("HostOutOfMemory", "limits.memory", {}, "oom=host"),
    "shard": Case("ShardFailed", "its log says why", {}, "shard-failed"),
    "hub-401": Case("HubUnauthorized", "401/403", {}, "hub-401", stalls=True),
    "hub-404": Case("HubNotFound", "404", {}, "hub-404", stalls=True),
    "hub-429": Case("HubRateLimited", "429", {}, "hub-429"),
    "gated": Case("HubUnauthorized", "tokenSecretRef", {}, model=GATED, stalls=True),
    "shortage": Case("WaitingForGPU", "Insufficient nvidia.com/gpu", {"replicas": 2}),
    "quota": Case("QuotaExceeded", "requests.nvidia.com/gpu=", {}),
    "claim": Case(
        "ClaimPending", '"nowhere" not found', {"model": {"cache": {"claimName": "nowhere"}}}
    ),
    "claim-unbound": Case(
        "ClaimPending", "unbound", {"model": {"cache": {"claimName": "unbound"}}}
    ),
    "secret": Case(
        "ConfigMissing",
        "Secret",
        {"model": {"tokenSecretRef": {"name": "nowhere", "key": "token"}}},
    ),
    "image": Case(
        "ImagePullFailed",
        "cannot be pulled",
        {
            "runtime": {
                "image": "registry.example/text-generation:does-not-exist",
                "version": "3.3.7",
            }
        },
    ),
    "cpu": Case("Unschedulable", "Insufficient cpu", {"resources": {"requests": {"cpu": "9000"}}}),
}


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """All of them at once, each with enough cards but for the one that is to have too few."""
    log = tmp_path_factory.mktemp("causes") / "operator.log"
    with room(cluster, log, gpus=16) as opened:
        small = f"Small-{opened.namespace}"
        opened.add_node("small", 1, **_labels(small))
        priority = f"{opened.namespace}-limited"
        classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
        opened.api.request("POST", classes, {"metadata": {"name": priority}, "value": 1})
        opened.create("ResourceQuota", _quota(priority))
        opened.create("PersistentVolumeClaim", _claim())
        opened.fault("healed", "crash-loading")
        opened.want("healed")
        for name, case in CASES.items():
            if case.fault:
                opened.fault(name, case.fault)
        for name, case in CASES.items():
            extra: dict[str, Any] = {}
            if name == "shortage":
                extra["gpu"] = {"products": [small]}
            if name == "quota":
                extra["scheduling"] = {"priorityClassName": priority}
            opened.want(name, case.model, **case.wish, **extra)
        yield opened
        opened.api.request("DELETE", f"{classes}/{priority}")


def _labels(product: str) -> dict[str, str]:
    return {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": "40960",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "0",
    }


def _quota(priority: str) -> Object:
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": [priority]}
    hard = {"requests.nvidia.com/gpu": "0"}
    spec = {"hard": hard, "scopeSelector": {"matchExpressions": [scope]}}
    return {"metadata": {"name": "gpus"}, "spec": spec}


def _claim() -> Object:
    storage = {"requests": {"storage": "100Gi"}}
    spec = {"accessModes": ["ReadWriteMany"], "resources": storage, "storageClassName": "nobody"}
    return {"metadata": {"name": "unbound"}, "spec": spec}


def happened(scene: Room, name: str) -> datetime:
    """When the cluster itself first said that something is wrong, to the second."""
    times = []
    for pod in scene.all("Pod", name):
        status = pod["status"]
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                times.append(condition["lastTransitionTime"])
        for container in status.get("containerStatuses") or ():
            for state in (container.get("state", {}), container.get("lastState", {})):
                if "terminated" in state:
                    times.append(state["terminated"]["finishedAt"])
                elif "waiting" in state:
                    times.append(status["startTime"])
    for replica_set in scene.all("ReplicaSet", name):
        for condition in replica_set["status"].get("conditions") or ():
            times.append(condition["lastTransitionTime"])
    assert times, scene.story(name)
    return min(datetime.fromisoformat(moment) for moment in times)


def seen_at(scene: Room, name: str, reason: str) -> datetime:
    """When the operator's own Event told the reason, to the microsecond.

    Events are told in the background, so one may come a little later than the status.
    """

    def told() -> list[Any]:
        return [
            event
            for event in scene.all("Event")
            if event["regarding"]["name"] == name
            and event["regarding"]["kind"] == "LLMDeployment"
            and event["reason"] == reason
        ]

    found = until(told, 10, lambda: [event["reason"] for event in scene.all("Event")])
    assert found[0]["type"] == "Warning"
    return datetime.fromisoformat(found[0]["eventTime"])


def test_when_the_trouble_ends_it_gets_ready_and_the_cause_is_gone(scene: Room) -> None:
    scene.until_reason("healed", "ShardFailed")
    scene.heal(f"{scene.namespace}.healed")
    scene.until_ready("healed")
    assert scene.status("healed").get("failures", []) == []


def test_every_cause_is_named_within_ten_seconds(scene: Room, subtests: pytest.Subtests) -> None:
    """One test, so that test workers do not each make the whole scene for their share of it."""
    for name, case in CASES.items():
        with subtests.test(name):
            check(scene, name, case)


def check(scene: Room, name: str, case: Case) -> None:
    condition = scene.until_reason(name, case.reason)
    assert case.message in condition["message"]
    assert condition["status"] == "False"
    failures = scene.status(name)["failures"]
    assert case.reason in [failure["reason"] for failure in failures]
    if case.stalls:
        until(lambda: scene.condition(name, "Stalled"), 30, lambda: scene.story(name))
    lag = (seen_at(scene, name, case.reason) - happened(scene, name)).total_seconds()
    # An overloaded machine is not the operator's fault: beyond two who want each core, it scales.
    crowd = os.getloadavg()[0] / (2 * (os.cpu_count() or 1))
    assert lag < LIMIT_SECONDS * max(1.0, crowd)


def test_kubectl_get_shows_it(scene: Room, cluster: LocalCluster) -> None:
    for name, case in CASES.items():
        scene.until_reason(name, case.reason)
    shown = cluster.kubectl("get", "llmd", f"--namespace={scene.namespace}", "--output=wide")
    lines = {line.split()[0]: line for line in shown.splitlines()[1:]}
    for name, case in CASES.items():
        assert case.reason in lines[name]
        assert case.message in lines[name]


def test_no_word_of_an_engine_is_in_any_status(scene: Room) -> None:
    """Traceback, arguments, addresses: whatever the engines printed stays in their logs."""
    printed = set()
    for name, case in CASES.items():
        scene.until_reason(name, case.reason)
        told = json.dumps(scene.status(name))
        for pod in scene.all("Pod", name):
            for container in pod["status"].get("containerStatuses") or ():
                for state in (container["state"], container.get("lastState", {})):
                    message = state.get("terminated", {}).get("message", "")
                    lines = {line for line in message.splitlines() if len(line) > 20}
                    assert not [line for line in lines if line in told]
                    printed |= lines
    assert len(printed) > 20
