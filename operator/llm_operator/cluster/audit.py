"""Reads the API server's audit log: who asked for what, and how often.

Counts what really reached the API server, which no client can say of itself. Read only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Event:
    """One request that was answered. `received` and `answered` are in UTC, from the server."""

    user: str
    user_agent: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    received: datetime
    answered: datetime

    @property
    def is_write(self) -> bool:
        """Whether the request could change something, whatever the answer was."""
        return self.verb in WRITES


@dataclass(frozen=True)
class AuditLog:
    """The log file of a cluster. A mark is an offset into it: take one, act, read since it."""

    path: Path

    def mark(self) -> int:
        """The log's present end."""
        return self.path.stat().st_size if self.path.exists() else 0

    def events(self, since: int = 0) -> Iterator[Event]:
        """The requests answered after the mark, in the order of their answers.

        A watch is answered when it ends.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as log:
            log.seek(since)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # still being written
                record = json.loads(line)
                if record["stage"] == "ResponseComplete":
                    yield _event(record)

    def writes(self, since: int = 0, *, user_agent: str = "", user: str = "") -> list[Event]:
        """The writes after the mark, of clients whose agent or user name starts like this."""
        return [
            event
            for event in self.events(since)
            if event.is_write
            and event.user_agent.startswith(user_agent)
            and event.user.startswith(user)
        ]


def _event(record: dict[str, Any]) -> Event:
    target = record.get("objectRef", {})
    return Event(
        user=record["user"].get("username", ""),
        user_agent=record.get("userAgent", ""),
        verb=record["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=record.get("responseStatus", {}).get("code", 0),
        received=datetime.fromisoformat(record["requestReceivedTimestamp"]),
        answered=datetime.fromisoformat(record["stageTimestamp"]),
    )
