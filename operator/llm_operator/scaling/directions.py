"""How far the replicas may go up, and how far down, from where they are; and what stops them there.

Up is fast: a second look, the user's window (not in panic), the rate. Down is slow: everything must
be known, for the whole window, at rest, and what remains must hold the most that was in hand.
Refuses to know the past in any other form than the scene's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from llm_operator.scaling.policy import Rate
from llm_operator.scaling.scene import Scene
from llm_operator.scaling.terms import State
from llm_operator.scaling.words import number, plural

ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Reach:
    """`replicas`: how far. `wanted`: how far without the limits. `stop`: what stands against one
    more (or less)."""

    replicas: int
    wanted: int
    stop: str


def upward(scene: Scene) -> Reach:
    """How many replicas the load asks for, if more than there are."""
    base, rate, need = scene.base, scene.look.policy.up, scene.need.replicas
    if not scene.seen.known:
        return Reach(base, base, _unknown(scene))
    enough = Reach(base, base, _enough(scene, base))
    if need <= base * (1 + rate.tolerance):
        return enough
    wanted = math.ceil(need - ROUNDING)
    if base >= scene.high:
        return Reach(base, wanted, f"maxReplicas is {scene.high}")
    known = scene.history.known
    seconds = known.seconds if known else 0.0
    if seconds <= 0:
        return Reach(base, wanted, "the load has been seen once only: the next look decides")
    if not scene.panic and rate.stabilization_seconds:
        window = rate.stabilization_seconds
        if seconds < window:
            return Reach(base, wanted, f"the load is known for {seconds:.0f} of {window:.0f} s")
        least = min(p.least for p in scene.history.peaks if scene.now - p.at <= window)
        if least <= base * (1 + rate.tolerance):
            return Reach(base, wanted, f"it was less within the last {window:.0f} s")
        wanted = min(wanted, math.ceil(least - ROUNDING))
    limit = _limit(scene, rate, 1)
    if wanted > limit:
        return Reach(max(base, min(limit, scene.high)), wanted, _rate_stop(rate, "more"))
    if wanted > scene.high:
        return Reach(scene.high, wanted, f"maxReplicas is {scene.high}")
    return Reach(wanted, wanted, _enough(scene, wanted))


def downward(scene: Scene) -> Reach:
    """How few replicas would do, if that is certain."""
    base, rate = scene.base, scene.look.policy.down
    stop = _held(scene)
    if stop:
        return Reach(base, base, stop)
    most = peak_need(scene)
    needed = math.ceil(most / (1 - rate.tolerance) - ROUNDING) if rate.tolerance < 1 else base
    if needed >= base:
        return Reach(base, base, _needed(scene, most))
    wanted = max(needed, scene.low, 1)
    limit = _limit(scene, rate, -1)
    if wanted < limit:
        return Reach(min(base, limit), wanted, _rate_stop(rate, "fewer"))
    if wanted == needed:
        return Reach(wanted, wanted, _needed(scene, most))
    return Reach(wanted, wanted, lower_bound(scene))


def peak_need(scene: Scene) -> float:
    """Replicas for the most that the window of stabilization has seen, not rounded.

    As needed then, and what was in hand then by what a replica is known to hold now.
    """
    since = scene.now - scene.look.policy.down.stabilization_seconds
    peaks = [p for p in scene.history.peaks if p.at >= since]
    return max(
        scene.need.replicas,
        max((p.most for p in peaks), default=0.0),
        peak_demand(scene) / scene.holds.requests,
    )


def peak_demand(scene: Scene) -> float:
    """The most requests in hand within the window of stabilization."""
    since = scene.now - scene.look.policy.down.stabilization_seconds
    return max((p.demand for p in scene.history.peaks if p.at >= since), default=0.0)


def lower_bound(scene: Scene) -> str:
    """Which bound holds from below."""
    if scene.floor is not None and scene.floor.min_replicas > scene.look.policy.minimum:
        floor = scene.floor
        return (
            f"the schedule asks for {scene.low} from {floor.start} to {floor.end}"
            f" ({floor.time_zone or 'UTC'})"
        )
    return f"minReplicas is {scene.low}"


def _held(scene: Scene) -> str:
    """What forbids to take any replica away, whatever the load; empty if nothing does."""
    window = scene.look.policy.down.stabilization_seconds
    if scene.seen.state is not State.COMPLETE or not scene.seen.known:
        return _unknown(scene)
    if scene.base <= scene.low:
        return lower_bound(scene)
    if scene.look.rolling_out:
        return "revisions are being exchanged"
    if is_coming(scene):
        return f"{plural(scene.seen.coming, 'replica')} on the way or loading"
    if scene.panic:
        return "the load has just been twice what the replicas hold"
    complete = scene.history.complete
    seconds = complete.seconds if complete else 0.0
    if seconds < window or seconds == 0:
        return f"the load is known without a gap for {seconds:.0f} of {window:.0f} s"
    return ""


def is_coming(scene: Scene) -> bool:
    """Whether replicas are on their way. One that takes longer than loading may ever take is not:
    it waits for a GPU that there is none of, or fails."""
    coming = scene.history.coming
    return coming is not None and coming.seconds <= scene.look.capacity.startup_seconds


def _limit(scene: Scene, rate: Rate, sign: int) -> int:
    """How far the rate lets the replicas go, from what they were when its period began."""
    moved = sum(
        change.replicas
        for change in scene.history.changes
        if scene.now - change.at < rate.period_seconds and change.replicas * sign > 0
    )
    begin = scene.base - moved
    return begin + sign * rate.most(max(begin, 1))


def _unknown(scene: Scene) -> str:
    outage = scene.look.signals.outage
    if outage:
        return f"nothing is known of the load: {outage}"
    if not scene.seen.serving:
        return "no replica serves"
    dark = scene.seen.serving - len(scene.seen.loads)
    return f"the load of {dark} of {plural(scene.seen.serving, 'replica')} is unknown"


def _enough(scene: Scene, replicas: int) -> str:
    each = scene.holds.requests
    return (
        f"{plural(replicas, 'replica')} hold {number(replicas * each)} requests at"
        f" their target, {number(scene.need.demand + scene.need.expected)} are in hand or expected"
    )


def _needed(scene: Scene, most: float) -> str:
    window = scene.look.policy.down.stabilization_seconds
    return (
        f"{number(peak_demand(scene))} requests, the most within {window:.0f} s, need"
        f" {number(most)} replicas, and a margin of {scene.look.policy.down.tolerance:.0%}"
    )


def _rate_stop(rate: Rate, word: str) -> str:
    most = f"{rate.change}" if rate.change else ""
    share = f"{rate.share:.0%}" if rate.share else ""
    limit = " or ".join(part for part in (share, most) if part)
    return f"at most {limit} {word} within {rate.period_seconds:.0f} s"
