"""What happens between a command line and an open port, without the time that it takes.

Three steps, each of which may refuse: `prepare` (parse, read config.json, validate), `load` (the
shards' own checks and the weights) and `settle` (warm-up and the router's checks). Knows the
container it runs in; refuses to know clocks, sockets and logs (`program`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from llm_operator.cluster.fleet.container import ContainerSpec, Gpu, Volume

from . import shard, versions, warmup, weights
from .args import Args, parse
from .engine import Settings
from .hub import DownloadError, Found, find
from .launcher import Launch, launch
from .shape import Shape, UnknownShape
from .speed import Law, law_of
from .versions import Version

_SHM_PER_SHARD = 64 << 20
_STAGING_BYTES = 5_000_000_000
_PROCESS_BYTES = 1 << 30
_WORKDIR = "/usr/src"


class RouterError(Exception):
    """The router refuses to serve. The text is what it prints."""


class OutOfHostMemory(Exception):
    """The kernel kills the container: it wants more memory than its limit."""


class BusError(Exception):
    """A shard dies of signal 7: /dev/shm is too small for the ranks to talk through."""


@dataclass(frozen=True)
class Prepared:
    """A command line that the launcher accepts. `missing` is why the download will fail."""

    version: Version
    env: Mapping[str, str]
    args: Args
    launch: Launch
    found: Found | None
    missing: DownloadError | None

    @property
    def model_id(self) -> str:
        return self.args.text("model-id") or ""

    @property
    def sha(self) -> str:
        """A stand-in for the model's commit: 40 hex digits, fixed per id and revision."""
        named = f"{self.model_id}@{self.args.text('revision') or 'main'}"
        return hashlib.sha1(named.encode(), usedforsecurity=False).hexdigest()

    @property
    def method(self) -> str | None:
        return self.launch.quantize

    @property
    def fraction(self) -> float:
        return min(self.args.number("cuda-memory-fraction", 1.0), 1.0)

    @property
    def chunking(self) -> bool:
        """Prompts are read in chunks from 3.0 on, unless speculation or a variable forbids it."""
        wanted = self.env.get("PREFILL_CHUNKING", "1").lower() in ("1", "true")
        return self.version >= (3, 0, 0) and wanted and not self.args.integer("speculate")


@dataclass(frozen=True)
class Loaded:
    """Weights on the cards, of which the server plans with the share `room`.

    Bytes are those of one rank.
    """

    shape: Shape
    gpus: tuple[Gpu, ...]
    load: warmup.Load
    room: float


def prepare(spec: ContainerSpec) -> Prepared:
    """Parse and validate. Raises args.UsageError, args.PrintAndExit and launcher.Refused.

    The image's entry point hands its arguments on unquoted: one with a space becomes two.
    """
    version = versions.of_image(spec.image)
    env = environment(spec, version)
    args = parse([word for arg in spec.args for word in arg.split()], env, version)
    found, missing = None, None
    try:
        found = find(
            args.text("model-id") or "", args.text("revision"), env, spec.volumes, spec.faults
        )
    except DownloadError as error:
        missing = error  # the launcher goes on without config.json; the download step will fail
    config = found.checkpoint.config if found else {}
    settled = launch(args, env, config, version, len(spec.gpus) or None)
    return Prepared(version, env, args, settled, found, missing)


def environment(spec: ContainerSpec, version: Version) -> dict[str, str]:
    """The container's variables over the image's; in CDI mode the toolkit says `void` for GPUs."""
    devices = {"NVIDIA_VISIBLE_DEVICES": "void" if spec.gpus else "all"}
    return versions.image_environment(version) | devices | dict(spec.env)


def writable(spec: ContainerSpec, path: str) -> bool:
    """Whether a file can be made in a directory: its volume's mode, else the root's."""
    volume = _volume_of(spec, path)
    return not (spec.read_only_root if volume is None else volume.read_only)


def volume_room(spec: ContainerSpec, path: str) -> int | None:
    """Bytes that the volume of a directory may hold; None where nothing says so."""
    volume = _volume_of(spec, path)
    return None if volume is None else volume.size_limit_bytes


def _volume_of(spec: ContainerSpec, path: str) -> Volume | None:
    inside = [
        volume
        for volume in spec.volumes
        if (path + "/").startswith(volume.mount_path.rstrip("/") + "/")
    ]
    return max(inside, key=lambda volume: len(volume.mount_path), default=None)


def working_directory(spec: ContainerSpec) -> str:
    return spec.working_dir or _WORKDIR


def load(spec: ContainerSpec, prepared: Prepared) -> Loaded:
    """Start the shards. Raises shard.ShardError, BusError, OutOfHostMemory, warmup.OutOfMemory."""
    assert prepared.found is not None
    checkpoint, shards = prepared.found.checkpoint, prepared.launch.shards
    if shards > len(spec.gpus):
        raise shard.ShardError("AssertionError: Each process is one gpu")
    if not writable(spec, (prepared.args.text("shard-uds-path") or "/tmp/x").rpartition("/")[0]):
        raise shard.ShardError("OSError: [Errno 30] Read-only file system")
    gpus = spec.gpus[:shards]
    try:
        shape = checkpoint.shape
    except UnknownShape as error:
        raise shard.ShardError(f"ValueError: Unsupported model: {error}") from None
    capability = min(gpu.compute_capability for gpu in gpus)
    kv_dtype = prepared.args.text("kv-cache-dtype")
    shard.check(
        checkpoint.config,
        shape,
        shards,
        prepared.method,
        prepared.args.text("dtype"),
        kv_dtype,
        capability,
        prepared.env,
    )
    _check_host(spec, prepared)
    total = weights.loaded_bytes(checkpoint.weight_bytes, checkpoint.config, shape, prepared.method)
    on_the_fly = prepared.method in weights.ON_THE_FLY and not weights.quantization(
        checkpoint.config
    )
    attention = shard.attention_of(shape, capability, prepared.env)
    memory = warmup.Load(
        shards=shards,
        weight_bytes=weights.shard_bytes(total, shape, shards),
        transient_bytes=weights.widest_matrix_bytes(shape, shards) if on_the_fly else 0,
        kv_bytes_per_token=shard.kv_bytes_per_token(shape, shards, kv_dtype),
        block_size=shard.block_size(attention),
    )
    warmup.check_weights(memory, gpus, prepared.fraction)
    return Loaded(shape, gpus, memory, _room(prepared.env))


def _check_host(spec: ContainerSpec, prepared: Prepared) -> None:
    """/dev/shm for the ranks, and host memory while a method quantizes on the fly.

    The rule for host memory is simple: 1 GiB for each process, and on the fly each rank holds one
    file of the checkpoint in 16 bit (5 GB, or its part of a smaller model).
    """
    assert prepared.found is not None
    shards = prepared.launch.shards
    disabled = prepared.env.get("NCCL_SHM_DISABLE") == "1"
    if shards > 1 and spec.shm_bytes < shards * _SHM_PER_SHARD and not disabled:
        raise BusError
    checkpoint = prepared.found.checkpoint
    staging = 0
    if prepared.method in weights.ON_THE_FLY and not weights.quantization(checkpoint.config):
        staging = min(_STAGING_BYTES, checkpoint.weight_bytes // shards)
    limit = spec.memory_limit_bytes
    if limit is not None and shards * (_PROCESS_BYTES + staging) > limit:
        raise OutOfHostMemory


def settle(spec: ContainerSpec, prepared: Prepared, loaded: Loaded) -> warmup.Limits:
    """Warm up and let the router check. Raises warmup.NotEnoughMemory and RouterError."""
    args = prepared.args
    directory = working_directory(spec)
    if prepared.version >= (3, 0, 0) and not writable(spec, f"{directory}/out"):
        raise RouterError(f"Read-only file system (os error 30): {directory}/out")
    if args.flag("ngrok"):
        raise RouterError("thread 'main' panicked: ngrok is not supported by this build")
    if args.integer("max-batch-size") == 0:
        raise RouterError('ArgumentValidation("`max_batch_size` must be > 0")')
    wish = _wish(prepared, loaded)
    quantized = prepared.method is not None
    prefill = wish.max_batch_prefill_tokens or warmup.default_prefill_tokens(
        loaded.shape, loaded.gpus, wish.fraction, quantized
    )
    limits = warmup.warm_up(loaded.load, loaded.shape, loaded.gpus, wish, prefill)
    longest, most = limits.max_input_tokens, limits.max_total_tokens
    if longest >= most:
        raise RouterError(
            'ArgumentValidation("`max_input_tokens` must be < `max_total_tokens`. '
            f'Given: {longest} and {most}")'
        )
    if most > limits.cache_tokens:
        raise RouterError(f"Not enough memory to handle `max_total_tokens={most}`")
    if not prepared.chunking and longest > prefill:
        raise RouterError(
            'ArgumentValidation("`max_input_tokens` must be <= `max_batch_prefill_tokens`. '
            f'Given: {longest} and {prefill}")'
        )
    if prefill > limits.cache_tokens:
        raise RouterError(
            'ArgumentValidation("`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. '
            f'Given: {prefill} and {limits.cache_tokens}")'
        )
    return limits


def _wish(prepared: Prepared, loaded: Loaded) -> warmup.Wish:
    """The limits asked for, with the fixed defaults that releases before 3.0 had."""
    args = prepared.args
    longest = args.integer("max-input-tokens") or args.integer("max-input-length")
    most, prefill = args.integer("max-total-tokens"), args.integer("max-batch-prefill-tokens")
    if prepared.version < (2, 0, 0):
        longest, most, prefill = longest or 1024, most or 2048, prefill or 4096
    elif prepared.version < (3, 0, 0):
        context = min(loaded.shape.max_positions or 4096, 4096)
        most = most or context
        longest = longest or min(context, most) - 1
        prefill = prefill or longest + 50
    return warmup.Wish(longest, most, prefill, prepared.fraction, loaded.room)


def _room(env: Mapping[str, str]) -> float:
    """The share of each card that the server plans with."""
    text = env.get("TGI_WIGGLE_ROOM")
    try:
        return warmup.SERVER_ROOM if text is None else float(text)
    except ValueError:
        raise shard.ShardError(f"ValueError: could not convert string to float: '{text}'") from None


def law(loaded: Loaded, method: str | None) -> Law:
    """How fast this replica is."""
    memory = loaded.load
    return law_of(
        loaded.shape, loaded.gpus, memory.weight_bytes, memory.kv_bytes_per_token, method or ""
    )


def engine_settings(prepared: Prepared, limits: warmup.Limits) -> Settings:
    """The router's knobs for the queue."""
    args = prepared.args
    waiting = args.integer("max-waiting-tokens")
    return Settings(
        cache_tokens=limits.cache_tokens,
        prefill_tokens=limits.max_batch_prefill_tokens,
        block_size=limits.block_size,
        chunking=prepared.chunking,
        waiting_served_ratio=args.number("waiting-served-ratio", 0.3),
        max_waiting_tokens=20 if waiting is None else waiting,
        max_batch_size=args.integer("max-batch-size"),
        speculate=args.integer("speculate") or 0,
    )
