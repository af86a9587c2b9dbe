"""A small Kubernetes API client: what a kubelet needs, over one keep-alive connection pool.

Decides how requests are made and how many at once. Refuses to know what the objects mean.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

Object = dict[str, Any]

_PATCH_TYPES = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
}


class ApiError(Exception):
    """The API server said no. `status` is the HTTP code, `reason` the machine-readable reason."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Credentials:
    """Where the API server is and how to be let in, from a kubeconfig's current context."""

    server: str
    token: str | None
    tls: ssl.SSLContext | None

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """Read a kubeconfig: token or client certificate, authority as file or data."""
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        tls = None
        if cluster["server"].startswith("https:"):
            authority = _inline(cluster, "certificate-authority", path)
            tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
            certificate = _inline(user, "client-certificate", path)
            key = _inline(user, "client-key", path)
            if certificate and key:
                with tempfile.NamedTemporaryFile() as pair:
                    pair.write(certificate + b"\n" + key)
                    pair.flush()
                    tls.load_cert_chain(pair.name)
        return cls(cluster["server"].rstrip("/"), user.get("token"), tls)


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _inline(entry: Object, key: str, config: Path) -> bytes | None:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"])
    if key in entry:
        return (config.parent / str(entry[key])).read_bytes()
    return None


class Api:
    """Requests to one API server. An async context manager; at most `concurrency` at once."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        concurrency: int = 24,
        user_agent: str = "llm-operator-fleet",
    ) -> None:
        self._credentials = credentials
        self._limit = asyncio.Semaphore(concurrency)
        self._headers = {"User-Agent": user_agent}
        if credentials.token:
            self._headers["Authorization"] = f"Bearer {credentials.token}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self._credentials.tls or True, keepalive_timeout=60
            ),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request. Raises ApiError on a refusal, ClientError or TimeoutError on no answer."""
        assert self._session is not None
        async with (
            self._limit,
            self._session.request(
                method,
                self._credentials.server + path,
                params=params,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type},
                timeout=aiohttp.ClientTimeout(total=30),
            ) as response,
        ):
            text = await response.read()
            if response.status >= 300:
                raise _error(response.status, text)
            answer: Object = json.loads(text)
            return answer

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        """Read an object or a list."""
        return await self.request("GET", path, params=params)

    async def create(self, path: str, body: Object) -> Object:
        """POST to a collection."""
        return await self.request("POST", path, body)

    async def patch(self, path: str, body: Object, kind: str = "strategic") -> Object:
        """PATCH; `kind` is strategic or merge."""
        return await self.request("PATCH", path, body, content_type=_PATCH_TYPES[kind])

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """DELETE, with delete options as the body."""
        return await self.request("DELETE", path, body)

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncIterator[Object]:
        """Watch events until the server ends the stream. Raises ApiError 410 when too old."""
        assert self._session is not None
        async with self._session.get(
            self._credentials.server + path,
            params={**params, "watch": "true", "allowWatchBookmarks": "true"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=420),
        ) as response:
            if response.status >= 300:
                raise _error(response.status, await response.read())
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event: Object = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(
                            status.get("code", 500), status.get("reason", ""), status["message"]
                        )
                    yield event


def _error(status: int, text: bytes) -> ApiError:
    try:
        answer = json.loads(text)
        return ApiError(status, answer.get("reason", ""), answer.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(status, "", text.decode(errors="replace")[:200])
