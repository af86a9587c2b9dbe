"""Requests to the API server, asynchronous, on the official client's connection and credentials.

Objects are plain dicts. The typed models are left aside: they cost more than the request itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from llm_operator.api import names
from llm_operator.kube.resources import Resource

Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """A refusal by the API server: HTTP status, `reason` (NotFound, Conflict, ...), message.

    Code 0, reason Unreachable: there was no answer, or none that could be read.
    """

    def __init__(self, code: int, reason: str, message: str, retry_after: float | None = None):
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def already_exists(self) -> bool:
        return self.reason == "AlreadyExists"

    @property
    def not_found(self) -> bool:
        return self.code == 404

    @property
    def is_final(self) -> bool:
        """True where the object itself is refused, so that sending it again cannot help."""
        return self.code in (400, 403, 422)


class KubeClient:
    """One connection pool to one API server. Close it with `close`."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._host = api.configuration.host.rstrip("/")

    @classmethod
    async def connect(cls, kubeconfig: str | None = None, user_agent: str = "") -> KubeClient:
        """From `kubeconfig`, else from inside a pod, else from the user's default kubeconfig."""
        configuration = Configuration()
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)
        else:
            await load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        configuration.connection_pool_maxsize = 32
        # Else every request parses ~/.netrc anew. A proxy is named by proxy-url in the kubeconfig.
        configuration.client_session_kwargs = {"trust_env": False}
        api = ApiClient(configuration=configuration)
        api.user_agent = user_agent or names.FIELD_MANAGER
        return cls(api)

    async def close(self) -> None:
        await self._api.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
        timeout: float = 30,
    ) -> Object:
        """One request; the answer as a dict. Raises ApiError for every status of 400 and above."""
        headers = {
            "Accept": "application/json",
            "Content-Type": content_type,
            "User-Agent": self._api.user_agent,
        }
        await self._api.update_params_for_auth(
            headers, [], ["BearerToken"], path, method, body or {}
        )
        url = self._host + path + (f"?{urlencode(params)}" if params else "")
        try:
            response = await self._api.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
            data = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {error!r}") from error
        if response.status >= 400:
            raise _error(response.status, data, response.headers.get("Retry-After"))
        try:
            answer: Object = json.loads(data) if data else {}
        except ValueError as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: no JSON: {error}") from error
        return answer

    async def create(self, resource: Resource, body: Object) -> Object:
        """Create an object. Only a create proves that the name was nobody else's (409 if it is)."""
        path = resource.path(body["metadata"].get("namespace"))
        return await self.request(
            "POST", path, params={"fieldManager": names.FIELD_MANAGER}, body=body
        )

    async def apply(self, resource: Resource, body: Object, *, sub: str = "") -> Object:
        """Server-side apply of our fields; `body.metadata.uid` guards against a namesake."""
        metadata = body["metadata"]
        return await self.request(
            "PATCH",
            resource.path(metadata.get("namespace"), metadata["name"], sub),
            params={"fieldManager": names.FIELD_MANAGER, "force": "true"},
            body=body,
            content_type=APPLY,
        )

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, operations: list[Object]
    ) -> Object:
        """Change single places of an object, on conditions (`test` operations)."""
        return await self.request(
            "PATCH",
            resource.path(namespace, name),
            params={"fieldManager": names.FIELD_MANAGER},
            body=operations,
            content_type="application/json-patch+json",
        )

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete exactly that object (uid precondition); its dependents follow in background."""
        body: Object = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self.request("DELETE", resource.path(namespace, name), body=body)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        return await self.request("GET", resource.path(namespace, name))

    async def pages(
        self, resource: Resource, namespace: str | None, limit: int = 250
    ) -> AsyncIterator[Object]:
        """List a kind page by page, with the resource's own label selector."""
        params = {"limit": str(limit)}
        if resource.label_selector:
            params["labelSelector"] = resource.label_selector
        while True:
            page = await self.request("GET", resource.path(namespace), params=params)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            params["continue"] = token


def _error(status: int, data: bytes, retry_after: str | None) -> ApiError:
    try:
        answer = json.loads(data)
        reason, message = answer.get("reason") or "", answer.get("message") or ""
    except (ValueError, AttributeError):
        reason, message = "", data[:200].decode(errors="replace")
    delay = float(retry_after) if retry_after and retry_after.isdigit() else None
    return ApiError(status, reason, message, delay)
