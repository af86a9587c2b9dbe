"""The decision: wish + model + GPUs + engine -> Plan, or a refusal with its numbers.

Decides the order of preference and nothing else: what each product can do is `assess`, what could
be done instead is `ways_out`. Preferred, in this order: a plan that carries the concurrency which
the user named; the better quantization; one that carries the default concurrency; nodes that exist;
least GPU memory per replica; fewer GPUs; the product's name. Two GPUs are not twice as fast as one
(all-reduces, measured 1.3x on an 8B), so a larger degree is taken for its memory only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llm_operator.planning import kv
from llm_operator.planning.assess import Assessment, Rules, assess, launch_of
from llm_operator.planning.fit import Offer, Share
from llm_operator.planning.methods import methods
from llm_operator.planning.model import Model
from llm_operator.planning.reasons import no_gpu, why_it_fits, why_nothing_fits
from llm_operator.planning.ways_out import ways_out
from llm_operator.planning.wish import DEFAULT_CONCURRENT_REQUESTS, Limits, Wish, limits_of
from llm_operator.runtimes.terms import Plan, Quantization, Refusal


def plan(wish: Wish, model: Model, offers: Iterable[Offer], rules: Rules) -> Plan:
    """How one replica of the model runs on one of these offers; `fits` False where it cannot.

    The same arguments give the same plan, in whatever order the offers come.
    """
    ordered = sorted(offers, key=_offer_key)
    limits = limits_of(wish, model.shape)
    if isinstance(limits, Refusal):
        return _refused(wish, model, model.quantization, None, None, limits.reason)
    candidates = methods(wish.method, model, rules)
    if isinstance(candidates, Refusal):
        ways = ways_out(wish, model, tuple(ordered), rules)
        return _refused(wish, model, model.quantization, limits, None, candidates.reason, ways)
    if not ordered:
        return _refused(wish, model, candidates[0], limits, None, no_gpu(wish))
    assessed: list[Assessment] = []
    for quantization in candidates:  # best first, so the first that carries what is wanted is it
        assessed += [assess(wish, model, limits, offer, quantization, rules) for offer in ordered]
        if any(one.carries for one in assessed):
            break
    usable = [one for one in assessed if one.used is not None]
    if usable:
        best = min(usable, key=lambda one: _preference(wish, candidates, one))
        return _accepted(wish, model, limits, best, ordered, rules)
    nearest = min(assessed, key=lambda one: _nearness(candidates, one))
    alternatives = ways_out(wish, model, tuple(ordered), rules)
    return _refused(
        wish,
        model,
        nearest.quantization,
        limits,
        nearest,
        why_nothing_fits(wish, assessed, nearest),
        alternatives,
    )


def _offer_key(offer: Offer) -> tuple[object, ...]:
    gpu = offer.gpu
    return (gpu.product, gpu.memory_mib, offer.gpus_per_node, not offer.exists, offer.nodes)


def _preference(
    wish: Wish, candidates: tuple[Quantization, ...], one: Assessment
) -> tuple[object, ...]:
    assert one.used is not None
    asked_for = wish.max_concurrent_requests is not None
    degree = one.used.tensor_parallel
    return (
        asked_for and not one.carries,
        candidates.index(one.quantization),
        not one.carries,
        not one.offer.exists,
        degree * one.offer.gpu.memory_mib,
        degree,
        one.offer.gpu.product,
    )


def _nearness(candidates: tuple[Quantization, ...], one: Assessment) -> tuple[object, ...]:
    """Of what does not fit: first what the engine can run, then the most memory on one node."""
    memory = one.offer.gpu.memory_mib * one.offer.gpus_per_node
    return (one.refusal is not None, candidates.index(one.quantization), -memory)


def _accepted(
    wish: Wish,
    model: Model,
    limits: Limits,
    best: Assessment,
    offers: list[Offer],
    rules: Rules,
) -> Plan:
    used = best.used
    assert used is not None
    products = _products(wish, model, limits, best, used, offers, rules)
    admitted = wish.max_concurrent_requests or max(DEFAULT_CONCURRENT_REQUESTS, used.sequences)
    return replace(
        _figures(wish, model, limits, best, used),
        products=products,
        max_concurrent_requests=admitted,
        fits=True,
        message=why_it_fits(wish, limits, best, used),
        warnings=rules.warnings(
            launch_of(wish, model, limits, best.offer.gpu, best.quantization, used.tensor_parallel)
        ),
    )


def _products(
    wish: Wish,
    model: Model,
    limits: Limits,
    best: Assessment,
    used: Share,
    offers: list[Offer],
    rules: Rules,
) -> tuple[str, ...]:
    """Products on which this very plan holds: same degree, limits and quantization."""
    chosen = best.offer.gpu.product
    if not chosen:
        return ()
    if not wish.products:
        return (chosen,)
    pinned = replace(
        wish,
        tensor_parallel=used.tensor_parallel,
        max_batch_prefill_tokens=used.prefill_tokens,
    )
    carried = min(used.sequences, wish.sequences)
    held = [
        assess(pinned, model, limits, offer, best.quantization, rules)
        for offer in offers
        if offer.gpu.product != chosen
    ]
    others = {
        one.offer.gpu.product
        for one in held
        if one.used is not None and one.used.sequences >= carried
    }
    return (chosen, *sorted(others))


def _refused(
    wish: Wish,
    model: Model,
    quantization: Quantization,
    limits: Limits | None,
    nearest: Assessment | None,
    reason: str,
    alternatives: tuple[str, ...] = (),
) -> Plan:
    """A plan that does not fit, with the figures of the nearest thing that would."""
    largest = nearest.legal[-1] if nearest is not None and nearest.legal else None
    known = limits or Limits(0, 0)
    if nearest is not None:
        figures = _figures(wish, model, known, nearest, largest)
    else:
        figures = _bare(wish, model, quantization, known)
    return replace(figures, tensor_parallel=None, message=reason, ways_out=alternatives)


def _figures(
    wish: Wish, model: Model, limits: Limits, one: Assessment, share: Share | None
) -> Plan:
    """The arithmetic of an assessment at one degree, not yet judged."""
    bare = _bare(wish, model, one.quantization, limits)
    with_offer = replace(
        bare,
        gpu=one.offer.gpu,
        minimum_tensor_parallel=one.minimum.tensor_parallel if one.minimum else None,
        recommended_tensor_parallel=one.recommended.tensor_parallel if one.recommended else None,
        rejected=one.rejected,
    )
    if share is None:
        return with_offer
    return replace(
        with_offer,
        tensor_parallel=share.tensor_parallel,
        weight_bytes_per_gpu=share.weight_bytes,
        kv_bytes_per_token_per_gpu=share.kv_bytes_per_token,
        kv_cache_tokens=share.kv_cache_tokens,
        overhead_bytes_per_gpu=share.overhead_bytes,
        budget_bytes_per_gpu=share.budget_bytes,
        max_batch_prefill_tokens=share.prefill_tokens,
        max_concurrent_sequences=share.sequences,
    )


def _bare(wish: Wish, model: Model, quantization: Quantization, limits: Limits) -> Plan:
    """What is known before any GPU is looked at."""
    weights = model.loaded(quantization)
    return Plan(
        gpu=None,
        products=(),
        quantization=quantization,
        kv_cache_dtype=wish.kv_cache_dtype,
        tensor_parallel=None,
        minimum_tensor_parallel=None,
        recommended_tensor_parallel=None,
        rejected=(),
        weight_bytes=weights.total if weights else 0,
        weight_source=f"{model.weight_source} ({model.source})",
        weight_bytes_per_gpu=0,
        kv_bytes_per_token=kv.bytes_per_token(model.shape, wish.kv_cache_dtype),
        kv_bytes_per_token_per_gpu=0,
        kv_cache_tokens=0,
        overhead_bytes_per_gpu=0,
        budget_bytes_per_gpu=0,
        max_input_tokens=limits.max_input_tokens,
        max_total_tokens=limits.max_total_tokens,
        max_batch_prefill_tokens=wish.max_batch_prefill_tokens or limits.max_input_tokens,
        max_concurrent_requests=wish.max_concurrent_requests or DEFAULT_CONCURRENT_REQUESTS,
        max_concurrent_sequences=0,
        fits=False,
        message="",
        checkpoint_bytes=model.checkpoint_bytes or 0,
    )
