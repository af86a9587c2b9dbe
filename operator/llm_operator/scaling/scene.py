"""All that the rules look at, computed once: the load seen, what it needs, and the bounds.

Decides how demand becomes a number of replicas. Refuses to know whether anything changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from llm_operator.api.autoscaling import Floor
from llm_operator.scaling.capacity import Holds, holds, learn
from llm_operator.scaling.demand import Seen, seen
from llm_operator.scaling.forecast import load_seconds, slope
from llm_operator.scaling.memory import (
    gap_seconds,
    short_mean,
    stretch,
    trusted,
    with_changes,
    with_peak,
    with_sample,
)
from llm_operator.scaling.schedule import floor_at
from llm_operator.scaling.terms import History, Look, Peak, Sample, State, Stretch

PANIC: Final = 2.0
"""Demand over what the serving replicas hold at which there is no time to wait (as in Knative)."""
PANIC_SECONDS: Final = 60.0
WAIT_MOST: Final = 2.0
"""A wait beyond this multiple of its target asks for no more: waits grow without bound."""


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas needed, not rounded: the most of what load and wait ask for.

    `demand`: requests in hand over the short window. `expected`: more of them by the time that a
    new replica serves, `lead_seconds` from now (`measured`, or a guess); `slope` in requests per
    second.
    """

    demand: float
    expected: float
    slope: float
    lead_seconds: float
    measured: bool
    by_load: float
    by_wait: float

    @property
    def replicas(self) -> float:
        return max(self.by_load, self.by_wait)


@dataclass(frozen=True)
class Scene:
    """One look, set into its past. `history` holds this look already.

    `low` <= `high`: bounds now, by minimum, maximum and `floor`. `base`: `look.current` within
    them.
    """

    look: Look
    now: float
    seen: Seen
    holds: Holds
    need: Need
    history: History
    panic: bool
    floor: Floor | None
    low: int
    high: int

    @property
    def base(self) -> int:
        return min(max(self.look.current, self.low), self.high)


def scene_of(look: Look, history: History, now: float) -> Scene:
    """What one look shows, with what the history tells."""
    history, now = trusted(history, now, look.current)
    policy = look.policy
    load = seen(look, ran=min((s.running for s in history.samples), default=math.inf))
    each = holds(look.capacity, policy.targets, history.observed_sequences)
    panic_until = history.panic_until if history.panic_until and history.panic_until > now else None
    if load.known and load.demand >= PANIC * load.serving * each.requests:
        panic_until = now + PANIC_SECONDS
    history = replace(history, panic_until=panic_until)
    need = _need(look, load, each, history, now)
    floor = floor_at(policy.floors, now)
    low = max(policy.minimum, floor.min_replicas if floor else 0)
    return Scene(
        look=look,
        now=now,
        seen=load,
        holds=each,
        need=need,
        history=_remembered(look, load, each, need, history, now),
        panic=panic_until is not None,
        floor=floor,
        low=min(low, policy.maximum),
        high=policy.maximum,
    )


def _need(look: Look, load: Seen, each: Holds, history: History, now: float) -> Need:
    lead, measured = load_seconds(look.replicas, look.capacity)
    demand = short_mean(history.samples, now, load.demand) if load.known else 0.0
    if history.panic_until is not None:
        demand = max(demand, load.demand)
    rise = 0.0
    if look.policy.cold_start_awareness and load.known and load.state is State.COMPLETE:
        rise = slope(history.samples, _sample(load, now))
    expected = min(rise * lead, demand)
    return Need(
        demand=demand,
        expected=expected,
        slope=rise,
        lead_seconds=lead,
        measured=measured,
        by_load=(demand + expected) / each.requests,
        by_wait=_by_wait(look, load, history),
    )


def _by_wait(look: Look, load: Seen, history: History) -> float:
    """Replicas in proportion to the wait over its target.

    The percentile looks back a while, so it is of the fewest replicas that the samples remember:
    those that came since are not asked for again.
    """
    target, wait = look.policy.targets.queue_seconds, load.queue_seconds
    if target is None or wait is None:
        return 0.0
    serving = min([load.serving, *(sample.serving for sample in history.samples)])
    return serving * min(wait / target, WAIT_MOST)


def _sample(load: Seen, now: float) -> Sample:
    return Sample(now, load.demand, load.running, load.serving)


def _remembered(
    look: Look, load: Seen, each: Holds, need: Need, history: History, now: float
) -> History:
    """The history with this look in it."""
    policy, gap = look.policy, gap_seconds(look.policy)
    complete = load.known and load.state is State.COMPLETE
    before = next((s for s in history.samples[-1:] if now - s.at <= gap), None)
    coming = history.coming.since if history.coming else now
    instant = max(load.demand / each.requests, need.by_wait)
    peak = Peak(now, load.demand, most=instant, least=need.replicas)
    return History(
        samples=with_sample(history.samples, _sample(load, now)) if complete else history.samples,
        peaks=with_peak(history.peaks, peak, policy) if load.known else history.peaks,
        changes=with_changes(history.changes, now, policy),
        known=stretch(history.known, now, gap, load.known),
        complete=stretch(history.complete, now, gap, complete),
        coming=Stretch(coming, now) if load.coming else None,
        panic_until=history.panic_until,
        observed_sequences=learn(
            load, before, history.observed_sequences, look.capacity, policy.targets
        ),
        looked=now,
        current=look.current,
    )
