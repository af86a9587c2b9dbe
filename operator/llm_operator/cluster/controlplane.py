"""The programs of the control plane: their flags, and how each says it is ready.

Decides nothing about when they start or stop (supervisor.py). All addresses are inside the
cluster's own network namespace, so ports are fixed and no two clusters can meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .binaries import KUBERNETES
from .files import ADMIN, API_PORT, INSIDE_URL, USERS, Files
from .network import CONTROL_PLANE_IP, POD_RANGE, SERVICE_RANGE, SOURCE_IP

NODE_NAME = "control-plane"
_ETCD_URL = "http://127.0.0.1:2379"
_CLIENT_QPS = 500
_CLIENT_BURST = 1000


@dataclass(frozen=True)
class Component:
    """A supervised program. `ready_url` answers 200 once it works; None: it works once it runs."""

    name: str
    argv: tuple[str, ...]
    ready_url: str | None = None


def write_configs(files: Files) -> None:
    """Write the configuration files of the programs that take more than flags."""
    scheduler_config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {
            "kubeconfig": str(files.component_kubeconfig("system:kube-scheduler")),
            "qps": _CLIENT_QPS,
            "burst": _CLIENT_BURST,
        },
    }
    proxy_config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": str(POD_RANGE),
        "hostnameOverride": NODE_NAME,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {
            "kubeconfig": str(files.component_kubeconfig("system:kube-proxy")),
        },
        # Zeros: leave the kernel's settings alone, they may not be ours to write.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nftables": {"minSyncPeriod": "100ms"},
    }
    for name, document in (
        ("audit-policy", _AUDIT_POLICY),
        ("scheduler", scheduler_config),
        ("proxy", proxy_config),
    ):
        (files.config / f"{name}.yaml").write_text(yaml.safe_dump(document))


def etcd(files: Files, program: Path) -> Component:
    """etcd without fsync: what this cluster holds need not survive the machine."""
    argv = (
        str(program),
        f"--data-dir={files.root / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={_ETCD_URL}",
        f"--advertise-client-urls={_ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--log-level=warn",
    )
    return Component("etcd", argv, f"{_ETCD_URL}/health")


def apiserver(files: Files, program: Path) -> Component:
    """The API server, with RBAC, service account tokens and an audit log."""
    key = files.service_account_key
    argv = (
        str(program),
        f"--etcd-servers={_ETCD_URL}",
        "--bind-address=127.0.0.1",
        f"--secure-port={API_PORT}",
        # Without a default route it would refuse to start. Nothing listens there.
        f"--advertise-address={CONTROL_PLANE_IP}",
        "--endpoint-reconciler-type=none",
        f"--cert-dir={files.certificates}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--token-auth-file={files.tokens}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={files.config / 'audit-policy.yaml'}",
        f"--audit-log-path={files.audit_log}",
        "--audit-log-maxsize=100000",  # MB: never rotated, so that offsets into it stay good
        "--profiling=false",
    )
    return Component("kube-apiserver", argv, f"{INSIDE_URL}/readyz")


def controller_manager(files: Files, program: Path) -> Component:
    """The controllers; its default of 20 requests/s would throttle bursts, so it is raised."""
    argv = (
        str(program),
        f"--kubeconfig={files.component_kubeconfig('system:kube-controller-manager')}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={files.service_account_key}",
        f"--root-ca-file={files.ca}",
        f"--kube-api-qps={_CLIENT_QPS}",
        f"--kube-api-burst={_CLIENT_BURST}",
        "--profiling=false",
    )
    return Component("kube-controller-manager", argv, "https://127.0.0.1:10257/healthz")


def scheduler(files: Files, program: Path) -> Component:
    """The default scheduler with its default plugins."""
    argv = (
        str(program),
        f"--config={files.config / 'scheduler.yaml'}",
        "--bind-address=127.0.0.1",
    )
    return Component("kube-scheduler", argv, "https://127.0.0.1:10259/healthz")


def proxy(files: Files, program: Path) -> Component:
    """kube-proxy in nftables mode, in the place of a node of its own (control_plane_node)."""
    argv = (str(program), f"--config={files.config / 'proxy.yaml'}")
    return Component("kube-proxy", argv, "http://127.0.0.1:10256/healthz")


def control_plane_node() -> tuple[dict[str, Any], dict[str, Any]]:
    """The Node that kube-proxy runs on, and its status. No pod can be placed there."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE_NAME,
            "labels": {
                "kubernetes.io/hostname": NODE_NAME,
                "kubernetes.io/os": "linux",
                "node-role.kubernetes.io/control-plane": "",
            },
        },
        "spec": {
            "taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
        },
    }
    status = {
        "addresses": [{"type": "InternalIP", "address": SOURCE_IP}],
        "nodeInfo": {"kubeletVersion": KUBERNETES.version},
        "capacity": {"pods": "0"},
        "allocatable": {"pods": "0"},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "SupervisorReady",
                "message": "kept ready by the local cluster's supervisor",
            }
        ],
    }
    return node, status


# Who wrote what, and how often. Bodies are never logged; what the control plane reads for itself,
# and the heartbeats of nodes, would only hide the rest.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "namespaces": ["kube-node-lease"]},
        {"level": "None", "nonResourceURLs": ["/*"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "None", "users": ["system:apiserver", *USERS.keys() - {ADMIN}]},
        {"level": "Metadata"},
    ],
}
