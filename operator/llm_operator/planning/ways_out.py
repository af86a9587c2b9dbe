"""What could be done where nothing fits: the nearest changes that would make a plan.

Decides which changes are tried and their order: those that keep the user's GPUs first, then other
cards. Each is planned like the wish itself, so a way out that is named is one that works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from llm_operator.planning.assess import Assessment, Rules, assess, gb
from llm_operator.planning.cards import GPUS_PER_NODE, common_cards
from llm_operator.planning.catalogue import relatives
from llm_operator.planning.fit import Offer
from llm_operator.planning.methods import methods
from llm_operator.planning.model import Model, sixteen_bit
from llm_operator.planning.quantization import TYPICAL, label
from llm_operator.planning.wish import Limits, Wish, limits_of
from llm_operator.runtimes.terms import Quantization, Refusal

NEAREST: Final = 3
SHORTEST_CONTEXT: Final = 512
"""Tokens below which a context is not worth proposing."""

Offers = tuple[Offer, ...]
Found = tuple[Assessment, Limits]
Attempt = Callable[[Wish, Model, Offers, Rules], Iterator[str]]


def ways_out(wish: Wish, model: Model, offers: Offers, rules: Rules) -> tuple[str, ...]:
    """At most three sentences, nearest first; none where nothing known would help."""
    attempts: tuple[Attempt, ...] = (
        _another_degree,
        _another_quantization,
        _shorter_context,
        _smaller_cache,
        _another_card,
    )
    found = (way for attempt in attempts for way in attempt(wish, model, offers, rules))
    return tuple(islice(found, NEAREST))


def _another_degree(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    if wish.tensor_parallel is not None:
        found = _best(replace(wish, tensor_parallel=None), model, offers, rules)
        if found is not None:
            yield f"Without parallelism.tensor it would need {_where(found)}."


def _another_quantization(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    """One made while loading, else one quantized beforehand: what the catalogue has comes first."""
    if model.quantization.method == "none" and wish.method != "auto":
        found = _best(replace(wish, method="auto"), model, offers, rules)
        if found is not None:
            yield f"quantization.method {found[0].quantization.method} would need {_where(found)}."
            return
    yield from islice(_prequantized(wish, model, offers, rules), 1)


def _prequantized(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    known = relatives(model.id).by_method
    for method in sorted(TYPICAL, key=lambda name: name not in known):
        if method == model.quantization.method:
            continue
        form = TYPICAL[method]
        found = _best(replace(wish, dtype=None), sixteen_bit(model), offers, rules, (form,))
        if found is not None:
            what = f"{label(form)} (model.id {known[method]})" if method in known else label(form)
            yield f"{what} would need {_where(found)}."


def _shorter_context(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    limits = limits_of(wish, model.shape)
    total = 0 if isinstance(limits, Refusal) else limits.max_total_tokens // 2
    while total >= SHORTEST_CONTEXT:
        shorter = replace(
            wish, max_total_tokens=total, max_input_tokens=None, max_batch_prefill_tokens=None
        )
        found = _best(shorter, model, offers, rules)
        if found is not None:
            yield f"limits.maxTotalTokens {total} would need {_where(found)}."
            return
        total //= 2


def _smaller_cache(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    if wish.kv_cache_dtype is None:
        found = _best(replace(wish, kv_cache_dtype="fp8_e5m2"), model, offers, rules)
        if found is not None:
            yield f"quantization.kvCacheDtype fp8_e5m2 would need {_where(found)}."


def _another_card(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    """The card on which the wish itself takes least memory, then other forms of the model."""
    cards = tuple(Offer(gpu, GPUS_PER_NODE, nodes=0, exists=False) for gpu in common_cards())
    found = _best(wish, model, cards, rules)
    if found is not None:
        yield f"{label(found[0].quantization)} would need {_where(found)}."
    yield from _another_degree(wish, model, cards, rules)
    yield from _prequantized(wish, model, cards, rules)


def _best(
    wish: Wish,
    model: Model,
    offers: Offers,
    rules: Rules,
    quantizations: tuple[Quantization, ...] | None = None,
) -> Found | None:
    """The first quantization that fits, on the offer where it takes least GPU memory."""
    limits = limits_of(wish, model.shape)
    candidates = quantizations or methods(wish.method, model, rules)
    if isinstance(limits, Refusal) or isinstance(candidates, Refusal):
        return None
    for quantization in candidates:
        usable = [
            one
            for offer in offers
            if (one := assess(wish, model, limits, offer, quantization, rules)).used is not None
        ]
        if usable:
            return min(usable, key=_memory), limits
    return None


def _memory(one: Assessment) -> tuple[int, str]:
    assert one.minimum is not None
    return one.minimum.tensor_parallel * one.offer.gpu.memory_mib, one.offer.gpu.product


def _where(found: Found) -> str:
    """`40.1 GB on 1x NVIDIA-A100-SXM4-80GB (77.3 GB usable)`: all GPUs together, one request."""
    one, limits = found
    least = one.minimum
    assert least is not None
    need = least.tensor_parallel * least.needed(limits.max_total_tokens)
    usable = least.tensor_parallel * least.budget_bytes
    card = one.offer.gpu.product or f"GPU of {one.offer.gpu.memory_mib:,} MiB"
    return f"{gb(need)} on {least.tensor_parallel}x {card} ({gb(usable)} usable)"
