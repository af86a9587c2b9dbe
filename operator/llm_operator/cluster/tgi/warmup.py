"""The memory check: do the weights load, does the largest prefill run, what is left for the cache.

The rules are those of the server's warm-up (it allocates the cache for the largest batch, runs it,
and gives every block that is left to the cache) on the cards that the container was given. The
sizes that no source states are named constants below. Knows nothing of the operator's estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from llm_operator.cluster.fleet.container import Gpu

from .cards import card_of
from .shape import Shape

_MIB = 1 << 20
CONTEXT_BYTES = 614 * _MIB
"""CUDA context, kernels and allocator: 0.6 GiB measured outside of the framework's own memory."""
NCCL_BYTES = 350 * _MIB
"""Communication buffers per GPU with more than one shard: 342 to 392 MB published."""
SERVER_ROOM = 0.90
"""Share of a card that the server plans with (`TGI_WIGGLE_ROOM`)."""
LAUNCHER_ROOM = 0.95
"""Share of a card that the launcher's own estimate plans with."""


class OutOfMemory(Exception):
    """The weights do not fit: the shard dies while it loads."""


class NotEnoughMemory(Exception):
    """The weights fit, the largest batch does not: the server dies in its warm-up."""

    def __init__(self, prefill_tokens: int) -> None:
        super().__init__(
            f"Not enough memory to handle {prefill_tokens} prefill tokens. You need to decrease "
            "`--max-batch-prefill-tokens`"
        )


@dataclass(frozen=True)
class Wish:
    """The limits asked for; None where the server may choose. `fraction` is of each card."""

    max_input_tokens: int | None
    max_total_tokens: int | None
    max_batch_prefill_tokens: int | None
    fraction: float = 1.0
    room: float = SERVER_ROOM


@dataclass(frozen=True)
class Load:
    """What one GPU must hold: weights, transient peak while loading, cache bytes per token."""

    shards: int
    weight_bytes: int
    transient_bytes: int
    kv_bytes_per_token: int
    block_size: int


@dataclass(frozen=True)
class Limits:
    """What the server settled on. `cache_tokens` is the room of the KV cache, in tokens."""

    max_input_tokens: int
    max_total_tokens: int
    max_batch_prefill_tokens: int
    cache_tokens: int
    block_size: int


def default_prefill_tokens(
    shape: Shape, gpus: Sequence[Gpu], fraction: float, quantized: bool
) -> int:
    """The launcher's choice of `--max-batch-prefill-tokens`: about a second of arithmetic."""
    flops_per_token = 2 * (shape.active + shape.head)
    compute = int(sum(card_of(gpu.product).tflops for gpu in gpus) * 1e12 / flops_per_token)
    candidates = [compute if compute > 100 else 4096]
    if shape.max_positions:
        candidates.append(shape.max_positions)
    if not quantized:
        total = sum(gpu.memory_mib for gpu in gpus) * _MIB * fraction * LAUNCHER_ROOM
        spare = int((total - 2 * shape.parameters) / (shape.layers * shape.kv_elements * 2))
        candidates.append(spare)
    return max(min(candidates), 1)


def check_weights(load: Load, gpus: Sequence[Gpu], fraction: float) -> None:
    """Raise OutOfMemory where the smallest card cannot take its part of the weights."""
    total = _smallest(gpus)
    wanted = load.weight_bytes + load.transient_bytes
    free = total * fraction - _overhead(load)
    if wanted > free:
        raise OutOfMemory(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "
            f"{_gib(max(wanted - free, _MIB))}. GPU 0 has a total capacity of {_gib(total)} of "
            f"which {_gib(max(free, 0))} can hold weights, and {_gib(wanted)} are needed."
        )


def warm_up(load: Load, shape: Shape, gpus: Sequence[Gpu], wish: Wish, prefill: int) -> Limits:
    """Allocate, run and measure. Raises NotEnoughMemory.

    `prefill` is the prefill budget in tokens. The batch is as many requests of the longest input
    as fill it, each with room for its whole answer.
    """
    total = _smallest(gpus)
    longest = min(wish.max_input_tokens or prefill, prefill)
    requests = ceil(prefill / longest)
    each = wish.max_total_tokens or longest
    batch = requests * ceil(each / load.block_size)
    block_bytes = load.block_size * load.kv_bytes_per_token
    taken = load.weight_bytes + _overhead(load) + _activations(shape, prefill, load.shards)
    taken += batch * block_bytes
    if taken > total * wish.fraction:
        raise NotEnoughMemory(prefill)
    spare = (total - taken) - (1 - wish.fraction * wish.room) * total
    blocks = batch + max(int(spare // block_bytes), 0)
    cache = blocks * load.block_size
    most = wish.max_total_tokens or min(cache, shape.max_positions or cache)
    return Limits(wish.max_input_tokens or most - 1, most, prefill, cache, load.block_size)


def _activations(shape: Shape, tokens: int, shards: int) -> int:
    """Peak of one layer's forward pass over `tokens`, 16 bit: residuals, heads, feed-forward."""
    widest = max(shape.columns_out)
    per_token = 6 * shape.hidden + 3 * widest // shards + 3 * shape.heads * shape.head_dim // shards
    return 2 * tokens * per_token


def _overhead(load: Load) -> int:
    return CONTEXT_BYTES + (NCCL_BYTES if load.shards > 1 else 0)


def _smallest(gpus: Sequence[Gpu]) -> int:
    return min(gpu.memory_mib for gpu in gpus) * _MIB


def _gib(amount: float) -> str:
    return f"{amount / (1 << 30):.2f} GiB"
