"""The probes of one run of a container: whether it has started, is ready, or must be restarted.

Decides in which order probes run: readiness and liveness wait for the startup probe. Refuses to
know how a container is ended; `doomed` tells who does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .probes import Probe, run_probe


@dataclass(frozen=True)
class Listener:
    """Who hears what probes find.

    `changed`: started or ready has another value; `doomed`: this probe's failures are enough to
    end the container; `complain`: one failure, by kind of probe.
    """

    changed: Callable[[], None]
    doomed: Callable[[Probe], None]
    complain: Callable[[str, str], None]


class Prober:
    """Probes one run of a container from `begin` to `end`."""

    def __init__(
        self,
        container: Mapping[str, Any],
        check: Callable[[Probe], Awaitable[str | None]],
        listener: Listener,
    ) -> None:
        self._container = container
        self._check = check
        self._listener = listener
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._since = 0.0
        self.started = False
        self.ready = False

    def begin(self) -> None:
        """The container has been started just now."""
        self._since = asyncio.get_running_loop().time()
        if not self._probe("startup"):
            self._has_started()

    def spare(self) -> None:
        """The container is leaving: no probe may end it any more, readiness is watched on."""
        for kind in ("startup", "liveness"):
            if task := self._tasks.pop(kind, None):
                task.cancel()

    def end(self) -> None:
        """The container has ended."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self.started = self.ready = False

    def _has_started(self) -> None:
        self.started = True
        self._probe("liveness")
        self.ready = not self._probe("readiness")
        self._listener.changed()

    def _probe(self, kind: str) -> bool:
        """Begin to probe; False where the container has no such probe."""
        probe = Probe.of(self._container, kind)
        if probe is None:
            return False
        self._tasks[kind] = asyncio.create_task(
            run_probe(
                probe,
                self._since,
                lambda: self._check(probe),
                lambda success: self._judge(probe, success),
                lambda complaint: self._listener.complain(kind, complaint),
            )
        )
        return True

    def _judge(self, probe: Probe, success: bool) -> None:
        if probe.kind == "readiness":
            if self.ready != success:
                self.ready = success
                self._listener.changed()
        elif not success:
            self._listener.doomed(probe)
        elif probe.kind == "startup":
            self._tasks.pop("startup").cancel()
            self._has_started()
