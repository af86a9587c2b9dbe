"""`Load`: traffic that runs inside a local cluster while its owner does things to the models."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple
from types import TracebackType
from typing import Any, Self

from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

from .arrivals import Arrival
from .records import Record, Report, between

_LAST_S = 200.0


class Load:
    """Traffic to `url`, started at once. Blocking; `records` may be read at any time.

    `options` are those of `python -m llm_operator.cluster.load`, as `long_streams=6`. As a context
    manager it is stopped at the end, whatever happens.
    """

    def __init__(self, cluster: LocalCluster, url: str, **options: float) -> None:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._start(cluster, ["llm_operator.cluster.load", url, *arguments])

    def _start(self, cluster: LocalCluster, module: Sequence[str], told: str = "") -> None:
        self._process: subprocess.Popen[Any] = cluster.run_inside(
            [sys.executable, "-m", *module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(told)
        self._process.stdin.close()
        self._records: list[Record] = []
        self.started = time.time()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._records.append(Record.from_json(line))

    @property
    def records(self) -> list[Record]:
        """The requests that have ended so far."""
        return list(self._records)

    def report(self, since: float = 0.0, until: float = float("inf")) -> Report:
        """What the requests that were under way in this time (since the epoch) add up to."""
        return Report.of(between(self.records, since, until))

    def stop(self) -> Report:
        """Let the requests under way end, and sum up. Raises ClusterError if it has crashed."""
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(_LAST_S)
        self._reader.join()
        if code != 0:
            raise ClusterError(f"the traffic ended with exit code {code}")
        return self.report()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Replay(Load):
    """Open-loop traffic to `url`: each request at its time, whatever became of those before it."""

    def __init__(self, cluster: LocalCluster, url: str, arrivals: Iterable[Arrival]) -> None:
        lines = [json.dumps(astuple(arrival)) for arrival in arrivals]
        self._start(cluster, ["llm_operator.cluster.load.replay", url], "\n".join(lines))

    @property
    def is_over(self) -> bool:
        """Whether every request has ended."""
        return self._process.poll() is not None
