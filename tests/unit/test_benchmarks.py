"""The arithmetic of the benchmarks; their figures are never asserted anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.objects import prefix
from benchmarks.process import summed
from benchmarks.report import Figure, percentile, write


@pytest.mark.parametrize(
    ("value", "target", "at_least", "met"),
    [(19, 19, False, True), (20, 19, False, False), (50, 50, True, True), (49, 50, True, False)],
)
def test_a_bound_is_kept_or_not(value: float, target: float, at_least: bool, met: bool) -> None:
    assert Figure("part", "what", value, "ms", target, at_least).met is met


def test_without_a_promise_there_is_no_verdict() -> None:
    assert Figure("part", "what", 1, "ms").met is None


def test_percentiles() -> None:
    values = [float(value) for value in range(101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7


def test_a_replica_set_tells_whose_it_is() -> None:
    assert prefix("one-12-abcde") == "one-12"


def test_figures_are_kept_with_their_machine(tmp_path: Path) -> None:
    file = tmp_path / "out" / "figures.json"
    write(file, [Figure("latency", "p50", 12.5, "ms", 19)], {"cores": 2})
    kept = json.loads(file.read_text())
    assert kept["machine"] == {"cores": 2}
    assert kept["figures"][0]["value"] == 12.5
    assert kept["figures"][0]["met"] is True


def test_a_series_is_summed_over_its_labels() -> None:
    page = 'a_total{x="1"} 2.0\na_total{x="2"} 3\nb_total{y="a_total"} 9\na_total_more 7\nc 4.5\n'
    assert summed(page, "a_total") == 5
    assert summed(page, r'a_total\{x="2"\}') == 3
    assert summed(page, "c") == 4.5
    assert summed(page, "d") == 0
