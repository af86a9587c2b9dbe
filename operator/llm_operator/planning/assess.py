"""One GPU product and one quantization: which tensor-parallel degrees there are, and which is used.

Decides legality (the engine's rules, GPUs of a node), the minimum that fits, the recommended degree
that carries the concurrency asked for. Refuses to compare products or quantizations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llm_operator.planning.cards import is_slice
from llm_operator.planning.fit import Offer, Share, share
from llm_operator.planning.model import Model
from llm_operator.planning.wish import Limits, Wish
from llm_operator.runtimes.terms import Launch, Quantization, Refusal, Rejected


class Rules(Protocol):
    """The part of an engine that the planner asks."""

    on_the_fly: tuple[str, ...]

    def refuse(self, launch: Launch) -> Refusal | None:
        """Why this launch cannot run, or None."""
        ...


@dataclass(frozen=True)
class Assessment:
    """What one offer can do for the model in one quantization.

    `legal` are the degrees that the engine can run, fitting or not; `refusal` says why not even
    the smallest wanted degree can run. `used` is None where nothing fits.
    """

    offer: Offer
    quantization: Quantization
    legal: tuple[Share, ...]
    rejected: tuple[Rejected, ...]
    refusal: Refusal | None
    minimum: Share | None
    recommended: Share | None
    used: Share | None

    @property
    def carries(self) -> bool:
        """Whether the degree used carries the concurrency asked for."""
        return (
            self.used is not None
            and self.recommended is not None
            and self.used.tensor_parallel >= self.recommended.tensor_parallel
        )


def assess(
    wish: Wish, model: Model, limits: Limits, offer: Offer, q: Quantization, rules: Rules
) -> Assessment:
    """Every degree from 1 GPU to all GPUs of a node, judged."""
    weights = model.loaded(q)
    assert weights is not None, "a Model can always be sized, in its own and in derived forms"
    legal: list[Share] = []
    rejected: list[Rejected] = []
    asked = wish.tensor_parallel
    refusal = _refuse(wish, model, limits, offer, q, 1, rules)
    if refusal is not None:  # then it is not the degree that is at fault
        return Assessment(offer, q, (), (), refusal, None, None, None)
    for degree in sorted({*range(1, offer.gpus_per_node + 1), asked or 1}):
        verdict = _refuse(wish, model, limits, offer, q, degree, rules)
        if verdict is not None:
            rejected.append(Rejected(degree, verdict.reason))
            if degree == asked:
                refusal = verdict
            continue
        one = share(
            offer.gpu,
            degree,
            model.shape,
            weights,
            limits,
            kv_cache_dtype=wish.kv_cache_dtype,
            memory_fraction=wish.memory_fraction,
            on_the_fly=q.on_the_fly,
        )
        legal.append(one)
        if not one.fits:
            rejected.append(Rejected(degree, too_small(one, limits)))
    fitting = [one for one in legal if one.fits]
    carrying = [one for one in fitting if one.sequences >= wish.sequences]
    minimum = fitting[0] if fitting else None
    recommended = carrying[0] if carrying else None
    if asked is not None:
        used = next((one for one in fitting if one.tensor_parallel == asked), None)
    else:
        used = recommended or max(fitting, key=lambda one: one.sequences, default=None)
    return Assessment(offer, q, tuple(legal), tuple(rejected), refusal, minimum, recommended, used)


def _refuse(
    wish: Wish,
    model: Model,
    limits: Limits,
    offer: Offer,
    q: Quantization,
    degree: int,
    rules: Rules,
) -> Refusal | None:
    """The engine's verdict on a degree, after the planner's own three reasons."""
    gpu = offer.gpu
    if degree > offer.gpus_per_node:
        return Refusal(
            "tensorParallel",
            f"a replica is one pod on one node, and the largest node with {gpu.product or 'a GPU'}"
            f" has {offer.gpus_per_node}, not {degree}",
        )
    if degree > 1 and is_slice(gpu):
        return Refusal("tensorParallel", f"{degree} MIG slices cannot serve one model together")
    launch = Launch(
        shape=model.shape,
        quantization=q,
        gpu=gpu,
        tensor_parallel=degree,
        version=wish.version,
        kv_cache_dtype=wish.kv_cache_dtype,
        speculate=wish.speculate,
        dtype=wish.dtype,
        custom_attention=wish.attention,
        prefix_caching=wish.prefix_caching,
        prefill_chunking=wish.prefill_chunking,
        max_input_tokens=limits.max_input_tokens,
        max_batch_prefill_tokens=limits.max_batch_prefill_tokens,
    )
    verdict = rules.refuse(launch)
    if verdict is None and degree != wish.tensor_parallel and degree & (degree - 1):
        return Refusal(
            "tensorParallel",
            f"{degree} is not a power of two and would strand GPUs of a node; used only when"
            " parallelism.tensor asks for it",
        )
    return verdict


def too_small(one: Share, limits: Limits) -> str:
    """Why a degree does not fit, in GB per GPU."""
    longest = max(limits.max_total_tokens, limits.max_batch_prefill_tokens)
    return (
        f"needs {gb(one.needed(longest))} per GPU (weights {gb(one.weight_bytes)}, overhead"
        f" {gb(one.overhead_bytes)}, KV cache of {longest:,} tokens"
        f" {gb(longest * one.kv_bytes_per_token)}), {gb(one.budget_bytes)} are usable"
    )


def gb(size: int) -> str:
    """Bytes as decimal GB, the unit of published model sizes."""
    return f"{size / 1e9:.2f} GB" if size < 10e9 else f"{size / 1e9:.1f} GB"
