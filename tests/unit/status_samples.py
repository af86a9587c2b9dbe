"""Pods and situations to judge, as short to write as a test needs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_operator.facts.cluster import ContainerFact, PodFact
from llm_operator.runtimes.terms import NONE, Gpu, Plan
from llm_operator.status.situation import RevisionSeen, Situation

A100 = Gpu("NVIDIA-A100-SXM4-80GB", 81920, (8, 0))

PLAN = Plan(
    gpu=A100,
    products=(A100.product,),
    quantization=NONE,
    kv_cache_dtype=None,
    tensor_parallel=2,
    minimum_tensor_parallel=1,
    recommended_tensor_parallel=2,
    rejected=(),
    weight_bytes=16 << 30,
    weight_source="formula",
    weight_bytes_per_gpu=8 << 30,
    kv_bytes_per_token=131072,
    kv_bytes_per_token_per_gpu=65536,
    kv_cache_tokens=500_000,
    overhead_bytes_per_gpu=2 << 30,
    budget_bytes_per_gpu=72 << 30,
    max_input_tokens=4095,
    max_total_tokens=4096,
    max_batch_prefill_tokens=4095,
    max_concurrent_requests=128,
    max_concurrent_sequences=122,
    fits=True,
    message="fits",
)

RUNNING = ContainerFact("running", "", "", None, "", 0, started=False)
STARTED = replace(RUNNING, started=True, served=True)


def crashed(message: str, code: int = 1, restarts: int = 1, **changes: Any) -> ContainerFact:
    """A container in back-off whose last words were `message`."""
    fact = ContainerFact("waiting", "CrashLoopBackOff", message, code, "Error", restarts, False)
    return replace(fact, **changes)


def pod(name: str = "p1", **changes: Any) -> PodFact:
    """A pod that loads its model, unless said otherwise."""
    plain = PodFact(
        name=name,
        revision="new",
        created="2026-01-01T00:00:00Z",
        phase="Running",
        reason="",
        message="",
        ready=False,
        deleting=False,
        node="n1",
        scheduled=True,
        unschedulable="",
        container=RUNNING,
    )
    return replace(plain, **changes)


def ready(name: str = "p1", **changes: Any) -> PodFact:
    """A pod that serves."""
    return pod(name, **{"ready": True, "container": STARTED, **changes})


def pending(message: str = "", name: str = "p1") -> PodFact:
    """A pod without a node, and what the scheduler says of it."""
    return pod(
        name, phase="Pending", node="", scheduled=False, container=None, unschedulable=message
    )


def revision(
    *pods: PodFact,
    name: str = "new",
    replicas: int = 1,
    wanted: bool = True,
    refused: str | None = None,
    **changes: Any,
) -> RevisionSeen:
    """A revision with 2 GPUs per replica; the wanted one, unless said otherwise."""
    plain = RevisionSeen(name, wanted, replicas, "image:1", 2, pods, refused)
    return replace(plain, **changes)


def situation(*revisions: RevisionSeen, replicas: int = 1, **changes: Any) -> Situation:
    """Generation 3 of a deployment that has these revisions."""
    plain = Situation(
        generation=3,
        replicas=replicas,
        revisions=revisions,
        plan=PLAN,
        endpoint="http://llama.ns.svc/v1",
        selector="llm-operator.dev/deployment=llama",
    )
    return replace(plain, **changes)
