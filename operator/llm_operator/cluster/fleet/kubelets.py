"""One node's kubelet: registers the node, renews its lease, has its pods run.

Decides whether the node is alive, which is what its annotation and the fleet say. A lost node falls
silent: no lease, no status, no sockets, and what its pods were doing is gone when it comes back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from .api import Api, ApiError, Object
from .machine import Machine
from .nodes import (
    LEASE_NAMESPACE,
    RENEW_SECONDS,
    build_lease,
    build_status,
    is_lost,
    is_ready,
    micro_time,
    missing_labels,
)
from .pods import PodWorker
from .runtime import Runtime
from .writer import StatusWriter

log = logging.getLogger(__name__)


class Kubelet:
    """Plays the kubelet of one Node object.

    `range_of` finds it a pod range if it has none; `port` is where it answers for logs, if it does.
    """

    def __init__(
        self,
        node: Object,
        api: Api,
        runtime: Runtime,
        statuses: StatusWriter,
        version: str,
        range_of: Callable[[str], str],
        port: int | None = None,
    ) -> None:
        self.node = node
        self._api = api
        self._runtime = runtime
        self._statuses = statuses
        self._version = version
        self._range_of = range_of
        self._port = port
        self._machine: Machine | None = None
        self._pods: dict[str, Object] = {}
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._poke = asyncio.Event()

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node["metadata"]["name"])

    @property
    def workers(self) -> list[PodWorker]:
        """The pods it runs."""
        return list(self._workers.values())

    # -- what the watches tell it ----------------------------------------------------------------

    def update(self, node: Object) -> None:
        """The Node object has changed."""
        self.node = node
        if is_lost(node):
            self._go_dark()
        elif node["spec"].get("podCIDR"):
            if self._machine is None:
                self._machine = Machine(node)
            self._machine.update(node)
            for pod in list(self._pods.values()):
                self._start(pod)
        self._poke.set()

    def see_pod(self, pod: Object) -> None:
        """A pod of this node is new or has changed."""
        uid = pod["metadata"]["uid"]
        self._pods[uid] = pod
        if uid in self._workers:
            self._workers[uid].update(pod)
        else:
            self._start(pod)

    def forget_pod(self, uid: str) -> None:
        """A pod of this node is gone from the API: what is left of it dies at once."""
        self._pods.pop(uid, None)
        self._runtime.events.forget(uid)
        self._stop(uid)

    # -- pods ------------------------------------------------------------------------------------

    def _start(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if self._machine is None or is_lost(self.node) or uid in self._workers:
            return
        worker = PodWorker(pod, self._machine, self._runtime, self._statuses)
        self._workers[uid] = worker
        task = asyncio.create_task(self._run(worker), name=worker.path)
        task.add_done_callback(lambda _: worker.close())
        self._tasks[uid] = task

    async def _run(self, worker: PodWorker) -> None:
        try:
            await worker.run()
        except Exception:
            log.exception("pod %s", worker.path)

    def _stop(self, uid: str) -> None:
        self._workers.pop(uid, None)
        if task := self._tasks.pop(uid, None):
            task.cancel()

    def _go_dark(self) -> None:
        for uid in list(self._workers):
            self._stop(uid)

    # -- the node --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the node registered and alive until cancelled; then its machine is off."""
        try:
            while True:
                self._poke.clear()
                pause = RENEW_SECONDS * random.uniform(0.9, 1.0)
                try:
                    if not is_lost(self.node):
                        await self._register()
                        await self._renew()
                except ApiError as error:
                    # A node deleted meanwhile: the watch will say so.
                    if error.status != 404:
                        log.warning("node %s: %s", self.name, error)
                    pause = 1.0
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.warning("node %s: %r", self.name, error)
                    pause = 1.0
                except ValueError as error:
                    log.error("node %s cannot be simulated: %s", self.name, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._poke.wait()
        finally:
            self._go_dark()

    async def _register(self) -> None:
        """Complete what the Node object lacks, and say again that it is ready where need be."""
        path = f"/api/v1/nodes/{self.name}"
        changes: Object = {}
        if labels := missing_labels(self.node):
            changes["metadata"] = {"labels": labels}
        if not self.node["spec"].get("podCIDR"):
            cidr = self._range_of(self.name)
            changes["spec"] = {"podCIDR": cidr, "podCIDRs": [cidr]}
        if changes:
            self.update(await self._api.patch(path, changes))
        if not is_ready(self.node):
            status = build_status(self.node, self._version, self._runtime.now(), self._port)
            self.update(await self._api.patch(f"{path}/status", {"status": status}))

    async def _renew(self) -> None:
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
        now = self._runtime.now()
        try:
            renewal = {"spec": {"renewTime": micro_time(now), "holderIdentity": self.name}}
            await self._api.patch(f"{leases}/{self.name}", renewal, "merge")
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(leases, build_lease(self.node, now))
