"""One model in every quantization: size, GPUs, fit. For LLaMA-7B beside a published table.

Decides which forms are compared and how each can be had. Speed and quality are quoted, never
promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from llm_operator.cli.plan_input import Question
from llm_operator.planning import Model, plan
from llm_operator.planning.assess import gb
from llm_operator.planning.catalogue import relatives
from llm_operator.planning.model import sixteen_bit
from llm_operator.planning.quantization import ON_THE_FLY, TYPICAL, label
from llm_operator.planning.tensors import tensors
from llm_operator.planning.weights import weights
from llm_operator.runtimes.terms import NONE, ModelShape, Plan, Quantization


@dataclass(frozen=True)
class Form:
    """The model in one quantization. `gpus` is None where it does not fit or cannot be run."""

    quantization: str
    weight_bytes: int
    gpus: int | None
    gpu: str | None
    requests: int
    how: str


@dataclass(frozen=True)
class Quoted:
    """A row of a published table beside the operator's own figure."""

    row: str
    quoted_bytes: int
    own_bytes: int
    convention: str
    reason: str

    @property
    def distance(self) -> float:
        """Own over quoted, minus one."""
        return self.own_bytes / self.quoted_bytes - 1


@dataclass(frozen=True)
class Comparison:
    """The forms of one deployment's model; `why_not` where the model is not known."""

    name: str
    model_id: str
    note: str
    forms: tuple[Form, ...] = ()
    quoted: tuple[Quoted, ...] = ()
    why_not: str | None = None


QUOTED_SPEED: Final = (
    "The published table also says: FP32 1x and 100 % accuracy, INT8 3.2x and 98.5 %. No source for"
    " these was found, so they are not promised: measured, LLM.int8 is slower than fp16 (BLOOM-176B"
    " by 15 to 23 %, Hugging Face), and W8A8 integer loses 1 to 3 % (Kurtic et al. 2024)."
)


def compare(question: Question) -> Comparison:
    """Every form that the engine knows, and FP32 for reference."""
    if isinstance(question.model, str):
        return Comparison(question.name, question.model_id, question.note, why_not=question.model)
    model = question.model
    return Comparison(
        question.name,
        question.model_id,
        question.note,
        tuple(_forms(question, model)),
        tuple(_beside_published(model.shape)) if _is_llama_7b(model.shape) else (),
    )


def as_json(table: Comparison) -> dict[str, Any]:
    """The comparison with camelCase names."""
    return {
        "name": table.name,
        "model": table.model_id,
        "message": table.why_not,
        "quantizations": [
            {
                "quantization": form.quantization,
                "weightBytes": form.weight_bytes,
                "gpu": form.gpu,
                "tensorParallel": form.gpus,
                "maxConcurrentSequences": form.requests,
                "fits": form.gpus is not None,
                "message": form.how,
            }
            for form in table.forms
        ],
        "published": [
            {
                "row": row.row,
                "quotedBytes": row.quoted_bytes,
                "ownBytes": row.own_bytes,
                "distance": round(row.distance, 4),
                "convention": row.convention,
                "reason": row.reason,
            }
            for row in table.quoted
        ],
    }


def _forms(question: Question, model: Model) -> Iterator[Form]:
    stored = model.quantization
    base = model if stored == NONE else sixteen_bit(model)
    reference = weights(base.shape, NONE, "float32")
    if reference is not None:
        yield Form("FP32", reference.total, None, None, 0, "for reference: engines run 16 bit")
    free = replace(question.wish, method="auto", dtype=None)
    known = relatives(model.id)
    names = {"none": known.base or "", **known.by_method, stored.method: model.id}
    on_the_fly = [ON_THE_FLY[name] for name in question.rules.on_the_fly if name in ON_THE_FLY]
    for form in (NONE, *on_the_fly):
        made = plan(replace(free, method=form.method), base, question.offers, question.rules)
        how = "" if form == NONE else f"quantization.method {form.method}"
        yield _form(form, made, _with_model(how, names.get("none"), stored == NONE))
    beforehand = [form for form in TYPICAL.values() if form.method != stored.method]
    if stored != NONE:
        beforehand.insert(0, stored)
    for form in beforehand:
        other = model if form == stored else replace(base, quantization=form)
        made = plan(free, other, question.offers, question.rules)
        named = names.get(form.method)
        yield _form(form, made, f"model.id {named}" if named else "no checkpoint known")


def _with_model(how: str, base: str | None, is_this_one: bool) -> str:
    if is_this_one:
        return how or "this model.id"
    source = f"model.id {base}" if base else "needs a 16-bit checkpoint"
    return f"{source}, {how}" if how else source


def _form(form: Quantization, made: Plan, how: str) -> Form:
    return Form(
        label(form),
        made.weight_bytes,
        made.tensor_parallel,
        made.gpu.product if made.gpu and made.fits else None,
        made.max_concurrent_sequences if made.fits else 0,
        how if made.fits else _why_not(made),
    )


def _why_not(made: Plan) -> str:
    """In a few words where memory is short, else the engine's own."""
    if not made.budget_bytes_per_gpu:
        return made.message
    cache = made.max_total_tokens * made.kv_bytes_per_token_per_gpu
    needed = made.weight_bytes_per_gpu + made.overhead_bytes_per_gpu + cache
    return f"needs {gb(needed)} per GPU at best, {gb(made.budget_bytes_per_gpu)} are usable"


def _is_llama_7b(shape: ModelShape) -> bool:
    """By dimensions, as no name is to be trusted: the first LLaMA and Llama 2 with 7B."""
    return (
        shape.model_type == "llama"
        and (shape.hidden_size, shape.layers, shape.intermediate_size) == (4096, 32, 11008)
        and shape.vocab_size == 32000
    )


def _beside_published(shape: ModelShape) -> Iterator[Quoted]:
    """The LLaMA-7B table that this project set out from, each own figure with its convention."""
    linears = sum(tensor.parameters for tensor in tensors(shape) if tensor.linear)
    no_group = _total(shape, Quantization("gptq", 4, detail={"checkpoint_format": "gptq"}))
    yield Quoted(
        "FP32",
        26_000_000_000,
        _total(shape, NONE, "float32"),
        "every parameter in 32 bit",
        f"the linears of the blocks alone are {4 * linears / 1e9:.2f} GB",
    )
    yield Quoted(
        "INT8",
        6_500_000_000,
        _total(shape, ON_THE_FLY["eetq"]),
        "linears of the blocks in 8 bit with 16-bit scales; embedding, head and norms in 16 bit",
        f"the linears of the blocks alone are {linears / 1e9:.2f} GB",
    )
    yield Quoted(
        "4-bit GPTQ",
        3_800_000_000,
        _total(shape, TYPICAL["gptq"]),
        "groups of 128 with scale and zero point; embedding, head and norms in 16 bit",
        f"without groups it is {no_group / 1e9:.2f} GB",
    )


def _total(shape: ModelShape, quantization: Quantization, dtype: str = "float16") -> int:
    found = weights(shape, quantization, dtype)
    assert found is not None, "these methods have a formula"
    return found.total
