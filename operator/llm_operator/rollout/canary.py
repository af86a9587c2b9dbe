"""How far a canary may go now.

Which step it is at follows from the replicas that the new revision is asked for and from when its
pods became ready: nothing is remembered. If a pod dies during a pause, the pause begins anew. Where
an analysis is wished for, a step ends only with its consent, or the user's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_operator.api.status import Reason
from llm_operator.facts.canary import Measured, Trial
from llm_operator.rollout.analysis import Finding, Outcome, compare
from llm_operator.rollout.scene import Scene
from llm_operator.rollout.seen import Cause, RevisionSeen


@dataclass(frozen=True)
class Stage:
    """At most `replicas` of the new revision, at step `number` of `total`.

    `pausing`: they serve, and it goes on at `until`, or when the user promotes (None).
    `trial`: what is to be measured meanwhile, `finding` what that has shown. `analysing_until`: the
    pause is over, and the analysis may take so long; `overdue`: it has taken longer.
    """

    replicas: int
    number: int
    total: int
    pausing: bool = False
    until: float | None = None
    trial: Trial | None = None
    finding: Finding | None = None
    analysing_until: float | None = None
    overdue: bool = False

    @property
    def failure(self) -> Cause | None:
        """Why the new revision is worse than the old one; None while nothing says so."""
        if self.finding is None or self.finding.outcome is not Outcome.FAIL:
            return None
        return Cause(Reason.ANALYSIS_FAILED.value, self.finding.message)


def stage(scene: Scene, promoted: int, measured: Measured | None = None) -> Stage | None:
    """Where the canary is; None when all steps are behind it."""
    steps = scene.policy.steps
    target = scene.target
    asked = target.replicas if target else 0
    for number, step in enumerate(steps, 1):
        # Fewer replicas in all make a share smaller, but nobody's consent.
        if asked > step.replicas and (step.pause_seconds is not None or promoted >= number):
            continue
        ready = sorted(
            pod.ready_since or 0.0
            for pod in (target.alive if target else ())
            if scene.available(pod)
        )
        at = Stage(step.replicas, number, len(steps))
        if len(ready) < step.replicas:
            return at if promoted >= number else _analysed(at, scene, _first_seen(scene), measured)
        if promoted >= number:
            continue
        since = ready[step.replicas - 1]
        at = _analysed(replace(at, pausing=True), scene, since, measured)
        if step.pause_seconds is None:
            return at
        until = since + step.pause_seconds
        if not scene.clock.passed(until):
            return replace(at, until=until)
        limits = scene.policy.analysis
        if limits is None or (at.finding and at.finding.outcome is Outcome.PASS):
            continue
        deadline = until + limits.timeout_seconds
        overdue = scene.clock.passed(deadline)
        return replace(at, until=until, analysing_until=deadline, overdue=overdue)
    return None


def _analysed(at: Stage, scene: Scene, since: float | None, measured: Measured | None) -> Stage:
    """The same stage, with what is measured since then and what that shows, if it is to be."""
    limits, target, old = scene.policy.analysis, scene.target, _baseline(scene)
    if limits is None or target is None or since is None:
        return at
    if old is None:
        return replace(at, finding=Finding(Outcome.WAIT, "no older revision serves any more"))
    trial = Trial(target.name, old.name, since, limits.window_seconds)
    if measured is None or measured.trial not in (None, trial):
        finding = Finding(Outcome.WAIT, "nothing has been measured yet")
    else:
        finding = compare(measured, limits)
    return replace(at, trial=trial, finding=finding)


def _baseline(scene: Scene) -> RevisionSeen | None:
    """What the new revision is compared with: of those that serve the one that last was all."""
    serving = [r for r in scene.others if any(pod.ready for pod in r.alive)]
    return max(serving, key=lambda r: (r.completed_at or 0.0, r.created, r.name), default=None)


def _first_seen(scene: Scene) -> float | None:
    """Since when there are pods of the new revision that serve or did; None if none has.

    One that answers with errors soon loses its readiness, and with it the pause: what it did to its
    requests still counts.
    """
    alive = scene.target.alive if scene.target else ()
    return min((pod.created for pod in alive if pod.served), default=None)
