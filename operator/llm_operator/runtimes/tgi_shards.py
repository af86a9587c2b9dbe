"""How text-generation-inference cuts a model into shards, and which cuts it cannot make.

Decides from the model's dimensions: heads, sizes, groups and blocks of quantized weights, and the
tiles of the Marlin kernel. Refuses to know versions and options (`tgi_rules`). In reasons, numbers
are those of the launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llm_operator.runtimes.terms import Launch, ModelShape, Refusal

MULTI_QUERY: Final = frozenset(
    {"falcon", "RefinedWeb", "RefinedWebModel", "gpt_bigcode", "santacoder"}
)
"""Families whose single KV head is kept whole by each shard. The Llama family checks that shards
divide KV heads and makes no exception for one; Gemma-2B with two shards is reported to fail."""
NEVER_SHARDED: Final = frozenset({"mamba", "ssm"})
MARLIN_GROUPS: Final = (None, -1, 32, 64, 128)
AMPERE: Final = (8, 0)
HOPPER: Final = (9, 0)


def _shardable(launch: Launch) -> Refusal | None:
    n, shape = launch.tensor_parallel, launch.shape
    if n < 2:
        return None
    if launch.quantization.method == "exl2":
        why = "exl2 weights cannot be sharded"
    elif shape.model_type in NEVER_SHARDED:
        why = f"{shape.model_type} models cannot be sharded"
    elif shape.options.get("alibi"):
        why = f"{shape.model_type} with alibi cannot be sharded"
    else:
        return None
    return Refusal(
        "tensorParallel",
        f"{why}, so {n} GPUs per replica cannot be: set parallelism.tensor to 1 or use another"
        " quantization of this model.",
    )


def _divisible(launch: Launch) -> Refusal | None:
    n, shape = launch.tensor_parallel, launch.shape
    dimensions = {"attention heads": shape.heads}
    whole = shape.kv_heads == 1 and shape.model_type in MULTI_QUERY
    if shape.mla is None and not whole:
        dimensions["KV heads (TGI does not replicate them)"] = shape.kv_heads
    dimensions["hidden size"] = shape.hidden_size
    dimensions |= {f"{name} intermediate size": size for name, size in _mlps(shape).items()}
    for what, size in dimensions.items():
        if size % n:
            return Refusal(
                "tensorParallel",
                f"{n} shards do not divide {size} {what}: choose a divisor of {size}.",
            )
    return None


def _linears(launch: Launch) -> list[tuple[str, int, tuple[int, ...]]]:
    """(name, inputs, outputs of each part) of one shard's quantized linears. Empty for MLA.

    TGI fuses the parts in most families, not in all.
    """
    n, s = launch.tensor_parallel, launch.shape
    if s.mla is not None:
        return []
    heads = s.heads // n * s.head_dim
    kv = (s.kv_heads if s.kv_heads == 1 else s.kv_heads // n) * s.head_dim
    linears: list[tuple[str, int, tuple[int, ...]]] = [
        ("attention input", s.hidden_size, (heads, kv, kv)),
        ("attention output", heads, (s.hidden_size,)),
    ]
    for name, size in _mlps(s).items():
        linears.append((f"{name} input", s.hidden_size, (size // n, size // n)))
        linears.append((f"{name} output", size // n, (s.hidden_size,)))
    return linears


def _mlps(shape: ModelShape) -> dict[str, int]:
    """Intermediate sizes of the feed-forward blocks that the model really has, by name."""
    moe = shape.moe
    if moe is None:
        return {"MLP": shape.intermediate_size}
    dense = moe.first_dense > 0 or bool(moe.dense_layers)
    sizes = {
        "MLP": shape.intermediate_size if dense else 0,
        "expert": moe.intermediate_size,
        "shared expert": moe.shared_intermediate_size,
    }
    return {name: size for name, size in sizes.items() if size}


def _groups(launch: Launch) -> Refusal | None:
    q = launch.quantization
    group = q.group_size
    if q.on_the_fly or group is None or group <= 0:
        return None
    for name, size, _ in _linears(launch):
        if size % group:
            return Refusal(
                "tensorParallel" if launch.tensor_parallel > 1 else "quantization",
                f"{q.method} group size {group} does not divide the {size} inputs that each of"
                f" {launch.tensor_parallel} shards keeps of the {name}: use a smaller"
                " parallelism.tensor or a checkpoint with smaller groups.",
            )
    return None


def _blocks(launch: Launch) -> Refusal | None:
    """fp8 with a scale per square block: the scales are sharded like the weights."""
    n, shape = launch.tensor_parallel, launch.shape
    square = launch.quantization.detail.get("weight_block_size")
    if not isinstance(square, list | tuple) or not square:
        return None
    sizes = _mlps(shape)
    if shape.mla is None:
        sizes["attention"] = shape.heads * shape.head_dim
        if shape.kv_heads > 1:
            sizes["KV heads"] = shape.kv_heads * shape.head_dim
    for name, size in sizes.items():
        blocks = -(-size // int(square[0]))
        if blocks % n:
            return Refusal(
                "tensorParallel",
                f"{n} shards do not divide the {blocks} blocks of {square[0]} in the {name} size"
                f" {size}: use a parallelism.tensor that divides {blocks}.",
            )
    return None


def _marlin(launch: Launch) -> Refusal | None:
    q = launch.quantization
    if q.method == "marlin" and (q.group_size not in (None, -1, 128) or q.bits not in (4, 8)):
        return Refusal(
            "quantization",
            f"marlin weights have group size 128 or none and 4 or 8 bits, not {q.group_size} and"
            f" {q.bits}: use a gptq or awq checkpoint.",
        )
    if not _runs_on_marlin(launch):
        return None
    tiles = ((128, 256),) if q.method == "marlin" else ((128, 64), (64, 128))
    for name, inputs, parts in _linears(launch):
        for outputs in (sum(parts),) if q.method == "marlin" else parts:
            if any(inputs % a == 0 and outputs % b == 0 for a, b in tiles):
                continue
            allowed = " or ".join(f"({a}, {b})" for a, b in tiles)
            return Refusal(
                "tensorParallel" if launch.tensor_parallel > 1 else "quantization",
                f"the Marlin kernel needs (inputs, outputs) in multiples of {allowed}; with"
                f" {launch.tensor_parallel} shards the {name} is ({inputs}, {outputs}): use a"
                " smaller parallelism.tensor or another quantization.",
            )
    return None


def _runs_on_marlin(launch: Launch) -> bool:
    q, cc = launch.quantization, launch.gpu.compute_capability
    if q.method == "marlin":
        return True
    if cc is None or cc < AMPERE:
        return False
    if q.method == "fp8":
        return cc < HOPPER
    supported = q.bits in (4, 8) and q.group_size in MARLIN_GROUPS
    return supported and (q.method == "awq" or (q.method == "gptq" and q.symmetric))


RULES: Final[tuple[Callable[[Launch], Refusal | None], ...]] = (
    _shardable,
    _divisible,
    _groups,
    _blocks,
    _marlin,
)
