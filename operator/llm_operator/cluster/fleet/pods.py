"""One pod on one node: admission, volumes, init containers, containers, end, final delete.

Decides what the kubelet would do next with the pod. Refuses to know how its status is written and
which other pods there are. Cancelling `run` is the machine losing power: processes die, nothing is
written, cards and addresses are free again.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

import aiohttp

from .api import ApiError, Object
from .containers import ContainerRunner, Past
from .devices import AdmissionError, gpus_wanted
from .machine import Machine
from .runtime import Runtime
from .status import PodView, Terminated, build_pod_status
from .volumes import MountError, claim_models, volume_references
from .writer import StatusWriter

log = logging.getLogger(__name__)


class PodWorker:
    """Runs a pod. `run` ends when the pod has been deleted from the API."""

    def __init__(
        self, pod: Object, machine: Machine, runtime: Runtime, statuses: StatusWriter
    ) -> None:
        status = pod.get("status") or {}
        self.pod = pod
        self.machine = machine
        self.runtime = runtime
        self.ip = ""
        self.claims: dict[str, Object] = {}
        self.faults: dict[str, str] = runtime.faults.of(pod)
        self.uid: str = pod["metadata"]["uid"]
        self._statuses = statuses
        self._began = _time(status.get("startTime")) or runtime.now()
        self._init: list[ContainerRunner] = []
        self._main: list[ContainerRunner] = []
        self._deleting = asyncio.Event()
        self._terminal = False
        self._rejection: str | None = None
        self._settled = status.get("phase") in ("Succeeded", "Failed")
        self._holds = True
        if not self._settled and status.get("podIP"):
            # At once, so that no new pod can get the address that others still know as ours.
            self.ip = machine.addresses.allocate(status["podIP"])

    @property
    def path(self) -> str:
        """Of the pod, in the API."""
        metadata = self.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    # -- what others tell it ---------------------------------------------------------------------

    def update(self, pod: Object) -> None:
        """A version of the pod from the API; one that is older than ours is ignored."""
        if _version(pod) < _version(self.pod):
            return
        self.pod = pod
        self.refresh_faults()
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting.set()
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            for container in (*self._init, *self._main):
                container.stop(grace)
        self.changed()

    def refresh_faults(self) -> None:
        """Look at the rules again. Programs hold this very mapping, so that they see changes."""
        wanted = self.runtime.faults.of(self.pod)
        fresh = wanted.keys() - self.faults.keys()
        self.faults.clear()
        self.faults.update(wanted)
        if "kill" in fresh:
            for container in (*self._init, *self._main):
                container.kill()

    def changed(self) -> None:
        """The status may be another one now."""
        self._statuses.mark(self)

    def logs(self, container: str, *, previous: bool = False) -> str | None:
        """What a container has printed in its present or previous run; None if it has not run."""
        runner = self._runner(container)
        return runner.logs(previous=previous) if runner else None

    def is_alive(self, container: str) -> bool:
        """Whether a container's program is running."""
        runner = self._runner(container)
        return runner is not None and runner.alive

    def _runner(self, name: str) -> ContainerRunner | None:
        return next((each for each in (*self._main, *self._init) if each.name == name), None)

    def wanted_status(self) -> dict[str, Any] | None:
        """The status that the pod should have; None before there is one, and when it is history."""
        if self._settled or not (self._main or self._rejection):
            return None
        return build_pod_status(
            PodView(
                self.pod,
                self.machine.addresses.host,
                self.ip or None,
                self._began,
                [container.view() for container in self._init],
                [container.view() for container in self._main],
                self._terminal,
                self._rejection,
            ),
            self.runtime.now(),
        )

    # -- its life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """From admission to the final delete."""
        if self.pod["metadata"].get("deletionTimestamp"):
            self._settled = True
            self._deleting.set()
        if not self._settled:
            await self._live()
        await self._deleting.wait()
        await self._statuses.flush(self)
        await self._delete()

    def close(self) -> None:
        """After `run`, however it ended: say nothing more and hold nothing more."""
        self._settled = True
        self._release()

    async def _live(self) -> None:
        try:
            self._admit()
        except AdmissionError as error:
            self._release()
            self._rejection = str(error)
            self._event("UnexpectedAdmissionError", str(error), "Warning")
            self.changed()
            return
        self.changed()
        if await self._or_deleted(self._mount()) and await self._run_init():
            async with asyncio.TaskGroup() as group:
                for container in self._main:
                    group.create_task(container.run())
        self._terminal = True
        self._release()
        self.changed()

    def _admit(self) -> None:
        spec, status = self.pod["spec"], self.pod.get("status") or {}
        wants = [gpus_wanted(container) for container in spec["containers"]]
        init_wants = [gpus_wanted(each) for each in spec.get("initContainers") or ()]
        cards = self.machine.cards.allocate(self.uid, max([sum(wants), *init_wants]))
        self.ip = self.ip or self.machine.addresses.allocate()
        log.info("pod %s: cards %s, address %s", self.path, list(cards), self.ip)
        for runners, specs, key, init in (
            (self._init, spec.get("initContainers") or (), "initContainerStatuses", True),
            (self._main, spec["containers"], "containerStatuses", False),
        ):
            past = {each["name"]: each for each in status.get(key) or ()}
            for each in specs:
                runner = ContainerRunner(
                    each,
                    self,
                    self.machine.gpus(gpus_wanted(each)),
                    self._past(past.get(each["name"])),
                    init=init,
                )
                if init_wants:
                    runner.wait_for("PodInitializing")
                runners.append(runner)

    def _past(self, status: Object | None) -> Past:
        """What was before the machine lost power; whatever ran then has ended with it."""
        if status is None or not status.get("containerID"):
            return Past()
        now = self.runtime.now()
        end = status["state"].get("terminated") or {"exitCode": 255, "reason": "Unknown"}
        last = Terminated(
            end["exitCode"],
            end["reason"],
            end.get("message", ""),
            _time(end.get("startedAt")) or now,
            _time(end.get("finishedAt")) or now,
            status["containerID"],
        )
        return Past(int(status.get("restartCount") or 0), last)

    async def _mount(self) -> bool:
        """Wait until all that the volumes refer to is there."""
        namespace = self.pod["metadata"]["namespace"]
        while True:
            missing = None
            try:
                for reference in volume_references(self.pod):
                    item = await self.runtime.fetch(reference, namespace)
                    if item is None and not reference.optional:
                        missing = f'{reference.kind.lower()} "{reference.name}" not found'
                    elif item is not None and reference.kind == "PersistentVolumeClaim":
                        claim_models(item)
                        self.claims[reference.name] = item
            except MountError as error:
                missing = str(error)
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("pod %s: %s", self.path, error)
                missing = "the API server does not answer"
            if missing is None:
                return True
            self._event("FailedMount", f"MountVolume.SetUp failed: {missing}", "Warning")
            await asyncio.sleep(self.runtime.settings.retry)

    async def _run_init(self) -> bool:
        for container in self._init:
            await container.run()
            if self._deleting.is_set() or not container.succeeded:
                return False
        return True

    async def _or_deleted(self, work: Any) -> bool:
        """Whether the work was done before the pod was deleted."""
        task = asyncio.ensure_future(work)
        deleted = asyncio.ensure_future(self._deleting.wait())
        try:
            await asyncio.wait({task, deleted}, return_when=asyncio.FIRST_COMPLETED)
            return not self._deleting.is_set() and bool(task.result())
        finally:
            task.cancel()
            deleted.cancel()

    def _release(self) -> None:
        if not self._holds:
            return
        self._holds = False
        self.machine.cards.release(self.uid)
        if self.ip:
            self.machine.addresses.release(self.ip)

    async def _delete(self) -> None:
        """The last word of a kubelet: no container is left, the object may go."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        while True:
            try:
                await self.runtime.api.delete(self.path, body)
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
                log.warning("pod %s: %s", self.path, error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("pod %s: %r", self.path, error)
            await asyncio.sleep(self.runtime.settings.retry)

    def _event(self, reason: str, message: str, kind: str = "Normal") -> None:
        self.runtime.events.record(self.pod, reason, message, kind=kind)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _version(item: Object) -> int:
    return int(item["metadata"].get("resourceVersion") or 0)
