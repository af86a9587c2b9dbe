"""The families of models: what a missing field means, and how each departs from Llama.

Decides after the configuration and modelling classes of transformers. A type that is not in
`FAMILIES` has no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from llm_operator.planning.fields import MOST_LAYERS, Config, count, count_or_zero, optional
from llm_operator.runtimes.terms import Mla, ModelShape, Moe


@dataclass(frozen=True)
class Family:
    """One family: what a missing field means, and how it differs from Llama."""

    defaults: Config = field(default_factory=dict)
    adapt: Callable[[ModelShape, Config], ModelShape] = lambda shape, _: shape


def _qwen2(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(shape, traits=replace(shape.traits, qkv_bias=True, output_bias=False))


def _qwen3(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(shape, traits=replace(shape.traits, qk_norm=True))


def _sparse(shape: ModelShape, fields: Config) -> tuple[int, ...]:
    """Layers with a plain MLP among mixture-of-experts ones (Qwen's two fields)."""
    step = count(fields, "decoder_sparse_step", 1)
    named = fields.get("mlp_only_layers")
    plain = named if isinstance(named, list) else []
    return tuple(n for n in range(shape.layers) if n in plain or (n + 1) % step)


def _qwen2_moe(shape: ModelShape, fields: Config) -> ModelShape:
    moe = Moe(
        experts=count(fields, "num_experts"),
        intermediate_size=count(fields, "moe_intermediate_size"),
        experts_per_token=count(fields, "num_experts_per_tok", 4),
        shared_intermediate_size=count(fields, "shared_expert_intermediate_size"),
        dense_layers=_sparse(shape, fields),
    )
    traits = replace(shape.traits, qkv_bias=True, output_bias=False, shared_gate=True)
    return replace(shape, moe=moe, traits=traits)


def _qwen3_moe(shape: ModelShape, fields: Config) -> ModelShape:
    moe = Moe(
        experts=count(fields, "num_experts"),
        intermediate_size=count(fields, "moe_intermediate_size"),
        experts_per_token=count(fields, "num_experts_per_tok", 8),
        dense_layers=_sparse(shape, fields),
    )
    return replace(_qwen3(shape, fields), moe=moe)


def _local_experts(shape: ModelShape, fields: Config) -> ModelShape:
    """Mixtral and Granite: every layer is a mixture, experts have the MLP's size."""
    moe = Moe(
        experts=count(fields, "num_local_experts"),
        intermediate_size=shape.intermediate_size,
        experts_per_token=count(fields, "num_experts_per_tok", 2),
    )
    return replace(shape, moe=moe)


def _gpt_oss(shape: ModelShape, fields: Config) -> ModelShape:
    mixed = _local_experts(shape, fields)
    assert mixed.moe is not None
    traits = replace(shape.traits, sinks=True, router_bias=True)
    return replace(mixed, moe=replace(mixed.moe, expert_bias=True), traits=traits)


def _gemma(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(shape, tied_embeddings=bool(fields.get("tie_word_embeddings", True)))


def _gemma2(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(_gemma(shape, fields), traits=replace(shape.traits, layer_norms=4))


def _gemma3(shape: ModelShape, fields: Config) -> ModelShape:
    traits = replace(shape.traits, layer_norms=4, qk_norm=True)
    return replace(_gemma(shape, fields), traits=traits)


def _deepseek(shape: ModelShape, fields: Config) -> ModelShape:
    nope, rope = count(fields, "qk_nope_head_dim"), count(fields, "qk_rope_head_dim")
    mla = Mla(
        q_lora_rank=optional(fields, "q_lora_rank"),
        kv_lora_rank=count(fields, "kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=count(fields, "v_head_dim"),
    )
    expert = count(fields, "moe_intermediate_size")
    moe = Moe(
        experts=count(fields, "n_routed_experts"),
        intermediate_size=expert,
        experts_per_token=count(fields, "num_experts_per_tok", 8),
        shared_intermediate_size=expert * count_or_zero(fields, "n_shared_experts"),
        first_dense=min(count_or_zero(fields, "first_k_dense_replace"), shape.layers),
    )
    traits = replace(
        shape.traits,
        router_bias=fields.get("topk_method") == "noaux_tc",
        nextn_layers=min(count_or_zero(fields, "num_nextn_predict_layers"), MOST_LAYERS),
    )
    return replace(shape, head_dim=nope + rope, mla=mla, moe=moe, traits=traits)


def _plain(shape: ModelShape, biased: bool = True) -> ModelShape:
    """GPT-like layers: an MLP of two matrices, LayerNorms with bias, biases in every linear."""
    traits = replace(
        shape.traits,
        gated_mlp=False,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=biased,
        norm_bias=True,
    )
    return replace(shape, traits=traits)


def _phi3(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(shape, traits=replace(shape.traits, fused=True))


def _phi(shape: ModelShape, fields: Config) -> ModelShape:
    plain = _plain(shape)
    return replace(plain, traits=replace(plain.traits, layer_norms=1, head_bias=True))


def _neox(shape: ModelShape, fields: Config) -> ModelShape:
    plain = _plain(shape)
    return replace(plain, traits=replace(plain.traits, fused=True))


def _bloom(shape: ModelShape, fields: Config) -> ModelShape:
    plain = _plain(shape)
    return replace(
        plain,
        tied_embeddings=True,
        intermediate_size=4 * shape.hidden_size,
        kv_heads=shape.heads,
        traits=replace(plain.traits, fused=True, embedding_norm=True),
        options={"alibi": True},
    )


def _falcon(shape: ModelShape, fields: Config) -> ModelShape:
    new = bool(fields.get("new_decoder_architecture"))
    if new:
        kv_heads = count(fields, "num_kv_heads", shape.heads)
    else:
        kv_heads = 1 if fields.get("multi_query", True) else shape.heads
    parallel = bool(fields.get("parallel_attn", True))
    norms = (optional(fields, "num_ln_in_parallel_attn") or (2 if new else 1)) if parallel else 2
    plain = _plain(shape, biased=bool(fields.get("bias", False)))
    return replace(
        plain,
        kv_heads=kv_heads,
        tied_embeddings=True,
        intermediate_size=count(fields, "ffn_hidden_size", 4 * shape.hidden_size),
        traits=replace(plain.traits, fused=True, layer_norms=norms, extra_head=True),
        options={"alibi": True} if fields.get("alibi") else {},
    )


_GEMMA3: Final = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 131072,
}
_DEEPSEEK_V3: Final = {"topk_method": "noaux_tc"}

FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(),
    "mistral": Family(),
    "granite": Family(),
    "phi3": Family({}, _phi3),
    "qwen2": Family({"use_sliding_window": False}, _qwen2),
    "qwen2_vl": Family({"use_sliding_window": False}, _qwen2),
    "qwen2_5_vl": Family({"use_sliding_window": False}, _qwen2),
    "qwen2_moe": Family({"use_sliding_window": False}, _qwen2_moe),
    "qwen3": Family({"head_dim": 128, "use_sliding_window": False}, _qwen3),
    "qwen3_moe": Family({"use_sliding_window": False}, _qwen3_moe),
    "mixtral": Family({"num_local_experts": 8}, _local_experts),
    "granitemoe": Family({}, _local_experts),
    "gpt_oss": Family(
        {
            "head_dim": 64,
            "num_key_value_heads": 8,
            "attention_bias": True,
            "sliding_window": 128,
            "sliding_window_pattern": 2,
            "num_experts_per_tok": 4,
        },
        _gpt_oss,
    ),
    "gemma": Family({"head_dim": 256}, _gemma),
    "gemma2": Family(
        {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2}, _gemma2
    ),
    "gemma3_text": Family(_GEMMA3, _gemma3),
    "deepseek_v2": Family({"num_experts_per_tok": 6}, _deepseek),
    "deepseek_v3": Family(_DEEPSEEK_V3, _deepseek),
    "kimi_k2": Family(_DEEPSEEK_V3, _deepseek),
    "phi": Family({}, _phi),
    "gpt_neox": Family({}, _neox),
    "bloom": Family({}, _bloom),
    "falcon": Family({}, _falcon),
    "RefinedWebModel": Family({}, _falcon),
    "RefinedWeb": Family({"new_decoder_architecture": True}, _falcon),
}
"""Model type -> family. Field names and class defaults are transformers'."""
