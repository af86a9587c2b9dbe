"""Plans and comparisons as a page each, and as JSON. Pure: plans in, a view out.

Decides words, colours and bars. Sizes are decimal (GB), as published model sizes are.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_operator.cli.plan_compare import QUOTED_SPEED, Comparison
from llm_operator.cli.plan_input import Planned
from llm_operator.cli.plan_scaling import targets
from llm_operator.cli.view import memory_bar, rejected_degrees
from llm_operator.planning import summary
from llm_operator.planning.assess import gb, requests
from llm_operator.planning.fit import USABLE_SHARE
from llm_operator.runtimes.terms import Plan

_UNKNOWN = dict.fromkeys(
    (
        "gpu",
        "quantization",
        "tensorParallel",
        "minimumTensorParallel",
        "rejected",
        "weightBytes",
        "weightBytesPerGPU",
        "kvBytesPerToken",
        "kvCacheTokens",
        "maxConcurrentSequences",
        "overheadBytesPerGPU",
    )
)
_BAR_CELLS = 48


def as_json(planned: Planned) -> dict[str, Any]:
    """One deployment's plan under the names that the documentation promises."""
    plan = planned.plan
    if isinstance(plan, str):
        return {"name": planned.question.name, **_UNKNOWN, "rejected": [], "fits": False} | {
            "message": plan
        }
    told = {"name": planned.question.name, **summary(plan)}
    if scaled := targets(planned):
        told["autoscaling"] = scaled.as_json()
    return told


def page(planned: Planned) -> RenderableType:
    """One deployment: what it gets, and the arithmetic."""
    question, plan = planned.question, planned.plan
    verdict = ("fits", "bold green") if planned.fits else ("does not fit", "bold red")
    head = Text.assemble((question.name, "bold"), "  ", verdict, "  ", (question.model_id, "dim"))
    if isinstance(plan, str):
        return Group(head, Padding(Text(plan), (0, 2)))
    parts: list[RenderableType] = [Text(_decision(plan) if plan.fits else plan.message)]
    parts += [Text(f"way out: {way}", "yellow") for way in plan.ways_out]
    parts += [Text(f"note: {warning}", "yellow") for warning in plan.warnings]
    parts += _arithmetic(plan)
    if scaled := targets(planned):
        parts.append(Text(scaled.sentence()))
    if len(plan.products) > 1:
        parts.append(Text(f"the same plan holds on {', '.join(plan.products[1:])}", "dim"))
    rejected = ((one.tensor_parallel, one.reason) for one in plan.rejected)
    parts += [Text(line, "dim") for line in rejected_degrees(rejected)]
    parts.append(Text(f"planned for {question.note}", "dim"))
    return Group(head, Padding(Group(*parts), (0, 2)))


def _decision(plan: Plan) -> str:
    """The message without the figures that the page shows anyway."""
    carried = f"{plan.minimum_tensor_parallel} would do for one request"
    if plan.recommended_tensor_parallel is None:
        carried += "; no number of GPUs here carries the concurrency asked for"
    elif plan.recommended_tensor_parallel != plan.minimum_tensor_parallel:
        carried += f", {plan.recommended_tensor_parallel} for the concurrency asked for"
    elif plan.tensor_parallel == plan.minimum_tensor_parallel:
        carried = "the fewest that do"
    return f"{plan.message.split(':')[0]} ({carried})"


def _arithmetic(plan: Plan) -> list[RenderableType]:
    """The bar of one GPU and its terms; for a refusal what is known of the model."""
    grid = Table.grid(padding=(0, 2))
    for side in ("left", "left", "right", "left"):
        grid.add_column(justify=side)
    per_token = f"{plan.kv_bytes_per_token:,} bytes per token"
    if plan.gpu is None or not plan.fits:
        grid.add_row("", "weights", gb(plan.weight_bytes), Text(plan.weight_source, "dim"))
        grid.add_row("", "KV cache", "", Text(per_token, "dim"))
        return [grid]
    free = plan.budget_bytes_per_gpu - plan.weight_bytes_per_gpu - plan.overhead_bytes_per_gpu
    rows: list[tuple[tuple[str, str], str, int, str]] = [
        (
            ("█", "blue"),
            "weights",
            plan.weight_bytes_per_gpu,
            f"of {gb(plan.weight_bytes)} in all, by {plan.weight_source}",
        ),
        (
            ("▓", "yellow"),
            "overhead",
            plan.overhead_bytes_per_gpu,
            f"CUDA, communication, a prefill of {plan.max_batch_prefill_tokens:,} tokens, 2 %",
        ),
        (
            ("▒", "green"),
            "KV cache",
            free,
            f"{plan.kv_cache_tokens:,} tokens, {per_token}:"
            f" {requests(plan.max_concurrent_sequences, plan.max_total_tokens)}",
        ),
        (
            ("·", "dim"),
            "kept free",
            plan.gpu.memory_bytes - plan.budget_bytes_per_gpu,
            f"{USABLE_SHARE:.0%} of {gb(plan.gpu.memory_bytes)} is planned with",
        ),
    ]
    for (glyph, style), what, amount, note in rows:
        grid.add_row(Text(glyph, style), what, gb(amount), Text(note, "dim"))
    bar = memory_bar(summary(plan), _BAR_CELLS)
    head = Text.assemble("each GPU  ", bar or "", f"  {gb(plan.gpu.memory_bytes)}")
    return [head, grid]


def comparison(table: Comparison) -> RenderableType:
    """The quantizations of one model, smallest print last."""
    head = Text.assemble((table.name, "bold"), "  ", (table.model_id, "dim"))
    if table.why_not is not None:
        return Group(head, Padding(Text(table.why_not), (0, 2)))
    sizes = {form.quantization: form.weight_bytes for form in table.forms}
    grid = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("QUANTIZATION", "WEIGHTS", "OF 16 BIT", "GPUS", "REQUESTS", "HOW, OR WHY NOT"):
        right = title in ("WEIGHTS", "OF 16 BIT", "REQUESTS")
        grid.add_column(title, justify="right" if right else "left", no_wrap="HOW" not in title)
    for form in table.forms:
        fits = form.gpus is not None
        grid.add_row(
            form.quantization,
            f"{form.weight_bytes / 1e9:.2f} GB",
            f"{form.weight_bytes / sizes['16 bit']:.0%}",
            f"{form.gpus}x {form.gpu or 'GPU'}" if fits else "-",
            f"{form.requests:,}" if fits else "-",
            Text(form.how, "" if fits else "dim"),
        )
    parts: list[RenderableType] = [head, grid]
    if table.quoted:
        parts.append(_published(table))
    parts.append(Padding(Text(f"planned for {table.note}", "dim"), (0, 2)))
    return Group(*parts)


def _published(table: Comparison) -> RenderableType:
    grid = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("LLAMA-7B", "QUOTED", "OWN", "DISTANCE", "OWN FIGURE COUNTS", "AND"):
        right = title in ("QUOTED", "OWN", "DISTANCE")
        grid.add_column(title, justify="right" if right else "left")
    for row in table.quoted:
        grid.add_row(
            row.row,
            f"{row.quoted_bytes / 1e9:g} GB",
            f"{row.own_bytes / 1e9:.2f} GB",
            f"{row.distance:+.1%}",
            row.convention,
            row.reason,
        )
    quoted = Text("\nBeside the published table that this project set out from:", "bold")
    return Group(Padding(quoted, (0, 2)), grid, Padding(Text(QUOTED_SPEED, "dim"), (0, 2)))
