"""What a simulated node says of itself: labels, capacity, conditions, lease.

Pure: builds objects and patches. Decides nothing about health; the fleet does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .catalogue import CARDS, MAX_NODES, Card, card_for

SIMULATED = "llm-operator.dev/simulated"
KIND = "fleet.llm-operator.dev/kind"
FAULT = "fleet.llm-operator.dev/fault"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
RENEW_SECONDS = 10.0

_CONDITIONS = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", "enough memory"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", "no disk pressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID", "enough process ids"),
    "Ready": ("True", "KubeletReady", "the simulated kubelet is posting ready status"),
}


def timestamp(now: datetime) -> str:
    """RFC 3339 in seconds, as Kubernetes writes metav1.Time."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def build_node(name: str, kind: str, gpus: int, number: int) -> dict[str, Any]:
    """A Node of the catalogue, to be created. `number` picks its pod range, see `pod_cidr`."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                SIMULATED: "true",
                KIND: kind,
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                **gpu_labels(CARDS[kind], gpus),
            },
        },
        "spec": {"podCIDR": pod_cidr(number), "podCIDRs": [pod_cidr(number)]},
    }


def gpu_labels(card: Card, gpus: int) -> dict[str, str]:
    """The labels that GPU feature discovery writes, as far as schedulers and planners read them."""
    major, minor = card.compute
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": card.product,
        "nvidia.com/gpu.memory": str(card.memory_mib),
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.family": card.family,
        "nvidia.com/gpu.compute.major": str(major),
        "nvidia.com/gpu.compute.minor": str(minor),
    }


def pod_cidr(number: int) -> str:
    """The range of node `number`, 0 to 254: 10.244.255.0/24 belongs to the host of the network."""
    if not 0 <= number < MAX_NODES:
        raise ValueError(f"10.244.0.0/16 has no room for more than {MAX_NODES} nodes")
    return f"10.244.{number}.0/24"


def node_address(node: Mapping[str, Any]) -> str | None:
    """The node's own address, the first of its range."""
    cidr = node.get("spec", {}).get("podCIDR")
    return cidr.rsplit(".", 1)[0] + ".1" if cidr else None


def gpu_count(node: Mapping[str, Any]) -> int:
    """Cards in the node: what its capacity says, else its label."""
    capacity = node.get("status", {}).get("capacity") or {}
    labels = node["metadata"].get("labels") or {}
    return int(capacity.get("nvidia.com/gpu") or labels.get("nvidia.com/gpu.count") or 0)


def missing_labels(node: Mapping[str, Any]) -> dict[str, str]:
    """Labels that a node made by hand lacks; what is there is never changed."""
    have = node["metadata"].get("labels") or {}
    card, gpus = card_for(have), gpu_count(node)
    wanted = {
        "kubernetes.io/hostname": node["metadata"]["name"],
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        **(gpu_labels(card, gpus) if card and gpus else {}),
    }
    return {key: value for key, value in wanted.items() if key not in have}


def build_capacity(node: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """(capacity, allocatable) by the node's card and count; a part stays with the system."""
    card = card_for(node["metadata"].get("labels") or {})
    gpus = gpu_count(node)
    cpus, memory, disk = (
        (card.cpus * gpus, card.memory_gib * gpus, card.disk_gib * gpus)
        if card and gpus
        else (16, 64, 200)
    )
    fixed = {"pods": "110", "hugepages-2Mi": "0", "hugepages-1Gi": "0"}
    if card and gpus:
        fixed["nvidia.com/gpu"] = str(gpus)
    capacity = {
        **fixed,
        "cpu": str(cpus),
        "memory": f"{memory}Gi",
        "ephemeral-storage": f"{disk}Gi",
    }
    allocatable = {
        **fixed,
        "cpu": f"{cpus * 1000 - 200}m",
        "memory": f"{memory - max(2, memory // 50)}Gi",
        "ephemeral-storage": f"{disk - max(10, disk // 20)}Gi",
    }
    return capacity, allocatable


def build_status(
    node: Mapping[str, Any], version: str, now: datetime, kubelet_port: int | None = None
) -> dict[str, Any]:
    """The status that a healthy node should have; capacity set by the user is kept.

    Condition times are taken from the node where the status has not changed, so that building it
    twice gives the same.
    """
    have = node.get("status") or {}
    capacity, allocatable = build_capacity(node)
    capacity |= have.get("capacity") or {}
    allocatable |= have.get("allocatable") or have.get("capacity") or {}
    before = {condition["type"]: condition for condition in have.get("conditions") or ()}
    conditions = []
    for kind, (status, reason, message) in _CONDITIONS.items():
        old = before.get(kind, {})
        same = old.get("status") == status
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": old["lastHeartbeatTime"] if same else timestamp(now),
                "lastTransitionTime": old["lastTransitionTime"] if same else timestamp(now),
            }
        )
    address = node_address(node)
    answer: dict[str, Any] = {
        "capacity": capacity,
        "allocatable": allocatable,
        "conditions": conditions,
        "addresses": [
            *([{"type": "InternalIP", "address": address}] if address else []),
            {"type": "Hostname", "address": node["metadata"]["name"]},
        ],
        "nodeInfo": {
            "kubeletVersion": version,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "fleet://1",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "osImage": "simulated",
            "kernelVersion": "simulated",
            "machineID": node["metadata"]["name"],
            "systemUUID": node["metadata"]["name"],
            "bootID": node["metadata"].get("uid", ""),
        },
    }
    if kubelet_port is not None:
        answer["daemonEndpoints"] = {"kubeletEndpoint": {"Port": kubelet_port}}
    return answer


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether the API server holds the node for healthy and complete."""
    status = node.get("status") or {}
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions") or ()
    )
    return ready and bool(status.get("addresses")) and bool(status.get("capacity"))


def is_lost(node: Mapping[str, Any]) -> bool:
    """Whether somebody asked for this node to fall silent."""
    return (node["metadata"].get("annotations") or {}).get(FAULT) == "lost"


def build_lease(node: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The node's heartbeat; it goes with its node."""
    name = node["metadata"]["name"]
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": LEASE_NAMESPACE,
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "name": name,
                    "uid": node["metadata"]["uid"],
                }
            ],
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": micro_time(now),
        },
    }


def micro_time(now: datetime) -> str:
    """RFC 3339 in microseconds, as metav1.MicroTime."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
