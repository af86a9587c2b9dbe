"""The whole status of one object, and which Events its change is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llm_operator.api.status import (
    AcceptanceStatus,
    Condition,
    FailureStatus,
    LLMDeploymentStatus,
    PlanStatus,
    QuantizationStatus,
    Reason,
    RejectedStatus,
    RevisionStatus,
)
from llm_operator.runtimes.terms import Plan
from llm_operator.status import conditions as judge
from llm_operator.status.situation import RevisionSeen, Situation

MAX_FAILURES = 8
"""More would only repeat the same cause; the count is in the message."""

MAX_WARNINGS = 8

MAX_REVISIONS = 16
"""More can only be pods that still drain after a burst of edits; they come last."""


@dataclass(frozen=True)
class Notice:
    """An Event to publish."""

    warning: bool
    reason: str
    note: str


def summarise(situation: Situation, previous: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status to write, as JSON. `previous` is the status there is; `now` RFC 3339 UTC."""
    causes = judge.failures(situation)
    judged = judge.verdict(situation)
    before = _previous_conditions(previous)
    wanted = situation.wanted
    status = LLMDeploymentStatus(
        observed_generation=situation.generation,
        conditions=judge.conditions(situation, judged, before, now),
        replicas=sum(len(r.alive) for r in situation.revisions),
        ready_replicas=situation.ready,
        selector=situation.selector,
        ready=f"{min(situation.ready, situation.replicas)}/{situation.replicas}",
        reason=_with_progress(judged, situation),
        gpus=wanted.gpus_per_replica * situation.replicas if wanted else None,
        current_revision=wanted.name if wanted else None,
        image=wanted.image if wanted else None,
        endpoint=situation.endpoint,
        plan=plan_status(situation.plan, _floats(wanted)) if situation.plan else None,
        scaling=situation.scaling.shown if situation.scaling else None,
        revisions=[revision_status(r) for r in situation.revisions[:MAX_REVISIONS]],
        failures=[
            FailureStatus(pod=c.pod, reason=c.reason.value, message=c.message, restarts=c.restarts)
            for c in causes[:MAX_FAILURES]
        ],
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _with_progress(judged: judge.Verdict, situation: Situation) -> str:
    """The reason for a table's column: how far an update is, or what it was rolled back for."""
    wanted = situation.wanted
    if judged.reason in (Reason.UPDATING, Reason.NO_SPARE_GPU):
        ready = min(wanted.ready, situation.replicas) if wanted else 0
        return f"{judged.reason} {ready}/{situation.replicas}"
    if judged.reason is Reason.ROLLED_BACK and wanted and wanted.failed:
        return f"{judged.reason}: {wanted.failed[0]}"
    return judged.reason


def revision_status(seen: RevisionSeen) -> RevisionStatus:
    """One revision as status shows it."""
    return RevisionStatus(
        name=seen.name,
        wanted=seen.wanted,
        state=seen.state,
        reason=seen.failed[0] if seen.failed else None,
        message=seen.failed[1] if seen.failed else None,
        created=seen.created or None,
        replicas=seen.replicas,
        pods=len(seen.alive),
        ready=seen.up,
        serving=seen.ready,
        draining=seen.draining,
        image=seen.image,
        model=seen.model,
        commit=seen.commit,
        acceptance=[
            AcceptanceStatus(
                tokens=result.tokens, seconds=round(result.seconds, 2), fault=result.fault or None
            )
            for result in seen.answers
        ],
    )


def _floats(wanted: RevisionSeen | None) -> tuple[str, ...]:
    """A warning where pods of one revision may come to serve different weights."""
    if wanted is None or wanted.floats is None:
        return ()
    return (
        f"no commit is pinned: each pod loads what {wanted.floats!r} of the model is when it"
        " starts. Set model.revision to a commit; a later revision is pinned by itself if the Hub"
        " answers",
    )


def plan_status(plan: Plan, warnings: Sequence[str] = ()) -> PlanStatus:
    """The plan as status shows it, with more to be warned of."""
    return PlanStatus(
        fits=plan.fits,
        message=plan.message,
        gpu=plan.gpu.product if plan.gpu else None,
        products=list(plan.products),
        quantization=QuantizationStatus(
            method=plan.quantization.method,
            bits=plan.quantization.bits,
            group_size=plan.quantization.group_size,
        ),
        kv_cache_dtype=plan.kv_cache_dtype,
        tensor_parallel=plan.tensor_parallel,
        minimum_tensor_parallel=plan.minimum_tensor_parallel,
        recommended_tensor_parallel=plan.recommended_tensor_parallel,
        rejected=[
            RejectedStatus(tensor_parallel=r.tensor_parallel, reason=r.reason)
            for r in plan.rejected
        ],
        weight_bytes=plan.weight_bytes,
        weight_source=plan.weight_source,
        weight_bytes_per_gpu=plan.weight_bytes_per_gpu,
        kv_bytes_per_token=plan.kv_bytes_per_token,
        kv_cache_tokens=plan.kv_cache_tokens,
        overhead_bytes_per_gpu=plan.overhead_bytes_per_gpu,
        budget_bytes_per_gpu=plan.budget_bytes_per_gpu,
        max_input_tokens=plan.max_input_tokens,
        max_total_tokens=plan.max_total_tokens,
        max_concurrent_requests=plan.max_concurrent_requests,
        max_concurrent_sequences=plan.max_concurrent_sequences,
        ways_out=list(plan.ways_out),
        warnings=[*warnings, *plan.warnings][:MAX_WARNINGS],
    )


def notices(previous: Mapping[str, Any], status: Mapping[str, Any]) -> Sequence[Notice]:
    """Events for what has changed: Ready flipped, or the reason for not being ready is another."""
    before = {c.type: c for c in _previous_conditions(previous)}.get("Ready")
    after = next(c for c in _previous_conditions(status) if c.type == "Ready")
    told = [Notice(False, Reason.ACCEPTED, note) for note in _accepted(previous, status)]
    told.extend(_scaled(previous, status))
    if before is not None and (before.status, before.reason) == (after.status, after.reason):
        return told
    stalled = any(c["type"] == "Stalled" for c in status["conditions"])
    troubled = after.status == "False" and bool(stalled or status.get("failures"))
    return [*told, Notice(troubled, after.reason, after.message)]


def _accepted(previous: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    """What to tell of revisions that have been accepted since."""
    known = {r["name"] for r in previous.get("revisions") or () if r.get("acceptance")}
    for one in status.get("revisions") or ():
        if one.get("acceptance") and one["name"] not in known:
            slowest = max(result["seconds"] for result in one["acceptance"])
            count = len(one["acceptance"])
            yield (
                f"revision {one['name']} answered {count} of {count} prompts as expected, the"
                f" slowest in {slowest:.1f} s"
            )


def _scaled(previous: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Notice]:
    """What to tell of scaling: another number of replicas, or metrics that come or go."""
    before = (previous.get("scaling") or {}).get("lastDecision") or {}
    after = (status.get("scaling") or {}).get("lastDecision")
    if after is None or (before.get("time"), before.get("reason")) == (
        after["time"],
        after["reason"],
    ):
        return
    if after["previous"] != after["replicas"] or before.get("metrics", "") != after["metrics"]:
        yield Notice(after["metrics"] == "Missing", after["reason"], after["message"])


def _previous_conditions(status: Mapping[str, Any]) -> list[Condition]:
    """Conditions of a status read back; what cannot be read counts as not there."""
    found = []
    for raw in status.get("conditions") or ():
        try:
            found.append(Condition.model_validate(raw))
        except ValidationError:
            continue
    return found
