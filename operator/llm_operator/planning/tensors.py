"""ModelShape -> the tensors that its checkpoint holds, by kind.

Decides which matrices and vectors a decoder has, how many, which of them a quantization may touch
and which a tensor-parallel engine splits. Counts agree with published checkpoints to the byte.
Knows nothing of bytes per weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_operator.runtimes.terms import Mla, ModelShape, Moe


@dataclass(frozen=True)
class Tensor:
    """`copies` matrices of outputs x inputs (a vector has 1 input) in each of `layers`.

    `layers` is empty for what the model has once. `linear`: a block's linear, which quantization
    replaces. `split`: a tensor-parallel engine gives each GPU its share; else each keeps it whole.
    """

    module: str
    outputs: int
    inputs: int = 1
    copies: int = 1
    layers: tuple[int, ...] = ()
    linear: bool = False
    split: bool = True

    @property
    def count(self) -> int:
        """How many of these matrices the model has."""
        return self.copies * (len(self.layers) or 1)

    @property
    def parameters(self) -> int:
        """Elements of all of them."""
        return self.count * self.outputs * self.inputs


def tensors(shape: ModelShape) -> tuple[Tensor, ...]:
    """Every tensor of the model; the vision tower, if any, as one."""
    return (*_ends(shape), *_blocks(shape))


def parameters(shape: ModelShape) -> int:
    """Elements of every tensor."""
    return sum(tensor.parameters for tensor in tensors(shape))


def _ends(shape: ModelShape) -> Iterator[Tensor]:
    h, v, t = shape.hidden_size, shape.vocab_size, shape.traits
    norm = 2 * h if t.norm_bias else h
    yield Tensor("embed_tokens", v, h)
    if not shape.tied_embeddings or t.extra_head:
        yield Tensor("lm_head", v, h)
    if t.head_bias:
        yield Tensor("lm_head.bias", v)
    yield Tensor("norm", norm, split=False)
    if t.embedding_norm:
        yield Tensor("embedding_norm", norm, split=False)
    if t.tower_parameters:
        yield Tensor("vision_tower", t.tower_parameters, split=False)
    if t.nextn_layers:
        yield Tensor("nextn.embed_tokens", v, h, t.nextn_layers)
        yield Tensor("nextn.shared_head", v, h, t.nextn_layers)
        yield Tensor("nextn.eh_proj", h, 2 * h, t.nextn_layers)
        yield Tensor("nextn.norms", 3 * h, copies=t.nextn_layers, split=False)


def _blocks(shape: ModelShape) -> Iterator[Tensor]:
    h, t = shape.hidden_size, shape.traits
    layers = tuple(range(shape.layers + t.nextn_layers))
    norms = t.layer_norms * (2 if t.norm_bias else 1)
    yield Tensor("norms", h, copies=norms, layers=layers, split=False)
    if shape.mla is None:
        yield from _attention(shape, layers)
    else:
        yield from _latent_attention(shape, shape.mla, layers)
    if shape.moe is None:
        yield from _mlp(shape, "mlp", shape.intermediate_size, layers)
        return
    plain = {*range(shape.moe.first_dense), *shape.moe.dense_layers}
    dense = tuple(n for n in layers if n in plain)
    sparse = tuple(n for n in layers if n not in plain)
    if dense:
        yield from _mlp(shape, "mlp", shape.intermediate_size, dense)
    if sparse:
        yield from _mixture(shape, shape.moe, sparse)


def _attention(shape: ModelShape, layers: tuple[int, ...]) -> Iterator[Tensor]:
    h, d, t = shape.hidden_size, shape.head_dim, shape.traits
    q, kv = shape.heads * d, shape.kv_heads * d
    if t.fused:
        yield Tensor("self_attn.qkv_proj", q + 2 * kv, h, layers=layers, linear=True)
    else:
        shared = shape.kv_heads > 1  # one KV head cannot be divided: every GPU keeps it
        yield Tensor("self_attn.q_proj", q, h, layers=layers, linear=True)
        for name in ("self_attn.k_proj", "self_attn.v_proj"):
            yield Tensor(name, kv, h, layers=layers, linear=True, split=shared)
    yield Tensor("self_attn.o_proj", h, q, layers=layers, linear=True)
    if t.qkv_bias:
        yield Tensor("self_attn.qkv.bias", q + 2 * kv, layers=layers, split=False)
    if t.output_bias:
        yield Tensor("self_attn.o_proj.bias", h, layers=layers, split=False)
    if t.qk_norm:
        yield Tensor("self_attn.qk_norm", 2 * d, layers=layers, split=False)
    if t.sinks:
        yield Tensor("self_attn.sinks", shape.heads, layers=layers, split=False)


def _latent_attention(shape: ModelShape, mla: Mla, layers: tuple[int, ...]) -> Iterator[Tensor]:
    """Low-rank projections go whole to every GPU, what has heads is split."""
    h, heads = shape.hidden_size, shape.heads
    q = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    latent = mla.kv_lora_rank
    if mla.q_lora_rank is None:
        yield Tensor("self_attn.q_proj", q, h, layers=layers, linear=True)
    else:
        rank = mla.q_lora_rank
        yield Tensor("self_attn.q_a_proj", rank, h, layers=layers, linear=True, split=False)
        yield Tensor("self_attn.q_b_proj", q, rank, layers=layers, linear=True)
        yield Tensor("self_attn.q_a_norm", rank, layers=layers, split=False)
    compressed = latent + mla.qk_rope_head_dim
    expanded = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    yield Tensor("self_attn.kv_a_proj", compressed, h, layers=layers, linear=True, split=False)
    yield Tensor("self_attn.kv_b_proj", expanded, latent, layers=layers, linear=True)
    yield Tensor("self_attn.kv_a_norm", latent, layers=layers, split=False)
    yield Tensor("self_attn.o_proj", h, heads * mla.v_head_dim, layers=layers, linear=True)


def _mlp(
    shape: ModelShape, module: str, size: int, layers: tuple[int, ...], copies: int = 1
) -> Iterator[Tensor]:
    """Gated (gate, up, down) or plain (up, down) feed-forward block."""
    h, t = shape.hidden_size, shape.traits
    if t.gated_mlp and t.fused:
        yield Tensor(f"{module}.gate_up_proj", 2 * size, h, copies, layers, linear=True)
    else:
        for name in ("gate_proj", "up_proj") if t.gated_mlp else ("up_proj",):
            yield Tensor(f"{module}.{name}", size, h, copies, layers, linear=True)
    yield Tensor(f"{module}.down_proj", h, size, copies, layers, linear=True)
    if t.mlp_bias:
        ups = 2 if t.gated_mlp else 1
        yield Tensor(f"{module}.bias", ups * size + h, 1, copies, layers, split=False)


def _mixture(shape: ModelShape, moe: Moe, layers: tuple[int, ...]) -> Iterator[Tensor]:
    h, t = shape.hidden_size, shape.traits
    yield Tensor("mlp.gate", moe.experts, h, layers=layers, split=False)
    if t.router_bias:
        yield Tensor("mlp.gate.bias", moe.experts, layers=layers, split=False)
    yield from _mlp(shape, "mlp.experts.0", moe.intermediate_size, layers, moe.experts)
    if moe.expert_bias:
        bias = 2 * moe.intermediate_size + h
        yield Tensor("mlp.experts.0.bias", bias, 1, moe.experts, layers)
    if moe.shared_intermediate_size:
        yield from _mlp(shape, "mlp.shared_experts", moe.shared_intermediate_size, layers)
    if t.shared_gate:
        yield Tensor("mlp.shared_expert_gate", 1, h, layers=layers, split=False)
