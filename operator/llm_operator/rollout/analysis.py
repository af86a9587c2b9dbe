"""Whether a new revision serves its requests as well as the old one does.

Pure. Compares the two over the same time and says pass, fail or wait. What is missing never passes
and never fails, and a difference that chance may well have made is no failure yet. Refuses to know
who has measured and what follows from the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from llm_operator.facts.canary import Histogram, Measured, Window

QUANTILE: Final = 0.95
"""The latency that is compared: so many of the requests are at least as fast."""
LATENCY_FLOOR_SECONDS: Final = 0.1
TOKEN_FLOOR_SECONDS: Final = 0.005
"""Whatever the percentage says, nobody notices so small a difference."""
CHANCE: Final = 0.001
"""A revision that just keeps a limit is called worse with at most this probability; as small as
that, because it is looked at again and again."""
DEVIATIONS: Final = 3.09
"""The same for a mean: a normal variable is so many deviations above its own with that chance."""


class Outcome(StrEnum):
    """What a comparison has shown."""

    PASS = "pass"
    FAIL = "fail"
    WAIT = "wait"


@dataclass(frozen=True)
class Finding:
    """An outcome, and its numbers for a person."""

    outcome: Outcome
    message: str


@dataclass(frozen=True)
class Limits:
    """`spec.rollout.canary.analysis`, resolved.

    min_requests: of each revision, within the window. error_rate: by how much the share of failed
    requests may be larger than the old revision's (0.05: five points). latency, token_time: by how
    much the 95th percentile of a request's duration, and the mean time per token, may be longer
    than the old revision's (0.5: half as long again). timeout_seconds: after it a person is asked.
    """

    min_requests: int
    window_seconds: float
    error_rate: float
    latency: float
    token_time: float
    timeout_seconds: float


def compare(measured: Measured, limits: Limits) -> Finding:
    """Whether the new revision keeps the limits, by what was measured.

    It fails if any of the three is worse beyond chance, and passes if none is and every serving pod
    of it was read.
    """
    new, old = measured.new, measured.old
    if measured.outage:
        return Finding(Outcome.WAIT, measured.outage)
    if new is None or old is None:
        whose = "new" if new is None else "old"
        return Finding(Outcome.WAIT, _unread(f"has read no pod of the {whose}", measured))
    if min(new.requests, old.requests) < limits.min_requests:
        return Finding(Outcome.WAIT, _too_few(measured.seconds, new, old, limits))
    findings = (_errors(new, old, limits), _latency(new, old, limits), _tokens(new, old, limits))
    worst = next((o for o in (Outcome.FAIL, Outcome.WAIT) if _any(findings, o)), Outcome.PASS)
    if worst is not Outcome.FAIL and measured.unread:
        count = f"{measured.unread} pod" + ("" if measured.unread == 1 else "s")
        return Finding(Outcome.WAIT, _unread(f"has not read {count} of the new", measured))
    said = [f.message for f in findings if f.outcome is worst]
    text = f"{', '.join(said)} (over {measured.seconds:.0f} s, in brackets the old revision)"
    if worst is Outcome.WAIT:
        text = f"too few requests to tell whether that is chance: {text}"
    return Finding(worst, text)


def quantile(histogram: Histogram, q: float) -> float:
    """The value below which a share `q` of the observations is; nan if there are none.

    Linear within a bucket, and the largest bound for what is beyond all, as `histogram_quantile` of
    Prometheus has it.
    """
    rank = q * histogram.number
    if not histogram.number or not histogram.bounds:
        return math.nan
    below, lower = 0.0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return lower


def above(histogram: Histogram, value: float) -> float:
    """How many observations are above `value`, which is taken as linear within a bucket."""
    lower = 0.0
    for index, bound in enumerate(histogram.bounds):
        if value < bound:
            inside = histogram.counts[index] * (bound - max(value, lower)) / (bound - lower)
            return inside + sum(histogram.counts[index + 1 :])
        lower = bound
    return histogram.counts[-1]


def share(hits: float, number: float, allowed: float) -> Outcome:
    """Whether `hits` of `number` trials are more than a probability of `allowed` explains.

    By Hoeffding's bound (1963, theorem 1): with a probability p there are a share of a > p hits or
    more with a probability of at most exp(-n D), D = a ln(a/p) + (1-a) ln((1-a)/(1-p)).
    """
    seen, p = hits / number, min(allowed, 1.0)
    if seen <= p:
        return Outcome.PASS
    if p <= 0:
        return Outcome.FAIL
    rest = (1 - seen) * math.log((1 - seen) / (1 - p)) if seen < 1 else 0.0
    surprise = number * (seen * math.log(seen / p) + rest)
    return Outcome.FAIL if surprise > -math.log(CHANCE) else Outcome.WAIT


def _errors(new: Window, old: Window, limits: Limits) -> Finding:
    before = old.failures / old.requests
    limit = before + limits.error_rate
    return Finding(
        share(new.failures, new.requests, limit),
        f"{_percent(new.failures / new.requests)} of {new.requests:.0f} requests failed"
        f" ({_percent(before)} of {old.requests:.0f}; limit {_percent(limit)})",
    )


def _latency(new: Window, old: Window, limits: Limits) -> Finding:
    """At most 5 % of the requests may take longer than what is allowed of the 95th percentile."""
    before, now = quantile(old.seconds, QUANTILE), quantile(new.seconds, QUANTILE)
    if math.isnan(before) or math.isnan(now):
        return Finding(Outcome.WAIT, "no duration of a request is known")
    limit = max(before * (1 + limits.latency), before + LATENCY_FLOOR_SECONDS)
    return Finding(
        share(above(new.seconds, limit), new.seconds.number, 1 - QUANTILE),
        f"p95 of a request {now:.2f} s ({before:.2f} s; limit {limit:.2f} s)",
    )


def _tokens(new: Window, old: Window, limits: Limits) -> Finding:
    histogram = new.seconds_per_token
    if not histogram.number or not old.seconds_per_token.number:
        return Finding(Outcome.WAIT, "no time per token is known")
    now = histogram.total / histogram.number
    before = old.seconds_per_token.total / old.seconds_per_token.number
    limit = max(before * (1 + limits.token_time), before + TOKEN_FLOOR_SECONDS)
    outcome = Outcome.PASS
    if now > limit:
        surely = now - DEVIATIONS * _standard_error(histogram) > limit
        outcome = Outcome.FAIL if surely else Outcome.WAIT
    text = f"{now * 1e3:.1f} ms per token ({before * 1e3:.1f} ms; limit {limit * 1e3:.1f} ms)"
    return Finding(outcome, text)


def _standard_error(histogram: Histogram) -> float:
    """Of the mean, from the buckets' middles."""
    edges = (0.0, *histogram.bounds, *histogram.bounds[-1:])
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    mean = histogram.total / histogram.number
    squares = zip(histogram.counts, middles, strict=True)
    variance = sum(count * (middle - mean) ** 2 for count, middle in squares) / histogram.number
    return math.sqrt(variance / histogram.number)


def _too_few(seconds: float, new: Window, old: Window, limits: Limits) -> str:
    return (
        f"the new revision had {new.requests:.0f} requests in {seconds:.0f} s and the old one"
        f" {old.requests:.0f}, at least {limits.min_requests} of each are needed"
    )


def _unread(what: str, measured: Measured) -> str:
    return f"Prometheus {what} revision for all of the last {measured.seconds:.0f} s"


def _any(findings: tuple[Finding, ...], outcome: Outcome) -> bool:
    return any(finding.outcome is outcome for finding in findings)


def _percent(part: float) -> str:
    return f"{part * 100:.1f}%"
