"""What has been told of scaling: decisions as status shows them, and which are worth telling.

Numbers change with every tick; status is written when what is decided, or what it rests on, does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from llm_operator.api.status import (
    DecisionStatus,
    PastDecisionStatus,
    Reason,
    ScalingStatus,
    TermStatus,
)
from llm_operator.scaling.terms import Decision, State, Why
from llm_operator.status.situation import ScalingSeen

LAST = 20
"""Decisions that status keeps."""
LASTING_SECONDS = 30.0
"""A change that leaves the number of replicas as it is counts once it has lasted so long."""

_LASTING = (Why.AT_MAXIMUM, Why.SCHEDULED)
"""Reasons to stay that a user may want to do something about."""

_REASONS = {
    State.COMPLETE: Reason.METRICS_COMPLETE,
    State.PARTIAL: Reason.METRICS_PARTIAL,
    State.MISSING: Reason.METRICS_MISSING,
}


class Mode(StrEnum):
    """Whose word counts: the scaler's, the user's while the scaler advises, or somebody else's."""

    AUTO = "Auto"
    ADVISE = "Advise"
    ASIDE = "Aside"


@dataclass
class Told:
    """What status says, or is about to say: the last decision worth telling, and those before.

    `mode` and `desired` are of the status that was read at the start, None if there was none.
    """

    last: DecisionStatus | None = None
    past: tuple[PastDecisionStatus, ...] = ()
    mode: Mode | None = None
    desired: int | None = None
    _pending: tuple[str, str] | None = field(default=None, repr=False)
    _since: float = 0.0

    def take(self, decision: Decision) -> bool:
        """Take note of a decision; True if status is to tell it."""
        last = self.last
        if decision.replicas == (decision.previous if last is None else last.replicas):
            kind = _kind(decision.state.value, decision.why.value)
            if decision.why is Why.WARMING_UP or (
                last is not None and kind == _kind(last.metrics, last.reason)
            ):
                self._pending = None
                return False
            first_known = last is None and decision.state is State.COMPLETE
            if not first_known and not self._lasts(kind, decision.at):
                return False
        self._pending = None
        self.last = _shown(decision)
        short = PastDecisionStatus(
            **self.last.model_dump(include=set(PastDecisionStatus.model_fields))
        )
        self.past = (short, *self.past)[:LAST]
        return True

    def _lasts(self, kind: tuple[str, str], at: float) -> bool:
        """Whether decisions have been of this kind for long enough."""
        if self._pending != kind:
            self._pending, self._since = kind, at
        return not 0 <= at - self._since < LASTING_SECONDS

    def seen(
        self,
        mode: Mode,
        minimum: int,
        maximum: int,
        desired: int,
        user_replicas: int,
        writers: tuple[str, ...],
    ) -> ScalingSeen:
        """For status: the whole of `status.scaling`, and what the condition says."""
        advised = self.last.replicas if self.last else desired
        shown = ScalingStatus(
            mode=mode.value,
            min_replicas=minimum,
            max_replicas=maximum,
            desired_replicas=advised if mode is Mode.ADVISE else desired,
            last_decision=self.last,
            decisions=list(self.past),
        )
        if mode is Mode.ASIDE:
            others = ", ".join(writers)
            message = (
                f"{others} writes the scale subresource, so spec.replicas ({user_replicas}) is"
                " followed and autoscaling steps aside. To hand it back, stop that and set"
                " spec.replicas to another number by an ordinary write"
            )
            return ScalingSeen(shown, False, Reason.SCALED_BY_OTHERS, message)
        if mode is Mode.ADVISE:
            message = f"mode Advise: spec.replicas ({user_replicas}) is followed"
            return ScalingSeen(shown, False, Reason.ADVISE_ONLY, message)
        last = self.last
        if last is None:
            message = "nothing is decided before there are metrics of serving replicas"
            return ScalingSeen(shown, False, Reason.METRICS_MISSING, message)
        reason = _REASONS[State(last.metrics)]
        message = last.message if reason is not Reason.METRICS_COMPLETE else "the load is known"
        active = reason is not Reason.METRICS_MISSING
        return ScalingSeen(shown, active, reason, f"{message}; spec.replicas is ignored")


def read_told(deployment: Mapping[str, Any]) -> Told:
    """What the status of an object tells already; what cannot be read was never told."""
    raw = (deployment.get("status") or {}).get("scaling")
    if not raw:
        return Told()
    try:
        known = ScalingStatus.model_validate(raw)
        if known.last_decision is not None:
            State(known.last_decision.metrics)
        mode = Mode(known.mode)
    except ValidationError:
        return Told()
    except ValueError:  # words of another operator
        return Told(desired=known.desired_replicas)
    return Told(known.last_decision, tuple(known.decisions), mode, known.desired_replicas)


def _kind(state: str, why: str) -> tuple[str, str]:
    """What two decisions for the same number of replicas may differ in."""
    return state, why if why in _LASTING else ""


def _shown(decision: Decision) -> DecisionStatus:
    return DecisionStatus(
        time=datetime.fromtimestamp(decision.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        previous=decision.previous,
        replicas=decision.replicas,
        reason=decision.why.value,
        metrics=decision.state.value,
        message=decision.message[:1024],
        why_not_more=decision.why_not_more[:1024] or None,
        why_not_less=decision.why_not_less[:1024] or None,
        terms=[
            TermStatus(name=t.name[:128], value=t.value[:128], note=t.note[:512] or None)
            for t in decision.terms[:24]
        ],
    )
