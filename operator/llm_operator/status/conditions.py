"""Which conditions hold, in kstatus' sense, each with one reason and a message with numbers.

Ready: every replica of the wanted revision serves and nothing older is left. Available: somebody
answers. Reconciling and Stalled are there only while True, and never both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm_operator.api.status import Condition, ConditionType, Reason
from llm_operator.status.causes import Failure, creation_refused, failure
from llm_operator.status.situation import RevisionSeen, Situation


@dataclass(frozen=True)
class Verdict:
    """What the object is about right now."""

    ready: bool
    stuck: bool
    reason: Reason
    message: str


def failures(situation: Situation) -> tuple[Failure, ...]:
    """Causes of all pods that do not serve, the wanted revision's first, by pod name."""
    revisions = sorted(situation.revisions, key=lambda r: (not r.wanted, r.name))
    return tuple(cause for r in revisions for cause in _causes(r, situation))


def _causes(revision: RevisionSeen, situation: Situation) -> list[Failure]:
    """Causes within one revision, by pod name.

    An ended pod that its ReplicaSet has replaced says nothing about now and is left out.
    """
    if revision.ready >= revision.replicas:
        return []
    alive = {pod.name for pod in revision.alive}
    found = []
    if revision.refused and len(alive) < revision.replicas:
        found.append(creation_refused(revision.refused))
    for pod in sorted(revision.pods, key=lambda pod: pod.name):
        cause = failure(pod, situation.lost_nodes)
        if cause and (pod.name in alive or len(alive) < revision.replicas):
            found.append(cause)
    return found


def verdict(situation: Situation) -> Verdict:
    """The one thing to say about the object; first rule that applies.

    What ails a revision that is on its way out says nothing about the wish.
    """
    wanted, progress = situation.wanted, situation.progress
    if situation.held is not None:
        held = situation.held
        return Verdict(False, held.stuck, held.reason, _still_serving(held.message, situation))
    if progress is not None and not (wanted and progress.is_plain):
        return Verdict(False, progress.stuck, progress.reason, progress.message)
    if wanted is None:
        return Verdict(False, False, Reason.CREATING, "the pods are being created")
    causes = _causes(wanted, situation)
    cause = _main_cause(causes)
    # Whether there is room for one more is told by the rollout, which knows who is about to go.
    if cause and not (progress and cause.room):
        message = _still_serving(_cause_message(cause, causes, wanted, situation), situation)
        # What cannot come up beside something that serves is given up by us: no need to act yet.
        return Verdict(False, cause.stuck and progress is None, cause.reason, message)
    if progress is not None:
        return Verdict(False, False, progress.reason, progress.message)
    older = sum(len(r.left) for r in situation.revisions if not r.wanted)
    if wanted.ready >= situation.replicas and older:
        message = f"{_share(wanted, situation)} updated; {_pods(older)} of the previous revision"
        return Verdict(False, False, Reason.UPDATING, f"{message} still to go")
    if wanted.ready < situation.replicas:
        return Verdict(False, False, *_on_the_way(wanted, older, situation))
    if len(wanted.alive) > situation.replicas or wanted.replicas != situation.replicas:
        count = len(wanted.alive)
        return Verdict(False, False, Reason.SCALING, f"{_pods(count)}, {situation.replicas} wanted")
    if situation.replicas == 0:
        return Verdict(True, False, Reason.SCALED_TO_ZERO, "0 replicas wanted, 0 run")
    return Verdict(True, False, Reason.READY, f"{_share(wanted, situation)} serve")


def conditions(
    situation: Situation, judged: Verdict, previous: Iterable[Condition], now: str
) -> list[Condition]:
    """The conditions to write; lastTransitionTime moves only where `status` flips.

    `now` is RFC 3339 in UTC.
    """
    known = {condition.type: condition for condition in previous}

    def condition(kind: ConditionType, holds: bool, reason: Reason, message: str) -> Condition:
        status = "True" if holds else "False"
        before = known.get(kind.value)
        same = before is not None and before.status == status
        return Condition(
            type=kind.value,
            status="True" if holds else "False",
            reason=reason.value,
            message=message,
            last_transition_time=before.last_transition_time if same and before else now,
            observed_generation=situation.generation,
        )

    serving = situation.ready
    available = Reason.AVAILABLE if serving else Reason.UNAVAILABLE
    if situation.replicas == 0:
        available = Reason.SCALED_TO_ZERO
    found = [
        condition(ConditionType.READY, judged.ready, judged.reason, judged.message),
        condition(ConditionType.AVAILABLE, serving > 0, available, f"{_replicas(serving)} serving"),
    ]
    if judged.stuck:
        found.append(condition(ConditionType.STALLED, True, judged.reason, judged.message))
    elif not judged.ready:
        found.append(condition(ConditionType.RECONCILING, True, judged.reason, judged.message))
    if seen := situation.scaling:
        found.append(
            condition(ConditionType.SCALING_ACTIVE, seen.active, seen.reason, seen.message)
        )
    if situation.drifted:
        found.append(
            condition(ConditionType.DRIFTED, True, Reason.TEMPLATE_EDITED, situation.drifted)
        )
    return found


def _main_cause(causes: Sequence[Failure]) -> Failure | None:
    """The first cause that is stuck, else the first."""
    return next((c for c in causes if c.stuck), causes[0] if causes else None)


def _cause_message(
    cause: Failure, causes: Sequence[Failure], wanted: RevisionSeen, situation: Situation
) -> str:
    same = sum(c.reason == cause.reason for c in causes)
    text = f"{_share(wanted, situation)} ready; {_pods(same)}: {cause.message}"
    if cause.reason is Reason.WAITING_FOR_GPU and situation.plan and situation.plan.gpu:
        per_pod = f"{wanted.gpus_per_replica} x {situation.plan.gpu.product}"
        text = f"{_share(wanted, situation)} ready; {_pods(same)} wait for {per_pod} each:"
        text += f" {cause.message}"
    if cause.restarts:
        text += f" ({cause.restarts} restarts)"
    others = sorted({c.reason.value for c in causes} - {cause.reason.value})
    return text + (f"; also {', '.join(others)}" if others else "")


def _on_the_way(wanted: RevisionSeen, older: int, situation: Situation) -> tuple[Reason, str]:
    share = f"{_share(wanted, situation)} ready"
    if older:
        return Reason.UPDATING, f"{share}; meanwhile {_pods(older)} of the previous revision"
    if not wanted.alive:
        return Reason.CREATING, f"{share}; pods are being created"
    return Reason.LOADING, f"{share}; the others load the model"


def _still_serving(message: str, situation: Situation) -> str:
    older = sum(r.ready for r in situation.revisions if not r.wanted)
    if not older:
        return message
    return f"{message.removesuffix('.')}; what ran before goes on: {_replicas(older)} serving"


def _share(wanted: RevisionSeen, situation: Situation) -> str:
    return f"{min(wanted.ready, situation.replicas)}/{situation.replicas} replicas"


def _replicas(count: int) -> str:
    return f"{count} replica" + ("" if count == 1 else "s")


def _pods(count: int) -> str:
    return f"{count} pod" + ("" if count == 1 else "s")
