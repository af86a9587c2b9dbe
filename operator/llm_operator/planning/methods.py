"""Which quantizations come into question for a checkpoint and a wish, best quality first.

Decides the meaning of `auto` and whether a wish can be met by this model id at all. Refuses to
know memory. Order of quality: 16 bit; fp8 (lossless in Kurtic et al. 2024, "Give me BF16 or give me
death"); int8 (1-3 % lower there); 4 bit on the fly (round to nearest, no calibration).
"""

from __future__ import annotations

from llm_operator.planning.assess import Rules
from llm_operator.planning.catalogue import relatives
from llm_operator.planning.model import Model
from llm_operator.planning.quantization import ON_THE_FLY, label
from llm_operator.runtimes.terms import NONE, Quantization, Refusal


def methods(wanted: str, model: Model, rules: Rules) -> tuple[Quantization, ...] | Refusal:
    """Candidates in order of quality. An explicit method is the only candidate, or refused."""
    stored = model.quantization
    if stored.method != "none":
        if wanted in ("auto", stored.method):
            return (stored,)
        return Refusal("quantization", _stored_otherwise(wanted, model))
    on_the_fly = [ON_THE_FLY[name] for name in rules.on_the_fly if name in ON_THE_FLY]
    if wanted == "auto":
        return (NONE, *on_the_fly)
    if wanted == "none":
        return (NONE,)
    chosen = next((q for q in on_the_fly if q.method == wanted), None)
    return (chosen,) if chosen else Refusal("quantization", _not_made(wanted, model, rules))


def _stored_otherwise(wanted: str, model: Model) -> str:
    """A quantized checkpoint is what it is."""
    stored = label(model.quantization)
    ways = [f"leave quantization.method unset to run it as {stored}"]
    origin = relatives(model.id).base
    if origin is not None:
        ways.append(f"use the 16-bit {origin}" + _and_method(wanted))
    return f"{model.id} is stored as {stored} and cannot run as {wanted}: {', or '.join(ways)}."


def _and_method(wanted: str) -> str:
    return f" with method {wanted}" if wanted in ON_THE_FLY else ""


def _not_made(wanted: str, model: Model, rules: Rules) -> str:
    """The engine does not quantize to this while it loads."""
    known = relatives(model.id).by_method.get(wanted)
    other = f"set model.id to {known}" if known else f"name a model.id stored as {wanted}"
    return (
        f"{model.id} is a 16-bit checkpoint and {wanted} weights must be made beforehand: {other},"
        f" or use a method made while loading ({', '.join(rules.on_the_fly)})."
    )
