"""What every engine must answer, and the registry that finds one by name.

Decides the questions: can this model, quantization, card and degree run; which container serves a
plan; where health, metrics and drain are. Refuses to know any engine's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol, cast

from llm_operator.api.spec import LLMDeploymentSpec, Runtime
from llm_operator.runtimes.terms import Launch, Plan, Refusal

Json = dict[str, Any]
Version = tuple[int, int, int]

ENGINES: Final[Mapping[str, str]] = {"tgi": "llm_operator.runtimes.tgi"}
DEFAULT_ENGINE: Final = "tgi"


@dataclass(frozen=True)
class MetricNames:
    """Prometheus series of one replica, without labels. `path` is on the serving port.

    What ends in `_seconds` is a histogram in seconds; `token_seconds` has each request's mean time
    per token. `failed_requests` is by cause in the label `failure_label`; `refused` is the
    cause of those that were more than it takes at once, `client_failures` are causes that are not
    the engine's.
    """

    path: str
    queued_requests: str
    running_requests: str
    succeeded_requests: str
    failed_requests: str
    queue_seconds: str
    request_seconds: str
    generated_tokens: str
    token_seconds: str
    failure_label: str
    refused: str
    client_failures: tuple[str, ...]


@dataclass(frozen=True)
class Drain:
    """How one pod leaves: three times that must never drift apart, all in seconds.

    `pre_stop` lets endpoints forget the pod while it still listens; then SIGTERM, `graceful` for
    the requests in flight; the kubelet kills after `grace` = both plus a margin for the shards.
    """

    pre_stop: int
    graceful: int
    grace: int


@dataclass(frozen=True)
class Image:
    """A full image reference and the engine version whose rules hold for it."""

    reference: str
    version: Version


@dataclass(frozen=True)
class Resolved:
    """Everything the operator decided when it made a revision; what the user set wins inside it.

    `engine_version` is the version whose rules the rendering follows. `commit` is the model's
    commit, None for a local path or an unreachable Hub. `startup_seconds` is the budget of the
    start-up probe.
    """

    engine: str
    image: str
    engine_version: Version
    plan: Plan
    commit: str | None
    gpu_resource: str
    drain: Drain
    startup_seconds: int


@dataclass(frozen=True)
class EnginePod:
    """The engine's part of a pod: its container, the volumes that it mounts, scrape annotations."""

    container: Json
    volumes: tuple[Json, ...]
    annotations: Mapping[str, str]


class Engine(Protocol):
    """One serving engine. Implementations are stateless and pure."""

    name: str
    default_version: str
    default_repository: str
    port: int
    health_path: str
    metrics: MetricNames
    on_the_fly: tuple[str, ...]
    """Methods that it quantizes to while loading a 16-bit checkpoint, best quality first."""
    windowed_kv_cache: bool
    """Whether a layer with a sliding window keeps only the tokens within it."""

    def image(
        self, runtime: Runtime | None, repository: str | None = None, version: str | None = None
    ) -> Image | Refusal:
        """Image and version that the user named, else the operator's default."""
        ...

    def refuse(self, launch: Launch) -> Refusal | None:
        """Why this launch cannot run, or None. A fact that is not known is never guessed."""
        ...

    def refuse_options(self, spec: LLMDeploymentSpec, version: Version) -> Refusal | None:
        """Which of the user's own options this version cannot take, whatever the plan."""
        ...

    def warnings(self, launch: Launch) -> tuple[str, ...]:
        """What will run, but worse than the user may think."""
        ...

    def drain(self, version: Version, seconds: int) -> Drain:
        """Times of a drain that leaves `seconds` to the requests in flight."""
        ...

    def startup_seconds(self, checkpoint_bytes: int) -> int:
        """Budget from container start until the first healthy answer, in seconds."""
        ...

    def pod(self, spec: LLMDeploymentSpec, resolved: Resolved) -> EnginePod:
        """The engine's part of the pod that serves the resolved plan."""
        ...


def engine(name: str | None) -> Engine:
    """The engine of that name; None is the default. KeyError if there is none."""
    module = import_module(ENGINES[name or DEFAULT_ENGINE])
    return cast(Engine, module.ENGINE)


def parse_version(text: str) -> Version:
    """`3.3.7` as numbers. ValueError if it is not three numbers."""
    major, minor, patch = (int(part) for part in text.split("."))
    return major, minor, patch


def show_version(version: Version) -> str:
    """The numbers as `3.3.7`."""
    return ".".join(map(str, version))
