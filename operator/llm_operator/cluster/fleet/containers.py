"""One container's life: image, configuration, start, probes, end, and the next start.

Decides the container's state and when it is started again. Refuses to know the pod's phase; whoever
owns the runner reads `view()` after each call of `changed`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import aiohttp

from .api import ApiError, Object
from .backoff import Backoff
from .container import ContainerSpec, Exit, Gpu, Process
from .environment import ConfigError
from .images import image_id
from .preparation import Owner, StartError, check_command, prepare
from .prober import Listener, Prober
from .probes import Probe, http_get
from .runtime import ImageLike
from .status import ContainerView, Running, State, Terminated, Waiting

log = logging.getLogger(__name__)

T = TypeVar("T")

MINIMUM_TERM_SECONDS = 2.0
"""After a preStop hook that used up the grace period, SIGTERM still gets this long (kubelet)."""

MESSAGE_BYTES, MESSAGE_LINES = 2048, 80
"""How much of the log becomes the termination message under FallbackToLogsOnError."""


class Stopped(Exception):
    """The container is to end while it is not running."""


@dataclass(frozen=True)
class Past:
    """What a container was before the fleet took it over: restarts so far, and its last end.

    A main container goes on from there; an init container begins again.
    """

    restarts: int = 0
    last: Terminated | None = None


class ContainerRunner:
    """Keeps one container running, as the pod's restart policy says, until told to stop."""

    def __init__(
        self, spec: Object, owner: Owner, gpus: tuple[Gpu, ...], past: Past, *, init: bool = False
    ) -> None:
        self.spec = spec
        self._owner = owner
        self._gpus = gpus
        self._init = init
        self._state: State = past.last if past.last and not init else Waiting("ContainerCreating")
        self._last = past.last
        self._restarts = past.restarts
        self._container_id = ""
        self._process: Process | None = None
        self._previous: Process | None = None
        self._prober = Prober(
            {} if init else spec,
            self._check,
            Listener(owner.changed, self._condemn, self._complain),
        )
        self._stopping = asyncio.Event()
        self._leaving = asyncio.Event()
        self._deadline = float("inf")
        self._floor = 0.0
        self._timer: asyncio.Timeout | None = None
        self._condemned = False

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    @property
    def succeeded(self) -> bool:
        """Whether it has ended with code 0 and will not run again."""
        return isinstance(self._state, Terminated) and self._state.exit_code == 0

    def view(self) -> ContainerView:
        """What the container's status is to say."""
        image = self.spec["image"]
        return ContainerView(
            self.name,
            image,
            self._state,
            self._last,
            self._restarts,
            self._prober.started,
            self._prober.ready,
            self._container_id,
            image_id(image) if self._container_id else "",
        )

    @property
    def alive(self) -> bool:
        """Whether its program is running."""
        return isinstance(self._state, Running)

    def logs(self, *, previous: bool = False) -> str | None:
        """What this run, or the one before it, has printed; None if there was no such run."""
        process = self._previous if previous else self._process
        return process.logs() if process else None

    def wait_for(self, reason: str) -> None:
        """Show another reason for not having begun yet."""
        if isinstance(self._state, Waiting):
            self._set(Waiting(reason))

    # -- ends ------------------------------------------------------------------------------------

    def stop(self, grace: float) -> None:
        """End for good within `grace` seconds; a later call can only shorten it."""
        self._stopping.set()
        self._leave(grace)

    def kill(self) -> None:
        """SIGKILL from outside (a fault); the restart policy decides what follows."""
        if self._process is not None and self.alive:
            self._process.kill()

    def _leave(self, grace: float) -> None:
        deadline = asyncio.get_running_loop().time() + grace
        if deadline < self._deadline:
            self._deadline = deadline
            if self._timer is not None:
                self._timer.reschedule(max(deadline, self._floor))
        self._leaving.set()

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until stopped, or until the restart policy says that it is enough."""
        settings = self._owner.runtime.settings
        loop = asyncio.get_running_loop()
        backoff = Backoff(settings.backoff_initial, settings.backoff_ceiling)
        if isinstance(self._state, Terminated) and not self._again():
            return
        with suppress(Stopped):
            while True:
                image = await self._unless_stopped(self._pull())
                spec = await self._unless_stopped(self._configure(image))
                began = loop.time()
                await self._live(image, spec)
                if self._stopping.is_set() or not self._again():
                    return
                await self._unless_stopped(self._back_off(backoff.after(loop.time() - began)))

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                raise Stopped
            return task.result()
        finally:
            for each in (task, stop):
                each.cancel()

    def _again(self) -> bool:
        assert isinstance(self._state, Terminated)
        policy = self._owner.pod["spec"].get("restartPolicy", "Always")
        failed = self._state.exit_code != 0 or self._condemned
        if policy == "Never":
            return False
        return failed or (policy == "Always" and not self._init)

    async def _back_off(self, delay: float) -> None:
        if not delay:
            return
        metadata = self._owner.pod["metadata"]
        where = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        self._set(
            Waiting(
                "CrashLoopBackOff",
                f"back-off {delay:g}s restarting failed container={self.name} pod={where}",
            )
        )
        self._event(
            "BackOff", f"Back-off restarting failed container {self.name} in pod {where}", "Warning"
        )
        await asyncio.sleep(delay)

    # -- before the start ------------------------------------------------------------------------

    async def _pull(self) -> ImageLike:
        """The image, once it is on the machine."""
        reference, machine = self.spec["image"], self._owner.machine
        settings = self._owner.runtime.settings
        delay = settings.backoff_initial
        while True:
            image = self._owner.runtime.find_image(reference)
            if image is not None and machine.has_image(reference):
                if not self._restarts:
                    self._event(
                        "Pulled", f'Container image "{reference}" already present on machine'
                    )
                return image
            self._event("Pulling", f'Pulling image "{reference}"')
            if image is not None:
                await machine.pull(reference, settings.pull)
                self._event("Pulled", f'Successfully pulled image "{reference}"')
                return image
            problem = f'failed to pull image "{reference}": {reference}: not found'
            self._set(Waiting("ErrImagePull", problem))
            self._event("Failed", f"Failed to pull image: {problem}", "Warning")
            await asyncio.sleep(settings.retry)
            self._set(Waiting("ImagePullBackOff", f'Back-off pulling image "{reference}"'))
            await asyncio.sleep(delay)
            delay = min(2 * delay, settings.backoff_ceiling)

    async def _configure(self, image: ImageLike) -> ContainerSpec:
        """The container with its references resolved, once they can be."""
        while True:
            try:
                return await prepare(self.spec, self._owner, self._gpus, image)
            except ConfigError as error:
                self._set(Waiting("CreateContainerConfigError", str(error)))
                self._event("Failed", f"Error: {error}", "Warning")
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("container %s: %s", self.name, error)
            await asyncio.sleep(self._owner.runtime.settings.retry)

    # -- alive -----------------------------------------------------------------------------------

    async def _live(self, image: ImageLike, spec: ContainerSpec) -> None:
        """From start to end of one run."""
        if self._container_id or self._last:
            self._restarts += 1
        self._container_id = f"fleet://{secrets.token_hex(32)}"
        began = self._owner.runtime.now()
        self._condemned = False
        if not self._stopping.is_set():
            self._leaving.clear()
            self._deadline = float("inf")
        self._floor = 0.0
        running: asyncio.Task[Exit] | None = None
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            check_command(self.spec, image)
            self._previous, self._process = self._process, image.program.start(spec)
            running = asyncio.create_task(self._process.run())
            self._set(Running(began))
            self._event("Started", "Container started")
            self._prober.begin()
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._shut_down(self._process, running)
            self._ended(Exit(137) if running.cancelled() else running.result(), began)
        except StartError as error:
            self._ended(Exit(128, str(error)), began, reason="StartError")
        except Exception as error:
            log.exception("container %s", self.name)
            self._ended(Exit(1, "".join(traceback.format_exception(error))), began)
        finally:
            self._prober.end()
            for task in filter(None, (running, leaving)):
                task.cancel()

    async def _shut_down(self, process: Process, running: asyncio.Task[Exit]) -> None:
        """preStop, SIGTERM, SIGKILL, within the grace period; it covers the hook too."""
        loop = asyncio.get_running_loop()
        self._prober.spare()
        self._event("Killing", f"Stopping container {self.name}")
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and self._deadline > loop.time():
            action = asyncio.create_task(self._pre_stop(hook))
            await self._wait_until_deadline(running, action)
            action.cancel()
        if not running.done():
            process.terminate()
            self._floor = loop.time() + MINIMUM_TERM_SECONDS
            await self._wait_until_deadline(running)
        if not running.done():
            process.kill()
            await asyncio.wait({running}, timeout=1.0)
            running.cancel()
            await asyncio.wait({running})

    async def _wait_until_deadline(self, *tasks: asyncio.Task[Any]) -> None:
        """Until a task is done or the grace is over; `_leave` may shorten it meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(max(self._deadline, self._floor)) as self._timer:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._timer = None

    async def _pre_stop(self, hook: Object) -> None:
        problem: str | None = None
        if "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"])
        elif "httpGet" in hook:
            try:
                problem = await http_get(hook["httpGet"], self.spec, self._owner.ip, 30.0)
            except ValueError as error:
                problem = str(error)
        else:
            problem = f"not simulated: {', '.join(hook)}"
        if problem is not None:
            self._event("FailedPreStopHook", f"PreStopHook failed: {problem}", "Warning")

    def _ended(self, end: Exit, began: datetime, reason: str = "") -> None:
        if not reason:
            reason = "OOMKilled" if end.oom_killed else "Error" if end.code else "Completed"
        message = ""
        if reason == "StartError":
            message = end.log_tail
        elif end.code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = log_tail(end.log_tail)
        self._prober.end()
        now = self._owner.runtime.now()
        self._set(Terminated(end.code, reason, message, began, now, self._container_id))

    # -- probes ----------------------------------------------------------------------------------

    async def _check(self, probe: Probe) -> str | None:
        return await self._owner.runtime.check(probe, self.spec, self._owner.ip)

    def _complain(self, kind: str, complaint: str) -> None:
        self._event("Unhealthy", f"{kind.capitalize()} probe failed: {complaint}", "Warning")

    def _condemn(self, probe: Probe) -> None:
        self._condemned = True
        self._event(
            "Killing", f"Container {self.name} failed {probe.kind} probe, will be restarted"
        )
        pod_grace = self._owner.pod["spec"].get("terminationGracePeriodSeconds", 30)
        self._leave(pod_grace if probe.grace is None else probe.grace)

    # -- telling ---------------------------------------------------------------------------------

    def _set(self, state: State) -> None:
        if isinstance(self._state, Terminated):
            self._last = self._state
        self._state = state
        self._owner.changed()

    def _event(self, reason: str, message: str, kind: str = "Normal") -> None:
        self._owner.runtime.events.record(self._owner.pod, reason, message, self.name, kind)


def log_tail(text: str) -> str:
    """The end of a log as a termination message: at most 80 lines and 2048 bytes."""
    lines = "\n".join(text.splitlines()[-MESSAGE_LINES:])
    return lines.encode()[-MESSAGE_BYTES:].decode(errors="ignore")
