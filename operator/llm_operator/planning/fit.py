"""How one GPU's memory is shared out at each tensor-parallel degree, and what then fits.

Decides the budget: 90 % of what the card reports (the share that TGI's server leaves itself with
`cuda_memory_fraction` 1; also vLLM's default). Against it stand the shard's weights, 2 % for the
allocator's grain, 0.6 GiB outside of torch (CUDA context, NCCL) and the larger of 1.7 GiB (largest
activation peak measured with vLLM, CUDA graphs included) and what this prefill needs by its own
shape; the KV cache gets the rest. KAITO's estimator uses the same terms. Refuses to know which
degrees an engine can do.
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
ACTIVATIONS: Final = int(1.7 * GIB)


@dataclass(frozen=True)
class Offer:
    """Nodes of one GPU product. `exists` False: named by the user, no node has it yet."""

    gpu: Gpu
    gpus_per_node: int
    nodes: int = 1
    exists: bool = True


@dataclass(frozen=True)
class Share:
    """One GPU of a replica: bytes of each term, and what the whole replica then holds."""

    tensor_parallel: int
    weight_bytes: Bytes
    overhead_bytes: Bytes
    budget_bytes: Bytes
    kv_bytes_per_token: Bytes
    kv_cache_tokens: int
    sequences: int
    """Requests of full length in the KV cache at once."""

    @property
    def fits(self) -> bool:
        """Weights, overhead and one request of full length are within the budget."""
        return self.sequences >= 1

    def needed(self, tokens: int) -> Bytes:
        """Bytes on this GPU with so many tokens in the cache."""
        return self.weight_bytes + self.overhead_bytes + tokens * self.kv_bytes_per_token


def share(
    gpu: Gpu,
    tensor_parallel: int,
    shape: ModelShape,
    weights: Weights,
    limits: Limits,
    *,
    kv_cache_dtype: str | None = None,
    memory_fraction: float = 1.0,
    on_the_fly: bool = False,
) -> Share:
    """One GPU's memory at this degree."""
    budget = int(gpu.memory_bytes * USABLE_SHARE * memory_fraction)
    on_each = weights.per_gpu(tensor_parallel)
    transient = 2 * weights.largest_linear // tensor_parallel if on_the_fly else 0
    working = max(
        ACTIVATIONS,
        activation_bytes(shape, limits.max_batch_prefill_tokens, tensor_parallel),
        transient,
    )
    overhead = OUTSIDE_TORCH + int(WEIGHT_MARGIN * on_each) + working
    per_token = kv.bytes_per_token_per_gpu(shape, tensor_parallel, kv_cache_dtype)
    free = max(0, budget - on_each - overhead)
    tokens = free // per_token
    longest = max(limits.max_total_tokens, limits.max_batch_prefill_tokens)
    sequences = tokens // limits.max_total_tokens if tokens >= longest else 0
    return Share(tensor_parallel, on_each, overhead, budget, per_token, tokens, sequences)


def activation_bytes(shape: ModelShape, tokens: int, tensor_parallel: int) -> Bytes:
    """Peak of one layer's prefill in 16 bit: residual, norm, attention in and out, MLP in and out.

    Whole on each GPU is what has the model's width, the rest is divided.
    """
    moe = shape.moe
    inner = (
        shape.intermediate_size
        if moe is None
        else moe.experts_per_token * moe.intermediate_size + moe.shared_intermediate_size
    )
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    divided = max(attention, 3 * inner)
    return 2 * tokens * (4 * shape.hidden_size + -(-divided // tensor_parallel))
