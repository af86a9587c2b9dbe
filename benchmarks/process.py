"""The operator as a process: start, stop, what it uses, and what its own probes say."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

_URL = "http://127.0.0.1:8080"
_PASSES = re.compile(r'^llm_operator_reconciles_total\{result="ok"\} (\S+)', re.MULTILINE)
_POLL_S = 0.02


class Operator:
    """One operator at a time, with its log in a file."""

    def __init__(self, program: Sequence[str], log: Path) -> None:
        self._program, self._log = program, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; the moment at which."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._program, stdout=log, stderr=log)
        return time.monotonic()

    def stop(self) -> None:
        """End it as a cluster would, and wait until it has."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
            self._process = None

    async def ready(self, http: aiohttp.ClientSession, timeout: float = 120) -> float:
        """Wait until /readyz says yes; the moment at which."""
        return await self._until(http, "/readyz", lambda text: text == "ok", timeout)

    async def passes(self, http: aiohttp.ClientSession, count: int, timeout: float = 300) -> float:
        """Wait until it has looked so often at objects; the moment at which."""
        return await self._until(http, "/metrics", lambda text: _passes(text) >= count, timeout)

    async def series(self, http: aiohttp.ClientSession, name: str) -> float:
        """The sum of one of its own series over all labels; 0 where it is not there yet."""
        async with http.get(f"{_URL}/metrics") as response:
            return summed(await response.text(), name)

    async def until_series(
        self, http: aiohttp.ClientSession, name: str, value: float, timeout: float = 300
    ) -> float:
        """Wait until one of its own series has come so far; the moment at which."""
        return await self._until(
            http, "/metrics", lambda page: summed(page, name) >= value, timeout
        )

    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """The most that it ever held."""
        return self._memory("VmHWM")

    def cpu_seconds(self) -> float:
        """User and system time since it was started."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    async def _until(
        self,
        http: aiohttp.ClientSession,
        path: str,
        holds: Callable[[str], bool],
        timeout: float,
    ) -> float:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    async with http.get(_URL + path) as response:
                        if response.status == 200 and holds(await response.text()):
                            return time.monotonic()
                except aiohttp.ClientError:
                    if self._process is not None and self._process.poll() is not None:
                        raise RuntimeError(f"the operator ended: see {self._log}") from None
                await asyncio.sleep(_POLL_S)


def summed(page: str, name: str) -> float:
    """The sum of a series over all labels, from a page of metrics."""
    found = re.finditer(rf"^{name}(?:\{{.*\}})? (\S+)", page, re.MULTILINE)
    return sum(float(value[1]) for value in found)


def _passes(metrics: str) -> float:
    found = _PASSES.search(metrics)
    return float(found[1]) if found else 0.0
