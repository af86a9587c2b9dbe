"""The law of scaling: from one look and what is remembered to a number of replicas, and why.

`docs/autoscaling.md` has its arithmetic with an example, and what it guarantees.
"""

from __future__ import annotations

from llm_operator.scaling.directions import Reach, downward, is_coming, upward
from llm_operator.scaling.explain import message, terms
from llm_operator.scaling.scene import Scene, scene_of
from llm_operator.scaling.terms import Decision, History, Look, State, Why


def decide(look: Look, history: History, now: float) -> tuple[Decision, History]:
    """How many replicas there should be at `now` (seconds since the epoch), and what to remember.

    The bounds hold whatever is known. Within them: up if the load asks for it, else down if that is
    safe, else as it is.
    """
    scene = scene_of(look, history, now)
    up, down = upward(scene), downward(scene)
    rises = up.replicas > scene.base
    replicas = up.replicas if rises else down.replicas
    why = _why(scene, up, down, replicas)
    decision = Decision(
        at=now,
        previous=look.current,
        replicas=replicas,
        why=why,
        message=message(scene, why, replicas),
        state=scene.seen.state,
        why_not_more=up.stop,
        why_not_less="the load asks for more" if rises else down.stop,
        terms=terms(scene, replicas),
    )
    return decision, scene.history


def _why(scene: Scene, up: Reach, down: Reach, replicas: int) -> Why:
    if replicas != scene.look.current:
        return _moved(scene, up, replicas)
    if scene.seen.state is State.MISSING:
        return Why.METRICS_MISSING
    if scene.seen.state is State.PARTIAL:
        return Why.METRICS_PARTIAL
    if scene.look.rolling_out:
        return Why.ROLLING_OUT
    if replicas == scene.high and up.wanted > scene.high:
        return Why.AT_MAXIMUM
    if is_coming(scene):
        return Why.WARMING_UP
    if replicas == scene.low:
        return Why.SCHEDULED if _scheduled(scene) else Why.AT_MINIMUM
    if up.wanted == replicas and _cooling_down(scene, down):
        return Why.COOLING_DOWN
    return Why.STEADY


def _moved(scene: Scene, up: Reach, replicas: int) -> Why:
    """Why there are to be more or fewer than now."""
    if up.replicas > scene.base:
        return Why.PANIC if scene.panic else Why.SCALED_UP
    if replicas > scene.look.current:
        return Why.SCHEDULED if _scheduled(scene) else Why.BOUNDS
    return Why.BOUNDS if replicas == scene.base else Why.SCALED_DOWN


def _scheduled(scene: Scene) -> bool:
    return scene.low > scene.look.policy.minimum


def _cooling_down(scene: Scene, down: Reach) -> bool:
    """The load of now would do with fewer, and only time stands against it."""
    tolerance = scene.look.policy.down.tolerance
    return scene.need.replicas <= (scene.base - 1) * (1 - tolerance) and bool(down.stop)
