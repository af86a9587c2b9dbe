"""Why a load is not known is said, with the pod that it is not known of."""

from __future__ import annotations

import pytest
from tests.unit.scaling_world import START, Law, policy

from llm_operator.facts.signals import Absent, Broken, Idle, Load, Reading, Stale


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (Absent(), "serving-0: not among what Prometheus reads"),
        (Stale(START - 90), "serving-0: last read 90 s ago"),
        (Broken("its last scrape failed"), "serving-0: its last scrape failed"),
    ],
)
def test_one_pod_stands_for_those_that_are_dark(reading: Reading, said: str) -> None:
    all_dark = Law(policy(), replicas=2).see([reading, Absent()])
    assert f"of the load of 2 replicas ({said}): 2 replicas stay" in all_dark.message
    half = Law(policy(), replicas=3).see([Idle(START), Load(3, 2), reading])
    said = said.replace("serving-0", "serving-2")
    assert f"5 requests in hand (3 wait) in 2 of 3 replicas ({said})" in half.message
