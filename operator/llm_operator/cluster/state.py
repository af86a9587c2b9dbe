"""What a cluster's supervisor tells the world: one small file, replaced as a whole.

The supervisor writes it, everybody else reads it. Whether the supervisor lives is not told by the
file but by a lock that the kernel drops when it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from .errors import ClusterError

STARTING, READY, FAILED = "Starting", "Ready", "Failed"
MARK = "LLM_OPERATOR_CLUSTER"
"""Environment variable that every process of a cluster carries, with the cluster's own id."""


LOCK_FILE = "supervisor.lock"
_GLANCE_S = 0.3  # longer than `is_running` of another process holds the lock
_GRACE_S = 2.0
_POLL_S = 0.05


@dataclass(frozen=True)
class State:
    """A cluster as its supervisor sees it. `pids` is by component, `starts` counts their starts."""

    id: str
    pid: int
    phase: str = STARTING
    message: str = ""
    user_namespace: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)


def write(root: Path, state: State) -> None:
    """Replace the state file."""
    fresh = root / ".state.json"
    fresh.write_text(json.dumps(asdict(state), indent=1))
    fresh.replace(root / "state.json")


def read(root: Path) -> State | None:
    """The last state written; None where there is none yet."""
    try:
        return State(**json.loads((root / "state.json").read_text()))
    except FileNotFoundError:
        return None


def lock(root: Path) -> IO[str]:
    """Become this directory's supervisor until the file is closed or the process ends.

    Raises ClusterError if there is one already.
    """
    file = (root / LOCK_FILE).open("w")
    deadline = time.monotonic() + _GLANCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise ClusterError(f"a cluster is already running in {root}") from None
        time.sleep(_POLL_S)


def is_running(root: Path) -> bool:
    """Whether a supervisor lives in this directory."""
    try:
        file = (root / LOCK_FILE).open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def members(cluster_id: str) -> list[int]:
    """The processes that carry this cluster's mark, the calling one apart."""
    wanted = f"{MARK}={cluster_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # it ended, or is somebody else's
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return found


def end_members(cluster_id: str) -> None:
    """Ask the marked processes to end, and kill those that have not after a short grace."""
    deadline = time.monotonic() + _GRACE_S
    while pids := [pid for pid in members(cluster_id) if not _is_zombie(pid)]:
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)  # a stopped process would not hear it
        time.sleep(_POLL_S)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
