"""Plans and specs that the tests of runtimes and desired objects share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.desired.revision import Defaults, resolve
from llm_operator.runtimes.base import Resolved
from llm_operator.runtimes.terms import NONE, Gpu, Plan, Quantization

Json = dict[str, Any]

A100 = Gpu("NVIDIA-A100-SXM4-80GB", 81920, (8, 0))
COMMIT = "5206a32e0bd3067aef1ce90f5528ade7d866253f"
AWQ = Quantization("awq", 4, 128, symmetric=False)
EETQ = Quantization("eetq", 8, on_the_fly=True)

PLAN_8B = Plan(
    gpu=A100,
    products=(A100.product,),
    quantization=NONE,
    kv_cache_dtype=None,
    tensor_parallel=1,
    minimum_tensor_parallel=1,
    recommended_tensor_parallel=1,
    rejected=(),
    weight_bytes=16_060_522_496,
    weight_source="published files",
    weight_bytes_per_gpu=16_060_522_496,
    kv_bytes_per_token=131_072,
    kv_bytes_per_token_per_gpu=131_072,
    kv_cache_tokens=400_000,
    overhead_bytes_per_gpu=2_800_000_000,
    budget_bytes_per_gpu=77_309_411_328,
    max_input_tokens=3072,
    max_total_tokens=4096,
    max_batch_prefill_tokens=4096,
    max_concurrent_requests=128,
    max_concurrent_sequences=97,
    fits=True,
    message="fits",
    checkpoint_bytes=16_060_522_496,
)


def plan(**facts: Any) -> Plan:
    """A plan for an 8B model on an A100, but for `facts`."""
    return replace(PLAN_8B, **facts)


def spec(**parts: Any) -> LLMDeploymentSpec:
    """A spec as a user writes it, in camelCase; the model is named unless `parts` does."""
    return LLMDeploymentSpec.model_validate(
        {"model": {"id": "meta-llama/Llama-3.1-8B-Instruct"}, **parts}
    )


def resolved(
    of: LLMDeploymentSpec, plan: Plan = PLAN_8B, defaults: Defaults | None = None
) -> Resolved:
    """What the operator makes of a spec and a plan."""
    return resolve(of, plan, COMMIT, defaults or Defaults())
