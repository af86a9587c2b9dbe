"""What the user's wish comes to in replicas and seconds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_operator.api.rollout import Rollout
from llm_operator.rollout.policy import (
    ALL_STEPS,
    CanaryStep,
    Policy,
    Strategy,
    policy_from,
    promoted_steps,
)


def policy(replicas: int = 4, startup: float = 300, **wish: Any) -> Policy:
    return policy_from(Rollout.model_validate(wish), replicas, startup)


def test_nothing_said() -> None:
    unset = policy_from(None, 4, 300)
    assert unset == policy(4)
    assert unset == Policy(
        strategy=Strategy.ROLLING_UPDATE,
        surge=1,
        floor=4,
        tight_floor=3,
        one_at_a_time=True,
        deadline_seconds=900,
        rollback=True,
        history=3,
    )


@pytest.mark.parametrize(
    ("wish", "surge"),
    [("auto", 1), (0, 0), (3, 3), ("25%", 1), ("30%", 2), ("100%", 4), ("0%", 0)],
)
def test_a_share_of_surge_is_rounded_up(wish: int | str, surge: int) -> None:
    assert policy(maxSurge=wish, maxUnavailable=1).surge == surge


@pytest.mark.parametrize(
    ("wish", "floor"), [(0, 4), (1, 3), ("49%", 3), ("50%", 2), ("100%", 0), (9, 0)]
)
def test_a_share_of_unavailable_is_rounded_down(wish: int | str, floor: int) -> None:
    assert policy(maxUnavailable=wish).floor == floor


@pytest.mark.parametrize(("wish", "floor"), [(0, 0), (2, 2), ("51%", 3), ("100%", 4), (9, 4)])
def test_a_share_of_least_is_rounded_up_and_no_more_than_the_usual_floor(
    wish: int | str, floor: int
) -> None:
    assert policy(minAvailable=wish).tight_floor == floor
    assert policy(minAvailable=wish, maxUnavailable=3).tight_floor == min(floor, 1)


def test_with_neither_surge_nor_unavailable_one_replica_may_be_missing() -> None:
    assert policy(maxSurge=0, maxUnavailable="10%").floor == 3
    assert policy(maxSurge=0, maxUnavailable=2).floor == 2
    assert policy(maxSurge=1).floor == 4


def test_one_replica_goes_first_only_where_that_was_said() -> None:
    assert policy(1).tight_floor == 1
    assert policy(1, minAvailable=0).tight_floor == 1
    assert policy(1, onNoSpareGPU="Recreate").tight_floor == 0
    assert policy(1, onNoSpareGPU="Recreate").floor == 1
    assert policy(2, onNoSpareGPU="Recreate").tight_floor == 1


def test_the_floor_follows_what_can_be_placed_only_where_none_was_said() -> None:
    assert policy(2).one_at_a_time
    assert policy(2, maxUnavailable=1).one_at_a_time
    assert not policy(2, minAvailable="50%").one_at_a_time
    assert not policy(2, minAvailable=0).one_at_a_time
    assert not policy(1).one_at_a_time


def test_the_deadline_is_longer_than_starting_may_take() -> None:
    assert policy(startup=1200).deadline_seconds == 1800
    assert policy(startup=1200, progressDeadlineSeconds=1201).deadline_seconds == 1201
    assert not policy(startup=1200, progressDeadlineSeconds=1201).deadline_raised
    short = policy(startup=1200, progressDeadlineSeconds=1200)
    assert (short.deadline_seconds, short.deadline_raised) == (1800, True)


def test_the_rest_is_taken_as_it_is() -> None:
    wish = policy(
        onFailure="Hold", history=0, paused=True, acceptance={"prompts": [{"prompt": "Hi"}]}
    )
    assert (wish.rollback, wish.history, wish.paused, wish.acceptance) == (False, 0, True, True)
    assert policy(strategy="Recreate").strategy is Strategy.RECREATE


def test_canary_steps_are_whole_replicas_that_never_shrink() -> None:
    steps = [{"replicas": "10%", "pauseSeconds": 60}, {"replicas": 3}, {"replicas": "50%"}]
    wish = policy(strategy="Canary", canary={"steps": steps})
    assert wish.steps == (CanaryStep(1, 60), CanaryStep(3, None), CanaryStep(3, None))
    assert policy(2, strategy="Canary", canary={"steps": steps}).steps[1].replicas == 2
    assert policy(strategy="RollingUpdate", canary={"steps": steps}).steps == ()


def test_what_the_promote_annotation_releases() -> None:
    assert promoted_steps("abc", "abc") == ALL_STEPS
    assert promoted_steps("abc/2", "abc") == 2
    assert promoted_steps("abd", "abc") == 0
    assert promoted_steps("abc/x", "abc") == 0
    assert promoted_steps(None, "abc") == 0
    assert promoted_steps("", None) == 0


SHARE = st.integers(0, 1000) | st.integers(0, 100).map(lambda n: f"{n}%")


@given(
    st.integers(0, 1000),
    st.none() | st.just("auto") | SHARE,
    st.none() | SHARE,
    st.none() | SHARE,
    st.sampled_from([None, "Wait", "Recreate"]),
)
def test_floors_are_within_what_is_wanted_and_something_may_always_move(
    replicas: int,
    surge: int | str | None,
    unavailable: int | str | None,
    least: int | str | None,
    alone: str | None,
) -> None:
    wish = policy(
        replicas,
        maxSurge=surge,
        maxUnavailable=unavailable,
        minAvailable=least,
        onNoSpareGPU=alone,
    )
    assert 0 <= wish.tight_floor <= wish.floor <= replicas
    assert wish.surge > 0 or wish.floor < replicas or replicas == 0


@pytest.mark.parametrize(
    "steps", [[3, 1], ["50%", "25%"], [1, "50%", 9, "49%"], [2, "10%", 1], ["100%", 1, "9%"]]
)
def test_steps_that_go_downwards_are_refused_by_name(steps: list[int | str]) -> None:
    wish = {"strategy": "Canary", "canary": {"steps": [{"replicas": n} for n in steps]}}
    with pytest.raises(ValidationError, match="fewest") as refused:
        Rollout.model_validate(wish)
    assert refused.value.errors()[0]["loc"] == ("canary", "steps")


@pytest.mark.parametrize("steps", [[1, 1, 2], ["9%", "9%", "10%"], [3, "1%", 4, "50%"]])
def test_steps_of_two_kinds_are_not_compared(steps: list[int | str]) -> None:
    found = policy(strategy="Canary", canary={"steps": [{"replicas": n} for n in steps]}).steps
    counts = [step.replicas for step in found]
    assert counts == sorted(counts)
