"""A server that is up: the engine, its router and the socket, from binding to draining.

Decides on which address the server can be reached, and what it says of itself. Refuses to know how
it came up and what ends it (`program`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

from aiohttp import web

from llm_operator.cluster.fleet.container import ContainerSpec

from . import startup, versions
from .args import Args
from .driver import Driver
from .engine import Engine
from .metrics import Metrics
from .router import Identity, Router, Rules
from .validation import Bounds
from .warmup import Limits

_DEFAULT_PATIENCE = 90
"""Seconds of grace for requests under way, in the releases without an option for it."""

_TURNS_TO_CLOSE = 10
"""Turns of the event loop in which a server has closed its idle connections: three, and some."""


class Serving:
    """The open port of one replica. `now` is the wall clock, in seconds since the epoch.

    `decode_speed` divides the time of passes. `crashed` is set once the fault `crash-after` is due.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        prepared: startup.Prepared,
        loaded: startup.Loaded,
        limits: Limits,
        now: Callable[[], float],
        decode_speed: float,
    ) -> None:
        self._spec = spec
        self._args = prepared.args
        self._decode_speed = decode_speed
        self._answered = 0
        self.crashed = asyncio.Event()
        metrics = Metrics(limits.max_input_tokens, limits.max_total_tokens)
        engine = Engine(
            startup.engine_settings(prepared, limits), startup.law(loaded, prepared.method)
        )
        self._driver = Driver(engine, metrics, self._pace, self._fails)
        rules = _rules(prepared, limits)
        identity = _identity(prepared, rules)
        router = Router(
            identity, rules, self._driver, metrics, spec.faults, now, on_answer=self._count_answer
        )
        self._http = web.Server(
            router.handle, handler_cancellation=True, access_log=None, keepalive_timeout=75
        )
        self._socket: asyncio.Server | None = None

    async def bind(self) -> None:
        """Open the port, where anybody could reach it. Raises OSError if it is taken."""
        address = address_of(self._args.text("hostname") or "", self._spec.ip)
        if address is None:
            return
        self._socket = await asyncio.get_running_loop().create_server(
            self._http,
            address,
            self._args.integer("port") or 0,
            reuse_address=True,
            backlog=1024,
        )

    @property
    def port(self) -> int | None:
        """The port that is open, None where none is."""
        sockets = self._socket.sockets if self._socket else ()
        return sockets[0].getsockname()[1] if sockets else None

    async def drain(self) -> None:
        """Stop listening at once; requests under way and queued finish, within the time-out."""
        if self._socket is not None:
            self._socket.close()
        patience = self._args.integer("graceful-termination-timeout")
        # A request that comes while an idle connection is being closed must not be read and then
        # dropped, which only a crash would do: unread, its client is told by a reset.
        open_ = [c.transport for c in self._http.connections if c.transport is not None]
        for transport in open_:
            transport.pause_reading()
        self._http.pre_shutdown()
        # A time-out of zero would mean none at all.
        patience_s = max(_DEFAULT_PATIENCE if patience is None else patience, 0.01)
        ending = asyncio.ensure_future(self._http.shutdown(patience_s))
        for _ in range(_TURNS_TO_CLOSE):
            await asyncio.sleep(0)
        for transport in open_:  # requests under way: notice when their clients leave
            transport.resume_reading()
        await ending

    async def reset(self) -> None:
        """Leave nothing behind: work is dropped, connections are reset."""
        self._driver.stop()
        if self._socket is not None:
            self._socket.close()
        for connection in self._http.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._http.shutdown(0.01)

    def _pace(self) -> float:
        """What multiplies the time of a pass."""
        return float(self._spec.faults.get("slow") or 1) / self._decode_speed

    def _fails(self) -> bool:
        """Whether a prefill goes wrong: each one does while `generation-error` is asked for."""
        return "generation-error" in self._spec.faults

    def _count_answer(self) -> None:
        self._answered += 1
        if "crash-after" in self._spec.faults:
            most = self._spec.faults["crash-after"]
            if self._answered >= (int(most) if most.isdigit() else 1):
                self.crashed.set()


def address_of(hostname: str, pod_ip: str) -> str | None:
    """Where to listen: the pod's address for "all interfaces" and for what is no address at all.

    None where only the container itself could reach the server.
    """
    try:
        asked = ipaddress.ip_address(hostname)
    except ValueError:
        return pod_ip
    if asked.is_unspecified:
        return pod_ip
    return None if asked.is_loopback and hostname != pod_ip else hostname


def _identity(prepared: startup.Prepared, rules: Rules) -> Identity:
    assert prepared.found is not None
    version, bounds = prepared.version, rules.bounds
    local, offline = prepared.found.local, "HF_HUB_OFFLINE" in prepared.env
    label = f"sha-{versions.commit(version)[:7]}"
    info: dict[str, object] = {
        "model_id": prepared.model_id,
        "model_sha": None if local or offline else prepared.sha,
        "model_pipeline_tag": None if local else "text-generation",
        "max_concurrent_requests": rules.max_concurrent_requests,
        "max_best_of": bounds.max_best_of,
        "max_stop_sequences": bounds.max_stop_sequences,
        "max_input_tokens": bounds.max_input_tokens,
        "max_total_tokens": bounds.max_total_tokens,
        "validation_workers": prepared.args.integer("validation-workers"),
        "max_client_batch_size": rules.max_client_batch_size,
        "router": "text-generation-router",
        "version": versions.reported(version),
        "sha": versions.commit(version),
        "docker_label": label,
    }
    if version < (2, 2, 0):
        info["max_input_length"] = info.pop("max_input_tokens")
    if version < (2, 3, 0):
        info["model_dtype"] = f"torch.{prepared.args.text('dtype') or 'float16'}"
        info["model_device_type"] = "cuda"
    speaker = prepared.model_id.rstrip("/").rsplit("/", 1)[-1]
    return Identity(prepared.model_id, speaker, f"{versions.reported(version)}-{label}", info)


def _rules(prepared: startup.Prepared, limits: Limits) -> Rules:
    assert prepared.found is not None
    args = prepared.args
    bounds = Bounds(
        max_input_tokens=limits.max_input_tokens,
        max_total_tokens=limits.max_total_tokens,
        max_best_of=_or(args, "max-best-of", 2),
        max_stop_sequences=_or(args, "max-stop-sequences", 4),
        max_top_n_tokens=_or(args, "max-top-n-tokens", 5),
    )
    return Rules(
        bounds=bounds,
        max_concurrent_requests=_or(args, "max-concurrent-requests", 128),
        max_client_batch_size=_or(args, "max-client-batch-size", 4),
        payload_limit=_or(args, "payload-limit", 2_000_000),
        api_key=args.text("api-key"),
        # With a revision the router looks on the Hub for what is in the directory.
        templated=not (prepared.found.local and args.text("revision")),
    )


def _or(args: Args, name: str, default: int) -> int:
    """An integer option; `default` where the release lacks it."""
    value = args.integer(name)
    return default if value is None else value
