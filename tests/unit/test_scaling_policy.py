"""What spec.autoscaling means: defaults from the plan, targets that can be passed, rates."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.scaling_world import CAPACITY, policy

from llm_operator.api.autoscaling import Autoscaling, Floor
from llm_operator.scaling.capacity import holds
from llm_operator.scaling.policy import Capacity, Rate, Targets


def test_defaults_come_from_the_plan() -> None:
    made = policy()
    assert (made.minimum, made.maximum) == (1, 10)
    assert made.targets == Targets(waiting_requests=4.0, running_share=0.8, queue_seconds=None)
    assert made.up == Rate(0.0, change=4, share=1.0, period_seconds=60.0, tolerance=0.1)
    assert made.down == Rate(300.0, change=1, share=0.0, period_seconds=60.0, tolerance=0.1)
    assert made.cold_start_awareness
    assert made.floors == ()


@pytest.mark.parametrize(
    ("sequences", "concurrent", "waiting"),
    [
        (20, 128, 4.0),  # a quarter of 108 is above the most
        (20, 32, 3.0),  # a quarter of 12
        (20, 22, 1.0),  # at least one
        (20, 21, 0.8),  # but less than may wait at all
        (20, 20, 0.0),  # nothing may wait
        (30, 20, 0.0),  # the plan has room for more than are let in
    ],
)
def test_so_many_may_wait(sequences: int, concurrent: int, waiting: float) -> None:
    made = policy(Capacity(sequences, concurrent, 1200))
    assert made.targets.waiting_requests == pytest.approx(waiting)


@pytest.mark.parametrize("share", [None, 0, 1, 80, 100])
@pytest.mark.parametrize("waiting", [0, 4, 43, 44, 500, 10_000])
@pytest.mark.parametrize("capacity", [CAPACITY, Capacity(64, 64, 1), Capacity(500, 64, 1)])
def test_every_target_can_be_passed(waiting: int, share: int | None, capacity: Capacity) -> None:
    """Running and waiting requests end at the engine's limit: what is above never fires."""
    metric = {"waitingRequests": waiting, "runningShare": share}
    made = policy(capacity, metric=metric)
    fullest = capacity.concurrent_requests
    for observed in (None, 5.0, float(fullest)):
        each = holds(capacity, made.targets, observed)
        assert each.requests * (1 + made.up.tolerance) < fullest


def test_the_maximum_is_what_may_be_spent() -> None:
    made = policy(minReplicas=7, maxReplicas=3)
    assert (made.minimum, made.maximum) == (3, 3)


def test_targets_of_zero() -> None:
    made = policy(metric={"waitingRequests": 0, "runningShare": 0, "queueSeconds": 0})
    assert made.targets == Targets(waiting_requests=0.0, running_share=None, queue_seconds=None)
    assert holds(CAPACITY, made.targets, None).requests == CAPACITY.sequences


@pytest.mark.parametrize(
    ("change", "replicas", "most"),
    [(3, 10, 3), ("50%", 10, 5), ("25%", 2, 1), (None, 10, 10), (None, 1, 4)],
)
def test_so_many_may_come(change: int | str | None, replicas: int, most: int) -> None:
    made = policy(behavior={"scaleUp": {"maxChange": change}})
    assert made.up.most(replicas) == most


def test_a_direction_may_say_all() -> None:
    direction = {
        "stabilizationWindowSeconds": 0,
        "maxChange": "100%",
        "periodSeconds": 10,
        "tolerance": 0,
    }
    made = policy(behavior={"scaleDown": direction})
    assert made.down == Rate(0.0, change=0, share=1.0, period_seconds=10.0, tolerance=0.0)
    assert made.up == policy().up


FLOOR = {"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "minReplicas": 3}


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"start": "0 25 * * *"}, "start", "'0 25 * * *' is no moment of a calendar (Bad hour)"),
        ({"end": "0 0 30 2 *"}, "end", "'0 0 30 2 *' is no moment of a calendar"),
        ({"timeZone": "Europe/Bern"}, "timeZone", "'Europe/Bern' is no time zone"),
        ({"timeZone": "Europe"}, "timeZone", "'Europe' is no time zone"),
        ({"timeZone": "../UTC"}, "timeZone", "should match pattern"),
        ({"timeZone": "/etc/localtime"}, "timeZone", "is no time zone"),
        ({"end": FLOOR["start"]}, None, "end must be another time than start"),
    ],
)
def test_a_calendar_is_checked_where_it_is_read(
    wrong: dict[str, Any], field: str | None, said: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        Autoscaling.model_validate({"maxReplicas": 3, "schedule": [{**FLOOR, **wrong}]})
    (error,) = raised.value.errors()
    assert said in error["msg"]
    assert error["loc"] == ("schedule", 0, *([field] if field else []))


def test_a_calendar_that_can_be_read() -> None:
    spec = {"maxReplicas": 3, "schedule": [{**FLOOR, "timeZone": "Europe/Berlin"}]}
    expected = Floor.model_validate({**FLOOR, "timeZone": "Europe/Berlin"})
    assert Autoscaling.model_validate(spec).schedule == [expected]
