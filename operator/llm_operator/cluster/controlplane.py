"""The programs of the control plane: their files, their flags, and how each says it is ready.

Decides nothing about when they start or stop (supervisor.py). All addresses are inside the
cluster's own network namespace, so ports are fixed and no two clusters can meet.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .network import CONTROL_PLANE_IP, POD_RANGE, SERVICE_RANGE, SOURCE_IP

NODE_NAME = "control-plane"
API_PORT = 6443
API_URL = f"https://127.0.0.1:{API_PORT}"
_ETCD_URL = "http://127.0.0.1:2379"
_CLIENT_QPS = 500
_CLIENT_BURST = 1000

ADMIN = "admin"
FLEET = "fleet"
# Each program has a user of its own, so that RBAC holds and the audit log tells them apart.
_USERS: Mapping[str, tuple[str, ...]] = {
    ADMIN: ("system:masters",),
    FLEET: ("system:masters",),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
    "system:kube-proxy": (),
}


@dataclass(frozen=True)
class Component:
    """A supervised program. `ready_url` answers 200 once it works; None: it works once it runs."""

    name: str
    argv: tuple[str, ...]
    ready_url: str | None = None


@dataclass(frozen=True)
class Files:
    """Where a cluster keeps its things, all below one directory of its own."""

    root: Path

    @property
    def audit_log(self) -> Path:
        return self.root / "audit.log"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """For programs on the host: through the forwarder."""
        return self.root / "kubeconfig"

    @property
    def kubeconfig_inside(self) -> Path:
        """For programs in the cluster's namespace."""
        return self.root / "kubeconfig-inside"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def certificates(self) -> Path:
        return self.root / "certificates"

    @property
    def ca(self) -> Path:
        """The API server's self-signed certificate with its CA: what kubeconfigs trust."""
        return self.certificates / "apiserver.crt"

    @property
    def tokens(self) -> Path:
        return self.config / "tokens.csv"

    @property
    def service_account_key(self) -> Path:
        return self.config / "service-account.key"

    def component_kubeconfig(self, user: str) -> Path:
        return self.config / f"{user.removeprefix('system:')}.kubeconfig"


def write_credentials(files: Files) -> None:
    """Make what must exist before the API server starts: tokens, key, audit policy."""
    files.config.mkdir(parents=True, exist_ok=True)
    lines = [
        f'{secrets.token_urlsafe(24)},{user},{user},"{",".join(groups)}"'
        for user, groups in _USERS.items()
    ]
    write_private(files.tokens, "\n".join(lines) + "\n")
    write_private(files.service_account_key, _ec_private_key())
    (files.config / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))


def write_kubeconfigs(files: Files, host_port: int) -> None:
    """Write every kubeconfig; needs the certificate that the API server makes when it starts."""
    ca = files.ca.read_bytes()
    for user in _USERS:
        text = kubeconfig(API_URL, ca, user, token_of(files, user))
        write_private(files.component_kubeconfig(user), text)
    write_private(files.kubeconfig_inside, kubeconfig(API_URL, ca, ADMIN, token_of(files, ADMIN)))
    host_url = f"https://127.0.0.1:{host_port}"
    write_private(files.kubeconfig, kubeconfig(host_url, ca, ADMIN, token_of(files, ADMIN)))
    _write_component_configs(files)


def token_of(files: Files, user: str) -> str:
    """The bearer token of one of the cluster's own users."""
    rows = (line.split(",") for line in files.tokens.read_text().splitlines())
    return next(token for token, name, *_ in rows if name == user)


def kubeconfig(server: str, ca: bytes, user: str, token: str) -> str:
    """A kubeconfig with one context, as text."""
    cluster = {
        "server": server,
        "certificate-authority-data": base64.b64encode(ca).decode(),
    }
    context = {"cluster": "llm-operator", "user": user, "namespace": "default"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "llm-operator", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "llm-operator", "context": context}],
        "current-context": "llm-operator",
    }
    return yaml.safe_dump(document, sort_keys=False)


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
    return Component("kube-apiserver", argv, f"{API_URL}/readyz")


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


def _write_component_configs(files: Files) -> None:
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
    for name, document in (("scheduler", scheduler_config), ("proxy", proxy_config)):
        (files.config / f"{name}.yaml").write_text(yaml.safe_dump(document))


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
        {"level": "None", "users": ["system:apiserver", *_USERS.keys() - {ADMIN}]},
        {"level": "Metadata"},
    ],
}


def _ec_private_key() -> str:
    """A new P-256 key as PEM (RFC 5915, without the optional public key, which readers derive)."""
    # A scalar below 2**255 is below the order of the curve.
    scalar = (secrets.randbits(255) or 1).to_bytes(32, "big")
    prime256v1 = bytes.fromhex("06082a8648ce3d030107")
    body = b"\x02\x01\x01" + b"\x04\x20" + scalar + b"\xa0" + bytes([len(prime256v1)]) + prime256v1
    der = b"\x30" + bytes([len(body)]) + body
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


def write_private(path: Path, text: str) -> None:
    """Write a file with a secret in it, for its owner only."""
    path.touch(mode=0o600)
    path.write_text(text)
