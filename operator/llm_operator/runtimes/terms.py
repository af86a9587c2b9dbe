"""The nouns that planner and engines share: a model's shape, a quantization, a card, a plan.

Frozen facts without behaviour beyond arithmetic on themselves. Bytes are bytes, MiB says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Bytes = int


@dataclass(frozen=True)
class Moe:
    """Mixture of experts. `first_dense` leading layers (and `dense_layers`) have a plain MLP."""

    experts: int
    intermediate_size: int
    experts_per_token: int = 1
    shared_intermediate_size: int = 0
    first_dense: int = 0
    dense_layers: tuple[int, ...] = ()
    expert_bias: bool = False


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek): ranks and head parts."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class Traits:
    """How a family's decoder layer differs from Llama's, in what it stores.

    `fused`: query, key and value (gate and up, too) are stored as one matrix. `layer_norms` counts
    norms of hidden size per layer; `norm_bias` gives each (and the last) a bias too. `extra_head` =
    the files keep a copy of a tied output head, `nextn_layers` = multi-token-prediction layers at
    the end. `tower_parameters` = vision tower and projector; None where there is one without a
    formula, so that only file sizes tell the bytes.
    """

    gated_mlp: bool = True
    fused: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False
    layer_norms: int = 2
    norm_bias: bool = False
    embedding_norm: bool = False
    head_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    extra_head: bool = False
    nextn_layers: int = 0
    tower_parameters: int | None = 0


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a decoder-only model, as config.json gives them with the type's defaults.

    `windows`: one entry per layer, tokens that the layer keeps in its KV cache (None = all); empty
    where every layer keeps all.
    """

    model_type: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool
    max_position_embeddings: int | None = None
    dtype: str = "bfloat16"
    moe: Moe | None = None
    mla: Mla | None = None
    windows: tuple[int | None, ...] = ()
    traits: Traits = Traits()
    options: Mapping[str, object] = field(default_factory=dict, hash=False)
    """Fields of config.json that an engine's rules read (alibi, ...)."""


@dataclass(frozen=True)
class Quantization:
    """How weights are stored. `bits` per weight, a fraction for exl2; `group_size` None = one group
    per row (or not applicable).

    `on_the_fly`: the engine makes it from a 16-bit checkpoint while it loads.
    """

    method: str
    bits: float
    group_size: int | None = None
    desc_act: bool = False
    symmetric: bool = True
    on_the_fly: bool = False
    detail: Mapping[str, object] = field(default_factory=dict, hash=False)
    """The checkpoint's own quantization_config, for what only one method needs."""


NONE = Quantization("none", 16)


@dataclass(frozen=True)
class Gpu:
    """A card: what its node label says, and the memory that a program sees."""

    product: str
    memory_mib: int
    compute_capability: tuple[int, int] | None
    bandwidth_gbs: float | None = None
    fp16_tflops: float | None = None
    resource: str = "nvidia.com/gpu"

    @property
    def memory_bytes(self) -> Bytes:
        return self.memory_mib << 20


@dataclass(frozen=True)
class Rejected:
    """A tensor-parallel degree that cannot be, and why."""

    tensor_parallel: int
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Why an engine cannot run something, and which wish is at fault."""

    about: Literal[
        "tensorParallel", "quantization", "kvCacheDtype", "model", "gpu", "version", "runtime"
    ]
    reason: str


@dataclass(frozen=True)
class Launch:
    """One way to run a model, offered to an engine for its verdict."""

    shape: ModelShape
    quantization: Quantization
    gpu: Gpu
    tensor_parallel: int
    version: tuple[int, int, int]
    kv_cache_dtype: str | None = None
    speculate: int | None = None
    dtype: str | None = None
    custom_attention: str | None = None
    prefix_caching: bool | None = None
    prefill_chunking: bool | None = None
    max_input_tokens: int | None = None
    max_batch_prefill_tokens: int | None = None


@dataclass(frozen=True)
class Plan:
    """How one replica runs and why it fits. Also the answer when nothing fits (`fits` False).

    `products`: GPU products on which this plan holds, empty when the user gave memory by hand.
    `weight_bytes` is the whole model, the `_per_gpu` figures one shard; all in bytes.
    `kv_bytes_per_token` is over all shards, `kv_cache_tokens` what the replica can hold.
    `checkpoint_bytes` is what must be downloaded and read: more than `weight_bytes` where the
    engine quantizes while it loads.
    """

    gpu: Gpu | None
    products: tuple[str, ...]
    quantization: Quantization
    kv_cache_dtype: str | None
    tensor_parallel: int | None
    minimum_tensor_parallel: int | None
    recommended_tensor_parallel: int | None
    rejected: tuple[Rejected, ...]
    weight_bytes: Bytes
    weight_source: str
    weight_bytes_per_gpu: Bytes
    kv_bytes_per_token: Bytes
    kv_bytes_per_token_per_gpu: Bytes
    kv_cache_tokens: int
    overhead_bytes_per_gpu: Bytes
    budget_bytes_per_gpu: Bytes
    max_input_tokens: int
    max_total_tokens: int
    max_batch_prefill_tokens: int
    max_concurrent_requests: int
    max_concurrent_sequences: int
    fits: bool
    message: str
    ways_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What will run, but worse than the user may think."""
    checkpoint_bytes: Bytes = 0
