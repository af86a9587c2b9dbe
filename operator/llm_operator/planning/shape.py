"""config.json -> ModelShape, or why its size cannot be told.

Decides where in it the language model is described. Refuses to guess: a type without a formula is
`SizeUnknown`. Knows no model by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from llm_operator.planning.families import FAMILIES
from llm_operator.planning.fields import (
    MOST_LAYERS,
    Config,
    MissingField,
    count,
    normalised,
    optional,
)
from llm_operator.planning.quantization import LONGEST_NAME
from llm_operator.planning.towers import tower_parameters
from llm_operator.runtimes.terms import ModelShape, Traits


@dataclass(frozen=True)
class SizeUnknown:
    """No formula holds for this model; `reason` is a sentence."""

    reason: str


TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config")
"""Where multimodal wrappers keep the language model's fields."""


WRAPPED_DEFAULT: Final = {
    "gemma3": "gemma3_text",
    "llava": "llama",
    "llava_next": "llama",
    "mistral3": "mistral",
}
"""Type of a wrapper's language model where its own config does not say it."""


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
    fields = {**family.defaults, **normalised(text)}
    try:
        shape = family.adapt(_llama_like(family_name, fields), fields)
    except MissingField as missing:
        return SizeUnknown(
            f"size unknown: config.json of type {family_name} has no usable {missing}"
        )
    tower = tower_parameters(family_name, shape, config)
    traits = replace(shape.traits, tower_parameters=tower)
    return replace(shape, model_type=outer or family_name, traits=traits)


def _llama_like(family: str, fields: Config) -> ModelShape:
    """The shape of a Llama with these fields, from which every family departs."""
    hidden = count(fields, "hidden_size")
    layers = count(fields, "num_hidden_layers")
    if layers > MOST_LAYERS:
        raise MissingField("num_hidden_layers")
    heads = count(fields, "num_attention_heads")
    bias = bool(fields.get("attention_bias", False))
    return ModelShape(
        model_type=family,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=count(fields, "num_key_value_heads", heads),
        head_dim=count(fields, "head_dim", hidden // heads or None),
        intermediate_size=count(fields, "intermediate_size", 4 * hidden),
        vocab_size=count(fields, "vocab_size"),
        tied_embeddings=bool(fields.get("tie_word_embeddings", False)),
        max_position_embeddings=optional(fields, "max_position_embeddings"),
        dtype=str(fields.get("torch_dtype", "bfloat16")),
        windows=_windows(fields, layers),
        traits=Traits(
            qkv_bias=bias, output_bias=bias, mlp_bias=bool(fields.get("mlp_bias", False))
        ),
    )


def _windows(fields: Config, layers: int) -> tuple[int | None, ...]:
    """Per layer the window of its attention. `window_pattern` n: every n-th layer sees all."""
    window = optional(fields, "sliding_window")
    if window is None or fields.get("use_sliding_window") is False:
        return ()
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    pattern = optional(fields, "sliding_window_pattern")
    if pattern is None:
        return (window,) * layers
    return tuple(None if (n + 1) % pattern == 0 else window for n in range(layers))
