"""Two small images of the fleet's own: `pause`, which waits, and `fleet/http`, which serves.

They exist to try the kubelet out without an engine. `fleet/http` takes its behaviour from
arguments, so that a test can say what it needs in a pod's manifest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
from urllib.parse import parse_qs, urlsplit

from .container import ContainerSpec, Exit, Process


class PauseProgram:
    """Waits for a signal; leaves at once when it comes."""

    def start(self, spec: ContainerSpec) -> Process:
        """One container of it."""
        return _Paused()


class _Paused:
    def __init__(self) -> None:
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> Exit:
        return Exit(await self._code)

    def terminate(self) -> None:
        self._end(0)

    def kill(self) -> None:
        self._end(137)

    def logs(self) -> str:
        return ""

    def _end(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)


class HttpProgram:
    """A server on the pod's address. See `_options` for what it can be told.

    `/health` answers 200 once ready, 503 before; `/env` and `/spec` show what the kubelet gave it;
    `/work?seconds=S` answers after S seconds; anything else says who answered.
    """

    def start(self, spec: ContainerSpec) -> Process:
        """One container of it."""
        return _HttpServer(spec)


def _options(spec: ContainerSpec) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="http", exit_on_error=False, add_help=False)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--exit-after", type=float)
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--drain", type=float, default=0.0)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--say", default="")
    options, unknown = parser.parse_known_args(list(spec.args))
    if unknown:
        raise argparse.ArgumentError(None, f"unrecognized arguments: {' '.join(unknown)}")
    return options


class _HttpServer:
    def __init__(self, spec: ContainerSpec) -> None:
        self._spec = spec
        self._log: list[str] = []
        self._signal: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._killed = False
        self._connections: set[asyncio.Task[None]] = set()
        self._served = 0

    async def run(self) -> Exit:
        try:
            self._options = _options(self._spec)
        except argparse.ArgumentError as error:
            return Exit(2, f"error: {error}")
        self._say(self._options.say)
        faults = self._spec.faults
        if "crash-loading" in faults:
            return Exit(1, "crashed while loading")
        if "oom" in faults:
            return Exit(137, oom_killed=True)
        self._ready_at = asyncio.get_running_loop().time() + float(
            faults.get("slow-start") or self._options.ready_after
        )
        server = await asyncio.start_server(
            self._accept, self._spec.ip, self._options.port, reuse_address=True
        )
        try:
            code = await self._until_end()
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
        return Exit(137 if self._killed else code, "\n".join(self._log))

    async def _until_end(self) -> int:
        try:
            async with asyncio.timeout(self._options.exit_after):
                return await asyncio.shield(self._signal)
        except TimeoutError:
            return int(self._options.exit_code)

    def terminate(self) -> None:
        self._say("SIGTERM")
        if self._options.ignore_term:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self._options.drain, self._end, 0)

    def kill(self) -> None:
        self._killed = True
        self._end(137)

    def logs(self) -> str:
        return "\n".join(self._log)

    def _say(self, line: str) -> None:
        if line:
            self._log = [*self._log[-99:], line]

    def _end(self, code: int) -> None:
        if not self._signal.done():
            self._signal.set_result(code)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            if "hang" in self._spec.faults:
                await asyncio.Event().wait()
            status, body = await self._answer(target)
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n{body}".encode()
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            if self._served >= float(self._spec.faults.get("crash-after", "inf")):
                self._end(1)

    async def _answer(self, target: str) -> tuple[str, str]:
        url = urlsplit(target)
        self._served += 1
        if url.path == "/health":
            waiting = asyncio.get_running_loop().time() < self._ready_at
            if waiting or "never-ready" in self._spec.faults:
                return "503 Service Unavailable", ""
            return "200 OK", ""
        if url.path == "/env":
            return "200 OK", json.dumps(dict(self._spec.env))
        if url.path == "/spec":
            gpus = [gpu.product for gpu in self._spec.gpus]
            args = shlex.join(self._spec.args)
            return "200 OK", json.dumps(
                {"args": args, "gpus": gpus, "shm": self._spec.shm_bytes, "pid": id(self)}
            )
        if url.path == "/work":
            await asyncio.sleep(float(parse_qs(url.query)["seconds"][0]))
        return "200 OK", self._spec.pod_name
