"""Writes pod statuses: only when they differ, one write of a pod at a time, the newest state last.

Decides when to write. Refuses to know what a status says: it compares what a pod should say with
what the API server has.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

import aiohttp

from .api import ApiError, Object
from .runtime import Requests
from .status import covers

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
"""Changes that come together are written together."""


class Subject(Protocol):
    """A pod whose status is to be written."""

    pod: Object
    uid: str

    @property
    def path(self) -> str: ...

    def wanted_status(self) -> dict[str, Any] | None: ...

    def update(self, pod: Object) -> None: ...


class StatusWriter:
    """A queue of pods that may have changed, and the workers who write them."""

    def __init__(self, api: Requests, workers: int = 8) -> None:
        self._api = api
        self._workers = workers
        self._queue: asyncio.Queue[Subject] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._flushes: dict[str, list[asyncio.Future[None]]] = {}

    def mark(self, subject: Subject, delay: float = GATHER_SECONDS) -> None:
        """The subject's status may differ from what the API server has."""
        if subject.uid in self._busy:
            self._again.add(subject.uid)
        elif subject.uid not in self._waiting:
            self._waiting.add(subject.uid)
            asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, subject)

    async def flush(self, subject: Subject) -> None:
        """Wait until the API server has the subject's status, or the subject is gone."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.setdefault(subject.uid, []).append(done)
        self.mark(subject, delay=0.0)
        await done

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            subject = await self._queue.get()
            self._waiting.discard(subject.uid)
            self._busy.add(subject.uid)
            done = False
            try:
                done = await self._write(subject)
            finally:
                self._busy.discard(subject.uid)
            if subject.uid in self._again or not done:
                self._again.discard(subject.uid)
                self.mark(subject, delay=GATHER_SECONDS if done else 0.5)
            else:
                for flush in self._flushes.pop(subject.uid, ()):
                    if not flush.done():
                        flush.set_result(None)

    async def _write(self, subject: Subject) -> bool:
        """Whether there is nothing left to do."""
        wanted = subject.wanted_status()
        if wanted is None or covers(subject.pod.get("status"), wanted):
            return True
        # podIPs is merged by address: without this a former address would stay.
        if wanted.get("podIPs"):
            wanted = wanted | {"podIPs": [*wanted["podIPs"], {"$patch": "replace"}]}
        body = {"metadata": {"uid": subject.uid}, "status": wanted}
        try:
            subject.update(await self._api.patch(f"{subject.path}/status", body))
        except ApiError as error:
            if error.status == 404 or (error.status == 409 and await self._replaced(subject)):
                return True
            log.warning("status of %s: %s", subject.path, error)
            return False
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("status of %s: %r", subject.path, error)
            return False
        return True

    async def _replaced(self, subject: Subject) -> bool:
        """Whether the conflict is that the name belongs to another pod by now."""
        try:
            found = await self._api.get(subject.path)
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError):
            return False
        return bool(found["metadata"]["uid"] != subject.uid)
