"""The custom resource on a real API server: apply, explain, columns, scale and status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.crd import crd, crd_yaml
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SMALL = """
apiVersion: llm-operator.dev/v1alpha1
kind: LLMDeployment
metadata: {name: small}
spec: {model: {id: acme/llama}}
"""


def _get(cluster: LocalCluster, namespace: str, name: str = "small") -> dict[str, Any]:
    text = cluster.kubectl("get", "llmd", name, f"--namespace={namespace}", "--output=json")
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture
def small(cluster: LocalCluster, namespace: str) -> str:
    """A namespace with one LLMDeployment, `small`."""
    cluster.kubectl("apply", "--filename=-", f"--namespace={namespace}", input=SMALL)
    return namespace


def test_client_side_apply_of_the_crd_works_twice(cluster: LocalCluster) -> None:
    """Under another group, so that other tests keep theirs."""
    text = crd_yaml().replace("llm-operator.dev", "copy.example.com")
    for said in ("created", "unchanged"):
        assert said in cluster.kubectl("apply", "--server-side=false", "--filename=-", input=text)
    cluster.kubectl("delete", "--filename=-", "--wait=false", input=text)


def test_the_api_server_drops_nothing_of_the_crd(cluster: LocalCluster) -> None:
    stored = json.loads(cluster.kubectl("get", "crd", crd()["metadata"]["name"], "--output=json"))
    assert stored["spec"]["versions"][0]["schema"] == crd()["spec"]["versions"][0]["schema"]
    problems = {
        condition["type"]: condition["message"]
        for condition in stored["status"]["conditions"]
        if condition["type"] in ("NonStructuralSchema", "KubernetesAPIApprovalPolicyConformant")
        and condition["status"] == "True"
    }
    assert problems == {}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.stem))
def test_examples_are_accepted(cluster: LocalCluster, namespace: str, file: Path) -> None:
    cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", f"--filename={file}",
        f"--namespace={namespace}",
    )  # fmt: skip


def test_unobserved_from_birth(cluster: LocalCluster, small: str) -> None:
    assert _get(cluster, small)["status"] == {"observedGeneration": -1}


def test_not_ready_from_birth(cluster: LocalCluster, small: str) -> None:
    with pytest.raises(ClusterError, match="condition"):
        cluster.kubectl(
            "wait", "--for=condition=Ready", "llmd/small", "--timeout=0", f"--namespace={small}"
        )


def test_kubectl_scale_works_before_the_operator_has_seen_the_object(
    cluster: LocalCluster, small: str
) -> None:
    cluster.kubectl("scale", "llmd/small", "--replicas=3", f"--namespace={small}")
    assert _get(cluster, small)["spec"]["replicas"] == 3


def test_the_scale_subresource_has_a_selector(cluster: LocalCluster, small: str) -> None:
    status = {"status": {"observedGeneration": 1, "replicas": 2, "selector": "a=b"}}
    cluster.kubectl(
        "patch", "llmd/small", "--subresource=status", "--type=merge",
        f"--patch={json.dumps(status)}", f"--namespace={small}",
    )  # fmt: skip
    path = f"/apis/llm-operator.dev/v1alpha1/namespaces/{small}/llmdeployments/small/scale"
    scale = json.loads(cluster.kubectl("get", "--raw", path))
    assert (scale["spec"]["replicas"], scale["status"]) == (1, {"replicas": 2, "selector": "a=b"})


def test_a_status_write_does_not_touch_the_spec(cluster: LocalCluster, small: str) -> None:
    both = {"spec": {"replicas": 9}, "status": {"observedGeneration": 7}}
    cluster.kubectl(
        "patch", "llmd/small", "--subresource=status", "--type=merge",
        f"--patch={json.dumps(both)}", f"--namespace={small}",
    )  # fmt: skip
    found = _get(cluster, small)
    assert (found["spec"]["replicas"], found["status"]["observedGeneration"]) == (1, 7)
    assert found["metadata"]["generation"] == 1


def test_columns_show_what_a_person_asks_first(cluster: LocalCluster, small: str) -> None:
    moment = "2026-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "False", "reason": "Loading", "lastTransitionTime": moment}
    status = {
        "observedGeneration": 1,
        "conditions": [ready | {"message": "1 of 2 loading"}],
        "ready": "1/2",
        "reason": "Loading",
        "gpus": 4,
        "currentRevision": "small-abc",
        "plan": {
            "fits": True,
            "message": "fits",
            "gpu": "NVIDIA-L4",
            "tensorParallel": 2,
            "quantization": {"method": "awq", "bits": 4},
        },
        "scaling": {
            "mode": "Auto",
            "minReplicas": 1,
            "maxReplicas": 4,
            "desiredReplicas": 2,
            "lastDecision": {
                "time": moment,
                "previous": 1,
                "replicas": 2,
                "reason": "ScaledUp",
                "metrics": "Complete",
                "message": "31 requests in hand",
            },
        },
    }
    cluster.kubectl(
        "patch", "llmd/small", "--subresource=status", "--type=merge",
        f"--patch={json.dumps({'status': status})}", f"--namespace={small}",
    )  # fmt: skip
    header, row = cluster.kubectl("get", "llm", "-o", "wide", f"--namespace={small}").splitlines()
    assert header.split() == [
        "NAME", "MODEL", "QUANT", "TP", "GPUS", "READY", "REASON", "AGE", "GPU", "REVISION",
        "MIN", "MAX", "WANTED", "SCALING", "MESSAGE",
    ]  # fmt: skip
    fields = row.split(maxsplit=14)
    assert fields[:7] == ["small", "acme/llama", "awq", "2", "4", "1/2", "Loading"]
    assert fields[8:10] == ["NVIDIA-L4", "small-abc"]
    assert fields[10:] == ["1", "4", "2", "ScaledUp", "1 of 2 loading"]


def test_status_keeps_all_that_the_scaler_tells(cluster: LocalCluster, small: str) -> None:
    """The most that a status may hold, at its bounds, is stored as it is."""
    past = {
        "time": "2026-01-01T00:00:00Z",
        "previous": 1,
        "replicas": 1000,
        "reason": "R" * 64,
        "metrics": "Complete",
        "message": "m" * 1024,
    }
    term = {"name": "n" * 128, "value": "v" * 128, "note": "o" * 512}
    last = {"whyNotMore": "w" * 1024, "whyNotLess": "w" * 1024, "terms": [term] * 24}
    scaling = {
        "mode": "Advise",
        "minReplicas": 1,
        "maxReplicas": 1000,
        "desiredReplicas": 1000,
        "lastDecision": past | last,
        "decisions": [past] * 20,
    }
    cluster.kubectl(
        "patch", "llmd/small", "--subresource=status", "--type=merge",
        f"--patch={json.dumps({'status': {'scaling': scaling}})}", f"--namespace={small}",
    )  # fmt: skip
    assert _get(cluster, small)["status"]["scaling"] == scaling


def test_explain_tells_what_a_field_means(cluster: LocalCluster) -> None:
    assert "Hub id" in cluster.kubectl("explain", "llmd.spec.model.id")


def test_two_managers_share_a_list(cluster: LocalCluster, small: str) -> None:
    """Lists merge by key: one manager's variable stays when another adds its own."""
    mine = yaml.safe_load(SMALL)
    mine["spec"]["runtime"] = {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}
    theirs = yaml.safe_load(SMALL)
    theirs["spec"]["runtime"] = {"env": [{"name": "LOG_LEVEL", "value": "debug"}]}
    for manager, manifest in (("mine", mine), ("theirs", theirs)):
        cluster.kubectl(
            "apply", "--server-side", f"--field-manager={manager}", "--filename=-",
            f"--namespace={small}", input=json.dumps(manifest),
        )  # fmt: skip
    names = [entry["name"] for entry in _get(cluster, small)["spec"]["runtime"]["env"]]
    assert sorted(names) == ["LOG_LEVEL", "NCCL_DEBUG"]
