"""Which quantization a checkpoint has, and which an engine can make from it.

Decides how `quantization_config` of config.json is read and how methods are written for people.
Refuses to know what any engine runs: an unknown method keeps its own name, for the engine to
refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llm_operator.runtimes.terms import NONE, Quantization

ON_THE_FLY: Final = {
    "fp8": Quantization("fp8", 8, on_the_fly=True),
    "eetq": Quantization("eetq", 8, on_the_fly=True),
    "bitsandbytes": Quantization("bitsandbytes", 8, on_the_fly=True),
    "bitsandbytes-nf4": Quantization("bitsandbytes-nf4", 4, group_size=64, on_the_fly=True),
    "bitsandbytes-fp4": Quantization("bitsandbytes-fp4", 4, group_size=64, on_the_fly=True),
}
"""What can be made from a 16-bit checkpoint while it loads, and in which form."""

TYPICAL: Final = {
    "awq": Quantization("awq", 4, group_size=128, symmetric=False),
    "gptq": Quantization("gptq", 4, group_size=128, detail={"checkpoint_format": "gptq"}),
    "compressed-tensors": Quantization("compressed-tensors", 8),
}
"""The usual form of a checkpoint quantized beforehand: what a model needs if there is one."""

LONGEST_NAME: Final = 40
"""Characters of a method's name that are repeated to people."""

_FLOAT8: Final = ("fp8", "fbgemm_fp8")


def checkpoint_quantization(config: Mapping[str, Any]) -> Quantization:
    """How the files of this config.json are stored; 16 bit where it names no quantization."""
    raw = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(raw, Mapping) or not raw:
        return NONE
    detail = _sensible(raw)
    method = str(raw.get("quant_method") or "unnamed").lower()[:LONGEST_NAME]
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed_tensors(detail)
    if method == "bitsandbytes":
        return _bitsandbytes(detail)
    if method in _FLOAT8:
        return Quantization("fp8", 8, detail=detail)
    if method == "mxfp4":
        return Quantization("mxfp4", 4, group_size=32, detail=detail)
    if method == "gptq" and (
        raw.get("is_marlin_format") or raw.get("checkpoint_format") == "marlin"
    ):
        method = "marlin"
    return Quantization(
        method,
        bits_of(raw.get("bits", raw.get("w_bit")), default=4),
        group_size=group_of(raw.get("group_size", raw.get("q_group_size"))),
        desc_act=bool(raw.get("desc_act", False)),
        symmetric=bool(raw.get("sym", not raw.get("zero_point", False))),
        detail=detail,
    )


def _sensible(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's own words; a block that is no pair of sizes is left out for good."""
    detail = dict(raw)
    block = detail.pop("weight_block_size", None)
    sizes = [group_of(one) for one in block] if isinstance(block, list | tuple) else []
    if len(sizes) == 2 and all(sizes):
        detail["weight_block_size"] = sizes
    return detail


def bits_of(value: object, default: int) -> float:
    """A number of bits that makes sense, else the default."""
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 64
    return value if sensible else default  # type: ignore[return-value]


def group_of(value: object) -> int | None:
    """A group size; -1, 0, null and nonsense all mean one group per row."""
    sensible = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if sensible else None  # type: ignore[return-value]


def _compressed_tensors(detail: dict[str, Any]) -> Quantization:
    """The first group of the scheme speaks for the model: the others only name other modules."""
    groups = detail.get("config_groups")
    first: object = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    found: object = first.get("weights") if isinstance(first, dict) else None
    weights = found if isinstance(found, dict) else {}
    return Quantization(
        "compressed-tensors",
        bits_of(weights.get("num_bits"), default=8),
        group_size=group_of(weights.get("group_size")),
        symmetric=bool(weights.get("symmetric", True)),
        detail=detail,
    )


def _bitsandbytes(detail: dict[str, Any]) -> Quantization:
    if detail.get("load_in_4bit"):
        kind = "fp4" if detail.get("bnb_4bit_quant_type") == "fp4" else "nf4"
        return Quantization(f"bitsandbytes-{kind}", 4, group_size=64, detail=detail)
    return Quantization("bitsandbytes", 8, detail=detail)


def label(quantization: Quantization) -> str:
    """How a person writes it: `16 bit`, `AWQ 4-bit g128`, `bitsandbytes-nf4 4-bit`."""
    if quantization.method == "none":
        return "16 bit"
    short = quantization.method in ("awq", "gptq", "fp8", "eetq", "mxfp4", "exl2")
    name = quantization.method.upper() if short else quantization.method
    group = quantization.group_size
    suffix = f" g{group}" if group and not quantization.on_the_fly else ""
    return f"{name} {quantization.bits:g}-bit{suffix}"
