"""Floors by the calendar: windows, midnight, time zones, and the two nights a year that are odd."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from llm_operator.api.autoscaling import Floor
from llm_operator.scaling.schedule import floor_at


def floor(start: str, end: str, replicas: int = 3, zone: str | None = None) -> Floor:
    return Floor.model_validate(
        {"start": start, "end": end, "timeZone": zone, "minReplicas": replicas}
    )


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return moment.timestamp()


def holds(one: Floor, now: float) -> bool:
    return floor_at((one,), now) is one


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2024-05-06 07:59:59", False),  # a Monday
        ("2024-05-06 08:00:00", True),
        ("2024-05-06 17:59:59.9", True),
        ("2024-05-06 18:00:00", False),
        ("2024-05-11 12:00:00", False),  # a Saturday
    ],
)
def test_office_hours(now: str, expected: bool) -> None:
    assert holds(floor("0 8 * * 1-5", "0 18 * * 1-5"), at(now)) is expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2024-05-06 21:59:00", False),
        ("2024-05-06 22:00:00", True),
        ("2024-05-07 00:00:00", True),
        ("2024-05-07 05:59:00", True),
        ("2024-05-07 06:00:00", False),
    ],
)
def test_a_night_spans_midnight(now: str, expected: bool) -> None:
    assert holds(floor("0 22 * * *", "0 6 * * *"), at(now)) is expected


def test_a_weekend_spans_days() -> None:
    weekend = floor("0 20 * * 5", "0 6 * * 1")
    assert holds(weekend, at("2024-05-05 12:00"))
    assert not holds(weekend, at("2024-05-08 12:00"))


def test_an_end_that_is_a_start_goes_on() -> None:
    one = floor("0 8 * * 1", "0 8 * * *")
    assert holds(one, at("2024-05-06 08:00"))
    assert not holds(one, at("2024-05-07 08:00"))


def test_the_highest_floor_holds() -> None:
    low, high = floor("0 0 * * *", "0 23 * * *", 2), floor("0 8 * * *", "0 18 * * *", 5)
    assert floor_at((low, high), at("2024-05-06 12:00")) == high
    assert floor_at((low, high), at("2024-05-06 20:00")) == low
    assert floor_at((low, high), at("2024-05-06 23:30")) is None
    assert floor_at((), 0.0) is None


def test_each_floor_goes_by_its_own_clock() -> None:
    now = at("2024-07-01 08:30", "Europe/Berlin")
    assert holds(floor("0 8 * * *", "0 18 * * *", zone="Europe/Berlin"), now)
    assert not holds(floor("0 8 * * *", "0 18 * * *"), now)
    assert not holds(floor("0 8 * * *", "0 18 * * *", zone="America/New_York"), now)


def test_eight_is_eight_in_summer_and_in_winter() -> None:
    office = floor("0 8 * * *", "0 18 * * *", zone="Europe/Berlin")
    for day in ("2024-01-15", "2024-07-15"):
        assert not holds(office, at(f"{day} 07:59", "Europe/Berlin"))
        assert holds(office, at(f"{day} 08:00", "Europe/Berlin"))


def test_an_hour_that_spring_leaves_out_begins_after_it() -> None:
    night = floor("30 2 * * *", "0 5 * * *", zone="Europe/Berlin")
    assert not holds(night, at("2024-03-31 01:59", "Europe/Berlin"))
    assert holds(night, at("2024-03-31 03:00", "Europe/Berlin"))


@pytest.mark.parametrize("minute", ["02:20", "02:40"])
def test_of_two_equal_hours_the_first_counts(minute: str) -> None:
    """In the second 02:20 the 02:30 of the first is past."""
    night = floor("30 2 * * *", "0 5 * * *", zone="Europe/Berlin")
    first, second = (at(f"2024-10-27 {minute}", "Europe/Berlin", fold) for fold in (0, 1))
    assert second - first == 3600
    assert holds(night, first) is (minute == "02:40")
    assert holds(night, second)


def test_every_minute_of_two_odd_nights_has_one_window() -> None:
    """Whatever the clocks do, a window begins once and ends once."""
    for day in ("2024-03-30 12:00", "2024-10-26 12:00"):
        begin = at(day, "Europe/Berlin")
        for start in ("0 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *"):
            night = floor(start, "0 5 * * *", zone="Europe/Berlin")
            states = [holds(night, begin + 60 * minute) for minute in range(0, 24 * 60, 5)]
            turns = sum(1 for a, b in pairwise(states) if a != b)
            assert turns == 2


def test_a_rare_day_is_found() -> None:
    leap = floor("0 0 29 2 *", "0 0 1 3 *")
    assert holds(leap, at("2024-02-29 12:00"))
    assert not holds(leap, at("2027-02-28 12:00"))
