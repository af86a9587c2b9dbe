"""What requests add up to."""

from __future__ import annotations

from llm_operator.cluster.load.records import Outcome, Record, Report, between, most_at_once


def record(began: float, seconds: float, outcome: Outcome = Outcome.OK, **more: object) -> Record:
    values = {"kind": "stream", "kept": False, "tokens": 3, **more}
    return Record(began=began, seconds=seconds, outcome=outcome, **values)  # type: ignore[arg-type]


def test_a_record_survives_its_line() -> None:
    found = record(1.5, 2.0, Outcome.STALE, reused=True, model="a/b", detail="reset")
    assert Record.from_json(found.to_json()) == found


def test_each_outcome_is_counted_apart() -> None:
    report = Report.of(
        [
            record(0, 1, model="old"),
            record(0, 9, model="new", first=0.5),
            record(0, 20, Outcome.CUT, detail="reset"),
            record(0, 20, Outcome.CUT, detail="reset"),
            record(0, 5, Outcome.FAILED, tokens=0, detail="refused"),
            record(0, 0, Outcome.STALE, tokens=0, detail="closed"),
        ]
    )
    assert (report.requests, report.ok) == (6, 2)
    assert (report.cut, report.failed, report.stale, report.broken) == (2, 1, 1, 3)
    assert report.models == {"old": 1, "new": 1}
    assert report.details == {"cut: reset": 2, "failed: refused": 1, "stale: closed": 1}
    assert report.tokens == 12


def test_the_slowest_are_those_that_ended_well_and_a_first_token_is_a_streams() -> None:
    report = Report.of(
        [
            record(0, 8, first=0.5),
            record(0, 7, kind="chat", first=7.0),
            record(0, 30, Outcome.FAILED, first=30.0),
        ]
    )
    assert (report.slowest, report.slowest_first) == (8, 0.5)


def test_nothing_is_a_report_too() -> None:
    assert Report.of([]) == Report()


def test_streams_at_once_are_counted_where_one_ends_as_another_begins() -> None:
    assert most_at_once([record(0, 5), record(5, 5), record(6, 1), record(6.5, 9)]) == 3
    chats = [record(0, 5, kind="chat"), record(0, 5, kind="chat")]
    assert Report.of([record(0, 5), *chats]).most_streams == 1


def test_a_window_holds_what_was_under_way_in_it() -> None:
    early, across, within, late = record(0, 1), record(0, 9), record(4, 1), record(8, 1)
    assert between([early, across, within, late], 3, 6) == [across, within]
