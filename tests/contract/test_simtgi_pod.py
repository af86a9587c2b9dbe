"""Simulated TGI as pods of the simulated fleet, on a real control plane."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import pytest
from tests.simtgi import IMAGE

from llm_operator.cluster.local import LocalCluster

pytestmark = pytest.mark.timeout(120)
MODEL = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
SHM = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}


def pod(name: str, *args: str, gpus: int, shm: bool) -> dict[str, Any]:
    """A pod of the server on A100 cards that is ready when `/health` says so."""
    volumes = [{"name": "cache", "emptyDir": {}}, *([SHM] if shm else [])]
    mounts = [{"name": "cache", "mountPath": "/data"}]
    if shm:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
    container = {
        "name": "tgi",
        "image": IMAGE,
        "args": ["--num-shard", str(gpus), "--port", "8080", *args],
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        "volumeMounts": mounts,
        "readinessProbe": probe,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "volumes": volumes,
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 5,
        },
    }


def apply(cluster: LocalCluster, namespace: str, manifest: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(manifest))


def status(cluster: LocalCluster, namespace: str, name: str) -> dict[str, Any]:
    document = json.loads(cluster.kubectl("get", "pod", name, "-n", namespace, "-o", "json"))
    found: dict[str, Any] = document["status"]
    return found


def last_end(cluster: LocalCluster, namespace: str, name: str) -> dict[str, Any]:
    """How the container ended, once it has."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for container in status(cluster, namespace, name).get("containerStatuses", []):
            for state in (container["state"], container.get("lastState", {})):
                if "terminated" in state:
                    ended: dict[str, Any] = state["terminated"]
                    return ended
        time.sleep(0.1)
    raise AssertionError(status(cluster, namespace, name))


def test_a_sharded_model_becomes_ready_and_answers(cluster: LocalCluster, namespace: str) -> None:
    apply(cluster, namespace, pod("llama", "--model-id", MODEL, gpus=2, shm=True))
    cluster.kubectl("wait", "pod/llama", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
    address = status(cluster, namespace, "llama")["podIP"]
    body = {"inputs": "what is deep learning", "parameters": {"max_new_tokens": 8}}
    proxy = urllib.request.ProxyHandler({"http": cluster.proxy_url})
    request = urllib.request.Request(
        f"http://{address}:8080/generate",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.build_opener(proxy).open(request, timeout=10) as response:
        answer = json.loads(response.read())
    assert "what is deep learning" in answer["generated_text"]


@pytest.mark.parametrize(
    ("args", "shm", "message"),
    [
        (("--model-id", MODEL), False, "signal 7"),
        (("--model-id", MODEL, "--dtype", "float16"), True, "Only 1 can be set between `dtype`"),
        (("--model-id", "meta-llama/Llama-3.1-8B-Instruct"), True, "401 Client Error"),
    ],
    ids=["no shared memory", "dtype of a quantized model", "no token"],
)
def test_what_it_refuses_is_in_the_pods_status(
    cluster: LocalCluster, namespace: str, args: tuple[str, ...], shm: bool, message: str
) -> None:
    apply(cluster, namespace, pod("llama", *args, gpus=2, shm=shm))
    ended = last_end(cluster, namespace, "llama")
    assert ended["exitCode"] == 1
    assert message in ended["message"]
