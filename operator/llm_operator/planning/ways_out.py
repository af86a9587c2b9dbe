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
from llm_operator.planning.fit import Offer, Share
from llm_operator.planning.methods import methods
from llm_operator.planning.model import Model, sixteen_bit
from llm_operator.planning.quantization import TYPICAL, label
from llm_operator.planning.wish import Wish, limits_of
from llm_operator.runtimes.terms import Quantization, Refusal

NEAREST: Final = 3
SHORTEST_CONTEXT: Final = 512
"""Tokens below which a context is not worth proposing."""

Offers = tuple[Offer, ...]
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
    return tuple(islice(dict.fromkeys(found), NEAREST))


def _another_degree(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    if wish.tensor_parallel is not None:
        free = replace(wish, tensor_parallel=None)
        found = _best(free, model, offers, rules) or _best(free, model, _cards(), rules)
        if found is not None:
            yield f"Without parallelism.tensor it would need {_where(found, free)}."


def _another_quantization(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    """The 16-bit model or what is made of it while loading; what is quantized beforehand."""
    found = None
    if model.quantization.method != "none":
        plain = sixteen_bit(model)
        found = _best(replace(wish, method="auto"), plain, offers, rules)
        what = f"{relatives(model.id).base or 'A 16-bit checkpoint'} "
    elif wish.method != "auto":
        found = _best(replace(wish, method="auto"), model, offers, rules)
        what = "The same model.id "
    prequantized = _prequantized(wish, model, offers, rules)
    if wish.method in TYPICAL:  # what the user asked for is nearest
        yield from islice(prequantized, 1)
    if found is not None:
        method = found.quantization.method
        how = "in 16 bit" if method == "none" else f"with quantization.method {method}"
        yield f"{what}{how} would need {_where(found, wish)}."
    else:
        yield from islice(prequantized, 1)


def _prequantized(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    """The method asked for, then what the catalogue has, then what somebody would have to make."""
    known = relatives(model.id).by_method
    order = sorted(TYPICAL, key=lambda name: (name != wish.method, name not in known))
    for method in order:
        if method == model.quantization.method:
            continue
        form = TYPICAL[method]
        found = _best(replace(wish, dtype=None), sixteen_bit(model), offers, rules, (form,))
        if found is not None:
            named = f"model.id {known[method]}" if method in known else "if there is a checkpoint"
            yield f"{label(form)} ({named}) would need {_where(found, wish)}."


def _shorter_context(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    limits = limits_of(wish, model.shape)
    total = 0 if isinstance(limits, Refusal) else limits.max_total_tokens // 2
    while total >= SHORTEST_CONTEXT:
        shorter = replace(wish, max_total_tokens=total, max_input_tokens=None)
        found = _best(shorter, model, offers, rules)
        if found is not None:
            yield f"limits.maxTotalTokens {total} would need {_where(found, wish)}."
            return
        total //= 2


def _smaller_cache(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    if wish.kv_cache_dtype is None:
        found = _best(replace(wish, kv_cache_dtype="fp8_e5m2"), model, offers, rules)
        if found is not None:
            yield f"quantization.kvCacheDtype fp8_e5m2 would need {_where(found, wish)}."


def _another_card(wish: Wish, model: Model, offers: Offers, rules: Rules) -> Iterator[str]:
    """The card on which the wish itself takes least memory, then other forms of the model."""
    found = _best(wish, model, _cards(), rules)
    if found is not None:
        yield f"{label(found.quantization)} would need {_where(found, wish)}."
    yield from _prequantized(wish, model, _cards(), rules)


def _cards() -> Offers:
    return tuple(Offer(gpu, GPUS_PER_NODE, nodes=0, exists=False) for gpu in common_cards())


def _best(
    wish: Wish,
    model: Model,
    offers: Offers,
    rules: Rules,
    quantizations: tuple[Quantization, ...] | None = None,
) -> Assessment | None:
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
            return min(usable, key=lambda one: _memory(one, wish))
    return None


def _memory(one: Assessment, wish: Wish) -> tuple[int, str]:
    degree = _least(one, wish).tensor_parallel
    return degree * one.offer.gpu.memory_mib, one.offer.gpu.product


def _least(one: Assessment, wish: Wish) -> Share:
    """The smallest degree that fits, or the one asked for."""
    least = one.minimum if wish.tensor_parallel is None else one.used
    assert least is not None, "only what fits is a way out"
    return least


def _where(found: Assessment, wish: Wish) -> str:
    """`40.1 GB on 1x NVIDIA-A100-SXM4-80GB (77.3 GB usable)`: all GPUs together, one request."""
    least = _least(found, wish)
    need = least.tensor_parallel * least.needed_bytes
    usable = least.tensor_parallel * least.budget_bytes
    gpu = found.offer.gpu
    card = gpu.product or f"GPU of {gpu.memory_mib:,} MiB"
    return f"{gb(need)} on {least.tensor_parallel}x {card} ({gb(usable)} usable)"
