"""The next step: it gets there, and never takes away what serves before its successor does."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llm_operator.rollout.step import Revision, Step, next_step

NAMES = ("a", "b", "c", "d")
REVISIONS = st.lists(
    st.builds(
        lambda name, created, replicas, missing: Revision(
            name, f"2026-01-0{created}", replicas, max(replicas - missing, 0)
        ),
        st.sampled_from(NAMES),
        st.integers(1, 9),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    max_size=4,
    unique_by=lambda r: r.name,
)
WANTED = st.sampled_from(NAMES)
REPLICAS = st.integers(0, 4)


@given(REVISIONS, st.none() | WANTED, REPLICAS)
def test_every_revision_is_kept_or_deleted_and_none_is_both(
    seen: list[Revision], wanted: str | None, replicas: int
) -> None:
    step = next_step(seen, wanted, replicas)
    assert set(step.replicas) & set(step.delete) == set()
    assert {r.name for r in seen} | ({wanted} if wanted else set()) == (
        set(step.replicas) | set(step.delete)
    )


@given(REVISIONS, WANTED, REPLICAS)
def test_the_wanted_revision_gets_its_replicas_and_stays(
    seen: list[Revision], wanted: str, replicas: int
) -> None:
    step = next_step(seen, wanted, replicas)
    assert step.replicas[wanted] == replicas
    assert wanted not in step.delete


@given(REVISIONS, REPLICAS)
def test_while_the_wish_is_held_nothing_comes_or_goes(seen: list[Revision], replicas: int) -> None:
    step = next_step(seen, None, replicas)
    assert step.delete == ()
    assert set(step.replicas) == {r.name for r in seen}
    changed = [r.name for r in seen if step.replicas[r.name] != r.replicas]
    assert len(changed) <= 1
    # Only what serves best follows a change of replicas.
    assert all(r.ready == max(o.ready for o in seen) for r in seen if r.name in changed)


@given(REVISIONS, WANTED, REPLICAS)
def test_what_serves_best_stays_as_it_is_until_the_wanted_one_serves(
    seen: list[Revision], wanted: str, replicas: int
) -> None:
    step = next_step(seen, wanted, replicas)
    current = next((r for r in seen if r.name == wanted), None)
    others = [r for r in seen if r.name != wanted]
    if not others or (current and current.ready >= replicas and current.replicas == replicas):
        return
    best = max(r.ready for r in others)
    assert any(step.replicas.get(r.name) == r.replicas for r in others if r.ready == best)


@given(REVISIONS, WANTED, REPLICAS)
def test_it_gets_there_and_rests(seen: list[Revision], wanted: str, replicas: int) -> None:
    for _ in range(3):
        step = next_step(seen, wanted, replicas)
        seen = apply(seen, step)
    assert seen == [replace(seen[0], name=wanted, replicas=replicas, ready=replicas)]
    assert next_step(seen, wanted, replicas) == Step({wanted: replicas})


def apply(seen: list[Revision], step: Step) -> list[Revision]:
    """What a cluster with room for everything makes of it by the next look."""
    known = {r.name: r for r in seen}
    return [
        replace(known.get(name, Revision(name, "2026-02-01", 0, 0)), replicas=count, ready=count)
        for name, count in step.replicas.items()
        if name not in step.delete
    ]


def test_the_first_revision() -> None:
    assert next_step([], "a", 2) == Step({"a": 2})
    assert next_step([], None, 2) == Step({})


def test_a_new_revision_loads_beside_the_one_that_serves() -> None:
    old = Revision("a", "2026-01-01", 2, 2)
    assert next_step([old], "b", 2) == Step({"b": 2, "a": 2})
    assert next_step([old, Revision("b", "2026-01-02", 2, 1)], "b", 2) == Step({"b": 2, "a": 2})
    assert next_step([old, Revision("b", "2026-01-02", 2, 2)], "b", 2) == Step({"b": 2}, ("a",))


def test_a_revision_that_was_overtaken_before_it_served_goes_at_once() -> None:
    old, overtaken = Revision("a", "2026-01-01", 1, 1), Revision("b", "2026-01-02", 1, 0)
    assert next_step([old, overtaken], "c", 1) == Step({"c": 1, "a": 1}, ("b",))


def test_going_back_to_what_still_serves_needs_no_loading() -> None:
    old, new = Revision("a", "2026-01-01", 1, 1), Revision("b", "2026-01-02", 1, 0)
    assert next_step([old, new], "a", 1) == Step({"a": 1}, ("b",))


def test_scaling_to_zero_takes_everything_down() -> None:
    old, new = Revision("a", "2026-01-01", 2, 2), Revision("b", "2026-01-02", 0, 0)
    assert next_step([old, new], "b", 0) == Step({"b": 0}, ("a",))
