"""What to say about a rollout: a reason, a message with numbers, and whether it goes on.

Words only; nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from llm_operator.api import names
from llm_operator.api.status import Reason
from llm_operator.rollout.canary import Stage
from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import Cause, RevisionSeen


@dataclass(frozen=True)
class Report:
    """`stalled`: it does not go on unless the user or an admin changes something."""

    reason: Reason
    message: str
    stalled: bool = False


def failed(scene: Scene, wanted: RevisionSeen, cause: Cause) -> Report:
    """The wanted revision is marked as failed."""
    way_out = f"change the spec, or set the annotation {names.ANNOTATION_RETRY} to a new value"
    what = f"revision {wanted.name} failed: {cause.reason}: {cause.message.rstrip('.')}"
    target = scene.target
    if target is None or target is wanted:
        message = f"{what}; what runs is left as it is. To go on, {way_out}"
        return Report(_reason(cause), message, stalled=True)
    back = f"back to revision {target.name}, of which {_ready(target)}/{scene.replicas} serve"
    return Report(Reason.ROLLED_BACK, f"{what}; {back}. To go on, {way_out}", stalled=True)


def paused(scene: Scene) -> Report:
    """The user has paused it."""
    text = f"{_progress(scene)}; paused: set rollout.paused to false to go on"
    return Report(Reason.PAUSED, text)


def hopeless(scene: Scene, cause: Cause) -> Report:
    """The target fails, and there is nothing better to go back to."""
    text = f"{_progress(scene)}: {cause.message.rstrip('.')}; no revision to go back to serves"
    return Report(_reason(cause), text, stalled=True)


def stage(scene: Scene, at: Stage) -> Report:
    """A canary pauses, or its analysis takes its time."""
    what = f"{_progress(scene)}; step {at.number} of {at.total}:"
    if at.analysing_until is not None and at.finding is not None:
        found = at.finding.message
        if not at.overdue:
            text = f"{what} analysis until {_moment(at.analysing_until)}: {found}"
            return Report(Reason.ANALYSING, text)
        way_out = "`llm-operator rollout promote` goes on without it"
        return Report(Reason.PAUSED, f"{what} the analysis has come to nothing: {found}; {way_out}")
    if at.until is None:
        until = "waits for `llm-operator rollout promote`"
    else:
        condition = ", if the analysis finds nothing against it" if at.trial else ""
        until = f"goes on at {_moment(at.until)}{condition}"
    return Report(Reason.PAUSED, f"{what} {until}")


def no_room(scene: Scene, goes_on: bool) -> Report:
    """There is no place for the next replica. `goes_on`: one makes room, now or when one serves."""
    need = _gpus(scene.target.gpus if scene.target else 0)
    what = f"{_progress(scene)}; no room for one more replica, which needs {need}"
    if goes_on:
        return Report(Reason.NO_SPARE_GPU, f"{what}: {_one_by_one(scene)}")
    least = _least(scene)
    if scene.replicas == 1:
        way_out = "set rollout.onNoSpareGPU to Recreate, which serves nothing while it loads"
    else:
        way_out = "lower rollout.minAvailable"
    text = (
        f"{what}, and none can be made: {scene.serving} serve, {least}. Free {need}, or {way_out}"
    )
    since = max(scene.waiting_since or 0.0, scene.freed_at)
    late = scene.clock.passed(since + scene.policy.deadline_seconds)
    return Report(Reason.NO_SPARE_GPU, text, stalled=late)


def draining(scene: Scene) -> Report:
    """The next replica waits for the GPUs of pods that still finish their requests."""
    count = len(scene.leaving)
    text = f"{_under_way(scene)}; room comes when {_pods(count)} on the way out have finished"
    return Report(_going_on(scene), text)


def updating(scene: Scene, asking: bool) -> Report:
    """It goes on."""
    text = _under_way(scene)
    if asking:
        text += "; the first new pod is asked the acceptance prompts"
    elif not scene.proven:
        text += "; more follow when the first new one serves"
    if scene.policy.deadline_raised:
        text += (
            f"; rollout.progressDeadlineSeconds counts as {scene.policy.deadline_seconds:.0f},"
            " as starting may take as long as it says"
        )
    return Report(_going_on(scene), text)


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _reason(cause: Cause) -> Reason:
    """The cause's reason; a mark may be of another operator, with words that we do not know."""
    return next((known for known in Reason if known == cause.reason), Reason.CRASHED)


def _progress(scene: Scene) -> str:
    updated = min(_ready(scene.target), scene.replicas)
    older = sum(_ready(r) for r in scene.others)
    return f"{updated}/{scene.replicas} replicas updated, {older} of before serve"


def _going_on(scene: Scene) -> Reason:
    """The reason stays from when room begins to be made until it need not be any more."""
    return Reason.NO_SPARE_GPU if scene.scarce else Reason.UPDATING


def _under_way(scene: Scene) -> str:
    if not scene.scarce:
        return _progress(scene)
    return f"{_progress(scene)}; no GPU to spare: {_one_by_one(scene)}"


def _one_by_one(scene: Scene) -> str:
    return f"replicas are exchanged one at a time, {_least(scene)}"


def _least(scene: Scene) -> str:
    return f"at least {scene.tight_floor} of {scene.replicas} must serve"


def _ready(revision: RevisionSeen | None) -> int:
    return sum(pod.ready for pod in revision.alive) if revision else 0


def _gpus(count: int) -> str:
    return f"{count} GPU" + ("" if count == 1 else "s")


def _pods(count: int) -> str:
    return f"{count} pod" + ("" if count == 1 else "s")
