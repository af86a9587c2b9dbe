"""Workers on the queue, the first listing, the resync: what keeps the passes going.

Nothing is looked at before every kind has been listed once: an empty store is not an empty cluster.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_operator.api import names
from llm_operator.facts.cluster import PodFact
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.resources import NODE, WATCHED, Resource
from llm_operator.kube.store import Entry, Key, Store
from llm_operator.observe.slim import entry
from llm_operator.reconcile.queue import WorkQueue
from llm_operator.telemetry import metrics

log = logging.getLogger(__name__)

KILLED = 128 + signal.SIGKILL
"""Exit code of a container that the kubelet did not wait for any longer."""

STUCK_SECONDS = 300.0
"""A pass that takes longer counts as hung, and the process as not alive."""


@dataclass(frozen=True)
class Result:
    """What a pass asks for: to be looked at again in so many seconds, or as soon as it can be."""

    requeue_after: float | None = None
    again: bool = False


Reconcile = Callable[[Key], Awaitable[Result]]


class Loop:
    """Feeds the store and the queue, and runs `reconcile` for each key that comes up."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        *,
        namespace: str | None,
        workers: int,
        resync_seconds: float,
    ) -> None:
        self.client = client
        self.store = store
        self.queue: WorkQueue[Key] = WorkQueue()
        self.waiting_for_nodes: set[Key] = set()
        self._namespace = namespace
        self._workers = workers
        self._resync_seconds = resync_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._busy_since: dict[Key, float] = {}
        self._listed_at: float | None = None

    def seen(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A watch event: keep or forget the object, then have its owner looked at."""
        item = entry(body)
        known = self.store.get(item.kind, item.namespace, item.name)
        if event == "DELETED":
            if item.kind == "Pod":
                metrics.DRAINED_PODS.labels(drain_end(item.fact)).inc()
            self.store.remove(item.kind, item.namespace, item.name, item.uid, item.version)
        elif not self.store.put(item):
            return
        elif item.kind == NODE.kind and known is not None and known.fact == item.fact:
            return  # a heartbeat
        self.touch(item)

    def touch(self, item: Entry) -> None:
        """Have whoever depends on the object looked at."""
        if item.kind == NODE.kind:
            for key in self.waiting_for_nodes:
                self.queue.add(key)
        elif item.owner is not None:
            self.queue.add(item.owner, urgent=item.kind == names.KIND and _is_new(item))

    async def list_all(self) -> None:
        """List every kind into the store; what the listing lacks is forgotten."""
        for resource in WATCHED:
            await self._list(resource)
        self._listed_at = asyncio.get_running_loop().time()

    async def first_listing(self) -> None:
        """List everything, again and again until it works: the CRD may come after the operator."""
        delay = 0.5
        while self._listed_at is None:
            try:
                await self.list_all()
            except ApiError as error:
                log.warning("waiting until everything can be listed: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10)

    def start(self, reconcile: Reconcile) -> None:
        """Set the workers to everything there is; `first_listing` must have come before."""
        self._enqueue_all()
        self._tasks = [asyncio.create_task(self._work(reconcile)) for _ in range(self._workers)]
        self._tasks.append(asyncio.create_task(self._resync()))

    async def stop(self) -> None:
        """Finish nothing, start nothing: every pass can be cut and taken up by the next process."""
        self.queue.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def not_alive(self) -> str | None:
        """What is wrong for good: a hung pass, or no successful listing for long."""
        now = asyncio.get_running_loop().time()
        hung = [key for key, since in self._busy_since.items() if now - since > STUCK_SECONDS]
        if hung:
            return f"a pass over {hung[0].namespace}/{hung[0].name} hangs"
        if self._listed_at is not None and now - self._listed_at > 3 * self._resync_seconds + 60:
            return "the API server could not be listed for long"
        return None

    def not_ready(self) -> str | None:
        return None if self._tasks else "the first listing is not complete"

    def _enqueue_all(self) -> None:
        for item in self.store.all(names.KIND):
            self.queue.add(Key(item.namespace, item.name), urgent=_is_new(item))

    async def _list(self, resource: Resource) -> None:
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        found: list[Entry] = []
        version = 0
        async for page in self.client.pages(resource, self._namespace):
            version = version or int(page["metadata"]["resourceVersion"])
            # Items of a listing do not say what they are.
            found.extend(entry({**head, **body}) for body in page["items"])
        self.store.replace(resource.kind, found, version)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._resync_seconds)
            try:
                await self.list_all()
            except ApiError as error:
                log.warning("resync failed: %s", error)
            self._enqueue_all()

    async def _work(self, reconcile: Reconcile) -> None:
        loop = asyncio.get_running_loop()
        while True:
            key = await self.queue.get()
            self._busy_since[key] = started = loop.time()
            metrics.QUEUE_LENGTH.set(len(self.queue))
            try:
                result = await reconcile(key)
            except Exception as error:
                metrics.RECONCILES.labels("error").inc()
                wait = error.retry_after if isinstance(error, ApiError) else None
                delay = self.queue.retry(key, wait or 0.0)
                expected = isinstance(error, ApiError)
                log.warning(
                    "%s/%s: again in %.1f s: %s",
                    *key,
                    delay,
                    error or type(error).__name__,
                    exc_info=None if expected else error,
                )
            else:
                metrics.RECONCILES.labels("ok").inc()
                self.queue.forget_failures(key)
                if result.again:
                    self.queue.add(key)
                elif result.requeue_after is not None:
                    self.queue.add_after(key, result.requeue_after)
            finally:
                metrics.RECONCILE_SECONDS.observe(loop.time() - started)
                self._busy_since.pop(key, None)
                self.queue.done(key)


def drain_end(pod: PodFact) -> str:
    """How a pod that is gone has ended: finished, killed before it had, or lost from sight."""
    if pod.container is None or pod.container.state != "terminated":
        return "lost"
    return "killed" if pod.container.exit_code == KILLED else "finished"


def _is_new(item: Entry) -> bool:
    """An LLMDeployment that no pass has written a status for yet."""
    return int((item.fact.get("status") or {}).get("observedGeneration", -1)) < 0
