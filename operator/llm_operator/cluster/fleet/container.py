"""What a kubelet hands to a container, and what it gets back when the container ends.

The words shared by the virtual kubelet (which makes pods run) and the programs it can run (the
simulated engine). Neither knows more of the other than stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Gpu:
    """One card as the container sees it. `memory_mib` is what nvidia-smi reports."""

    product: str
    memory_mib: int
    compute_capability: float


@dataclass(frozen=True)
class Volume:
    """A mounted directory. `models` maps a path below it to the Hub id of the checkpoint there."""

    mount_path: str
    read_only: bool = False
    size_limit_bytes: int | None = None
    memory: bool = False
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ContainerSpec:
    """A container after Kubernetes has resolved it: references are values, GPUs are cards.

    `shm_bytes` is the size of /dev/shm: 64 MiB unless a memory volume is mounted there.
    `env` holds the image's own variables too. `working_dir` is None where the image's own stands.
    `faults` are the failures asked for (see README).
    """

    image: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    ip: str
    pod_name: str
    gpus: tuple[Gpu, ...]
    volumes: tuple[Volume, ...] = ()
    shm_bytes: int = 64 << 20
    memory_limit_bytes: int | None = None
    read_only_root: bool = False
    run_as_user: int | None = None
    working_dir: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exit:
    """How a container ended. `log_tail` is its last output, for FallbackToLogsOnError."""

    code: int
    log_tail: str = ""
    oom_killed: bool = False


class Process(Protocol):
    """A running container. `run` is awaited once; the other two may be called at any time."""

    async def run(self) -> Exit:
        """Live until the program ends by itself or by a signal. Cancelling it is a SIGKILL."""
        ...

    def terminate(self) -> None:
        """SIGTERM: start to leave."""
        ...

    def kill(self) -> None:
        """SIGKILL: sockets are reset, `run` returns exit code 137."""
        ...

    def logs(self) -> str:
        """What it has printed so far (bounded)."""
        ...


class Program(Protocol):
    """An image that the fleet can run."""

    def start(self, spec: ContainerSpec) -> Process:
        """Make the process of one container; it starts to live when `run` is awaited."""
        ...
