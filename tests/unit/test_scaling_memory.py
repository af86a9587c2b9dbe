"""What is kept of the past, and what is not."""

from __future__ import annotations

import pytest
from tests.unit.scaling_world import START, policy

from llm_operator.scaling.memory import (
    gap_seconds,
    short_mean,
    stretch,
    trusted,
    with_changes,
    with_peak,
    with_sample,
)
from llm_operator.scaling.terms import Change, History, Peak, Sample, Stretch

POLICY = policy()


def peaks(*seen: tuple[float, float]) -> tuple[Peak, ...]:
    """Looks at (second, demand), one after the other."""
    kept: tuple[Peak, ...] = ()
    for second, demand in seen:
        kept = with_peak(kept, Peak(second, demand, demand / 2, demand / 4), POLICY)
    return kept


def test_looks_at_short_intervals_keep_their_extremes() -> None:
    kept = peaks((0, 1), (2, 9), (4, 2), (6, 3), (20, 1))
    assert kept[1] == Peak(6, demand=9, most=4.5, least=0.5)
    assert [p.at for p in kept] == [0, 6, 20]


def test_a_peak_is_kept_as_long_as_its_window() -> None:
    kept = peaks((0, 9), *((15 * tick, 1) for tick in range(1, 21)))
    assert kept[0].demand == 9
    assert with_peak(kept, Peak(330, 1, 1, 1), POLICY)[0].demand == 1


def test_samples_are_seconds_apart_and_not_old() -> None:
    kept: tuple[Sample, ...] = ()
    for half in range(1000):
        kept = with_sample(kept, Sample(half / 2, half, half, 1))
    assert kept[-1].at == 499.5
    assert len(kept) < 30
    assert kept[-1].at - kept[0].at <= 125


def test_a_stretch_ends_with_a_gap() -> None:
    begun = stretch(None, 0, gap=45, holds=True)
    assert begun == Stretch(0, 0)
    assert stretch(begun, 45, gap=45, holds=True) == Stretch(0, 45)
    assert stretch(begun, 46, gap=45, holds=True) == Stretch(46, 46)
    assert stretch(begun, 45, gap=45, holds=False) == begun
    assert stretch(begun, 46, gap=45, holds=False) is None
    assert stretch(None, 0, gap=45, holds=False) is None


def test_a_long_window_forgives_a_longer_gap() -> None:
    for window, gap in ((0, 75), (300, 75), (3600, 900)):
        behavior = {"scaleDown": {"stabilizationWindowSeconds": window}}
        assert gap_seconds(policy(behavior=behavior)) == gap


def test_the_mean_is_of_the_last_seconds_and_now() -> None:
    samples = tuple(Sample(START - age, 10, 10, 1) for age in (60, 20, 15))
    assert short_mean(samples, START, 40) == 20
    assert short_mean((), START, 40) == 40


@pytest.mark.parametrize(("back", "kept"), [(-60, True), (1, True), (5, True), (6, False)])
def test_a_clock_put_back_makes_the_past_worthless(back: float, kept: bool) -> None:
    past = History(looked=START, current=2, observed_sequences=9.0, known=Stretch(0, START))
    history, now = trusted(past, START - back, 2)
    assert (history == past) is kept
    assert history.observed_sequences == 9.0, "what an engine can do has no date"
    assert now == (max(START - back, START) if kept else START - back)


def test_who_changed_the_replicas_does_not_matter() -> None:
    history, _ = trusted(History(looked=START - 15, current=2), START, 5)
    assert history.changes == (Change(START - 15, 3),)
    assert with_changes(history.changes, START + 44, POLICY) == history.changes
    assert with_changes(history.changes, START + 45, POLICY) == ()
