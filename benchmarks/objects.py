"""What is created: LLMDeployments that each need a plan of their own, and plain Deployments."""

from __future__ import annotations

from typing import Any

from llm_operator.api import names

NAMESPACE = "default"
LLM = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
REPLICA_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"

_PLAIN = {"benchmark": "plain"}


def llm_deployment(name: str, number: int, replicas: int) -> dict[str, Any]:
    """A small model on one T4. The limits differ by `number`, so that no two plans are the same."""
    limits = {
        "maxInputTokens": 1024 + number,
        "maxTotalTokens": 2304 + number,
        "maxConcurrentRequests": 2,
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"id": "TheBloke/Llama-2-7b-Chat-GPTQ"},
            "gpu": {"products": ["Tesla-T4"]},
            "limits": limits,
            "replicas": replicas,
        },
    }


def autoscaled(name: str, number: int, replicas: int) -> dict[str, Any]:
    """The same, and its replicas follow the load, from so many on."""
    body = llm_deployment(name, number, replicas)
    body["spec"]["autoscaling"] = {"minReplicas": replicas, "maxReplicas": 4}
    return body


def deployment(name: str, number: int, replicas: int) -> dict[str, Any]:
    """Kubernetes' own: the plainest pod that the simulated nodes run."""
    labels = {**_PLAIN, "number": str(number)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10"}]},
            },
        },
    }


def prefix(replica_set: str) -> str:
    """The name of the object that a ReplicaSet was made for."""
    return replica_set.rpartition("-")[0]
