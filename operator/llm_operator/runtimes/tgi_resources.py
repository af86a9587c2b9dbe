"""Memory, disk and CPU of a TGI container: what it asks the node for, and its volumes.

Decides requests that the user left open, and where files go. Refuses to know GPU memory: that is
the plan. Figures are rules of thumb, made visible here as constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.runtimes.base import Json, Resolved
from llm_operator.runtimes.quantities import GIB, gibibytes, parse_quantity
from llm_operator.runtimes.terms import Plan
from llm_operator.runtimes.tgi_options import SHM_BYTES

HF_HOME: Final = "/data"
MODELS: Final = "/models"

CPUS_PER_POD: Final = 2
CPUS_PER_GPU: Final = 1
MEMORY_PER_POD: Final = 4 * GIB
MEMORY_PER_GPU: Final = 2 * GIB
MEMORY_PER_GPU_QUANTIZING: Final = 5 * GIB
"""On the fly, each shard holds a file of the 16-bit checkpoint; 5 GB is the usual size of one."""

SCRATCH_BYTES: Final = 2 * GIB
"""Tokenizer, remote code, temporary files of a download."""
CACHE_LIMIT_FACTOR: Final = 2
"""TGI fetches every safetensors file at the top of a repository; some keep the weights there twice,
so the limit is twice the request."""


def _cache_bytes(spec: LLMDeploymentSpec, plan: Plan) -> int | None:
    """What the node-local Hub cache will hold, with a fifth to spare; None if a claim does."""
    if spec.model.path is not None:
        return SCRATCH_BYTES
    if spec.model.cache is not None:
        return None
    return max(plan.checkpoint_bytes, plan.weight_bytes) * 6 // 5 + SCRATCH_BYTES


def volumes(
    spec: LLMDeploymentSpec, plan: Plan, tensor_parallel: int
) -> tuple[list[Json], list[Json]]:
    """Volumes of the pod and mounts of the container: the Hub cache, the models, shared memory."""
    cache = _cache_bytes(spec, plan)
    claim = spec.model.cache.claim_name if spec.model.cache else None
    if cache is None:
        found: list[Json] = [{"name": "cache", "persistentVolumeClaim": {"claimName": claim}}]
    else:
        most = gibibytes(cache * CACHE_LIMIT_FACTOR)
        found = [{"name": "cache", "emptyDir": {"sizeLimit": most}}]
    mounts: list[Json] = [{"name": "cache", "mountPath": HF_HOME}]
    if spec.model.path is not None:
        source = {"claimName": claim, "readOnly": True}
        found.append({"name": "models", "persistentVolumeClaim": source})
        mounts.append({"name": "models", "mountPath": MODELS, "readOnly": True})
    if tensor_parallel > 1:
        shm = {"medium": "Memory", "sizeLimit": gibibytes(SHM_BYTES)}
        found.append({"name": "shm", "emptyDir": shm})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return found, mounts


def resources(spec: LLMDeploymentSpec, resolved: Resolved, gpus: int) -> Json:
    """GPUs from the plan; requests by the figures above; limits only where the user set one.

    A guessed memory limit would kill a healthy model, a request only reserves. /dev/shm is memory.
    """
    plan = resolved.plan
    memory = MEMORY_PER_POD + gpus * MEMORY_PER_GPU
    if plan.quantization.on_the_fly:
        memory += gpus * MEMORY_PER_GPU_QUANTIZING
    if gpus > 1:
        memory += SHM_BYTES
    defaults = {"cpu": str(CPUS_PER_POD + gpus * CPUS_PER_GPU), "memory": gibibytes(memory)}
    if (cache := _cache_bytes(spec, plan)) is not None:
        defaults["ephemeral-storage"] = gibibytes(cache)
    wanted = spec.resources
    limits = _plain(wanted.limits if wanted else None)
    for name, limit in limits.items():
        if name in defaults and parse_quantity(limit) < parse_quantity(defaults[name]):
            defaults[name] = limit
    requests = defaults | _plain(wanted.requests if wanted else None)
    gpu = {resolved.gpu_resource: str(gpus)}
    return {"limits": {**limits, **gpu}, "requests": {**requests, **gpu}}


def _plain(quantities: Mapping[Any, str] | None) -> dict[str, str]:
    return {str(name): quantity for name, quantity in (quantities or {}).items()}
