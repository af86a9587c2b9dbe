"""One GPU product and one quantization: which tensor-parallel degrees there are, and which is used.

Decides legality (the engine's rules, GPUs of a node), the minimum that fits, the recommended degree
that carries the concurrency asked for. Refuses to compare products or quantizations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from llm_operator.planning.cards import is_slice
from llm_operator.planning.fit import CHUNK_TOKENS, Offer, Share, share
from llm_operator.planning.model import Model
from llm_operator.planning.wish import Limits, Wish
from llm_operator.runtimes.terms import Gpu, Launch, Quantization, Refusal, Rejected


class Rules(Protocol):
    """The part of an engine that the planner asks."""

    on_the_fly: tuple[str, ...]
    windowed_kv_cache: bool

    def refuse(self, launch: Launch) -> Refusal | None:
        """Why this launch cannot run, or None."""
        ...

    def warnings(self, launch: Launch) -> tuple[str, ...]:
        """What will run, but worse than the user may think."""
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
    alone = _judge(wish, model, limits, offer, q, 1, rules)
    if isinstance(alone, Refusal):  # then it is not the degree that is at fault
        return Assessment(offer, q, (), (), alone, None, None, None)
    refusal: Refusal | None = None
    for degree in sorted({*range(1, offer.gpus_per_node + 1), asked or 1}):
        verdict = _judge(wish, model, limits, offer, q, degree, rules)
        if isinstance(verdict, Refusal):
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
            prefill_tokens=verdict.prefill_tokens,
            kv_cache_dtype=wish.kv_cache_dtype,
            memory_fraction=wish.memory_fraction,
            on_the_fly=q.on_the_fly,
            windowed=rules.windowed_kv_cache,
        )
        legal.append(one)
        if not one.fits:
            rejected.append(Rejected(degree, too_small(one)))
    fitting = [one for one in legal if one.fits]
    carrying = [one for one in fitting if one.sequences >= wish.sequences]
    minimum = fitting[0] if fitting else None
    recommended = carrying[0] if carrying else None
    if asked is not None:
        used = next((one for one in fitting if one.tensor_parallel == asked), None)
    else:
        used = recommended or max(fitting, key=lambda one: one.sequences, default=None)
    return Assessment(offer, q, tuple(legal), tuple(rejected), refusal, minimum, recommended, used)


@dataclass(frozen=True)
class _Allowed:
    """The engine can do it; `prefill_tokens` None leaves the prefill batch to the memory."""

    prefill_tokens: int | None


def _judge(
    wish: Wish,
    model: Model,
    limits: Limits,
    offer: Offer,
    q: Quantization,
    degree: int,
    rules: Rules,
) -> Refusal | _Allowed:
    """The engine's verdict on a degree, after the planner's own reasons.

    A prompt longer than a chunk is computed in chunks where the engine can, else at once.
    """
    gpu = offer.gpu
    if degree > offer.gpus_per_node:
        return Refusal(
            "tensorParallel",
            f"a replica is one pod on one node, and the largest node with {gpu.product or 'a GPU'}"
            f" has {offer.gpus_per_node}, not {degree}",
        )
    if degree > 1 and is_slice(gpu):
        return Refusal("tensorParallel", f"{degree} MIG slices cannot serve one model together")
    launch = launch_of(wish, model, limits, gpu, q, degree)
    verdict = rules.refuse(launch)
    if verdict is not None:
        return verdict
    if degree != wish.tensor_parallel and degree & (degree - 1):
        return Refusal(
            "tensorParallel",
            f"{degree} is not a power of two and would strand GPUs of a node; used only when"
            " parallelism.tensor asks for it",
        )
    if wish.max_batch_prefill_tokens is None and limits.max_input_tokens > CHUNK_TOKENS:
        chunked = replace(launch, max_batch_prefill_tokens=CHUNK_TOKENS)
        if rules.refuse(chunked) is None:
            return _Allowed(CHUNK_TOKENS)
    return _Allowed(wish.max_batch_prefill_tokens)


def launch_of(
    wish: Wish, model: Model, limits: Limits, gpu: Gpu, q: Quantization, degree: int
) -> Launch:
    """The question to the engine: may this run so?"""
    return Launch(
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
        max_batch_prefill_tokens=wish.max_batch_prefill_tokens or limits.max_input_tokens,
    )


def too_small(one: Share) -> str:
    """Why a degree does not fit, in GB per GPU."""
    cache = one.warm_up_tokens * one.kv_bytes_per_token
    return (
        f"needs {gb(one.needed_bytes)} per GPU (weights {gb(one.weight_bytes)}, overhead"
        f" {gb(one.overhead_bytes)}, KV cache of {one.warm_up_tokens:,} tokens {gb(cache)}),"
        f" {gb(one.budget_bytes)} are usable"
    )


def requests(count: int, tokens: int) -> str:
    """So many requests of full length in words."""
    return f"{count:,} request{'' if count == 1 else 's'} of {tokens:,} tokens at once"


def gb(size: int) -> str:
    """Bytes as decimal GB, the unit of published model sizes."""
    return f"{size / 1e9:.2f} GB" if size < 10e9 else f"{size / 1e9:.1f} GB"
