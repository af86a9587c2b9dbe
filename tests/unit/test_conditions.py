"""Conditions in any situation at all: the promises that every tool and person builds on."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.status_samples import PLAN, crashed, pending, pod, ready, revision, situation

from llm_operator.api.status import ConditionType, LLMDeploymentStatus, Reason
from llm_operator.status.situation import Held, Progress, RevisionSeen, Situation
from llm_operator.status.summary import summarise

SECRET = "hf_THISisNOBODYsBUSINESS"
NO_GPU = "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."
BIRTH: dict[str, Any] = {"observedGeneration": -1}
T1, T2, T3 = (f"2026-01-01T00:00:0{n}Z" for n in (1, 2, 3))

KINDS_OF_POD = st.sampled_from(
    [
        pod(),
        ready(),
        ready(deleting=True),
        pod(deleting=True),
        pending(),
        pending(NO_GPU),
        pod(phase="Failed", reason="Evicted", container=None),
        pod(container=crashed(f"api_key: {SECRET}\nError: ShardCannotStart")),
        pod(container=crashed(f"401 Client Error {SECRET}", restarts=5)),
        pod(container=crashed(SECRET, code=2)),
        pod(node="lost"),
    ]
)


@st.composite
def revisions(draw: st.DrawFn) -> tuple[RevisionSeen, ...]:
    found = []
    wanted = draw(st.integers(-1, 2))
    for number in range(draw(st.integers(0, 3))):
        pods = draw(st.lists(KINDS_OF_POD, max_size=4))
        named = [type(p)(**{**_fields(p), "name": f"r{number}-{i}"}) for i, p in enumerate(pods)]
        found.append(
            revision(
                *named,
                name=f"r{number}",
                replicas=draw(st.integers(0, 4)),
                wanted=number == wanted,
                refused=draw(st.sampled_from([None, "exceeded quota: gpus", f"denied {1}"])),
            )
        )
    return tuple(found)


def _fields(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in thing.__dataclass_fields__}


HELD = st.none() | st.builds(
    Held,
    st.sampled_from([Reason.PLAN_REFUSED, Reason.WAITING_FOR_GPU, Reason.NAME_CONFLICT]),
    st.just("the reason, with numbers."),
    st.booleans(),
)
PROGRESS = st.none() | st.builds(
    Progress,
    st.sampled_from(
        [Reason.UPDATING, Reason.PAUSED, Reason.NO_SPARE_GPU, Reason.ROLLED_BACK, Reason.CRASHED]
    ),
    st.just("1/3 replicas updated"),
    st.booleans(),
)
SITUATIONS = st.builds(
    lambda seen, **kw: situation(*seen, **kw),
    revisions(),
    replicas=st.integers(0, 4),
    generation=st.integers(1, 5),
    held=HELD,
    progress=PROGRESS,
    drifted=st.none() | st.just("edited by kubectl"),
    plan=st.none() | st.just(PLAN),
    lost_nodes=st.just(("lost",)),
)


def by_type(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in status["conditions"]}


@given(SITUATIONS)
def test_ready_reconciling_and_stalled_are_one_verdict(seen: Situation) -> None:
    status = summarise(seen, BIRTH, T1)
    assert max(Counter(c["type"] for c in status["conditions"]).values()) == 1
    found = by_type(status)
    true = {kind for kind, condition in found.items() if condition["status"] == "True"}
    assert len({"Ready", "Reconciling", "Stalled"} & true) == 1
    # Abnormal conditions are there only while they hold.
    assert {"Reconciling", "Stalled", "Drifted"} & set(found) == (
        {"Reconciling", "Stalled", "Drifted"} & true
    )
    assert {"Ready", "Available"} <= set(found)
    assert ("Drifted" in found) == (seen.drifted is not None)
    if "Ready" not in true:
        verdict = found.get("Stalled") or found["Reconciling"]
        assert (verdict["reason"], verdict["message"]) == (
            found["Ready"]["reason"],
            found["Ready"]["message"],
        )


@given(SITUATIONS)
def test_ready_means_that_the_wish_is_served_and_nothing_else_is_left(seen: Situation) -> None:
    status = summarise(seen, BIRTH, T1)
    assert by_type(status)["Available"]["status"] == str(seen.ready > 0)
    if by_type(status)["Ready"]["status"] != "True":
        return
    assert seen.held is None
    assert seen.progress is None
    assert seen.wanted is not None
    assert seen.wanted.replicas == seen.replicas
    assert len(seen.wanted.alive) == seen.wanted.ready == seen.replicas
    assert [r for r in seen.revisions if not r.wanted and r.pods] == []


@given(SITUATIONS)
def test_every_condition_is_whole(seen: Situation) -> None:
    status = summarise(seen, BIRTH, T1)
    assert status["observedGeneration"] == seen.generation
    for condition in status["conditions"]:
        assert condition["observedGeneration"] == seen.generation
        assert condition["reason"] in set(Reason)
        assert condition["type"] in set(ConditionType)
        assert condition["message"]
    assert LLMDeploymentStatus.model_validate(status).observed_generation == seen.generation


@given(SITUATIONS, SITUATIONS)
def test_to_look_again_changes_nothing(seen: Situation, before: Situation) -> None:
    first = summarise(seen, summarise(before, BIRTH, T1), T2)
    assert summarise(seen, first, T3) == first
    # The API server gives back what JSON keeps of it.
    assert summarise(seen, json.loads(json.dumps(first)), T3) == first


@given(st.lists(SITUATIONS, min_size=2, max_size=5))
def test_the_time_moves_when_the_status_flips_and_only_then(story: list[Situation]) -> None:
    status, times = BIRTH, [f"2026-01-01T00:00:{n:02}Z" for n in range(5)]
    for now, seen in zip(times, story, strict=False):
        before = {c["type"]: c for c in status.get("conditions", ())}
        status = summarise(seen, status, now)
        for kind, condition in by_type(status).items():
            same = kind in before and before[kind]["status"] == condition["status"]
            moved = condition["lastTransitionTime"] == now
            assert moved != same
            if same:
                kept = before[kind]["lastTransitionTime"]
                assert condition["lastTransitionTime"] == kept


@given(SITUATIONS)
def test_nothing_that_an_engine_printed_reaches_the_status(seen: Situation) -> None:
    assert SECRET not in json.dumps(summarise(seen, BIRTH, T1))


@pytest.mark.parametrize(
    "junk",
    [
        {
            "type": "Ready",
            "status": "Maybe",
            "reason": "x",
            "message": "",
            "lastTransitionTime": T1,
        },
        {"type": "Ready"},
        {},
    ],
)
def test_conditions_that_cannot_be_read_back_count_as_not_there(junk: dict[str, Any]) -> None:
    status = summarise(situation(revision(ready())), {"conditions": [junk]}, T2)
    assert by_type(status)["Ready"]["lastTransitionTime"] == T2


def test_the_first_stuck_cause_is_told_and_the_others_are_named() -> None:
    pods = [
        pod("a", container=crashed("?", restarts=1)),
        pod("b", container=crashed("404 Client Error", restarts=2)),
        pod("c", container=crashed("404 Client Error")),
    ]
    status = summarise(situation(revision(*pods, replicas=3), replicas=3), BIRTH, T1)
    told = by_type(status)["Stalled"]
    assert told["reason"] == "HubNotFound"
    assert told["message"].startswith("0/3 replicas ready; 2 pods: the Hub has no such model")
    assert told["message"].endswith("(2 restarts); also Crashed")
    assert [f["pod"] for f in status["failures"]] == ["a", "b", "c"]


def test_a_shortage_says_how_many_wait_for_which_cards() -> None:
    pods = [ready("a"), pending(NO_GPU, "b"), pending(NO_GPU, "c")]
    status = summarise(situation(revision(*pods, replicas=3), replicas=3), BIRTH, T1)
    message = by_type(status)["Ready"]["message"]
    assert message.startswith("1/3 replicas ready; 2 pods wait for 2 x NVIDIA-A100-SXM4-80GB each:")
    assert "9 Insufficient nvidia.com/gpu" in message
