"""Why a plan fits, or why there is none: sentences with numbers, sizes in decimal GB.

Decides words only.
"""

from __future__ import annotations

from llm_operator.planning.assess import Assessment, gb, requests
from llm_operator.planning.fit import Share
from llm_operator.planning.quantization import label
from llm_operator.planning.wish import Limits, Wish


def why_it_fits(wish: Wish, limits: Limits, one: Assessment, used: Share) -> str:
    n, gpu = used.tensor_parallel, one.offer.gpu
    card = gpu.product or f"GPU of {gpu.memory_mib:,} MiB"
    text = (
        f"{label(one.quantization)} on {n}x {card}: per GPU {gb(used.weight_bytes)} weights +"
        f" {gb(used.overhead_bytes)} overhead of {gb(used.budget_bytes)} usable; KV cache for"
        f" {used.kv_cache_tokens:,} tokens: {requests(used.sequences, limits.max_total_tokens)}."
    )
    if used.sequences < wish.sequences and wish.max_concurrent_requests is not None:
        text += (
            f" That is fewer than the {wish.sequences:,} asked for, and the most that these GPUs"
            " carry: the others wait in the queue."
        )
    if not one.offer.exists:
        text += f" No node has {card} yet."
    if gpu.compute_capability is None:
        text += (
            " The compute capability is not known (gpu.memory by hand): what depends on it was not"
            " checked."
        )
    return text


def no_gpu(wish: Wish) -> str:
    if wish.products:
        return (
            f"no node has {' or '.join(wish.products)} and the card catalogue does not know"
            " it: name a product of a node in gpu.products, or its memory in gpu.memory."
        )
    return (
        f"no node offers {wish.resource} with a product label: name gpu.products to wait for such"
        " a node, or gpu.memory for nodes without labels."
    )


def why_nothing_fits(wish: Wish, assessed: list[Assessment], nearest: Assessment) -> str:
    """The engine's reason where it can run none of it, else the memory that is missing."""
    asked = wish.tensor_parallel
    if nearest.refusal is not None:
        legal = sorted({s.tensor_parallel for one in assessed for s in one.legal})
        reason = nearest.refusal.reason.rstrip(".")
        if asked is not None and nearest.refusal.about == "tensorParallel":
            possible = ", ".join(map(str, legal)) or "none"
            return f"parallelism.tensor {asked}: {reason}. Possible here: {possible}."
        return f"{reason}."
    gpu, most = nearest.offer.gpu, nearest.legal[-1]
    if asked is not None:
        most = next(one for one in nearest.legal if one.tensor_parallel == asked)
    card = gpu.product or f"GPUs of {gpu.memory_mib:,} MiB"
    reason = next(
        entry.reason for entry in nearest.rejected if entry.tensor_parallel == most.tensor_parallel
    )
    return (
        f"{label(nearest.quantization)} does not fit {most.tensor_parallel}x {card}, the most that"
        f" {'was asked for' if asked else 'one node and this model allow'}: it {reason}."
        f"{_not_even(assessed, nearest, most)}"
    )


def _not_even(assessed: list[Assessment], nearest: Assessment, most: Share) -> str:
    """Where several quantizations were tried: the one that came closest."""
    others = [
        (share.needed_bytes, one.quantization)
        for one in assessed
        for share in one.legal
        if one.offer == nearest.offer
        and one.quantization != nearest.quantization
        and share.tensor_parallel == most.tensor_parallel
    ]
    if not others:
        return ""
    needed, quantization = min(others, key=lambda other: other[0])
    return f" Nor does {label(quantization)}, made while loading: it needs {gb(needed)} per GPU."
