"""The figures and the picture of a play, from made-up clients and watches."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llm_operator.cli import demo_scale, scale_play
from llm_operator.cli.scale_play import Change, Play, changes, figures, gpu_seconds, parts, waiting
from llm_operator.cli.timeline import Moment, Pods
from llm_operator.cluster.load.records import Outcome, Record

UP = Change(1010.0, 1, 3, "ScaledUp", "more")
DOWN = Change(1050.0, 3, 1, "ScaledDown", "less")


def record(at: float, first: float, outcome: Outcome = Outcome.OK, seconds: float = 5.0) -> Record:
    return Record("stream", False, 1000 + at, seconds, outcome, first=first)


def moment(at: float, **pods: int) -> Moment:
    return Moment(1000.0 + at, {"a": Pods(**pods)})


def play(*records: Record, **more: Any) -> Play:
    seen = [moment(0, serving=1), moment(20, serving=1, starting=2), moment(30, serving=3)]
    seen += [moment(50, serving=1, draining=2), moment(60, serving=1)]
    return Play(1000.0, 1060.0, seen, records, (UP, DOWN), **more)


def test_every_request_is_counted_once_by_how_it_ended() -> None:
    ends = [record(1, 0.5), record(2, 0, Outcome.REFUSED, 0.01), record(3, 0, Outcome.FAILED)]
    found = figures(play(*ends, record(4, 0.7, Outcome.CUT)))
    assert (found.requests, found.ok, found.refused, found.lost) == (4, 1, 1, 2)
    assert found.most == 3
    assert found.changes == 2


def test_waits_are_of_those_that_got_a_token() -> None:
    records = [record(1, wait / 10) for wait in range(1, 101)]
    found = figures(play(*records, record(2, 0, Outcome.REFUSED, 0.01)))
    assert (found.wait_p50, found.wait_p95, found.wait_p99) == (5.0, 9.5, 9.9)
    assert figures(play()).wait_p95 == 0


def test_a_request_waits_until_its_first_token_or_its_end() -> None:
    found = play(record(1, 3.5), record(2, 0, Outcome.FAILED, 10), record(3, 0.2))
    numbers = {at - 1000: number for at, number in waiting(found)}
    assert [numbers[at] for at in (0, 1, 2, 3, 4, 5, 11, 12, 13)] == [0, 1, 2, 3, 2, 1, 1, 0, 0]
    assert figures(found).most_waiting == 3


def test_a_pod_holds_its_gpus_from_its_making_until_it_is_gone() -> None:
    # 20 s of one, 10 s of three of which two load, 20 s of three, 10 s of three, two of them going.
    assert gpu_seconds(play()) == 20 * 1 + 10 * 3 + 20 * 3 + 10 * 3
    assert gpu_seconds(play(gpus=4)) == 4 * 140


def test_parts_say_what_happened_when() -> None:
    first, second = parts(play(record(1, 0.5), record(2, 2.0), record(31, 1.0)), 30)
    assert (first.since, second.since) == (0, 30)
    assert (first.rate, second.rate) == (2 / 30, 1 / 30)
    assert (first.wait_p95, second.wait_p95) == (2.0, 1.0)
    assert (first.serving, first.starting, second.serving) == (1, 2, 1)
    assert (first.changes, second.changes) == ((UP,), (DOWN,))


def test_a_part_tells_its_decisions() -> None:
    shown = scale_play.cells(parts(play(), 60)[0])
    assert shown[-1] == "1 -> 3 ScaledUp, 3 -> 1 ScaledDown"
    assert len(shown) == len(scale_play.TITLES)


def test_decisions_that_change_nothing_are_no_changes() -> None:
    told = {"reason": "ScaledUp", "message": "m", "metrics": "Complete"}
    late = {"time": "2026-01-01T00:01:00Z", "previous": 1, "replicas": 2, **told}
    same = {"time": "2026-01-01T00:00:30Z", "previous": 1, "replicas": 1, **told}
    early = {"time": "2026-01-01T00:00:00Z", "previous": 3, "replicas": 1, **told}
    found = changes([late, same, early])
    assert [(one.previous, one.replicas, one.sign) for one in found] == [(3, 1, "▼"), (1, 2, "▲")]
    assert changes([late, early], since=found[0].at + 1) == [found[1]]


def test_a_play_survives_its_document() -> None:
    found = play(record(1, 0.5), record(2, 0, Outcome.REFUSED))
    again = scale_play.from_json(scale_play.to_json(found))
    assert figures(again) == figures(found)
    assert again.moments == found.moments
    assert list(again.changes) == list(found.changes)


def lines(shown: Play, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as caught:
        console.print(scale_play.picture(shown, width))
    return [line.rstrip() for line in caught.get().splitlines()]


def test_the_picture_shows_all_over_the_same_time() -> None:
    found = play(*(record(at / 10, 1.0) for at in range(300)), record(45, 0, Outcome.REFUSED))
    marks, arrivals, queue, lost, replicas, loading, _ = lines(found)
    assert (marks.index("▲"), marks.index("▼")) == (50, 90)
    assert len(arrivals[40:]) > 30
    assert "waiting, at most 10" in queue
    assert lost.index("1") == 85
    assert "replicas, at most 3" in replicas
    assert replicas[40] == "▃"
    assert "█" in replicas[70:90]
    assert loading[40:].strip()


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        (play(record(1, 1.0)), True),
        (play(record(1, 0, Outcome.CUT)), False),
        (Play(0, 60, [moment(0, serving=1)], (), (UP, DOWN)), False),
        (Play(0, 60, [moment(0, serving=3), moment(9, serving=3)], (), (UP, DOWN)), False),
        (Play(0, 60, [moment(0, serving=3), moment(9, serving=1)], (), (DOWN,)), False),
    ],
    ids=["all went well", "a request was cut", "never up", "never down", "not seen to go up"],
)
def test_the_demo_says_whether_it_went_well(seen: Play, good: bool) -> None:
    assert demo_scale.verdict(seen)[0] is good


def test_the_demo_compares_with_its_peak() -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with console.capture() as caught:
        console.print(demo_scale.table(play(record(1, 1.0)), 4))
    assert "58 % of those of 4 replicas all the time" in caught.get()
