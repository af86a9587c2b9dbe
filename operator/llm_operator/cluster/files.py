"""A cluster's directory: where its things are, and the credentials that are made for it.

Every program has a user and a kubeconfig of its own; every kubeconfig trusts the CA that the API
server made for itself, and nothing else. Starts nothing.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

API_PORT = 6443
INSIDE_URL = f"https://127.0.0.1:{API_PORT}"
"""The API server, for programs in the cluster's namespace."""

ADMIN = "admin"
FLEET = "fleet"
PROMETHEUS = "prometheus"
# Each program has a user of its own, so that RBAC holds and the audit log tells them apart.
USERS: Mapping[str, tuple[str, ...]] = {
    ADMIN: ("system:masters",),
    FLEET: ("system:masters",),
    PROMETHEUS: ("system:masters",),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
    "system:kube-proxy": (),
}


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

    def log(self, component: str) -> Path:
        """What a component prints."""
        return self.logs / f"{component}.log"

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
    def beside(self) -> Path:
        """A file for each program that is wished for beside the cluster's own."""
        return self.root / "beside"

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
    """Make what must exist before the API server starts: tokens and a key."""
    files.config.mkdir(parents=True, exist_ok=True)
    lines = [
        f'{secrets.token_urlsafe(24)},{user},{user},"{",".join(groups)}"'
        for user, groups in USERS.items()
    ]
    write_private(files.tokens, "\n".join(lines) + "\n")
    write_private(files.service_account_key, _ec_private_key())


def write_kubeconfigs(files: Files, host_port: int) -> None:
    """Write every kubeconfig; needs the certificate that the API server makes when it starts."""
    ca = files.ca.read_bytes()
    for user in USERS:
        text = kubeconfig(INSIDE_URL, ca, user, token_of(files, user))
        write_private(files.component_kubeconfig(user), text)
    write_private(
        files.kubeconfig_inside, kubeconfig(INSIDE_URL, ca, ADMIN, token_of(files, ADMIN))
    )
    host_url = f"https://127.0.0.1:{host_port}"
    write_private(files.kubeconfig, kubeconfig(host_url, ca, ADMIN, token_of(files, ADMIN)))


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
