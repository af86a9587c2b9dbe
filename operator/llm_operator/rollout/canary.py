"""How far a canary may go now.

Which step it is at follows from the replicas that the new revision is asked for and from when its
pods became ready: nothing is remembered. If a pod dies during a pause, the pause begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_operator.rollout.scene import Scene


@dataclass(frozen=True)
class Stage:
    """At most `replicas` of the new revision, at step `number` of `total`.

    `pausing`: they serve, and it goes on at `until`, or when the user promotes (None).
    """

    replicas: int
    number: int
    total: int
    pausing: bool = False
    until: float | None = None


def stage(scene: Scene, promoted: int) -> Stage | None:
    """Where the canary is; None when all steps are behind it."""
    steps = scene.policy.steps
    target = scene.target
    asked = target.replicas if target else 0
    for number, step in enumerate(steps, 1):
        if asked > step.replicas:
            continue
        ready = sorted(
            pod.ready_since or 0.0
            for pod in (target.alive if target else ())
            if scene.available(pod)
        )
        if len(ready) < step.replicas:
            return Stage(step.replicas, number, len(steps))
        if promoted >= number:
            continue
        if step.pause_seconds is None:
            return Stage(step.replicas, number, len(steps), pausing=True)
        until = ready[step.replicas - 1] + step.pause_seconds
        if not scene.clock.passed(until):
            return Stage(step.replicas, number, len(steps), pausing=True, until=until)
    return None
