"""How one GPU's memory is shared out at each tensor-parallel degree, and what then fits.

Decides the budget: 90 % of what the card reports (the share that TGI's server leaves itself with
`cuda_memory_fraction` 1; also vLLM's default). Against it stand the shard's weights, 2 % for the
allocator's grain, 0.6 GiB outside of torch (CUDA context, kernels), 0.35 GiB for NCCL where there
are several GPUs, and the largest of three peaks: 1.7 GiB (activations and CUDA graphs, measured
with vLLM), what a prefill of this shape needs, the matrix in flight while quantizing. KAITO's
estimator and NVIDIA's aiconfigurator use the same terms. The KV cache gets the rest. Refuses to
know which degrees an engine can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llm_operator.planning import kv
from llm_operator.planning.weights import Weights
from llm_operator.planning.wish import Limits
from llm_operator.runtimes.terms import Bytes, Gpu, ModelShape

GIB: Final = 1 << 30
USABLE_SHARE: Final = 0.90
WEIGHT_MARGIN: Final = 0.02
OUTSIDE_TORCH: Final = int(0.6 * GIB)
NCCL: Final = int(0.35 * GIB)
ACTIVATIONS: Final = int(1.7 * GIB)

CHUNK_TOKENS: Final = 4096
"""Prompt tokens computed at once: TGI's own figure where it cannot ask the card."""


@dataclass(frozen=True)
class Offer:
    """Nodes of one GPU product. `exists` False: named by the user, no node has it yet."""

    gpu: Gpu
    gpus_per_node: int
    nodes: int = 1
    exists: bool = True


@dataclass(frozen=True)
class Share:
    """One GPU of a replica: bytes of each term, and what the whole replica then holds.

    `sequences` are requests of full length in the KV cache at once; 0 where not even the engine's
    warm-up fits, which fills one prefill batch with requests of full length.
    """

    tensor_parallel: int
    weight_bytes: Bytes
    overhead_bytes: Bytes
    budget_bytes: Bytes
    kv_bytes_per_token: Bytes
    kv_cache_tokens: int
    warm_up_tokens: int
    prefill_tokens: int
    sequences: int

    @property
    def fits(self) -> bool:
        """Weights, overhead and the warm-up (at least one request) are within the budget."""
        return self.sequences >= 1

    @property
    def needed_bytes(self) -> Bytes:
        """What this GPU must have for the least that counts as fitting."""
        cache = self.warm_up_tokens * self.kv_bytes_per_token
        return self.weight_bytes + self.overhead_bytes + cache


def share(
    gpu: Gpu,
    tensor_parallel: int,
    shape: ModelShape,
    weights: Weights,
    limits: Limits,
    *,
    prefill_tokens: int | None = None,
    kv_cache_dtype: str | None = None,
    memory_fraction: float = 1.0,
    on_the_fly: bool = False,
    windowed: bool = False,
) -> Share:
    """One GPU's memory at this degree.

    `prefill_tokens` unset: as many of the longest prompts as one chunk and the cache hold.
    `windowed`: the engine forgets what is outside of a layer's sliding window.
    """
    budget = int(gpu.memory_bytes * USABLE_SHARE * memory_fraction)
    on_each = weights.per_gpu(tensor_parallel)
    longest = limits.max_input_tokens
    least = prefill_tokens or longest
    peak = max(
        ACTIVATIONS,
        activation_bytes(shape, max(least, CHUNK_TOKENS), tensor_parallel),
        2 * weights.largest_linear // tensor_parallel if on_the_fly else 0,
    )
    overhead = OUTSIDE_TORCH + (NCCL if tensor_parallel > 1 else 0)
    overhead += int(WEIGHT_MARGIN * on_each) + peak
    per_token = kv.bytes_per_token_per_gpu(shape, tensor_parallel, kv_cache_dtype)
    free = max(0, budget - on_each - overhead)
    tokens = free // per_token
    if windowed:
        whole = limits.max_total_tokens * kv.bytes_per_token(shape)
        tokens = tokens * whole // kv.windowed_bytes(shape, limits.max_total_tokens)
    warm_up = -(-least // min(least, longest)) * limits.max_total_tokens
    sequences = tokens // limits.max_total_tokens if tokens >= max(warm_up, least) else 0
    if prefill_tokens is None:
        least *= max(1, min(CHUNK_TOKENS // longest, sequences))
    return Share(
        tensor_parallel,
        on_each,
        overhead,
        budget,
        per_token,
        tokens,
        max(warm_up, limits.max_total_tokens),
        least,
        sequences,
    )


def activation_bytes(shape: ModelShape, tokens: int, tensor_parallel: int) -> Bytes:
    """Peak of one layer's prefill in 16 bit: residuals and norms, attention's and the MLP's inner.

    What has the model's width is whole on each GPU, the rest is divided.
    """
    moe = shape.moe
    inner = (
        shape.intermediate_size
        if moe is None
        else moe.experts_per_token * moe.intermediate_size + moe.shared_intermediate_size
    )
    divided = 3 * (inner + shape.heads * shape.head_dim)
    return 2 * tokens * (6 * shape.hidden_size + -(-divided // tensor_parallel))
