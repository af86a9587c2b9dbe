"""Bytes of a checkpoint on disk, and of its weights on each GPU once loaded.

Published bytes win; the arithmetic here is for checkpoints without a published figure, and for
what on-the-fly quantization makes of a 16-bit checkpoint. Refuses to know whether a method is
allowed (`shard`) and whether the result fits (`warmup`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from .shape import Config, Shape

ON_THE_FLY = frozenset({"bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "eetq", "fp8"})


def quantization(config: Config) -> Mapping[str, object]:
    """The checkpoint's own `quantization_config`, empty for a 16-bit one."""
    section = config.get("quantization_config")
    return section if isinstance(section, Mapping) else {}


def group_size(section: Mapping[str, object]) -> int | None:
    """Weights that share a scale along the input; None for one scale per row or per tensor."""
    size = section.get("group_size", _compressed(section).get("group_size"))
    return size if isinstance(size, int) and size > 0 else None


def bits(section: Mapping[str, object]) -> float:
    """Bits per quantized weight as config.json states them, else 4."""
    size = section.get("bits", _compressed(section).get("num_bits", 4))
    return float(size) if isinstance(size, int | float) else 4.0


def file_bytes(config: Config, shape: Shape) -> int:
    """Size of a checkpoint's tensors, counted from its shape.

    GPTQ and AWQ keep, per group and output, a 16-bit scale and a packed zero; GPTQ adds a 32-bit
    group index per input. Block FP8 keeps a 32-bit scale per 128 x 128 block.
    """
    section = quantization(config)
    if not section:
        return shape.parameters * (4 if config.get("torch_dtype") == "float32" else 2)
    kept = shape.embedding + shape.head + shape.other
    return round(2 * kept + sum(n * _linear(section, i, o) for n, i, o in shape.matrices))


def _linear(section: Mapping[str, object], i: int, o: int) -> float:
    method, width, group = section.get("quant_method"), bits(section), group_size(section)
    groups = ceil(i / group) if group else 1
    if method in ("gptq", "awq", "marlin"):
        index = 4 * i if method == "gptq" else 0
        return i * o * width / 8 + groups * o * (2 + width / 8) + index
    if method == "fp8" and section.get("weight_block_size"):
        return i * o + 4 * ceil(i / 128) * ceil(o / 128)
    if method in ("fp8", "fbgemm_fp8"):
        return i * o + 4 * o
    if method == "mxfp4":
        return i * o * 4.25 / 8
    return i * o * width / 8 + groups * o * 2


def _compressed(section: Mapping[str, object]) -> Mapping[str, object]:
    """The weight scheme of a compressed-tensors checkpoint's first group."""
    groups = section.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        scheme = group.get("weights")
        if isinstance(scheme, Mapping):
            return scheme
    return {}


def loaded_bytes(size: int, config: Config, shape: Shape, method: str | None) -> int:
    """All weights as they sit on the GPUs together, for a checkpoint of `size` bytes.

    float32 checkpoints are read as 16 bit. On-the-fly methods shrink the matrices inside blocks:
    int8 to a byte with a scale per output row, 4 bit to half a byte with a 32-bit scale per 64.
    """
    if quantization(config):
        return size
    if config.get("torch_dtype") == "float32":
        size //= 2
    if method not in ON_THE_FLY:
        return size
    if method in ("bitsandbytes-nf4", "bitsandbytes-fp4"):
        shrunk = shape.linear * (0.5 + 4 / 64)
    else:
        shrunk = shape.linear + sum(4 * n * o for n, _, o in shape.matrices)
    return round(size - 2 * shape.linear + shrunk)


def shard_bytes(total: int, shape: Shape, shards: int) -> int:
    """Weights on one of `shards` GPUs: norms are kept whole, and a head that does not divide."""
    whole = 2 * shape.other
    if shape.vocab % shards:
        whole += 2 * shape.head
    return whole + ceil((total - whole) / shards)


def widest_matrix_bytes(shape: Shape, shards: int) -> int:
    """The 16-bit matrix that is in flight while a method quantizes on the fly."""
    return 2 * max((i * o for _, i, o in shape.matrices), default=0) // shards
