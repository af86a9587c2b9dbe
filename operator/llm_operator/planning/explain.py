"""A plan for people and programs: a summary with stable names, and rows of arithmetic.

Decides words and units (decimal GB). Refuses to know colours, terminals and file formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_operator.planning.assess import gb
from llm_operator.planning.quantization import label
from llm_operator.runtimes.terms import Plan


@dataclass(frozen=True)
class Row:
    """One line of the arithmetic: what, how much, and where it comes from."""

    what: str
    value: str
    note: str = ""


def summary(plan: Plan) -> dict[str, Any]:
    """The plan under the names that `llm-operator plan -o json` promises, `name` apart."""
    q = plan.quantization
    return {
        "gpu": plan.gpu.product if plan.gpu else None,
        "quantization": {"method": q.method, "bits": q.bits, "groupSize": q.group_size},
        "tensorParallel": plan.tensor_parallel,
        "minimumTensorParallel": plan.minimum_tensor_parallel,
        "rejected": [
            {"tensorParallel": one.tensor_parallel, "reason": one.reason} for one in plan.rejected
        ],
        "weightBytes": plan.weight_bytes,
        "weightBytesPerGPU": plan.weight_bytes_per_gpu,
        "kvBytesPerToken": plan.kv_bytes_per_token,
        "kvCacheTokens": plan.kv_cache_tokens,
        "maxConcurrentSequences": plan.max_concurrent_sequences,
        "overheadBytesPerGPU": plan.overhead_bytes_per_gpu,
        "fits": plan.fits,
        "message": " ".join((plan.message, *plan.ways_out)),
        "recommendedTensorParallel": plan.recommended_tensor_parallel,
        "budgetBytesPerGPU": plan.budget_bytes_per_gpu,
        "products": list(plan.products),
        "kvCacheDtype": plan.kv_cache_dtype,
        "weightSource": plan.weight_source,
        "checkpointBytes": plan.checkpoint_bytes,
        "maxInputTokens": plan.max_input_tokens,
        "maxTotalTokens": plan.max_total_tokens,
        "maxConcurrentRequests": plan.max_concurrent_requests,
        "waysOut": list(plan.ways_out),
    }


def explain(plan: Plan) -> tuple[Row, ...]:
    """The arithmetic, one term a row."""
    kv_bytes = plan.kv_cache_tokens * plan.kv_bytes_per_token_per_gpu
    rows = [
        Row("quantization", label(plan.quantization)),
        Row("weights", gb(plan.weight_bytes), plan.weight_source),
        Row("KV cache per token", f"{plan.kv_bytes_per_token:,} bytes", plan.kv_cache_dtype or ""),
    ]
    if plan.tensor_parallel is not None and plan.gpu is not None:
        rows += [
            Row(
                "GPUs per replica",
                f"{plan.tensor_parallel}x {plan.gpu.product or f'{plan.gpu.memory_mib} MiB'}",
                f"minimum {plan.minimum_tensor_parallel},"
                f" recommended {plan.recommended_tensor_parallel or 'none'}",
            ),
            Row("usable per GPU", gb(plan.budget_bytes_per_gpu), "90 % of what the card reports"),
            Row("  weights", gb(plan.weight_bytes_per_gpu)),
            Row("  overhead", gb(plan.overhead_bytes_per_gpu), "CUDA, NCCL, activations, 2 %"),
            Row("  KV cache", gb(kv_bytes), f"{plan.kv_cache_tokens:,} tokens"),
            Row(
                "full-length requests",
                f"{plan.max_concurrent_sequences:,}",
                f"of {plan.max_total_tokens:,} tokens at once",
            ),
        ]
    return tuple(rows)
