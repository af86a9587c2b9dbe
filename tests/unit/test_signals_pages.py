"""What is read off a metrics page, and when it is no load."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.facts.signals import Broken, Fresh, Load
from llm_operator.observe.prometheus import PrometheusConfig
from llm_operator.observe.scrape import Series, judged, quantile, series, total
from llm_operator.observe.signals import question
from llm_operator.runtimes.base import engine

RECORDED = json.loads((Path(__file__).parents[1] / "data/tgi_router_recorded.json").read_text())

PAGE = """
# HELP tgi_queue_size Current queue size
# TYPE tgi_queue_size gauge
tgi_queue_size 2

tgi_request_failure{err="validation"} 5
tgi_request_failure{err="overloaded",model="a \\"b\\", {c}"} 3 1700000000000
tgi_request_failure{model="b", err="overloaded",} 4
other 9
waits_bucket{le="+Inf"} +Inf
"""


def test_only_the_series_that_are_asked_for() -> None:
    assert series(PAGE, {"tgi_queue_size"}) == [Series("tgi_queue_size", {}, 2.0)]
    found = series(PAGE, {"tgi_request_failure", "waits_bucket"})
    assert total(found, "tgi_request_failure", err="overloaded") == 7
    assert total(found, "tgi_request_failure") == 12
    assert total(found, "tgi_request_failure", err="dropped") is None
    assert found[-1] == Series("waits_bucket", {"le": "+Inf"}, math.inf)
    assert series("", {"a"}) == []


@pytest.mark.parametrize(
    "page",
    ["<html>login</html>", '{"error": "no"}', "not found", "a b c", "a", "tgi_queue_size", "404"],
)
def test_what_is_no_metrics_page_is_not_read_as_an_empty_one(page: str) -> None:
    with pytest.raises(ValueError, match=r"metrics page|could not convert"):
        series(page, {"tgi_queue_size"})


@pytest.mark.parametrize("case", ["metrics_after_one_request", "metrics_under_load"])
def test_the_routers_own_pages_are_read_to_their_end(case: str) -> None:
    lines = [line for line in RECORDED[case]["body"].splitlines() if not line.startswith("...")]
    every = [line for line in lines if line and not line.startswith("#")]
    names = {line.split("{")[0].split(" ")[0] for line in every}
    assert len(series("\n".join(lines), names)) == len(every) > 50


def test_a_load_is_finite_and_not_negative() -> None:
    assert judged(7.0, None, None) == Fresh(Load(0, 0), 7.0)
    assert judged(7.0, 1, 2, 3, 4, 5) == Fresh(Load(1, 2, 3, 4, 5), 7.0)
    assert judged(7.0, 1, 2, wait=math.nan) == Fresh(Load(1, 2), 7.0)
    for wrong in (-1.0, math.inf, -math.inf, math.nan):
        for place in range(4):
            values = [1.0, 1.0, 1.0, 1.0]
            values[place] = wrong
            assert isinstance(judged(7.0, *values), Broken)
    assert isinstance(judged(7.0, 1, 1, wait=math.inf), Broken)


def test_a_quantile_is_within_its_bucket() -> None:
    counts = {1.0: 5.0, 3.0: 10.0, math.inf: 10.0}
    assert quantile(0.95, counts) == pytest.approx(2.8)
    assert quantile(0.5, counts) == 1.0
    assert quantile(0.25, counts) == 0.5
    assert quantile(0.95, {1.0: 1.0, math.inf: 10.0}) == 1.0  # beyond what it can tell
    assert quantile(0.95, {1.0: 0.0, math.inf: 0.0}) is None
    assert quantile(0.95, {}) is None
    assert quantile(0.95, {math.inf: 3.0}) == 0.0


@given(
    st.lists(st.floats(0.001, 100), min_size=1, max_size=40),
    st.floats(0.01, 1),
)
def test_a_quantile_of_waits_is_near_that_of_the_requests(waits: list[float], share: float) -> None:
    bounds = [0.5 * 2**k for k in range(9)]
    counts = {b: float(sum(w <= b for w in waits)) for b in [*bounds, math.inf]}
    found = quantile(share, counts)
    exact = sorted(waits)[math.ceil(share * len(waits) - 1e-9) - 1]
    bucket = min(b for b in bounds if exact <= b)
    assert found is not None
    assert (0 if bucket == 0.5 else bucket / 2) - 1e-9 <= found <= bucket + 1e-9


def test_one_query_has_all_signals_of_all_engines() -> None:
    config = PrometheusConfig("http://any")
    tgi = engine("tgi").metrics
    query = question(config, [tgi])
    for signal in ("scraped", "empty", "queued", "running", "served", "refused", "wait"):
        assert query.count(f'"signal", "{signal}", "", "")') == 1
    assert query.count("(") == query.count(")")
    two = question(config, [tgi, tgi])
    assert 'tgi_queue_size{pod!=""} or tgi_queue_size{pod!=""}' in two
