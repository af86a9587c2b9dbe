"""What the user wants of the planner, taken from the spec once.

Decides which fields of the spec bear on the plan, and what unset limits mean. Refuses to know the
model's weights and the GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llm_operator.api.spec import LLMDeploymentSpec, Runtime
from llm_operator.runtimes.quantities import parse_quantity
from llm_operator.runtimes.terms import ModelShape, Refusal

DEFAULT_TOTAL_TOKENS: Final = 4096
"""Context planned for where the user names none: enough for chat, and 0.5 GiB of KV for an 8B."""

ANSWER_TOKENS: Final = 1024
"""Part of the context kept for the answer where the user does not divide it; at most a quarter."""

DEFAULT_SEQUENCES: Final = 2
"""Requests of full length that a replica should hold where the user names no concurrency. Usual
requests are a quarter as long, so this is about eight of them."""

DEFAULT_CONCURRENT_REQUESTS: Final = 128
"""Running or waiting, TGI's own default: what does not fit at once waits in the engine's queue,
where the autoscaler sees it."""


@dataclass(frozen=True)
class Wish:
    """The user's wishes that bear on the plan; None is unset. `version` is the engine's."""

    version: tuple[int, int, int]
    method: str = "auto"
    kv_cache_dtype: str | None = None
    tensor_parallel: int | None = None
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_concurrent_requests: int | None = None
    max_batch_prefill_tokens: int | None = None
    products: tuple[str, ...] = ()
    gpu_memory_mib: int | None = None
    resource: str = "nvidia.com/gpu"
    memory_fraction: float = 1.0
    dtype: str | None = None
    speculate: int | None = None
    attention: str | None = None
    prefix_caching: bool | None = None
    prefill_chunking: bool | None = None
    rope_factor: float = 1.0

    @property
    def sequences(self) -> int:
        """Requests of full length that the plan should carry at once."""
        return self.max_concurrent_requests or DEFAULT_SEQUENCES


@dataclass(frozen=True)
class Limits:
    """Tokens of one request, resolved."""

    max_input_tokens: int
    max_total_tokens: int


def wish_from(spec: LLMDeploymentSpec, version: tuple[int, int, int]) -> Wish:
    """The wishes of a spec, for this version of its engine."""
    runtime = spec.runtime or Runtime()
    gpu, limits, quantization = spec.gpu, spec.limits, spec.quantization
    tensor = spec.parallelism.tensor if spec.parallelism else None
    return Wish(
        version=version,
        method=(quantization and quantization.method) or "auto",
        kv_cache_dtype=quantization.kv_cache_dtype if quantization else None,
        tensor_parallel=tensor if isinstance(tensor, int) else None,
        max_input_tokens=limits.max_input_tokens if limits else None,
        max_total_tokens=limits.max_total_tokens if limits else None,
        max_concurrent_requests=limits.max_concurrent_requests if limits else None,
        max_batch_prefill_tokens=runtime.max_batch_prefill_tokens,
        products=tuple(sorted(set(gpu.products or ()))) if gpu else (),
        gpu_memory_mib=int(parse_quantity(gpu.memory)) >> 20 if gpu and gpu.memory else None,
        resource=(gpu and gpu.resource_name) or "nvidia.com/gpu",
        memory_fraction=runtime.cuda_memory_fraction or 1.0,
        dtype=runtime.dtype,
        speculate=runtime.speculate,
        attention=runtime.attention,
        prefix_caching=runtime.prefix_caching,
        prefill_chunking=runtime.prefill_chunking,
        rope_factor=runtime.rope_scaling.factor if runtime.rope_scaling else 1.0,
    )


def limits_of(wish: Wish, shape: ModelShape) -> Limits | Refusal:
    """The limits asked for, with what is unset derived from the others and the model's context."""
    ceiling = shape.max_position_embeddings
    if ceiling is not None:
        ceiling = int(ceiling * wish.rope_factor)
    total, given = wish.max_total_tokens, wish.max_input_tokens
    if total is None:
        total = DEFAULT_TOTAL_TOKENS if given is None else given + min(ANSWER_TOKENS, given)
        total = min(total, ceiling) if ceiling else total
        total = max(2, total)
    if ceiling is not None and max(total, given or 0) > ceiling:
        return Refusal(
            "model",
            f"the model has {ceiling:,} position embeddings, fewer than the"
            f" {max(total, given or 0):,} tokens asked for: set limits.maxTotalTokens to at most"
            f" {ceiling:,}, or runtime.ropeScaling.",
        )
    inputs = given if given is not None else max(1, total - min(ANSWER_TOKENS, total // 4))
    if inputs >= total:
        return Refusal(
            "model",
            f"limits.maxInputTokens {inputs:,} leaves no room for an answer within {total:,}"
            " tokens: set it below limits.maxTotalTokens.",
        )
    return Limits(inputs, total)
