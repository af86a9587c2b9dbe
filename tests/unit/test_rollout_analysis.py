"""A new revision against the old one: what is worse, what is chance, and what is not known."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.api.rollout import Rollout
from llm_operator.facts.canary import Histogram, Measured, Trial, Window
from llm_operator.rollout.analysis import (
    CHANCE,
    Finding,
    Limits,
    Outcome,
    above,
    compare,
    quantile,
    share,
)
from llm_operator.rollout.policy import policy_from

LIMITS = Limits(50, 300, 0.05, 1.0, 0.5, 900)
TRIAL = Trial("b", "a", 0.0, 300.0)
BOUNDS = tuple(0.0001 * 1.5**k for k in range(1, 36))
"""Of the engine's durations, in seconds."""


def histogram(*values: float) -> Histogram:
    counts = [0.0] * (len(BOUNDS) + 1)
    for value in values:
        counts[sum(bound < value for bound in BOUNDS)] += 1
    return Histogram(BOUNDS, tuple(counts), sum(values))


def window(
    requests: int = 100, failures: int = 0, seconds: float = 2.0, per_token: float = 0.02
) -> Window:
    """Of requests that take very different times: from a third of `seconds` to twice as long."""
    good = requests - failures
    spread = [3 ** (2 * (n + 0.5) / max(good, 1) - 1) * 0.6 for n in range(good)]
    return Window(
        requests,
        failures,
        histogram(*(seconds * part for part in spread)),
        histogram(*(per_token * part for part in spread)),
    )


def found(new: Window | None, old: Window | None = None, unread: int = 0) -> Finding:
    return compare(Measured(TRIAL, 300, new, old or window(), unread), LIMITS)


def test_as_good_as_before_passes_with_all_its_numbers() -> None:
    finding = found(window(60), window(180, failures=1))
    assert finding.outcome is Outcome.PASS
    assert finding.message == (
        "0.0% of 60 requests failed (0.6% of 180; limit 5.6%),"
        " p95 of a request 3.41 s (3.40 s; limit 6.80 s),"
        " 14.6 ms per token (14.6 ms; limit 21.8 ms)"
        " (over 300 s, in brackets the old revision)"
    )


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        (window(60, failures=20), "33.3% of 60 requests failed (0.0% of 100; limit 5.0%) (over"),
        (window(60, failures=60), "100.0% of 60 requests failed"),
        (window(60, seconds=8.0), "p95 of a request"),
        (window(60, per_token=0.06), "ms per token"),
    ],
)
def test_worse_in_any_way_fails_and_only_that_is_said(worse: Window, said: str) -> None:
    finding = found(worse)
    assert finding.outcome is Outcome.FAIL
    assert finding.message.startswith(said) or said in finding.message.split(" (")[0]
    assert ", " not in finding.message.split(" (over")[0].replace("; ", "")


def test_both_what_is_slower_and_what_fails_is_said() -> None:
    message = found(window(60, failures=20, seconds=8.0)).message
    assert "requests failed" in message
    assert "p95" in message


@pytest.mark.parametrize("missing", ["new", "old"])
def test_a_side_that_is_not_known_is_waited_for(missing: str) -> None:
    sides = {"new": window(60, failures=60), "old": window(), missing: None}
    finding = compare(Measured(TRIAL, 300, sides["new"], sides["old"]), LIMITS)
    assert finding.outcome is Outcome.WAIT
    assert f"no pod of the {missing} revision" in finding.message


@pytest.mark.parametrize(("new", "old"), [(49, 500), (500, 49), (0, 0)])
@pytest.mark.parametrize("bad", [False, True])
def test_too_few_requests_on_either_side_say_nothing(new: int, old: int, bad: bool) -> None:
    finding = found(window(new, failures=new if bad else 0), window(old))
    assert finding.outcome is Outcome.WAIT
    assert finding.message == (
        f"the new revision had {new} requests in 300 s and the old one {old}, at least 50 of each"
        " are needed"
    )


def test_an_outage_is_no_verdict_whatever_else_is_there() -> None:
    for new in (window(), window(failures=100)):
        finding = compare(Measured(TRIAL, 300, new, window(), outage="it is down"), LIMITS)
        assert finding == Finding(Outcome.WAIT, "it is down")


def test_a_pod_that_is_not_read_may_be_the_bad_one() -> None:
    assert found(window(), unread=1).outcome is Outcome.WAIT
    assert "1 pod of the new revision" in found(window(), unread=1).message
    assert "2 pods" in found(window(), unread=2).message
    assert found(window(failures=50), unread=1).outcome is Outcome.FAIL


def test_no_answer_at_all_is_not_fast() -> None:
    nothing = Window(100, 0)
    assert found(nothing).outcome is Outcome.WAIT
    assert found(window(), nothing).outcome is Outcome.WAIT


def test_small_differences_in_absolute_terms_are_none() -> None:
    assert found(window(seconds=0.04), window(seconds=0.01)).outcome is Outcome.PASS
    assert found(window(per_token=0.010), window(per_token=0.005)).outcome is Outcome.PASS
    assert found(window(per_token=0.030), window(per_token=0.005)).outcome is Outcome.FAIL


def test_what_chance_may_have_done_is_waited_for() -> None:
    """Six of 60 are 10 %, and yet no proof of more than 5 %; 60 of 600 are."""
    assert found(window(60, failures=6)).outcome is Outcome.WAIT
    assert "too few requests to tell" in found(window(60, failures=6)).message
    assert found(window(600, failures=60)).outcome is Outcome.FAIL
    assert found(window(60, failures=3)).outcome is Outcome.PASS


def test_a_few_very_slow_tokens_do_not_make_a_mean() -> None:
    fast = [0.02] * 58
    few = replace(window(60), seconds_per_token=histogram(*fast, 2.0, 0.02))
    assert found(few).outcome is Outcome.WAIT
    most = replace(window(60), seconds_per_token=histogram(*[0.05] * 58, 0.2, 0.02))
    assert found(most).outcome is Outcome.FAIL


def test_limits_are_what_the_user_says() -> None:
    slower = Measured(TRIAL, 300, window(60, seconds=3.4), window())
    assert compare(slower, replace(LIMITS, latency=1.0)).outcome is Outcome.PASS
    assert compare(slower, replace(LIMITS, latency=0.0)).outcome is Outcome.FAIL
    failing = Measured(TRIAL, 300, window(100, failures=8), window(100, failures=8))
    assert compare(failing, replace(LIMITS, error_rate=0.0)).outcome is Outcome.PASS
    worse = replace(failing, old=window(100))
    assert compare(worse, replace(LIMITS, error_rate=0.0)).outcome is Outcome.FAIL
    assert compare(worse, replace(LIMITS, error_rate=1.0)).outcome is Outcome.PASS


# the arithmetic


def test_a_quantile_is_linear_within_its_bucket() -> None:
    """Worked by hand: of 10, five are below 1, so that 0.9 is 4/5 of the way from 1 to 3."""
    ten = Histogram((1.0, 3.0), (5.0, 5.0, 0.0), 15.0)
    assert quantile(ten, 0.9) == pytest.approx(1 + 2 * 4 / 5)
    assert quantile(ten, 0.25) == pytest.approx(0.5)
    assert quantile(Histogram((1.0, 3.0), (5.0, 0.0, 5.0)), 0.9) == 3.0
    assert math.isnan(quantile(Histogram(), 0.95))


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=8).filter(any),
    st.floats(0.01, 0.99),
)
def test_above_its_quantile_is_the_rest(counts: list[int], q: float) -> None:
    bounds = tuple(accumulate([1.5] * (len(counts) - 1)))
    made = Histogram(bounds, (*map(float, counts[:-1]), 0.0))
    if made.number:
        assert above(made, quantile(made, q)) == pytest.approx((1 - q) * made.number, abs=1e-6)


def test_everything_is_above_nothing_and_nothing_above_everything() -> None:
    made = histogram(0.5, 1.0, 2.0)
    assert above(made, 0.0) == 3.0
    assert above(made, 1000.0) == 0.0
    assert above(histogram(500.0), 1000.0) == 1.0  # beyond all buckets: not known how far


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0, 1))
def test_more_hits_are_never_judged_better(number: int, hits: int, allowed: float) -> None:
    order = [Outcome.PASS, Outcome.WAIT, Outcome.FAIL]
    hits = min(hits, number)
    fewer = share(max(hits - 1, 0), number, allowed)
    assert order.index(fewer) <= order.index(share(hits, number, allowed))
    if hits / number <= allowed:
        assert share(hits, number, allowed) is Outcome.PASS


def test_a_revision_that_keeps_the_limit_is_hardly_ever_failed() -> None:
    """By simulation: 3,000 revisions with exactly as many failures as are allowed."""
    chance = random.Random(7)
    failed = sum(
        share(sum(chance.random() < 0.05 for _ in range(80)), 80, 0.05) is Outcome.FAIL
        for _ in range(3000)
    )
    assert failed <= 3 * CHANCE * 3000


def test_a_revision_that_is_much_worse_is_found_in_few_requests() -> None:
    assert share(15, 50, 0.05) is Outcome.FAIL
    assert share(11, 50, 0.05) is Outcome.FAIL
    assert share(5, 50, 0.05) is Outcome.WAIT


# what the user wishes


def test_nothing_said_is_resolved_and_absent_is_off() -> None:
    def limits(**canary: object) -> Limits | None:
        wish = {"strategy": "Canary", "canary": {"steps": [{"replicas": 1}], **canary}}
        return policy_from(Rollout.model_validate(wish), 4, 300).analysis

    assert limits() is None
    assert limits(analysis={}) == Limits(50, 300, 0.05, 1.0, 0.5, 900)
    assert limits(
        analysis={
            "minRequests": 5,
            "windowSeconds": 60,
            "maxErrorRateIncrease": 0,
            "maxLatencyIncrease": 0,
            "maxTokenTimeIncrease": 10,
            "timeoutSeconds": 1,
        }
    ) == Limits(5, 60, 0.0, 0.0, 0.1, 1)
    off = {"strategy": "RollingUpdate", "canary": {"steps": [{"replicas": 1}], "analysis": {}}}
    assert policy_from(Rollout.model_validate(off), 4, 300).analysis is None
