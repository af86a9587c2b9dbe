"""Bytes of the weights: tensors x quantization, in total and on each GPU.

Decides what each method stores per linear, what stays in 16 bit, and what tensor parallelism
cannot divide. Refuses to know memory budgets. Formulas: the storage formats of AutoGPTQ, AutoAWQ,
bitsandbytes, EETQ, compressed-tensors, exllamav2 and the OCP MX specification; checked against
published checkpoint sizes (tests/data/published_sizes.json).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from llm_operator.planning.kept import Kept
from llm_operator.planning.quantization import bits_of
from llm_operator.planning.tensors import Tensor, tensors
from llm_operator.runtimes.terms import NONE, Bytes, ModelShape, Quantization

DTYPE_BYTES: Final = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
"""Bytes per parameter as stored; an unknown name counts as 16 bit."""

MXFP4_BITS: Final = 4 + 8 / 32
"""4-bit elements and one 8-bit scale per block of 32."""

ZERO_BIAS_TYPES: Final = frozenset({"llama", "mistral", "mixtral", "falcon"})
"""AutoGPTQ of 2023 wrote a zero bias for each linear of these types, which have none of their own.
Newer builds name their format (`checkpoint_format`) and do not."""


@dataclass(frozen=True)
class Weights:
    """Bytes of one model in one quantization.

    `split` is divided over the GPUs, `whole` is on each of them, `head` is divided only where the
    degree divides the vocabulary. `largest_linear` is the biggest matrix in 16 bit, which must fit
    besides while an engine quantizes on the fly.
    """

    split: Bytes
    whole: Bytes
    head: Bytes
    vocabulary: int
    largest_linear: Bytes

    @property
    def total(self) -> Bytes:
        """Bytes of the whole model, each tensor counted once."""
        return self.split + self.whole + self.head

    def per_gpu(self, tensor_parallel: int) -> Bytes:
        """Bytes on each of so many GPUs, rounded up."""
        whole, split = self.whole, self.split
        if self.vocabulary % tensor_parallel:
            whole += self.head
        else:
            split += self.head
        return -(-split // tensor_parallel) + whole


@lru_cache(maxsize=512)
def weights(
    shape: ModelShape, quantization: Quantization, dtype: str | None = None
) -> Weights | None:
    """The model's bytes by formula; None where there is no formula for the method or a tower.

    `dtype` is what the unquantized tensors are in; unset means as stored (`shape.dtype`).
    """
    if quantization.method not in STORED or shape.traits.tower_parameters is None:
        return None
    unit = DTYPE_BYTES.get(dtype or shape.dtype, 2)
    sums = {"split": 0, "whole": 0, "head": 0}
    largest, kept = 0, Kept(quantization.detail)
    for tensor in tensors(shape):
        if tensor.module == "lm_head" and shape.tied_embeddings and quantization != NONE:
            continue  # quantized files keep no copy of a tied head
        kind = "head" if tensor.module == "lm_head" else "split" if tensor.split else "whole"
        sums[kind] += _bytes(tensor, shape, quantization, unit, kept)
        if tensor.linear:
            largest = max(largest, 2 * tensor.outputs * tensor.inputs)
    return Weights(**sums, vocabulary=shape.vocab_size, largest_linear=largest)


def _bytes(tensor: Tensor, shape: ModelShape, q: Quantization, unit: int, kept: Kept) -> Bytes:
    plain = tensor.parameters * unit
    if tensor.module == "lm_head" and q.method == "exl2":
        return round(tensor.parameters * bits_of(q.detail.get("head_bits"), default=6) / 8)
    if not tensor.linear or q.method == "none":
        return plain
    if q.method == "mxfp4":
        expert = ".experts." in tensor.module
        return round(tensor.parameters * MXFP4_BITS / 8) if expert else plain
    left = kept.of(tensor.module, tensor.layers)
    one = STORED[q.method](tensor.outputs, tensor.inputs, q)
    if q.method == "gptq" and _has_zero_bias(shape, q):
        one += 2 * tensor.outputs
    as_stored = one * tensor.copies * (len(tensor.layers) - left)
    return as_stored + tensor.copies * left * tensor.outputs * tensor.inputs * unit


def _has_zero_bias(shape: ModelShape, q: Quantization) -> bool:
    return shape.model_type in ZERO_BIAS_TYPES and "checkpoint_format" not in q.detail


def _groups(inputs: int, q: Quantization) -> int:
    return -(-inputs // q.group_size) if q.group_size else 1


def _packed(o: int, i: int, q: Quantization) -> Bytes:
    """AWQ and Marlin: packed weights, 16-bit scales, packed zero points per group."""
    groups = _groups(i, q)
    return round(o * i * q.bits / 8 + groups * o * 2 + groups * o * q.bits / 8)


def _gptq(o: int, i: int, q: Quantization) -> Bytes:
    """As AWQ, and a 32-bit group index per input."""
    return _packed(o, i, q) + 4 * i


def _llm_int8(o: int, i: int, q: Quantization) -> Bytes:
    return o * i + 4 * o


def _four_bit(o: int, i: int, q: Quantization) -> Bytes:
    """NF4/FP4: a 32-bit absmax per 64 weights; double quantization: 8 bit and a second level."""
    elements = o * i
    blocks = -(-elements // 64)
    if q.detail.get("bnb_4bit_use_double_quant"):
        return elements // 2 + blocks + 4 * -(-blocks // 256)
    return elements // 2 + 4 * blocks


def _eetq(o: int, i: int, q: Quantization) -> Bytes:
    return o * i + 2 * o


def _fp8(o: int, i: int, q: Quantization) -> Bytes:
    """Blocks with a 32-bit scale where the config names them, else a scale per output channel."""
    block = q.detail.get("weight_block_size")
    if isinstance(block, list):
        rows, columns = int(block[0]), int(block[1])
        return o * i + 4 * -(-o // rows) * -(-i // columns)
    return o * i + 4 * o


def _compressed(o: int, i: int, q: Quantization) -> Bytes:
    """Packed or 8-bit weights, 16-bit scales per group or channel, zero points if asymmetric."""
    groups = _groups(i, q)
    zeros = 0 if q.symmetric else groups * o * q.bits / 8
    return round(o * i * q.bits / 8 + groups * o * 2 + zeros)


def _exl2(o: int, i: int, q: Quantization) -> Bytes:
    """The branch states its average bits per weight, scales included."""
    return round(o * i * q.bits / 8)


def _same(o: int, i: int, q: Quantization) -> Bytes:
    return 2 * o * i


STORED: Final[Mapping[str, Callable[[int, int, Quantization], Bytes]]] = {
    "none": _same,
    "mxfp4": _same,
    "gptq": _gptq,
    "awq": _packed,
    "marlin": _packed,
    "bitsandbytes": _llm_int8,
    "bitsandbytes-nf4": _four_bit,
    "bitsandbytes-fp4": _four_bit,
    "eetq": _eetq,
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "exl2": _exl2,
}
"""Method -> bytes of one linear of (outputs, inputs). Methods not here have no formula."""
