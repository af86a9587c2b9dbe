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
OVER_SECONDS = 300.0
"""A lack that comes and goes with the scatter of requests is over once it has been for so long."""
LEARNED = 0.2
"""By how much what a replica holds must be another than was told, to be told."""

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
    `observed`: requests that a replica was seen to decode at once; it is read back as well.
    """

    last: DecisionStatus | None = None
    past: tuple[PastDecisionStatus, ...] = ()
    mode: Mode | None = None
    desired: int | None = None
    observed: float | None = None
    _pending: tuple[object, ...] | None = field(default=None, repr=False)
    _since: float = 0.0

    def take(
        self, decision: Decision, observed: float | None = None, patience: float = 0.0
    ) -> bool:
        """Take note of a decision; True if status is to tell it.

        `patience`: seconds for which fewer replicas than told last must have been enough.
        """
        kind = _kind(decision.state.value, decision.why.value)
        if decision.replicas != self._replicas(decision):
            wait = self._before_another_number(decision, patience)
        elif decision.why is Why.WARMING_UP or not self._is_news(kind, observed):
            self._pending = None
            return False
        else:
            wait = self._before_another_reason(decision)
        if not self._lasts((decision.replicas, *kind), decision.at, wait):
            return False
        self._pending = None
        self.last, self.observed = _shown(decision), observed
        short = PastDecisionStatus(
            **self.last.model_dump(include=set(PastDecisionStatus.model_fields))
        )
        self.past = (short, *self.past)[:LAST]
        return True

    def _replicas(self, decision: Decision) -> int:
        """What has been told, or need not be told."""
        return decision.previous if self.last is None else self.last.replicas

    def _is_news(self, kind: tuple[str, str], observed: float | None) -> bool:
        last = self.last
        if last is None or kind != _kind(last.metrics, last.reason):
            return True
        if observed is None or self.observed is None:
            return observed is not self.observed
        return abs(observed - self.observed) > LEARNED * self.observed

    def _before_another_number(self, decision: Decision, patience: float) -> float:
        """Seconds; only advice can go back and forth, since nothing comes of it."""
        last = self.last
        if last is None or decision.replicas > last.replicas or decision.previous != last.previous:
            return 0.0
        return patience if decision.state == last.metrics else min(patience, LASTING_SECONDS)

    def _before_another_reason(self, decision: Decision) -> float:
        last = self.last
        if last is None:
            return 0.0 if decision.state is State.COMPLETE else LASTING_SECONDS
        relieved = last.reason == Why.AT_MAXIMUM and decision.state == last.metrics
        return OVER_SECONDS if relieved else LASTING_SECONDS

    def _lasts(self, kind: tuple[object, ...], at: float, seconds: float) -> bool:
        """Whether decisions have been of this kind for long enough."""
        if self._pending != kind:
            self._pending, self._since = kind, at
        return not 0 <= at - self._since < seconds

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
            observed_sequences=None if self.observed is None else round(self.observed, 1),
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
    return Told(
        known.last_decision,
        tuple(known.decisions),
        mode,
        known.desired_replicas,
        known.observed_sequences,
    )


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
