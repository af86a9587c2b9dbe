"""A plan under stable names, for programs and for the record of a decision."""

from __future__ import annotations

from typing import Any

from llm_operator.runtimes.terms import Plan


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
        "warnings": list(plan.warnings),
    }
