"""What could be done where nothing fits: the nearest changes that would make a plan.

Decides which changes are tried and their order: those that keep the user's GPUs first. Each is
planned like the wish itself, so a way out that is named is one that works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Alternative:
    """A change that would make a plan, as a sentence without a full stop."""

    text: str


def ways_out(
    wish: Wish, model: Model, offers: tuple[Offer, ...], rules: Rules
) -> tuple[Alternative, ...]:
    """At most three, nearest first; none where nothing known would help."""
    found: Iterator[Alternative] = (
        alternative
        for attempt in (
            _another_degree,
            _another_quantization,
            _shorter_context,
            _smaller_cache,
            _another_card,
        )
        if (alternative := attempt(wish, model, offers, rules)) is not None
    )
    return tuple(islice(found, NEAREST))


def _try(
    wish: Wish,
    model: Model,
    offers: tuple[Offer, ...],
    rules: Rules,
    quantizations: tuple[Quantization, ...] | None = None,
) -> tuple[Assessment, Limits] | None:
    """The first quantization that fits, on the offer where it takes least memory."""
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
    assert one.used is not None
    return one.used.tensor_parallel * one.offer.gpu.memory_mib, one.offer.gpu.product


def _where(found: tuple[Assessment, Limits]) -> str:
    """`40.1 GB on 1x NVIDIA-A100-SXM4-80GB (77.3 GB usable)`: of what is needed for one request."""
    one, limits = found
    least = one.minimum
    assert least is not None
    need = least.tensor_parallel * least.needed(limits.max_total_tokens)
    usable = least.tensor_parallel * least.budget_bytes
    card = one.offer.gpu.product or f"GPU of {one.offer.gpu.memory_mib:,} MiB"
    return f"{gb(need)} on {least.tensor_parallel}x {card} ({gb(usable)} usable)"


def _another_degree(
    wish: Wish, model: Model, offers: tuple[Offer, ...], rules: Rules
) -> Alternative | None:
    if wish.tensor_parallel is None:
        return None
    found = _try(replace(wish, tensor_parallel=None), model, offers, rules)
    if found is None:
        return None
    return Alternative(f"without parallelism.tensor it would need {_where(found)}")


def _another_quantization(
    wish: Wish, model: Model, offers: tuple[Offer, ...], rules: Rules
) -> Alternative | None:
    """Methods made while loading, then checkpoints quantized beforehand, by catalogue if it can."""
    free = replace(wish, dtype=None)
    if model.quantization.method == "none":
        found = _try(replace(free, method="auto"), model, offers, rules)
        if found is not None:
            return Alternative(
                f"quantization.method {found[0].quantization.method} would need {_where(found)}"
            )
    base = sixteen_bit(model)
    known = relatives(model.id)
    for method in sorted(TYPICAL, key=lambda name: name not in known.by_method):
        typical = TYPICAL[method]
        if method == model.quantization.method:
            continue
        found = _try(free, base, offers, rules, (typical,))
        if found is not None:
            named = known.by_method.get(method)
            where = f"model.id {named}" if named else f"a checkpoint in {label(typical)}"
            name = "" if named is None else f"{label(typical)} "
            return Alternative(
                f"{name}({where}) would need {_where(found)}"
                if named
                else f"{where} would need {_where(found)}"
            )
    return None


def _shorter_context(
    wish: Wish, model: Model, offers: tuple[Offer, ...], rules: Rules
) -> Alternative | None:
    limits = limits_of(wish, model.shape)
    total = 0 if isinstance(limits, Refusal) else limits.max_total_tokens // 2
    while total >= 512:
        shorter = replace(
            wish, max_total_tokens=total, max_input_tokens=None, max_batch_prefill_tokens=None
        )
        found = _try(shorter, model, offers, rules)
        if found is not None:
            return Alternative(f"limits.maxTotalTokens {total} would need {_where(found)}")
        total //= 2
    return None


def _smaller_cache(
    wish: Wish, model: Model, offers: tuple[Offer, ...], rules: Rules
) -> Alternative | None:
    if wish.kv_cache_dtype is not None:
        return None
    found = _try(replace(wish, kv_cache_dtype="fp8_e5m2"), model, offers, rules)
    if found is None:
        return None
    return Alternative(f"quantization.kvCacheDtype fp8_e5m2 would need {_where(found)}")


def _another_card(
    wish: Wish, model: Model, offers: tuple[Offer, ...], rules: Rules
) -> Alternative | None:
    cards = tuple(Offer(gpu, GPUS_PER_NODE, 0, False) for gpu in common_cards())
    found = _try(wish, model, cards, rules)
    if found is None:
        return None
    return Alternative(f"{label(found[0].quantization)} would need {_where(found)}")
