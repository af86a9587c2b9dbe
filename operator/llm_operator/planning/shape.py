"""config.json -> ModelShape, or why its size cannot be told.

Decides what each field and each missing field means for a model type, after the configuration
classes of transformers. Refuses to guess: a type without a formula is `SizeUnknown`. Knows no
model by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from llm_operator.planning.quantization import LONGEST_NAME
from llm_operator.planning.towers import tower_parameters
from llm_operator.runtimes.terms import Mla, ModelShape, Moe, Traits

Config = Mapping[str, Any]


@dataclass(frozen=True)
class SizeUnknown:
    """No formula holds for this model; `reason` is a sentence."""

    reason: str


class _MissingField(Exception):
    """A field that the formula needs is absent or not a number."""


@dataclass(frozen=True)
class _Family:
    """One family: what a missing field means, and how it differs from Llama."""

    defaults: Config = field(default_factory=dict)
    adapt: Callable[[ModelShape, Config], ModelShape] = lambda shape, _: shape


ALIASES: Final = {
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_embed": "hidden_size",
    "n_embd": "hidden_size",
    "n_head_kv": "num_kv_heads",
    "dtype": "torch_dtype",
}
"""Older spellings -> the names used here."""

LARGEST: Final = 100_000_000
"""A configuration comes from strangers: beyond this no dimension is believed."""

MOST_LAYERS: Final = 1_000

TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config")
"""Where multimodal wrappers keep the language model's fields."""


def shape_of(config: Config) -> ModelShape | SizeUnknown:
    """The shape of the (language) model that this config.json describes.

    In a multimodal wrapper the language model's fields count; the wrapper's own type stays the
    `model_type`, because the engine goes by it.
    """
    outer = str(config.get("model_type") or "")[:LONGEST_NAME]
    inner = next((config[key] for key in TEXT_CONFIGS if isinstance(config.get(key), dict)), None)
    if inner is None:
        text: Config = config
        family_name = outer
    else:
        top = {key: config[key] for key in ("torch_dtype", "dtype") if key in config}
        text = {**top, **inner}
        named = str(inner.get("model_type") or WRAPPED_DEFAULT.get(outer, ""))
        family_name = named[:LONGEST_NAME]
    family = FAMILIES.get(family_name)
    if family is None:
        return SizeUnknown(
            f"size unknown: there is no formula for model type {family_name or outer or 'unset'}"
        )
    fields = {**family.defaults, **_normalised(text)}
    try:
        shape = family.adapt(_llama_like(family_name, fields), fields)
    except _MissingField as missing:
        return SizeUnknown(
            f"size unknown: config.json of type {family_name} has no usable {missing}"
        )
    tower = tower_parameters(family_name, shape, config)
    traits = replace(shape.traits, tower_parameters=tower)
    return replace(shape, model_type=outer or family_name, traits=traits)


def _normalised(config: Config) -> dict[str, Any]:
    """Old spellings renamed; null means missing. The proper name wins where both are given."""
    given = {key: value for key, value in config.items() if value is not None}
    renamed = {ALIASES[key]: value for key, value in given.items() if key in ALIASES}
    return {**renamed, **given}


def _count(fields: Config, name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise _MissingField(name)
    return value


def _count_or_zero(fields: Config, name: str) -> int:
    """A count that may be 0 or absent."""
    return _optional(fields, name) or 0


def _optional(fields: Config, name: str) -> int | None:
    """A count, or None where it is absent or 0 (which some configs write for "none")."""
    return None if not fields.get(name) else _count(fields, name)


def _llama_like(family: str, fields: Config) -> ModelShape:
    """The shape of a Llama with these fields, from which every family departs."""
    hidden = _count(fields, "hidden_size")
    layers = _count(fields, "num_hidden_layers")
    if layers > MOST_LAYERS:
        raise _MissingField("num_hidden_layers")
    heads = _count(fields, "num_attention_heads")
    bias = bool(fields.get("attention_bias", False))
    return ModelShape(
        model_type=family,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_count(fields, "num_key_value_heads", heads),
        head_dim=_count(fields, "head_dim", hidden // heads or None),
        intermediate_size=_count(fields, "intermediate_size", 4 * hidden),
        vocab_size=_count(fields, "vocab_size"),
        tied_embeddings=bool(fields.get("tie_word_embeddings", False)),
        max_position_embeddings=_optional(fields, "max_position_embeddings"),
        dtype=str(fields.get("torch_dtype", "bfloat16")),
        windows=_windows(fields, layers),
        traits=Traits(
            qkv_bias=bias, output_bias=bias, mlp_bias=bool(fields.get("mlp_bias", False))
        ),
    )


def _windows(fields: Config, layers: int) -> tuple[int | None, ...]:
    """Per layer the window of its attention. `window_pattern` n: every n-th layer sees all."""
    window = _optional(fields, "sliding_window")
    if window is None or fields.get("use_sliding_window") is False:
        return ()
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    pattern = _optional(fields, "sliding_window_pattern")
    if pattern is None:
        return (window,) * layers
    return tuple(None if (n + 1) % pattern == 0 else window for n in range(layers))


def _qwen2(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(shape, traits=replace(shape.traits, qkv_bias=True, output_bias=False))


def _qwen3(shape: ModelShape, fields: Config) -> ModelShape:
    return replace(shape, traits=replace(shape.traits, qk_norm=True))


def _sparse(shape: ModelShape, fields: Config) -> tuple[int, ...]:
    """Layers with a plain MLP among mixture-of-experts ones (Qwen's two fields)."""
    step = _count(fields, "decoder_sparse_step", 1)
    named = fields.get("mlp_only_layers")
    plain = named if isinstance(named, list) else []
    return tuple(n for n in range(shape.layers) if n in plain or (n + 1) % step)


def _qwen2_moe(shape: ModelShape, fields: Config) -> ModelShape:
    moe = Moe(
        experts=_count(fields, "num_experts"),
        intermediate_size=_count(fields, "moe_intermediate_size"),
        experts_per_token=_count(fields, "num_experts_per_tok", 4),
        shared_intermediate_size=_count(fields, "shared_expert_intermediate_size"),
        dense_layers=_sparse(shape, fields),
    )
    traits = replace(shape.traits, qkv_bias=True, output_bias=False, shared_gate=True)
    return replace(shape, moe=moe, traits=traits)


def _qwen3_moe(shape: ModelShape, fields: Config) -> ModelShape:
    moe = Moe(
        experts=_count(fields, "num_experts"),
        intermediate_size=_count(fields, "moe_intermediate_size"),
        experts_per_token=_count(fields, "num_experts_per_tok", 8),
        dense_layers=_sparse(shape, fields),
    )
    return replace(_qwen3(shape, fields), moe=moe)


def _local_experts(shape: ModelShape, fields: Config) -> ModelShape:
    """Mixtral and Granite: every layer is a mixture, experts have the MLP's size."""
    moe = Moe(
        experts=_count(fields, "num_local_experts"),
        intermediate_size=shape.intermediate_size,
        experts_per_token=_count(fields, "num_experts_per_tok", 2),
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
    nope, rope = _count(fields, "qk_nope_head_dim"), _count(fields, "qk_rope_head_dim")
    mla = Mla(
        q_lora_rank=_optional(fields, "q_lora_rank"),
        kv_lora_rank=_count(fields, "kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        v_head_dim=_count(fields, "v_head_dim"),
    )
    expert = _count(fields, "moe_intermediate_size")
    moe = Moe(
        experts=_count(fields, "n_routed_experts"),
        intermediate_size=expert,
        experts_per_token=_count(fields, "num_experts_per_tok", 8),
        shared_intermediate_size=expert * _count_or_zero(fields, "n_shared_experts"),
        first_dense=min(_count_or_zero(fields, "first_k_dense_replace"), shape.layers),
    )
    traits = replace(
        shape.traits,
        router_bias=fields.get("topk_method") == "noaux_tc",
        nextn_layers=min(_count_or_zero(fields, "num_nextn_predict_layers"), MOST_LAYERS),
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
        kv_heads = _count(fields, "num_kv_heads", shape.heads)
    else:
        kv_heads = 1 if fields.get("multi_query", True) else shape.heads
    parallel = bool(fields.get("parallel_attn", True))
    norms = (_optional(fields, "num_ln_in_parallel_attn") or (2 if new else 1)) if parallel else 2
    plain = _plain(shape, biased=bool(fields.get("bias", False)))
    return replace(
        plain,
        kv_heads=kv_heads,
        tied_embeddings=True,
        intermediate_size=_count(fields, "ffn_hidden_size", 4 * shape.hidden_size),
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

FAMILIES: Final[Mapping[str, _Family]] = {
    "llama": _Family(),
    "mistral": _Family(),
    "granite": _Family(),
    "phi3": _Family({}, _phi3),
    "qwen2": _Family({"use_sliding_window": False}, _qwen2),
    "qwen2_vl": _Family({"use_sliding_window": False}, _qwen2),
    "qwen2_5_vl": _Family({"use_sliding_window": False}, _qwen2),
    "qwen2_moe": _Family({"use_sliding_window": False}, _qwen2_moe),
    "qwen3": _Family({"head_dim": 128, "use_sliding_window": False}, _qwen3),
    "qwen3_moe": _Family({"use_sliding_window": False}, _qwen3_moe),
    "mixtral": _Family({"num_local_experts": 8}, _local_experts),
    "granitemoe": _Family({}, _local_experts),
    "gpt_oss": _Family(
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
    "gemma": _Family({"head_dim": 256}, _gemma),
    "gemma2": _Family(
        {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2}, _gemma2
    ),
    "gemma3_text": _Family(_GEMMA3, _gemma3),
    "deepseek_v2": _Family({"num_experts_per_tok": 6}, _deepseek),
    "deepseek_v3": _Family(_DEEPSEEK_V3, _deepseek),
    "kimi_k2": _Family(_DEEPSEEK_V3, _deepseek),
    "phi": _Family({}, _phi),
    "gpt_neox": _Family({}, _neox),
    "bloom": _Family({}, _bloom),
    "falcon": _Family({}, _falcon),
    "RefinedWebModel": _Family({}, _falcon),
    "RefinedWeb": _Family({"new_decoder_architecture": True}, _falcon),
}
"""Model type -> family. Field names and class defaults are transformers'."""

WRAPPED_DEFAULT: Final = {
    "gemma3": "gemma3_text",
    "llava": "llama",
    "llava_next": "llama",
    "mistral3": "mistral",
}
"""Type of a wrapper's language model where its own config does not say it."""
