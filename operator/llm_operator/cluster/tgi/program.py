"""The life of one simulated container: start-up in time, signals, faults, exit codes.

Decides when things happen and how they end; what is accepted and refused is `startup`'s business,
how requests are answered `router`'s. Loading times are those of a real server divided by `speed`;
tokens are made at real speed, divided by `decode_speed`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from llm_operator.cluster.fleet.container import ContainerSpec, Exit

from . import startup, versions
from .args import PrintAndExit, UsageError
from .hub import cache_directory
from .journal import Journal
from .launcher import Refused
from .serving import Serving, address_of
from .shard import ShardError
from .warmup import Limits, NotEnoughMemory, OutOfMemory

DOWNLOAD_BYTES_PER_SECOND = 1e9
"""hf_transfer on a 10 Gbit/s link."""
LOAD_BYTES_PER_SECOND = 2e9
"""Files to GPU memory, all ranks of a pod together."""
PARSE_SECONDS = 3.0
WARM_UP_SECONDS = 10.0

_DOWNLOAD_FAILED = "Download encountered an error:"
_SHARD_FAILED = "Shard complete standard error output:"


class Ended(Exception):
    """The container's main process leaves."""

    def __init__(self, code: int, *, oom_killed: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.oom_killed = oom_killed


class TgiProgram:
    """The text-generation-inference image, as the fleet runs it.

    `speed` divides loading times, `decode_speed` those of forward passes. `clock` is the wall clock
    of logs and answers, in seconds since the epoch.
    """

    def __init__(
        self,
        speed: float = 60.0,
        clock: Callable[[], float] = time.time,
        decode_speed: float = 1.0,
    ) -> None:
        self.speed = speed
        self.clock = clock
        self.decode_speed = decode_speed

    def start(self, spec: ContainerSpec) -> TgiProcess:
        """Make the process of one container; it starts to live when `run` is awaited."""
        return TgiProcess(spec, self)


class TgiProcess:
    """One container. See `fleet.container.Process`."""

    def __init__(self, spec: ContainerSpec, program: TgiProgram) -> None:
        self._spec = spec
        self._program = program
        self._journal = Journal(program.clock)
        self._terminated = asyncio.Event()
        self._killed = asyncio.Event()
        self._serving: Serving | None = None

    async def run(self) -> Exit:
        """Live until the end; cancelling is a SIGKILL."""
        main = asyncio.ensure_future(self._main())
        killed = asyncio.ensure_future(self._killed.wait())
        try:
            await asyncio.wait({main, killed}, return_when=asyncio.FIRST_COMPLETED)
            return main.result() if main.done() else Exit(137, self._journal.tail())
        finally:
            for task in (main, killed):
                task.cancel()
            await asyncio.gather(main, killed, return_exceptions=True)
            if self._serving is not None:
                await self._serving.reset()

    def terminate(self) -> None:
        """SIGTERM. Images whose entry point keeps it to itself go on."""
        if versions.forwards_sigterm(versions.of_image(self._spec.image)):
            self._terminated.set()

    def kill(self) -> None:
        """SIGKILL."""
        self._killed.set()

    def logs(self) -> str:
        """The last lines of the log."""
        return self._journal.text()

    @property
    def port(self) -> int | None:
        """The port that is open, None before."""
        return self._serving.port if self._serving else None

    async def _main(self) -> Exit:
        try:
            prepared = await self._prepare()
            await self._download(prepared)
            loaded = await self._load(prepared)
            limits = await self._warm_up(prepared, loaded)
            await self._serve(prepared, loaded, limits)
        except Ended as end:
            return Exit(end.code, self._journal.tail(), end.oom_killed)
        return Exit(0, self._journal.tail())

    async def _prepare(self) -> startup.Prepared:
        spec, journal = self._spec, self._journal
        version = versions.of_image(spec.image)
        if spec.run_as_user not in (None, 0) and versions.needs_root(version):
            journal.raw("unable to refresh ld cache, not a big deal in most cases")
            journal.raw(
                "text-generation-launcher: error while loading shared libraries: "
                "libpython3.11.so.1.0: cannot open shared object file: No such file or directory"
            )
            raise Ended(127)
        await self._pause(PARSE_SECONDS)
        try:
            prepared = startup.prepare(spec)
        except PrintAndExit as asked:
            journal.raw(f"text-generation-launcher {versions.reported(version)} ({asked})")
            raise Ended(0) from None
        except UsageError as error:
            journal.raw(f"error: {error}\n\nFor more information, try '--help'.")
            raise Ended(2) from None
        except Refused as error:
            panic = error.code == 101
            journal.raw(f"thread 'main' {error}" if panic else f"Error: {error}")
            raise Ended(error.code) from None
        journal.info(prepared.args.debug())
        if prepared.launch.shards > 1:
            journal.info(f"Sharding model on {prepared.launch.shards} processes")
        return prepared

    async def _download(self, prepared: startup.Prepared) -> None:
        model_id = prepared.model_id
        self._journal.info(f"Starting check and download process for {model_id}")
        if prepared.found is None:
            await self._pause(1.0)
            self._journal.traceback(_DOWNLOAD_FAILED, str(prepared.missing))
            raise self._end("DownloadError")
        size = prepared.found.download_bytes
        if size:
            await self._fetch(prepared, size)
        else:
            self._journal.info("Files are already present on the host. Skipping download.")
        self._journal.info(f"Successfully downloaded weights for {model_id}")

    async def _fetch(self, prepared: startup.Prepared, size: int) -> None:
        folder = cache_directory(prepared.env)
        room = startup.volume_room(self._spec, folder)
        if not startup.writable(self._spec, folder):
            problem = f"OSError: [Errno 30] Read-only file system: '{folder}'"
        elif room is not None and size > room:
            await self._pause(room / DOWNLOAD_BYTES_PER_SECOND)
            problem = "OSError: No space left on device (os error 28)"
        else:
            await self._pause(size / DOWNLOAD_BYTES_PER_SECOND)
            return
        self._journal.traceback(_DOWNLOAD_FAILED, problem)
        raise self._end("DownloadError")

    async def _load(self, prepared: startup.Prepared) -> startup.Loaded:
        assert prepared.found is not None
        shards, faults = prepared.launch.shards, self._spec.faults
        for rank in range(shards):
            self._journal.info(f"Starting shard rank={rank}")
        seconds = prepared.found.checkpoint.weight_bytes / LOAD_BYTES_PER_SECOND
        try:
            if faults.get("oom") == "host":
                raise startup.OutOfHostMemory
            loaded = startup.load(self._spec, prepared)
        except (ShardError, OutOfMemory) as error:
            await self._pause(seconds / 2)
            raise self._shard_cannot_start(str(error)) from None
        except startup.BusError:
            await self._pause(seconds)
            self._journal.error("Shard process was signaled to shutdown with signal 7 rank=0")
            raise self._shard_cannot_start("Bus error") from None
        except startup.OutOfHostMemory:
            await self._pause(seconds / 2)
            raise Ended(137, oom_killed=True) from None
        if "crash-loading" in faults:
            await self._pause(seconds / 2)
            raise self._shard_cannot_start("RuntimeError: asked to crash while loading")
        await self._pause(seconds)
        for rank in range(shards):
            self._journal.info(f"Shard ready in {seconds:.1f}s rank={rank}")
        return loaded

    async def _warm_up(self, prepared: startup.Prepared, loaded: startup.Loaded) -> Limits:
        self._journal.info("Starting Webserver")
        self._journal.info("Warming up model")
        await self._pause(WARM_UP_SECONDS)
        faults = self._spec.faults
        if "shard-failed" in faults:
            self._journal.traceback(_SHARD_FAILED, "RuntimeError: NCCL Error 1")
            raise self._end("ShardFailed")
        try:
            if "oom" in faults:
                raise NotEnoughMemory(prepared.args.integer("max-batch-prefill-tokens") or 4096)
            limits = startup.settle(self._spec, prepared, loaded)
        except NotEnoughMemory as error:
            raise self._webserver_failed(f'Backend(Warmup(Generation("{error}")))') from None
        except startup.RouterError as error:
            raise self._webserver_failed(str(error)) from None
        self._journal.info(f"Setting max batch total tokens to {limits.cache_tokens}")
        if "slow-start" in faults:
            await self._wait(float(faults["slow-start"] or 30))
        while "never-ready" in faults:
            await self._wait(1.0)
        return limits

    async def _serve(
        self, prepared: startup.Prepared, loaded: startup.Loaded, limits: Limits
    ) -> None:
        program, journal = self._program, self._journal
        self._serving = serving = Serving(
            self._spec, prepared, loaded, limits, program.clock, program.decode_speed
        )
        try:
            await serving.bind()
        except OSError as error:
            raise self._webserver_failed(f"WebServer(Axum({error.strerror}))") from None
        if address_of(prepared.args.text("hostname") or "", self._spec.ip) is None:
            journal.warn("Listening on the loopback interface only")
        journal.info("Connected")
        await self._until_told(serving)
        if serving.crashed.is_set():
            journal.traceback(_SHARD_FAILED, "RuntimeError: asked to crash")
            raise self._end("ShardFailed")
        journal.info("Terminating webserver")
        await serving.drain()
        journal.info("Shutting down shards")

    async def _until_told(self, serving: Serving) -> None:
        waits = [
            asyncio.ensure_future(event.wait()) for event in (self._terminated, serving.crashed)
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _pause(self, seconds: float) -> None:
        """Let loading time go by; SIGTERM ends the start-up with exit code 0."""
        await self._wait(seconds / self._program.speed)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._terminated.wait()
        except TimeoutError:
            return
        raise Ended(0)

    def _shard_cannot_start(self, why: str) -> Ended:
        self._journal.traceback(_SHARD_FAILED, why)
        self._journal.error("Shard 0 failed to start")
        self._journal.info("Shutting down shards")
        return self._end("ShardCannotStart")

    def _webserver_failed(self, why: str) -> Ended:
        self._journal.raw(f"Error: {why}")
        self._journal.error("Webserver Crashed")
        self._journal.info("Shutting down shards")
        return self._end("WebserverFailed")

    def _end(self, variant: str) -> Ended:
        self._journal.raw(f"Error: {variant}")
        return Ended(1)
