"""When requests come: made up and read, cut out of a trace and cut to size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from llm_operator.cluster.load.arrivals import (
    JITTER_SECONDS,
    Arrival,
    Stretch,
    busiest,
    fitted,
    poisson,
    read_trace,
    window,
)


def test_a_rate_is_kept_on_average() -> None:
    story = (Stretch.steady(100, 5), Stretch(100, 5, 15), Stretch.steady(100, 0))
    found = poisson(story, 100, 10)
    counts = [len(window(found, start, 100)) for start in (0, 100, 200)]
    assert counts[0] == pytest.approx(500, abs=80)
    assert counts[1] == pytest.approx(1000, abs=110)
    assert counts[2] == 0
    early, late = len(window(found, 100, 50)), len(window(found, 150, 50))
    assert late > 1.3 * early


def test_times_rise_and_lengths_vary_by_half() -> None:
    found = poisson([Stretch.steady(100, 5), Stretch.steady(100, 5)], 100, 10)
    assert all(one.at <= following.at for one, following in pairwise(found))
    lengths = [arrival.input_tokens for arrival in found]
    assert 50 <= min(lengths) < 70
    assert 130 < max(lengths) <= 150
    assert {arrival.output_tokens for arrival in found} <= set(range(5, 16))


def test_the_same_seed_gives_the_same_traffic() -> None:
    story = [Stretch.steady(10, 5)]
    assert poisson(story, 10, 10) == poisson(story, 10, 10)
    assert poisson(story, 10, 10, seed=2) != poisson(story, 10, 10)


def trace(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_trace_of_dates_is_read(tmp_path: Path) -> None:
    file = trace(
        tmp_path / "a.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-01-01 23:59:59.7500000,374,44",
        "2023-01-02 00:00:01.2500000,10,20",
    )
    assert read_trace(file) == [Arrival(0, 374, 44), Arrival(1.5, 10, 20)]


def test_a_trace_on_a_grid_is_spread_within_it(tmp_path: Path) -> None:
    rows = [f"{3000 * (number // 50)},100,10" for number in range(500)]
    file = trace(tmp_path / "m.csv", "TIMESTAMP_MS,ContextTokens,GeneratedTokens", *rows)
    found = read_trace(file)
    times = [arrival.at for arrival in found]
    assert times == sorted(times)
    assert times[0] == 0
    assert 27 < times[-1] < 27 + JITTER_SECONDS
    assert len(set(times)) == 500
    assert len(window(found, 0, JITTER_SECONDS)) == pytest.approx(50, abs=10)


def test_another_file_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    file = trace(tmp_path / "x.csv", "time,tokens", "1,2")
    with pytest.raises(ValueError, match="this has time, tokens"):
        read_trace(file)


def test_a_window_begins_at_zero_and_ends_before_its_end() -> None:
    every = [Arrival(at, 1, 1) for at in (0.0, 1.0, 2.0, 3.0)]
    assert [arrival.at for arrival in window(every, 1, 2)] == [0.0, 1.0]


def test_the_busiest_window_is_found() -> None:
    quiet = [Arrival(float(at), 1, 1) for at in range(0, 600, 10)]
    hump = [Arrival(240 + at / 10, 1, 1) for at in range(600)]
    assert busiest([*quiet, *hump], 60) == 240
    assert busiest([], 60) == 0


def test_a_share_is_taken_evenly_and_lengths_are_cut() -> None:
    every = [Arrival(float(at), 100 * at, at) for at in range(10)]
    half = fitted(every, share=0.5, most_input=600, most_output=5)
    assert [arrival.at for arrival in half] == [1, 3, 5, 7, 9]
    assert [arrival.input_tokens for arrival in half] == [100, 300, 500, 600, 600]
    assert [arrival.output_tokens for arrival in half] == [1, 3, 5, 5, 5]
    assert len(fitted(every, share=1, most_input=1, most_output=1)) == 10
    assert all(one.output_tokens for one in fitted(every, share=1, most_input=1, most_output=1))
