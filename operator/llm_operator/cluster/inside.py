"""What the supervisor asks of its own API server: is it ready, where is a Service, keep my node.

Speaks plain HTTP from within the cluster's namespace. Every question has an answer when the API
server has none: "not now".
"""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp

from .controlplane import NODE_NAME, control_plane_node
from .errors import ClusterError
from .files import INSIDE_URL

_TIMEOUT_S = 5.0
_LEASES = f"{INSIDE_URL}/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_NOT_NOW = (aiohttp.ClientError, TimeoutError)


class Inside:
    """An administrator's session with the API server. Use as an async context manager."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def __aenter__(self) -> Self:
        # The certificates on this namespace's own loopback were made moments before.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": "supervisor"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def answers(self, url: str) -> bool:
        """Whether this URL, of any program of the cluster, answers 200."""
        try:
            async with self._http.get(url) as response:
                return response.status == 200
        except _NOT_NOW:
            return False

    async def has_default_service_account(self) -> bool:
        """Whether pods can be made in the default namespace."""
        url = f"{INSIDE_URL}/api/v1/namespaces/default/serviceaccounts/default"
        return await self.answers(url)

    async def ready_nodes(self) -> int:
        """How many nodes are Ready, the control plane's own apart."""
        nodes = (await self._read("/api/v1/nodes")).get("items", [])
        return sum(node["metadata"]["name"] != NODE_NAME and _is_ready(node) for node in nodes)

    async def resolve(self, host: str) -> str | None:
        """The address of the Service `name.namespace[.svc.cluster.local]`; None if there is none.

        A name without a namespace is looked up in the default one.
        """
        name, _, rest = host.partition(".")
        namespace = rest.partition(".")[0] or "default"
        service = await self._read(f"/api/v1/namespaces/{namespace}/services/{name}")
        address: str | None = service.get("spec", {}).get("clusterIP")
        return address

    async def register_node(self) -> None:
        """Make the node that kube-proxy runs on, ready, with its lease."""
        node, status = control_plane_node()
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "kube-node-lease"},
        }
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NODE_NAME},
            "spec": {
                "holderIdentity": NODE_NAME,
                "leaseDurationSeconds": 40,
                "renewTime": _now(),
            },
        }
        nodes = f"{INSIDE_URL}/api/v1/nodes"
        await self._write("POST", nodes, node)
        await self._write("PATCH", f"{nodes}/{NODE_NAME}/status", {"status": status})
        await self._write("POST", f"{INSIDE_URL}/api/v1/namespaces", namespace)
        await self._write("POST", _LEASES, lease)

    async def renew_lease(self) -> None:
        """Tell that the control plane's node lives; lost where the API server is away."""
        try:
            await self._write("PATCH", f"{_LEASES}/{NODE_NAME}", {"spec": {"renewTime": _now()}})
        except (ClusterError, *_NOT_NOW):
            return

    async def _read(self, path: str) -> dict[str, Any]:
        """An object or list; empty where there is none or no answer."""
        try:
            async with self._http.get(f"{INSIDE_URL}{path}") as response:
                found: dict[str, Any] = await response.json() if response.status == 200 else {}
                return found
        except _NOT_NOW:
            return {}

    async def _write(self, method: str, url: str, body: dict[str, Any]) -> None:
        kind = "merge-patch+json" if method == "PATCH" else "json"
        headers = {"Content-Type": f"application/{kind}"}
        data = json.dumps(body)
        async with self._http.request(method, url, data=data, headers=headers) as response:
            if response.status not in (200, 201, 409):  # 409: somebody was faster, which is as good
                raise ClusterError(f"{method} {url}: {response.status} {await response.text()}")


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
