"""A model's dimensions and parameter counts, read from its config.json.

A plain count of its own, on purpose independent of the operator's planner: what one gets wrong the
other should notice. It is used to split published bytes into what on-the-fly quantization shrinks
and what it does not, to size models for which no published figure is at hand, and for speeds.
Refuses to know GPUs and quantization. Unknown model types raise `UnknownShape`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Config = Mapping[str, object]


class UnknownShape(Exception):
    """No count for this model type, or config.json lacks a field that it needs."""


@dataclass(frozen=True)
class Shape:
    """Dimensions, and parameters by what quantization does with them.

    `linear` are the weights of the matrices inside the blocks, which quantized formats shrink;
    `embedding`, `head` (0 when tied) and `other` (norms, biases, routers) stay 16 bit.
    `active` is how many of `linear` one token passes through (all but the unused experts).
    `rows_in` are the input sizes of matrices that tensor parallelism cuts along the input,
    `columns_out` those that it cuts along the output. `matrices` are all of `linear`: how many of
    which input and output size. `kv_elements` are the cache's, per token and layer; `kv_heads` is
    0 where the cache is a compressed one that every rank keeps whole.
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    linear: int
    embedding: int
    head: int
    other: int
    active: int
    rows_in: tuple[int, ...]
    columns_out: tuple[int, ...]
    kv_elements: int
    matrices: tuple[tuple[int, int, int], ...]
    max_positions: int | None

    @property
    def parameters(self) -> int:
        return self.linear + self.embedding + self.head + self.other


@dataclass(frozen=True)
class _Block:
    """The matrices of all layers: (how many, input size, output size), and the rest."""

    matrices: tuple[tuple[int, int, int], ...]
    other: int
    kv_heads: int
    head_dim: int
    rows_in: tuple[int, ...]
    columns_out: tuple[int, ...]
    inactive: int = 0
    kv_elements: int | None = None


# Model types whose embeddings serve as the output head unless config.json says otherwise.
_TIED = {"gemma", "gemma2", "gemma3", "gemma3_text", "bloom", "falcon", "gpt2", "cohere"}
_LLAMA_LIKE = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "phi3",
    "granite",
    "baichuan",
}
_MIXTURES = {"mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "phimoe"}


def shape_of(config: Config) -> Shape:
    """Count a model from the fields of its config.json (a nested text_config is looked into)."""
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        config = {**config, **inner}
    kind = str(config.get("model_type", ""))
    hidden = _need(config, "hidden_size", "n_embed", "n_embd")
    layers = _need(config, "num_hidden_layers", "n_layer")
    heads = _need(config, "num_attention_heads", "n_head")
    vocab = _need(config, "vocab_size")
    block = _block(kind, config, hidden, layers, heads)
    tied = config.get("tie_word_embeddings", kind in _TIED)
    linear = sum(count * i * o for count, i, o in block.matrices)
    kv = 2 * block.kv_heads * block.head_dim if block.kv_elements is None else block.kv_elements
    return Shape(
        model_type=kind,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=block.kv_heads if block.kv_elements is None else 0,
        head_dim=block.head_dim,
        vocab=vocab,
        linear=linear,
        embedding=vocab * hidden,
        head=0 if tied else vocab * hidden,
        other=block.other + hidden,
        active=linear - block.inactive,
        rows_in=block.rows_in,
        columns_out=block.columns_out,
        kv_elements=kv,
        matrices=block.matrices,
        max_positions=_maybe(config, "max_position_embeddings", "n_positions", "seq_length"),
    )


def _block(kind: str, config: Config, hidden: int, layers: int, heads: int) -> _Block:
    if kind in _LLAMA_LIKE:
        return _llama(kind, config, hidden, layers, heads)
    if kind in _MIXTURES:
        return _mixture(kind, config, hidden, layers, heads)
    if kind in ("deepseek_v2", "deepseek_v3"):
        return _deepseek(config, hidden, layers, heads)
    if kind == "falcon":
        return _falcon(config, hidden, layers, heads)
    if kind in ("bloom", "gpt_neox", "phi", "gpt2"):
        return _classic(kind, config, hidden, layers, heads)
    if kind == "gpt_oss":
        return _gpt_oss(config, hidden, layers, heads)
    raise UnknownShape(f"no parameter count for model type {kind!r}")


def _attention(config: Config, hidden: int, layers: int, heads: int) -> _Block:
    """Queries, keys, values and output of grouped-query attention, with no feed-forward part."""
    kv = _maybe(config, "num_key_value_heads") or heads
    dim = _maybe(config, "head_dim") or hidden // heads
    matrices = (
        (layers, hidden, heads * dim),
        (2 * layers, hidden, kv * dim),
        (layers, heads * dim, hidden),
    )
    return _Block(matrices, 0, kv, dim, (heads * dim,), (heads * dim, kv * dim))


def _llama(kind: str, config: Config, hidden: int, layers: int, heads: int) -> _Block:
    base = _attention(config, hidden, layers, heads)
    width = _need(config, "intermediate_size")
    norms = (4 if kind.startswith(("gemma2", "gemma3")) else 2) * hidden
    if kind in ("qwen3", "gemma3", "gemma3_text"):
        norms += 2 * base.head_dim
    biases = (heads + 2 * base.kv_heads) * base.head_dim if kind == "qwen2" else 0
    if config.get("attention_bias") and kind in ("llama", "granite"):
        biases = (heads + 2 * base.kv_heads) * base.head_dim + hidden
    return _Block(
        (*base.matrices, (2 * layers, hidden, width), (layers, width, hidden)),
        layers * (norms + biases),
        base.kv_heads,
        base.head_dim,
        (*base.rows_in, width),
        (*base.columns_out, width),
    )


def _mixture(kind: str, config: Config, hidden: int, layers: int, heads: int) -> _Block:
    base = _attention(config, hidden, layers, heads)
    experts = _need(config, "num_local_experts", "num_experts")
    chosen = _maybe(config, "num_experts_per_tok") or 2
    width = _maybe(config, "moe_intermediate_size") or _need(config, "intermediate_size")
    matrices = [
        *base.matrices,
        (2 * layers * experts, hidden, width),
        (layers * experts, width, hidden),
    ]
    widths = [width]
    other = layers * (2 * hidden + experts * hidden)
    if kind == "qwen3_moe":
        other += layers * 2 * base.head_dim
    if kind == "qwen2_moe":
        shared = _need(config, "shared_expert_intermediate_size")
        matrices += [(2 * layers, hidden, shared), (layers, shared, hidden)]
        widths.append(shared)
        other += layers * (hidden + (heads + 2 * base.kv_heads) * base.head_dim)
    idle = layers * max(experts - chosen, 0) * 3 * hidden * width
    return _Block(
        tuple(matrices),
        other,
        base.kv_heads,
        base.head_dim,
        (*base.rows_in, *widths),
        (*base.columns_out, *widths),
        inactive=idle,
    )


def _deepseek(config: Config, hidden: int, layers: int, heads: int) -> _Block:
    """Multi-head latent attention, dense first layers, routed and shared experts after."""
    rope, nope = _need(config, "qk_rope_head_dim"), _need(config, "qk_nope_head_dim")
    value, latent = _need(config, "v_head_dim"), _need(config, "kv_lora_rank")
    query_rank = _maybe(config, "q_lora_rank")
    query = heads * (nope + rope)
    queries = (
        ((layers, hidden, query_rank), (layers, query_rank, query))
        if query_rank
        else ((layers, hidden, query),)
    )
    dense, width = _need(config, "first_k_dense_replace"), _need(config, "intermediate_size")
    expert = _need(config, "moe_intermediate_size")
    experts = _need(config, "n_routed_experts")
    shared, sparse = _maybe(config, "n_shared_experts") or 0, layers - dense
    chosen = _maybe(config, "num_experts_per_tok") or 8
    matrices = (
        *queries,
        (layers, hidden, latent + rope),
        (layers, latent, heads * (nope + value)),
        (layers, heads * value, hidden),
        (2 * dense, hidden, width),
        (dense, width, hidden),
        (2 * sparse * (experts + shared), hidden, expert),
        (sparse * (experts + shared), expert, hidden),
    )
    other = layers * ((query_rank or 0) + latent + 2 * hidden) + sparse * experts * (hidden + 1)
    return _Block(
        matrices,
        other,
        heads,
        nope + rope,
        (heads * value, width, expert),
        (heads * (nope + value), width, expert),
        inactive=sparse * max(experts - chosen, 0) * 3 * hidden * expert,
        kv_elements=latent + rope,
    )


def _falcon(config: Config, hidden: int, layers: int, heads: int) -> _Block:
    dim = hidden // heads
    if config.get("new_decoder_architecture"):
        kv = _maybe(config, "num_kv_heads") or heads
        norms = 4 * hidden
    else:
        kv = 1 if config.get("multi_query", True) else heads
        norms = 2 * hidden
    width = _maybe(config, "ffn_hidden_size") or 4 * hidden
    matrices = (
        (layers, hidden, (heads + 2 * kv) * dim),
        (layers, hidden, hidden),
        (layers, hidden, width),
        (layers, width, hidden),
    )
    rows, columns = (hidden, width), (heads * dim, width)
    return _Block(matrices, layers * norms + hidden, kv, dim, rows, columns)


def _classic(kind: str, config: Config, hidden: int, layers: int, heads: int) -> _Block:
    """One fused attention matrix, one output matrix, a two-layer feed-forward, biases all over."""
    width = _maybe(config, "intermediate_size", "n_inner") or 4 * hidden
    matrices = (
        (3 * layers, hidden, hidden),
        (layers, hidden, hidden),
        (layers, hidden, width),
        (layers, width, hidden),
    )
    norms = 2 * hidden if kind == "phi" else 4 * hidden
    biases = 3 * hidden + hidden + width + hidden
    outside = {"bloom": 3 * hidden, "phi": hidden + _need(config, "vocab_size")}.get(kind, hidden)
    return _Block(
        matrices,
        layers * (norms + biases) + outside,
        heads,
        hidden // heads,
        (hidden, width),
        (hidden, width),
    )


def _gpt_oss(config: Config, hidden: int, layers: int, heads: int) -> _Block:
    base = _mixture("mixtral", config, hidden, layers, heads)
    experts, width = _need(config, "num_local_experts"), _need(config, "intermediate_size")
    biases = (heads + 2 * base.kv_heads) * base.head_dim + hidden + heads + experts
    expert_biases = experts * (2 * width + hidden)
    return _Block(
        base.matrices,
        base.other + layers * (biases + expert_biases),
        base.kv_heads,
        base.head_dim,
        base.rows_in,
        base.columns_out,
        base.inactive,
    )


def _maybe(config: Config, *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _need(config: Config, *names: str) -> int:
    value = _maybe(config, *names)
    if value is None:
        raise UnknownShape(f"config.json has no {names[0]}")
    return value
