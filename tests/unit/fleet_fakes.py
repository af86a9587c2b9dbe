"""Stand-ins for the fleet's unit tests: an API server in a dictionary, programs by script."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from llm_operator.cluster.fleet.api import Api, ApiError, Object
from llm_operator.cluster.fleet.container import ContainerSpec, Exit
from llm_operator.cluster.fleet.events import EventRecorder
from llm_operator.cluster.fleet.faults import FaultRules
from llm_operator.cluster.fleet.machine import Machine
from llm_operator.cluster.fleet.pods import PodWorker
from llm_operator.cluster.fleet.probes import Probe
from llm_operator.cluster.fleet.runtime import Runtime, Settings, utc_now
from llm_operator.cluster.fleet.writer import StatusWriter

POD = "/api/v1/namespaces/ns/pods/web"


class FakeApi:
    """Objects by path. Merges patches, counts versions, remembers what was asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.writes: list[tuple[str, str]] = []
        self.statuses: list[Object] = []
        self.deleted: dict[str, float] = {}
        self.failures: list[Exception] = []
        self._version = 100

    def put(self, path: str, item: Object) -> Object:
        self._version += 1
        item.setdefault("metadata", {})["resourceVersion"] = str(self._version)
        self.objects[path] = item
        return copy.deepcopy(item)

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        if path.endswith("/services"):
            found = [item for key, item in self.objects.items() if key.startswith(path + "/")]
            return {"items": copy.deepcopy(found)}
        return copy.deepcopy(self._find(path))

    async def patch(self, path: str, body: Object, kind: str = "strategic") -> Object:
        self.writes.append(("PATCH", path))
        if self.failures:
            raise self.failures.pop(0)
        path = path.removesuffix("/status")
        if self._find(path)["metadata"]["uid"] != body["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "Precondition failed: UID")
        merged = merge(self._find(path), body)
        self.statuses.append(copy.deepcopy(merged["status"]))
        return self.put(path, merged)

    async def delete(self, path: str, body: Object | None = None) -> Object:
        self.writes.append(("DELETE", path))
        assert body is not None
        assert body["gracePeriodSeconds"] == 0
        if self._find(path)["metadata"]["uid"] != body["preconditions"]["uid"]:
            raise ApiError(409, "Conflict", "Precondition failed: UID")
        self.deleted[path] = asyncio.get_running_loop().time()
        return self.objects.pop(path)

    def _find(self, path: str) -> Object:
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        return self.objects[path]


def merge(old: Any, new: Any) -> Any:
    """A strategic merge as far as pod statuses need it: conditions by type, nulls remove."""
    if isinstance(new, dict) and isinstance(old, dict):
        merged = {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}
        return {key: value for key, value in merged.items() if value is not None}
    if isinstance(new, list) and new and "type" in new[0]:
        kinds = {item["type"]: item for item in old or ()}
        for item in new:
            kinds[item["type"]] = merge(kinds.get(item["type"], {}), item)
        return list(kinds.values())
    if isinstance(new, list):
        return [item for item in new if "$patch" not in item]
    return new


@dataclass
class Script:
    """A program: how each of its runs goes, the last entry again and again.

    `ends`: seconds and exit. `term_after`: seconds it needs after SIGTERM, None if it ignores it.
    """

    ends: list[tuple[float, Exit] | None] = field(default_factory=lambda: [None])
    term_after: float | None = 0.0
    specs: list[ContainerSpec] = field(default_factory=list)
    diary: list[tuple[str, float]] = field(default_factory=list)
    alive: int = 0

    def start(self, spec: ContainerSpec) -> ScriptedProcess:
        self.specs.append(spec)
        return ScriptedProcess(self, self.ends[min(len(self.specs), len(self.ends)) - 1])

    def note(self, what: str) -> None:
        self.diary.append((what, round(asyncio.get_running_loop().time(), 1)))


class ScriptedProcess:
    def __init__(self, script: Script, end: tuple[float, Exit] | None) -> None:
        self._script = script
        self._end = end
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def run(self) -> Exit:
        self._script.note("start")
        self._script.alive += 1
        try:
            if self._end is None:
                return await self._exit
            done, _ = await asyncio.wait({self._exit}, timeout=self._end[0])
            return self._exit.result() if done else self._end[1]
        finally:
            self._script.alive -= 1

    def terminate(self) -> None:
        self._script.note("TERM")
        if self._script.term_after is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self._script.term_after, self._finish, Exit(0))

    def kill(self) -> None:
        self._script.note("KILL")
        self._finish(Exit(137))

    def logs(self) -> str:
        return "printed"

    def _finish(self, end: Exit) -> None:
        if not self._exit.done():
            self._exit.set_result(end)


@dataclass(frozen=True)
class FakeImage:
    program: Script
    commands: frozenset[str] = frozenset({"/run"})
    user: int = 0


class Events(EventRecorder):
    """Remembers instead of writing."""

    def __init__(self) -> None:
        super().__init__(cast(Api, None), utc_now)
        self.heard: list[tuple[str, str]] = []

    def record(
        self,
        pod: Mapping[str, Any],
        reason: str,
        message: str,
        container: str | None = None,
        kind: str = "Normal",
    ) -> None:
        self.heard.append((reason, message))

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.heard]


def node(gpus: int = 8, **metadata: Any) -> Object:
    return {
        "metadata": {
            "name": "a100-0",
            "uid": "node-uid",
            "labels": {"fleet.llm-operator.dev/kind": "a100", "nvidia.com/gpu.count": str(gpus)},
            **metadata,
        },
        "spec": {"podCIDR": "10.244.3.0/24"},
        "status": {"allocatable": {"memory": "100Gi"}},
    }


def pod(container: Object | None = None, **spec: Any) -> Object:
    main = {"name": "main", "image": "prog", **(container or {})}
    return {
        "metadata": {"name": "web", "namespace": "ns", "uid": "uid-1", "generation": 1},
        "spec": {
            "nodeName": "a100-0",
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "enableServiceLinks": False,
            "containers": [main],
            **spec,
        },
        "status": {"phase": "Pending"},
    }


class World:
    """One machine, one API server, one pod or more, and a clock that the test moves."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.events = Events()
        self.machine = Machine(node())
        self.program = Script()
        self.rules = FaultRules()
        self.health: dict[str, list[str | None]] = {}
        self.images: dict[str, FakeImage] = {"prog": FakeImage(self.program)}
        self.statuses = StatusWriter(self.api)
        self.runtime = Runtime(
            self.api,
            self.images.get,
            self.events,
            self.rules,
            Settings(pull=0.0),
            check=self._check,
        )
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _check(self, probe: Probe, container: Object, ip: str) -> str | None:
        answers = self.health.get(probe.kind, [None])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def run(self, item: Object, path: str = POD) -> PodWorker:
        """Create the pod and let it live."""
        worker = PodWorker(self.api.put(path, item), self.machine, self.runtime, self.statuses)
        task = asyncio.create_task(worker.run())
        task.add_done_callback(lambda _: worker.close())
        self.tasks[worker.uid] = task
        return worker

    def delete(self, worker: PodWorker, grace: int) -> None:
        """What the API server does with a graceful delete, and the watch that tells of it."""
        item = copy.deepcopy(self.api.objects[worker.path])
        item["metadata"] |= {
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": grace,
        }
        worker.update(self.api.put(worker.path, item))

    def change(self, worker: PodWorker, **metadata: Any) -> None:
        """Somebody changes the pod's metadata."""
        item = copy.deepcopy(self.api.objects[worker.path])
        item["metadata"] |= metadata
        worker.update(self.api.put(worker.path, item))

    def status(self, path: str = POD) -> Object:
        """What the API server has."""
        status: Object = self.api.objects[path]["status"]
        return status

    def container(self, path: str = POD) -> Object:
        """The status of the pod's first container."""
        status: Object = self.status(path)["containerStatuses"][0]
        return status

    def condition(self, kind: str, path: str = POD) -> tuple[str, str | None]:
        """(status, reason) of a condition."""
        found = next(each for each in self.status(path)["conditions"] if each["type"] == kind)
        return found["status"], found.get("reason")


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A world whose status writer runs."""
    it = World()
    writer = asyncio.create_task(it.statuses.run())
    try:
        yield it
    finally:
        for task in (writer, *it.tasks.values()):
            task.cancel()
        await asyncio.gather(writer, *it.tasks.values(), return_exceptions=True)
