"""What is kept of the past, in bounded space: one look more, and what has become too old.

Decides what may be forgotten, and what a clock that jumps makes worthless. Refuses to know what is
decided from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llm_operator.scaling.policy import Policy
from llm_operator.scaling.terms import Change, History, Peak, Sample, Stretch

SHORT_SECONDS: Final = 20.0
"""Demand for going up: the mean of so long, two looks at the usual interval."""
TREND_SECONDS: Final = 120.0
SAMPLE_SECONDS: Final = 5.0
PEAK_SECONDS: Final = 10.0
PEAKS: Final = 25
CHANGES: Final = 32
GAP_SECONDS: Final = 75.0
"""Longest time without a look that does not break a stretch: one missed at the longest interval, 30
seconds, four at the usual one."""
CLOCK_SECONDS: Final = 5.0
"""A clock that is put back by less is being corrected; by more, it makes the past worthless."""


def trusted(history: History, now: float, current: int) -> tuple[History, float]:
    """The history as far as it can be believed at `now`, and the moment of this look.

    Replicas that came or went since the last look are taken down as a change at that look: it is
    when they were decided.
    """
    if history.looked is not None and history.looked > now:
        if history.looked - now > CLOCK_SECONDS:
            return History(observed_sequences=history.observed_sequences), now
        now = history.looked
    if history.looked is None or history.current is None or history.current == current:
        return history, now
    change = Change(history.looked, current - history.current)
    return replace(history, changes=(*history.changes, change)[-CHANGES:]), now


def gap_seconds(policy: Policy) -> float:
    """The longest gap in a stretch: a short one tells little of a long window."""
    return max(GAP_SECONDS, policy.down.stabilization_seconds / 4)


def stretch(before: Stretch | None, now: float, gap: float, holds: bool) -> Stretch | None:
    """The stretch after a look at `now` at which something `holds`, or does not.

    Looks at which it does not hold break it only when the gap has become too long.
    """
    unbroken = before if before is not None and now - before.until <= gap else None
    if not holds:
        return unbroken
    return Stretch(unbroken.since if unbroken else now, now)


def with_sample(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    """One sample more; those nearer than a few seconds are one, the newest."""
    kept = tuple(s for s in samples if new.at - s.at <= TREND_SECONDS + SAMPLE_SECONDS)
    if len(kept) > 1 and new.at - kept[-2].at < SAMPLE_SECONDS:
        kept = kept[:-1]
    return (*kept, new)


def with_peak(peaks: tuple[Peak, ...], new: Peak, policy: Policy) -> tuple[Peak, ...]:
    """One look more in the windows of stabilization, joined with the last if that began lately."""
    window = max(policy.up.stabilization_seconds, policy.down.stabilization_seconds)
    width = max(PEAK_SECONDS, window / PEAKS)
    kept = tuple(p for p in peaks if new.at - p.at <= window + width)
    if len(kept) > 1 and new.at - kept[-2].at < width:
        last = kept[-1]
        new = Peak(
            new.at,
            max(last.demand, new.demand),
            max(last.most, new.most),
            min(last.least, new.least),
        )
        kept = kept[:-1]
    return (*kept, new)


def with_changes(changes: tuple[Change, ...], now: float, policy: Policy) -> tuple[Change, ...]:
    """The changes that a rate limit may still look at."""
    period = max(policy.up.period_seconds, policy.down.period_seconds)
    return tuple(change for change in changes if now - change.at < period)


def short_mean(samples: tuple[Sample, ...], now: float, demand: float) -> float:
    """Mean demand of the last seconds and now."""
    recent = [s.demand for s in samples if now - s.at <= SHORT_SECONDS]
    return (sum(recent) + demand) / (len(recent) + 1)
