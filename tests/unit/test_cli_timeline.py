"""The picture of revisions and traffic over time."""

from __future__ import annotations

from rich.console import Console

from llm_operator.cli.timeline import Moment, Pods, Story, picture
from llm_operator.cli.watching import count
from llm_operator.cluster.load.records import Outcome, Record
from llm_operator.facts.cluster import PodFact

WIDTH = 80  # 40 columns of time


def drawn(story: Story) -> list[str]:
    console = Console(width=WIDTH, record=True, file=None, color_system=None)
    with console.capture() as captured:
        console.print(picture(story, WIDTH))
    return [line.rstrip() for line in captured.get().splitlines()]


def ended(at: float, outcome: Outcome = Outcome.OK) -> Record:
    return Record("stream", False, at - 1, 1.0, outcome)


def upgrade() -> Story:
    """40 s: an old revision of two hands over to a new one."""
    moments = [Moment(100.0 + second, _pods(second)) for second in range(41)]
    answers = [ended(100.5 + second) for second in range(40)]
    return Story(
        moments,
        [*answers, ended(115.5, Outcome.CUT), ended(120.5, Outcome.STALE)],
        {"old": "some/model"},
        {110.0: "1", 110.1: "2"},
    )


def _pods(second: int) -> dict[str, Pods]:
    if second < 10:
        return {"old": Pods(serving=2)}
    if second < 20:
        return {"old": Pods(serving=2), "new": Pods(starting=1)}
    if second < 30:
        return {"old": Pods(serving=1, draining=1), "new": Pods(serving=1)}
    return {"old": Pods(draining=1), "new": Pods(serving=2)}


def test_each_revision_has_a_line_of_what_its_pods_do() -> None:
    _, old, new, *_ = drawn(upgrade())
    assert old.startswith("old  model ")
    assert old[40:] == "█" * 20 + "▄" * 10 + "▒" * 10
    assert new[40:] == " " * 10 + "·" * 10 + "▄" * 10 + "█" * 10


def test_what_was_lost_stands_where_it_was_lost_and_what_was_sent_again_is_not_lost() -> None:
    lost = next(line for line in drawn(upgrade()) if line.startswith("failed or cut"))
    assert lost[40:] == "·" * 15 + "1" + "·" * 24


def test_signs_answers_and_seconds_share_the_columns() -> None:
    signs, *_, answers, _, axis, _ = drawn(upgrade())
    assert signs[40:] == " " * 10 + "12"
    assert answers[40:] == "█" * 40
    assert axis[40:] == "0s        10s       20s       30s"


def test_a_column_between_two_looks_shows_the_one_before() -> None:
    story = Story(
        [Moment(0, {"a": Pods(1)}), Moment(10, {"a": Pods(1)}), Moment(20, {"b": Pods(1)})]
    )
    _, a, b, *_ = drawn(story)
    assert a[40:] == "█" * 39
    assert b[40:].strip() == "█"


def test_nothing_seen_is_no_picture() -> None:
    assert drawn(Story([])) == []


def test_pods_are_counted_by_what_they_do() -> None:
    pods = [_pod("old", ready=True), _pod("old", ready=True, deleting=True), _pod("new")]
    assert count(pods) == {"old": Pods(serving=1, draining=1), "new": Pods(starting=1)}


def _pod(revision: str, *, ready: bool = False, deleting: bool = False) -> PodFact:
    return PodFact("p", revision, "", "Running", "", "", ready, deleting, "n", True, "", None)
