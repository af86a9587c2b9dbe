"""Bytes of the KV cache: per token, per GPU, per sequence.

Decides what grouped-query, multi-query and latent attention, sliding windows and 8-bit caches
keep. `2 * layers * kv_heads * head_dim * bytes`; latent attention keeps
`layers * (kv_lora_rank + qk_rope_head_dim) * bytes` on every GPU (DeepSeek-V2 report).
"""

from __future__ import annotations

from typing import Final

from llm_operator.runtimes.terms import Bytes, ModelShape

REPLICATED: Final = frozenset({"olmo2", "phi3"})
"""Model types whose cache TGI's transformers fallback keeps whole on every GPU. phi3 also has a
class of TGI's own; which of the two serves it is not certain, so the larger need is planned."""


def bytes_per_token(shape: ModelShape, kv_cache_dtype: str | None = None) -> Bytes:
    """Bytes that one more token takes over all layers and heads, each counted once."""
    return shape.layers * _per_layer(shape, kv_cache_dtype)


def bytes_per_token_per_gpu(
    shape: ModelShape, tensor_parallel: int, kv_cache_dtype: str | None = None
) -> Bytes:
    """The same on one of so many GPUs. One KV head and latent attention cannot be divided."""
    total = bytes_per_token(shape, kv_cache_dtype)
    if shape.mla is not None or shape.kv_heads == 1 or shape.model_type in REPLICATED:
        return total
    return -(-total // tensor_parallel)


def windowed_bytes(shape: ModelShape, tokens: int, kv_cache_dtype: str | None = None) -> Bytes:
    """Bytes of a sequence in an engine that forgets what is outside of a layer's window."""
    kept = [min(tokens, window or tokens) for window in shape.windows] or [tokens] * shape.layers
    return sum(kept) * _per_layer(shape, kv_cache_dtype)


def _per_layer(shape: ModelShape, kv_cache_dtype: str | None) -> Bytes:
    unit = 1 if kv_cache_dtype and kv_cache_dtype.startswith("fp8") else 2
    if shape.mla is not None:
        return (shape.mla.kv_lora_rank + shape.mla.qk_rope_head_dim) * unit
    return 2 * shape.kv_heads * shape.head_dim * unit
