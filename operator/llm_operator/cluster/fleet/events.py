"""Events on pods, as `kubectl describe` shows them: sparse, counted, never in the way.

Decides which repetitions are worth a write. A repeated event is counted, and written again when its
count has doubled and ten seconds have passed; when too much happens, events are dropped, the normal
ones first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from .api import Api, ApiError
from .nodes import timestamp

log = logging.getLogger(__name__)

REPEAT_SECONDS = 10.0
QUEUE = 500


@dataclass
class _Entry:
    body: dict[str, Any]
    count: int = 0
    written_count: int = 0
    path: str | None = None
    written_at: float = float("-inf")
    queued: bool = False


class EventRecorder:
    """Records events; `run` writes them."""

    def __init__(self, api: Api, now: Callable[[], datetime]) -> None:
        self._api = api
        self._now = now
        self._entries: dict[str, dict[tuple[str, str, str], _Entry]] = {}
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue(QUEUE)
        self._made = 0

    def record(
        self,
        pod: Mapping[str, Any],
        reason: str,
        message: str,
        container: str | None = None,
        kind: str = "Normal",
    ) -> None:
        """Note an event on a pod, or on one of its containers."""
        metadata = pod["metadata"]
        field = f"spec.containers{{{container}}}" if container else ""
        entries = self._entries.setdefault(metadata["uid"], {})
        key = (field, reason, message)
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = _Entry(self._build(pod, reason, message, field, kind))
        entry.count += 1
        entry.body |= {"count": entry.count, "lastTimestamp": timestamp(self._now())}
        recent = asyncio.get_running_loop().time() - entry.written_at < REPEAT_SECONDS
        worth = entry.count >= 2 * entry.written_count and not recent
        crowded = self._queue.full() or (kind == "Normal" and self._queue.qsize() > QUEUE // 2)
        if worth and not entry.queued and not crowded:
            entry.queued = True
            self._queue.put_nowait(entry)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._entries.pop(uid, None)

    async def run(self) -> None:
        """Write events until cancelled, one after the other."""
        while True:
            entry = await self._queue.get()
            entry.queued = False
            entry.written_at = asyncio.get_running_loop().time()
            entry.written_count = entry.count
            try:
                await self._write(entry)
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                log.debug("event dropped: %s", error)

    async def _write(self, entry: _Entry) -> None:
        if entry.path is None:
            namespace = entry.body["metadata"]["namespace"]
            collection = f"/api/v1/namespaces/{namespace}/events"
            await self._api.create(collection, entry.body)
            entry.path = f"{collection}/{entry.body['metadata']['name']}"
        else:
            fields = ("count", "lastTimestamp")
            await self._api.patch(entry.path, {field: entry.body[field] for field in fields})

    def _build(
        self, pod: Mapping[str, Any], reason: str, message: str, field: str, kind: str
    ) -> dict[str, Any]:
        metadata = pod["metadata"]
        self._made += 1
        stamp = self._now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{int(stamp.timestamp() * 1e6):x}{self._made:x}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                **({"fieldPath": field} if field else {}),
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": "kubelet", "host": pod["spec"].get("nodeName", "")},
            "reportingComponent": "kubelet",
            "firstTimestamp": timestamp(stamp),
        }
