"""The fleet: a kubelet for every Node that carries the fleet's label.

Decides which nodes are ours and which pod belongs to which of them. Nodes may be asked for at the
start, and may come and go at any time: a Node with the label is taken over, a deleted one is off.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from .api import Api, ApiError, Object
from .catalogue import NodeGroup
from .events import EventRecorder
from .faults import CONFIG_MAP, NAMESPACE, FaultRules
from .images import Images
from .kubelets import Kubelet
from .logs import PORT, serve_logs
from .nodes import SIMULATED, build_node, pod_cidr
from .pods import PodWorker
from .runtime import Runtime, Settings, utc_now
from .watching import Follower
from .writer import StatusWriter

log = logging.getLogger(__name__)


class Fleet:
    """All kubelets of one process, over one API connection pool.

    `serving_pair` are certificate and key for `kubectl logs`; without them it is not answered.
    """

    def __init__(
        self,
        api: Api,
        images: Images,
        settings: Settings,
        serving_pair: tuple[Path, Path] | None = None,
    ) -> None:
        self._api = api
        self._serving_pair = serving_pair
        self._faults = FaultRules(self._faults_changed)
        self._events = EventRecorder(api, utc_now)
        self._statuses = StatusWriter(api)
        self._runtime = Runtime(api, images.find, self._events, self._faults, settings, utc_now)
        self._version = ""
        self._kubelets: dict[str, Kubelet] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ranges: dict[str, str] = {}
        self._pods: dict[str, dict[str, Object]] = {}

    async def run(self, groups: Sequence[NodeGroup]) -> None:
        """Bring up the nodes asked for, and run what is bound to any of ours, until cancelled."""
        self._version = str((await self._api.get("/version"))["gitVersion"])
        nodes = Follower(
            self._api, "/api/v1/nodes", self._on_node, {"labelSelector": f"{SIMULATED}=true"}
        )
        pods = Follower(
            self._api, "/api/v1/pods", self._on_pod, {"fieldSelector": "spec.nodeName!="}
        )
        rules = Follower(
            self._api,
            f"/api/v1/namespaces/{NAMESPACE}/configmaps",
            self._faults.on_change,
            {"fieldSelector": f"metadata.name={CONFIG_MAP}"},
        )
        try:
            async with asyncio.TaskGroup() as group:
                for work in (rules, nodes, pods, self._events, self._statuses):
                    group.create_task(work.run())
                if self._serving_pair:
                    group.create_task(serve_logs(self._find_pod, *self._serving_pair))
                await nodes.synced.wait()
                await self._create_nodes(groups)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _create_nodes(self, groups: Sequence[NodeGroup]) -> None:
        for group in groups:
            for name in group.names():
                if name in self._kubelets:
                    continue
                number = int(self._range_of(name).split(".")[2])
                try:
                    await self._api.create(
                        "/api/v1/nodes", build_node(name, group.kind, group.gpus, number)
                    )
                except ApiError as error:
                    if error.status != 409:
                        raise
        log.info("fleet of %d nodes asked for", sum(group.count for group in groups))

    def _range_of(self, name: str) -> str:
        """A pod range that no node has; the same for the same name until the node goes."""
        if name not in self._ranges:
            taken = set(self._ranges.values())
            self._ranges[name] = next(
                cidr for cidr in map(pod_cidr, itertools.count()) if cidr not in taken
            )
        return self._ranges[name]

    def _on_node(self, kind: str, node: Object) -> None:
        name = node["metadata"]["name"]
        if kind == "DELETED":
            self._ranges.pop(name, None)
            self._kubelets.pop(name, None)
            if task := self._tasks.pop(name, None):
                task.cancel()
            return
        if cidr := node["spec"].get("podCIDR"):
            self._ranges[name] = cidr
        kubelet = self._kubelets.get(name)
        if kubelet is None:
            kubelet = Kubelet(
                node,
                self._api,
                self._runtime,
                self._statuses,
                self._version,
                self._range_of,
                PORT if self._serving_pair else None,
            )
            self._kubelets[name] = kubelet
            for pod in self._pods.get(name, {}).values():
                kubelet.see_pod(pod)
            self._tasks[name] = asyncio.create_task(kubelet.run(), name=f"kubelet {name}")
        kubelet.update(node)

    def _on_pod(self, kind: str, pod: Object) -> None:
        node, uid = pod["spec"]["nodeName"], pod["metadata"]["uid"]
        kubelet = self._kubelets.get(node)
        if kind == "DELETED":
            self._pods.get(node, {}).pop(uid, None)
            if kubelet:
                kubelet.forget_pod(uid)
        else:
            self._pods.setdefault(node, {})[uid] = pod
            if kubelet:
                kubelet.see_pod(pod)

    def _find_pod(self, namespace: str, name: str) -> PodWorker | None:
        for kubelet in self._kubelets.values():
            for worker in kubelet.workers:
                metadata = worker.pod["metadata"]
                if (metadata["namespace"], metadata["name"]) == (namespace, name):
                    return worker
        return None

    def _faults_changed(self) -> None:
        for kubelet in self._kubelets.values():
            for worker in kubelet.workers:
                worker.refresh_faults()
