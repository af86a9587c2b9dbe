"""What the real control plane does for us, on which other tests build."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


class Kubectl:
    """kubectl in the test's namespace."""

    def __init__(self, cluster: LocalCluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace

    def __call__(self, *arguments: str, input: str | None = None) -> str:
        return self._cluster.kubectl(f"--namespace={self._namespace}", *arguments, input=input)

    def apply(self, *documents: dict[str, Any]) -> None:
        text = "\n---\n".join(map(json.dumps, documents))
        self("apply", "--server-side", "-f", "-", input=text)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o=json"))
        return found

    def names(self, kind: str) -> list[str]:
        return self("get", kind, "-o=name").split()


@pytest.fixture
def kubectl(cluster: LocalCluster, namespace: str) -> Kubectl:
    return Kubectl(cluster, namespace)


def replica_set(replicas: int = 2) -> dict[str, Any]:
    container = {"name": "main", "image": "pause", "resources": {"requests": {"cpu": "10m"}}}
    # No node has this label: the pods stay Pending, which is all these tests want of them.
    pod = {"containers": [container], "nodeSelector": {"no-such": "node"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
        },
    }


def test_replica_sets_make_pods_and_garbage_collection_takes_them(kubectl: Kubectl) -> None:
    kubectl.apply(replica_set())
    until(lambda: len(kubectl.names("pods")) == 2)
    until(lambda: "FailedScheduling" in kubectl("get", "events"))
    kubectl("delete", "replicaset", "web", "--wait=false")
    until(lambda: kubectl.names("pods") == [])


def test_quota_and_limit_ranges_hold(kubectl: Kubectl) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "one"}}
    limits = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "defaults"}}
    default = {"type": "Container", "default": {"memory": "64Mi"}}
    kubectl.apply(
        quota | {"spec": {"hard": {"pods": "1"}}}, limits | {"spec": {"limits": [default]}}
    )
    until(lambda: "pods" in kubectl.get("resourcequota", "one").get("status", {}).get("hard", {}))
    kubectl.apply(replica_set())
    until(lambda: "exceeded quota" in kubectl("get", "events"))
    [pod] = kubectl.names("pods")
    container = json.loads(kubectl("get", pod, "-o=json"))["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": "64Mi"}


def test_claims_are_bound_without_a_storage_class(kubectl: Kubectl, namespace: str) -> None:
    size = {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadOnlyMany"],
            "hostPath": {"path": "/models"},
            "claimRef": {"name": "models", "namespace": namespace},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "resources": {"requests": size},
        },
    }
    kubectl.apply(volume, claim)
    until(lambda: kubectl.get("pvc", "models")["status"]["phase"] == "Bound")
    kubectl("delete", "pv", namespace, "--wait=false")


def test_disruption_budgets_are_computed_and_evictions_obey_them(kubectl: Kubectl) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    # A pending pod is not healthy, and whether those may be evicted is for the policy to say.
    kubectl.apply(budget, replica_set(1))
    until(lambda: kubectl.get("pdb", "web").get("status", {}).get("expectedPods") == 1)
    [pod] = kubectl.names("pods")
    name = pod.removeprefix("pod/")
    namespace = kubectl.get("pod", name)["metadata"]["namespace"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))
    until(lambda: pod not in kubectl.names("pods"))


def test_rbac_is_on(cluster: LocalCluster, namespace: str) -> None:
    with pytest.raises(ClusterError, match="forbidden"):
        cluster.kubectl("get", "pods", "--as=system:serviceaccount:default:default")


def test_the_audit_log_names_who_wrote_what(
    cluster: LocalCluster, kubectl: Kubectl, namespace: str
) -> None:
    mark = cluster.audit_log.mark()
    kubectl("create", "configmap", "noted")
    kubectl("get", "configmap", "noted")
    written = [e for e in cluster.audit_log.writes(mark, user="admin") if e.name == "noted"]
    assert [(e.verb, e.resource, e.namespace, e.code) for e in written] == [
        ("create", "configmaps", namespace, 201)
    ]
    assert written[0].user_agent.startswith("kubectl")
    read = [e.verb for e in cluster.audit_log.events(mark) if e.name == "noted"]
    assert read == ["create", "get"]
