"""A client of the API server with a clock: when was it asked, when did its watch say so.

Plain HTTP on one event loop, so that no library's queues stand between the wire and the clock.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Object = dict[str, Any]

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_LIMIT = 1 << 24


class Api:
    """Requests and watches with one user's rights. Use `connect`."""

    def __init__(self, http: aiohttp.ClientSession, server: str) -> None:
        self._http, self._server = http, server

    async def request(self, method: str, path: str, body: Object | None = None) -> Object:
        """One request. Raises RuntimeError for a refusal."""
        async with self._http.request(method, self._server + path, json=body) as response:
            answer: Object = await response.json()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.get('message')}")
            return answer

    async def names(self, path: str) -> list[str]:
        """What there is at a collection."""
        headers = {
            "Accept": METADATA_ONLY.replace("PartialObjectMetadata", "PartialObjectMetadataList")
        }
        async with self._http.get(self._server + path, headers=headers) as response:
            # An empty list of metadata comes as null.
            return [item["metadata"]["name"] for item in (await response.json())["items"] or ()]

    async def watch(
        self, path: str, version: str, accept: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """Events after `version`, until the connection ends."""
        url = f"{self._server}{path}?watch=1&resourceVersion={version}"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._http.get(url, headers={"Accept": accept}, timeout=timeout) as response:
            async for line in response.content:
                event = json.loads(line)
                yield event["type"], event["object"]


class Sightings:
    """When a watch first showed each object for which `condition` holds. Seconds, monotonic."""

    def __init__(self, condition: Callable[[Object], bool]) -> None:
        self._condition = condition
        self._changed = asyncio.Event()
        self.at: dict[str, float] = {}

    def see(self, kind: str, found: Object) -> None:
        name = found["metadata"]["name"]
        if kind == "DELETED":
            self.at.pop(name, None)
        elif name not in self.at and self._condition(found):
            self.at[name] = time.monotonic()
        self._changed.set()

    async def until(self, condition: Callable[[dict[str, float]], bool], timeout: float) -> None:
        """Wait until `condition(self.at)` holds. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while not condition(self.at):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Api]:
    """A client with the rights of the kubeconfig's only user."""
    config = _read(kubeconfig)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=ca)
    headers = {"Authorization": f"Bearer {user['token']}", "User-Agent": "benchmark"}
    connector = aiohttp.TCPConnector(ssl=context, limit=64)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, read_bufsize=_LIMIT
    ) as http:
        yield Api(http, cluster["server"])


@asynccontextmanager
async def watching(
    api: Api,
    path: str,
    condition: Callable[[Object], bool] = lambda _: True,
    accept: str = METADATA_ONLY,
) -> AsyncIterator[Sightings]:
    """Sightings of what happens to a collection from now on.

    A server that is overloaded ends watches; they go on where they ended, or from a listing.
    """
    start = (await api.request("GET", f"{path}?limit=1"))["metadata"]["resourceVersion"]
    sightings = Sightings(condition)

    async def follow() -> None:
        version = start
        while True:
            async for kind, found in api.watch(path, version, accept):
                if kind == "ERROR":  # what came in between is forgotten by the server
                    listed = await api.request("GET", path)
                    version = listed["metadata"]["resourceVersion"]
                    for item in listed["items"]:
                        sightings.see("ADDED", item)
                    break
                version = found["metadata"]["resourceVersion"]
                sightings.see(kind, found)

    task = asyncio.create_task(follow())
    try:
        yield sightings
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _read(kubeconfig: Path) -> Any:
    return yaml.safe_load(kubeconfig.read_text())
