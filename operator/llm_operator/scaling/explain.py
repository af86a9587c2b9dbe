"""A decision in words: one sentence with its numbers, and the arithmetic line by line.

Decides nothing. Refuses to know how the numbers were got.
"""

from __future__ import annotations

from collections.abc import Iterator

from llm_operator.facts.signals import Absent, Broken, Stale
from llm_operator.scaling.directions import lower_bound, peak_demand, peak_need
from llm_operator.scaling.scene import PANIC, Scene
from llm_operator.scaling.terms import State, Term, Why
from llm_operator.scaling.words import number, plural


def message(scene: Scene, why: Why, replicas: int) -> str:
    """One sentence: the load, what a replica holds, what follows."""
    return f"{_ground(scene, why)}: {_outcome(scene.look.current, replicas)}"


def _outcome(current: int, replicas: int) -> str:
    if current == replicas:
        return f"{plural(replicas, 'replica')} stay{'s' if replicas == 1 else ''}"
    return f"{current} -> {plural(replicas, 'replica')}"


def _ground(scene: Scene, why: Why) -> str:
    seen = scene.seen
    if why is Why.BOUNDS and scene.look.current > scene.high:
        return f"maxReplicas is {scene.high}"
    if why in (Why.BOUNDS, Why.SCHEDULED) and scene.look.current < scene.low:
        return lower_bound(scene)
    if scene.look.signals.outage:
        return f"nothing is known of the load, {scene.look.signals.outage}"
    if not seen.serving:
        return "no replica serves"
    if seen.state is State.MISSING:
        replicas = plural(seen.serving, "replica")
        return f"nothing is known of the load of {replicas} ({unknown_because(scene)})"
    load = f"{number(seen.running + seen.queued)} requests in hand ({number(seen.queued)} wait)"
    if seen.state is State.PARTIAL:
        load += f" in {len(seen.loads)} of {plural(seen.serving, 'replica')}"
        load += f" ({unknown_because(scene)})"
    if seen.demand > seen.running + seen.queued:
        load += f", {number(seen.demand)} if none were refused"
    if scene.need.expected >= 0.5:
        load += f", {number(scene.need.expected)} more expected in {scene.need.lead_seconds:.0f} s"
    if why is Why.PANIC:
        load += (
            f", {number(PANIC)} times what the {plural(seen.serving, 'replica')} can hold or more"
        )
    return f"{load}, one replica holds {number(scene.holds.requests)}"


def unknown_because(scene: Scene) -> str:
    """Why the load of a replica is not known: of the first of those that serve, by name."""
    signals = scene.look.signals
    for name in sorted(replica.name for replica in scene.look.replicas if replica.serving):
        reading = signals.of(name)
        if isinstance(reading, Broken):
            return f"{name}: {reading.why}"
        if isinstance(reading, Stale):
            return f"{name}: last read {signals.at - reading.at:.0f} s ago"
        if isinstance(reading, Absent):
            return f"{name}: not among what {signals.source} reads"
    return "numbers that cannot be"


def terms(scene: Scene, replicas: int) -> tuple[Term, ...]:
    """The arithmetic, top to bottom; what plays no part is left out."""
    return tuple(_terms(scene, replicas))


def _terms(scene: Scene, replicas: int) -> Iterator[Term]:
    seen, need = scene.seen, scene.need
    where = f"in {len(seen.loads)} of {plural(seen.serving, 'serving replica')}"
    if seen.known:
        yield Term("running", number(seen.running), where)
        yield Term("waiting", number(seen.queued), where)
        if seen.unrefused:
            yield Term(
                "without refusals", number(seen.unrefused), "would run, by rates of a minute"
            )
        yield Term("demand", number(need.demand), "requests, over the last looks")
        if need.expected:
            kind = "measured" if need.measured else "guessed"
            yield Term(
                "expected",
                f"+{number(need.expected)}",
                f"{number(need.slope * 60)} a minute, {need.lead_seconds:.0f} s to load ({kind})",
            )
    yield Term("one replica holds", number(scene.holds.requests), _holds_note(scene))
    if seen.known:
        yield Term("needed by load", number(need.by_load), "replicas")
        if scene.look.policy.targets.queue_seconds is not None:
            yield Term("needed by wait", number(need.by_wait), _wait_note(scene))
        window = scene.look.policy.down.stabilization_seconds
        yield Term(
            "needed at the most",
            number(peak_need(scene)),
            f"replicas for {number(peak_demand(scene))} requests, the most of {window:.0f} s",
        )
    if seen.coming:
        yield Term("coming", str(seen.coming), "replicas that do not serve yet, counted once")
    yield Term("bounds", f"{scene.low}..{scene.high}", lower_bound(scene))
    yield Term("replicas", str(replicas), f"from {scene.look.current}")


def _holds_note(scene: Scene) -> str:
    targets = scene.look.policy.targets
    source = "as observed" if scene.holds.observed else "by plan"
    note = f"requests: {number(scene.holds.sequences)} at once {source}"
    if targets.running_share is not None:
        note += f", of which {targets.running_share:.0%}"
    return f"{note}, or with {number(targets.waiting_requests)} that wait"


def _wait_note(scene: Scene) -> str:
    wait = scene.seen.queue_seconds or 0.0
    return f"replicas: {number(wait)} s of {number(scene.look.policy.targets.queue_seconds or 0)} s"
