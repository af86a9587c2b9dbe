"""Following a collection: list, then watch, for ever, in the face of everything.

Decides when to list again. Refuses to know what the objects are; a consumer sees each change once
and in order, deletions missed in an interruption included.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

import aiohttp

from .api import Api, ApiError, Object

log = logging.getLogger(__name__)

OnChange = Callable[[str, Object], None]
"""Called with ADDED, MODIFIED or DELETED and the object. Must not block."""


class Follower:
    """Keeps the latest version of each object of a collection and tells of each change."""

    def __init__(
        self, api: Api, path: str, on_change: OnChange, params: Mapping[str, str] | None = None
    ) -> None:
        self._api = api
        self._path = path
        self._params = dict(params or {})
        self._on_change = on_change
        self._known: dict[tuple[str, str], Object] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                async for event in self._api.watch(
                    self._path, {**self._params, "resourceVersion": version}
                ):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._see(event["type"], event["object"])
            except ApiError as error:
                if error.status != 410:
                    log.warning("watching %s: %s", self._path, error)
                    await asyncio.sleep(random.uniform(0.5, 1.5))
                version = None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.info("watching %s again: %r", self._path, error)
                await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _list(self) -> str:
        listing = await self._api.get(self._path, self._params)
        seen = {_key(item): item for item in listing.get("items") or ()}
        for key in self._known.keys() - seen.keys():
            self._see("DELETED", self._known[key])
        for item in seen.values():
            self._see("ADDED", item)
        self.synced.set()
        version: str = listing["metadata"]["resourceVersion"]
        return version

    def _see(self, kind: str, item: Object) -> None:
        key = _key(item)
        before = self._known.get(key)
        if kind == "DELETED":
            self._known.pop(key, None)
        else:
            if before and before["metadata"]["uid"] != item["metadata"]["uid"]:
                self._on_change("DELETED", before)
                before = None
            self._known[key] = item
            kind = "MODIFIED" if before else "ADDED"
        self._on_change(kind, item)


def _key(item: Object) -> tuple[str, str]:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
