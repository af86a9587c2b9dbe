"""The life of one simulated container: start-up in time, serving, signals, exit codes, its log.

Decides when things happen and how they end; what is accepted and refused is `startup`'s business,
how requests are answered `router`'s. Loading times are those of a real server divided by `speed`;
tokens are made at real speed, divided by `decode_speed`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from llm_operator.cluster.fleet.container import ContainerSpec, Exit

from . import startup, versions
from .args import PrintAndExit, UsageError
from .driver import Driver
from .engine import Engine
from .hub import cache_directory
from .launcher import Refused
from .metrics import Metrics
from .router import Identity, Router, Rules
from .shard import ShardError
from .validation import Bounds
from .warmup import Limits, NotEnoughMemory, OutOfMemory

DOWNLOAD_BYTES_PER_SECOND = 1e9
"""hf_transfer on a 10 Gbit/s link."""
LOAD_BYTES_PER_SECOND = 2e9
"""Files to GPU memory, all ranks of a pod together."""
PARSE_SECONDS = 3.0
WARM_UP_SECONDS = 10.0

_LOG_LINES = 200
_TAIL_LINES = 80
_TAIL_BYTES = 2048


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
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._terminated = asyncio.Event()
        self._killed = asyncio.Event()
        self._crashed = asyncio.Event()
        self._http: web.Server | None = None
        self._socket: asyncio.Server | None = None
        self._driver: Driver | None = None
        self._answered = 0
        self._failures_left = _number(spec.faults.get("generation-error"), 0)

    async def run(self) -> Exit:
        """Live until the end; cancelling is a SIGKILL."""
        main = asyncio.ensure_future(self._main())
        killed = asyncio.ensure_future(self._killed.wait())
        try:
            await asyncio.wait({main, killed}, return_when=asyncio.FIRST_COMPLETED)
            return main.result() if main.done() else self._exit(137)
        finally:
            for task in (main, killed):
                task.cancel()
            await asyncio.gather(main, killed, return_exceptions=True)
            await self._reset()

    def terminate(self) -> None:
        """SIGTERM. Images whose entry point keeps it to itself go on."""
        if versions.forwards_sigterm(versions.of_image(self._spec.image)):
            self._terminated.set()

    def kill(self) -> None:
        """SIGKILL."""
        self._killed.set()

    def logs(self) -> str:
        """The last lines of the log."""
        return "\n".join(self._log)

    # Life.

    async def _main(self) -> Exit:
        try:
            prepared = await self._prepare()
            await self._download(prepared)
            loaded = await self._load(prepared)
            limits = await self._warm_up(prepared, loaded)
            await self._serve(prepared, loaded, limits)
        except Ended as end:
            return self._exit(end.code, oom_killed=end.oom_killed)
        return self._exit(0)

    async def _prepare(self) -> startup.Prepared:
        spec, version = self._spec, versions.of_image(self._spec.image)
        if spec.run_as_user not in (None, 0) and versions.needs_root(version):
            self._print("unable to refresh ld cache, not a big deal in most cases")
            self._print(
                "text-generation-launcher: error while loading shared libraries: "
                "libpython3.11.so.1.0: cannot open shared object file: No such file or directory"
            )
            raise Ended(127)
        await self._pause(PARSE_SECONDS)
        try:
            prepared = startup.prepare(spec)
        except PrintAndExit as asked:
            self._print(f"text-generation-launcher {versions.reported(version)} ({asked})")
            raise Ended(0) from None
        except UsageError as error:
            self._print(f"error: {error}\n\nFor more information, try '--help'.")
            raise Ended(2) from None
        except Refused as error:
            panic = error.code == 101
            self._print(f"thread 'main' {error}" if panic else f"Error: {error}")
            raise Ended(error.code) from None
        self._info(prepared.args.debug())
        if prepared.launch.shards > 1:
            self._info(f"Sharding model on {prepared.launch.shards} processes")
        return prepared

    async def _download(self, prepared: startup.Prepared) -> None:
        model_id = prepared.model_id
        self._info(f"Starting check and download process for {model_id}")
        if prepared.found is None:
            await self._pause(1.0)
            self._fail_step("Download encountered an error:", str(prepared.missing))
            raise self._error("DownloadError")
        size = prepared.found.download_bytes
        if size:
            await self._fetch(prepared, size)
        else:
            self._info("Files are already present on the host. Skipping download.")
        self._info(f"Successfully downloaded weights for {model_id}")

    async def _fetch(self, prepared: startup.Prepared, size: int) -> None:
        folder = cache_directory(prepared.env)
        if not startup.writable(self._spec, folder):
            self._fail_step(
                "Download encountered an error:",
                f"OSError: [Errno 30] Read-only file system: '{folder}'",
            )
            raise self._error("DownloadError")
        room = startup.volume_room(self._spec, folder)
        if room is not None and size > room:
            await self._pause(room / DOWNLOAD_BYTES_PER_SECOND)
            self._fail_step(
                "Download encountered an error:", "OSError: No space left on device (os error 28)"
            )
            raise self._error("DownloadError")
        await self._pause(size / DOWNLOAD_BYTES_PER_SECOND)

    async def _load(self, prepared: startup.Prepared) -> startup.Loaded:
        assert prepared.found is not None
        shards = prepared.launch.shards
        for rank in range(shards):
            self._info(f"Starting shard rank={rank}")
        seconds = prepared.found.checkpoint.weight_bytes / LOAD_BYTES_PER_SECOND
        faults = self._spec.faults
        try:
            if faults.get("oom") == "host":
                raise startup.OutOfHostMemory
            loaded = startup.load(self._spec, prepared)
        except ShardError as error:
            await self._pause(5.0)
            raise self._shard_cannot_start(str(error)) from None
        except OutOfMemory as error:
            await self._pause(seconds / 2)
            raise self._shard_cannot_start(str(error)) from None
        except startup.BusError:
            await self._pause(seconds)
            self._log_error("Shard process was signaled to shutdown with signal 7 rank=0")
            raise self._shard_cannot_start("Bus error") from None
        except startup.OutOfHostMemory:
            await self._pause(seconds / 2)
            raise Ended(137, oom_killed=True) from None
        if "crash-loading" in faults:
            await self._pause(seconds / 2)
            raise self._shard_cannot_start("RuntimeError: crash asked for while loading")
        await self._pause(seconds)
        for rank in range(shards):
            self._info(f"Shard ready in {seconds:.1f}s rank={rank}")
        return loaded

    async def _warm_up(self, prepared: startup.Prepared, loaded: startup.Loaded) -> Limits:
        self._info("Starting Webserver")
        self._info("Warming up model")
        await self._pause(WARM_UP_SECONDS)
        faults = self._spec.faults
        if "shard-failed" in faults:
            self._fail_step("Shard complete standard error output:", "RuntimeError: NCCL Error 1")
            raise self._error("ShardFailed")
        try:
            if "oom" in faults:
                raise NotEnoughMemory(
                    "Not enough memory to handle 4096 prefill tokens. You need to decrease "
                    "`--max-batch-prefill-tokens`"
                )
            limits = startup.settle(self._spec, prepared, loaded)
        except NotEnoughMemory as error:
            self._print(f'Error: Backend(Warmup(Generation("{error}")))')
            self._log_error("Webserver Crashed")
            raise self._error("WebserverFailed") from None
        except startup.RouterError as error:
            self._print(f"Error: {error}")
            self._log_error("Webserver Crashed")
            raise self._error("WebserverFailed") from None
        self._info(f"Setting max batch total tokens to {limits.cache_tokens}")
        if "slow-start" in faults:
            await self._wait(float(faults["slow-start"] or 30))
        while "never-ready" in faults:
            await self._wait(1.0)
        return limits

    # Serving.

    async def _serve(
        self, prepared: startup.Prepared, loaded: startup.Loaded, limits: Limits
    ) -> None:
        metrics = Metrics(limits.max_input_tokens, limits.max_total_tokens)
        engine = Engine(
            startup.engine_settings(prepared, limits), startup.law(loaded, prepared.method)
        )
        self._driver = Driver(engine, metrics, self._pace, self._fails)
        rules = _rules(prepared, limits)
        router = Router(
            _identity(prepared, rules.bounds),
            rules,
            self._driver,
            metrics,
            self._spec.faults,
            self._program.clock,
            self._on_answer,
        )
        await self._bind(prepared, router)
        self._info("Connected")
        await self._until_told()
        if self._crashed.is_set():
            self._fail_step(
                "Shard complete standard error output:", "RuntimeError: crash asked for"
            )
            raise self._error("ShardFailed")
        self._info("Terminating webserver")
        await self._drain(prepared)
        self._info("Shutting down shards")

    async def _bind(self, prepared: startup.Prepared, router: Router) -> None:
        address = self._address(prepared)
        if address is None:
            return
        self._http = web.Server(
            router.handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=75,
        )
        try:
            self._socket = await asyncio.get_running_loop().create_server(
                self._http,
                address,
                prepared.args.integer("port") or 0,
                reuse_address=True,
                backlog=1024,
            )
        except OSError as error:
            self._print(f"Error: WebServer(Axum(Os {{ {error.strerror} }}))")
            self._log_error("Webserver Crashed")
            raise self._error("WebserverFailed") from None

    def _address(self, prepared: startup.Prepared) -> str | None:
        """The pod's address if the hostname means all interfaces; None if only the loopback."""
        hostname = prepared.args.text("hostname") or ""
        try:
            asked = ipaddress.ip_address(hostname)
        except ValueError:
            self._log_line("WARN", "Invalid hostname, defaulting to 0.0.0.0")
            return self._spec.ip
        if asked.is_unspecified:
            return self._spec.ip
        return None if asked.is_loopback and hostname != self._spec.ip else hostname

    async def _until_told(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._terminated, self._crashed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _drain(self, prepared: startup.Prepared) -> None:
        """Stop listening at once, let requests under way and queued finish, then leave."""
        if self._socket is None or self._http is None:
            return
        self._socket.close()
        patience = prepared.args.integer("graceful-termination-timeout")
        # A time-out of zero would mean none at all.
        await self._http.shutdown(max(90 if patience is None else patience, 0.01))

    async def _reset(self) -> None:
        """Leave nothing behind: sockets are reset, work is dropped."""
        if self._driver is not None:
            self._driver.stop()
        if self._socket is not None:
            self._socket.close()
        if self._http is not None:
            for connection in self._http.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await self._http.shutdown(0)

    # Faults and time.

    def _pace(self) -> float:
        """What multiplies the time of a pass."""
        factor = float(self._spec.faults.get("slow") or 1)
        return factor / self._program.decode_speed

    def _fails(self) -> bool:
        """Whether this pass goes wrong: the first ones do where `generation-error` says so."""
        if self._failures_left > 0:
            self._failures_left -= 1
            return True
        return False

    def _on_answer(self) -> None:
        self._answered += 1
        most = self._spec.faults.get("crash-after")
        if most is not None and self._answered >= _number(most, 1):
            self._crashed.set()

    async def _pause(self, seconds: float) -> None:
        """Let loading time go by; SIGTERM ends the start-up with exit code 0."""
        await self._wait(seconds / self._program.speed)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._terminated.wait(), max(seconds, 0))
        except TimeoutError:
            return
        raise Ended(0)

    # The log.

    def _shard_cannot_start(self, why: str) -> Ended:
        self._fail_step("Shard complete standard error output:", why)
        self._log_error("Shard 0 failed to start")
        self._info("Shutting down shards")
        return self._error("ShardCannotStart")

    def _error(self, variant: str) -> Ended:
        self._print(f"Error: {variant}")
        return Ended(1)

    def _fail_step(self, heading: str, why: str) -> None:
        self._log_error(f"{heading}\nTraceback (most recent call last):\n{why}")

    def _log_error(self, text: str) -> None:
        self._log_line("ERROR", text)

    def _info(self, text: str) -> None:
        self._log_line("INFO", text)

    def _log_line(self, level: str, text: str) -> None:
        moment = datetime.fromtimestamp(self._program.clock(), UTC)
        self._print(f"{moment:%Y-%m-%dT%H:%M:%S.%fZ} {level:>5} text_generation_launcher: {text}")

    def _print(self, text: str) -> None:
        self._log.extend(text.split("\n"))

    def _exit(self, code: int, *, oom_killed: bool = False) -> Exit:
        tail = "\n".join(list(self._log)[-_TAIL_LINES:]).encode()[-_TAIL_BYTES:]
        return Exit(code, tail.decode(errors="ignore"), oom_killed)


def _identity(prepared: startup.Prepared, bounds: Bounds) -> Identity:
    assert prepared.found is not None
    args, version = prepared.args, prepared.version
    sha = None if prepared.found.local or "HF_HUB_OFFLINE" in prepared.env else prepared.sha
    label = f"sha-{versions.commit(version)[:7]}"
    info: dict[str, object] = {
        "model_id": prepared.model_id,
        "model_sha": sha,
        "model_pipeline_tag": None if prepared.found.local else "text-generation",
        "max_concurrent_requests": args.integer("max-concurrent-requests"),
        "max_best_of": bounds.max_best_of,
        "max_stop_sequences": bounds.max_stop_sequences,
        "max_input_tokens": bounds.max_input_tokens,
        "max_total_tokens": bounds.max_total_tokens,
        "validation_workers": args.integer("validation-workers"),
        "max_client_batch_size": args.integer("max-client-batch-size"),
        "router": "text-generation-router",
        "version": versions.reported(version),
        "sha": versions.commit(version),
        "docker_label": label,
    }
    if version < (2, 2, 0):
        info["max_input_length"] = info.pop("max_input_tokens")
    if version < (2, 3, 0):
        info["model_dtype"] = f"torch.{args.text('dtype') or 'float16'}"
        info["model_device_type"] = "cuda"
    speaker = prepared.model_id.rstrip("/").rsplit("/", 1)[-1]
    return Identity(prepared.model_id, speaker, f"{versions.reported(version)}-{label}", info)


def _rules(prepared: startup.Prepared, limits: Limits) -> Rules:
    args = prepared.args

    def number(name: str, default: int) -> int:
        value = args.integer(name)
        return default if value is None else value

    assert prepared.found is not None
    bounds = Bounds(
        max_input_tokens=limits.max_input_tokens,
        max_total_tokens=limits.max_total_tokens,
        max_best_of=number("max-best-of", 2),
        max_stop_sequences=number("max-stop-sequences", 4),
        max_top_n_tokens=number("max-top-n-tokens", 5),
    )
    return Rules(
        bounds=bounds,
        max_concurrent_requests=number("max-concurrent-requests", 128),
        max_client_batch_size=number("max-client-batch-size", 4),
        payload_limit=number("payload-limit", 2_000_000),
        api_key=args.text("api-key"),
        # With a revision the router looks on the Hub for what is in the directory.
        templated=not (prepared.found.local and args.text("revision")),
    )


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default
