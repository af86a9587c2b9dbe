"""The rest of the status: counts, the plan, bounded lists, and which changes are worth an Event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.status_samples import PLAN, crashed, pod, ready, revision, situation

from llm_operator.api.status import LLMDeploymentStatus, Reason
from llm_operator.facts.acceptance import Result
from llm_operator.runtimes.terms import Quantization, Rejected
from llm_operator.status.situation import Held, Progress, Situation
from llm_operator.status.summary import MAX_FAILURES, notices, plan_status, summarise

NOW = "2026-01-01T00:00:00Z"
BIRTH: dict[str, Any] = {"observedGeneration": -1}


def status(seen: Situation, before: dict[str, Any] = BIRTH) -> dict[str, Any]:
    return summarise(seen, before, NOW)


def test_counts_are_those_of_scale_and_of_the_columns() -> None:
    old = revision(ready("o1"), ready("o2", deleting=True), name="old", wanted=False, replicas=1)
    new = revision(ready("n1"), pod("n2"), pod("n3", phase="Failed"), replicas=3)
    found = status(situation(old, new, replicas=3))
    assert found["replicas"] == 3  # pods that exist: o1, n1, n2
    assert found["readyReplicas"] == 2
    assert found["ready"] == "2/3"
    assert found["gpus"] == 6
    assert found["selector"] == "llm-operator.dev/deployment=llama"
    assert found["currentRevision"] == "new"
    assert found["image"] == "image:1"
    assert found["endpoint"] == "http://llama.ns.svc/v1"
    assert [(r["name"], r["wanted"], r["pods"], r["ready"]) for r in found["revisions"]] == [
        ("old", False, 1, 1),
        ("new", True, 2, 1),
    ]


def test_a_revision_in_one_word() -> None:
    up = {"containers_ready": True}
    story = {
        "Loading": revision(pod()),
        "Asked": revision(pod("a", gate=False, **up), replicas=1),
        "Serving": revision(ready()),
        "Draining": revision(ready(deleting=True), replicas=0, wanted=False),
        "Retired": revision(replicas=0, wanted=False),
        "Failed": revision(pod(), failed=("HubNotFound", "no such model")),
    }
    for state, seen in story.items():
        (told,) = status(situation(seen))["revisions"]
        assert told["state"] == state
    assert (told["reason"], told["message"]) == ("HubNotFound", "no such model")
    asked = status(situation(story["Asked"]))["revisions"][0]
    assert (asked["pods"], asked["ready"], asked["serving"], asked["draining"]) == (1, 1, 0, 0)
    leaving = status(situation(story["Draining"]))["revisions"][0]
    assert (leaving["pods"], leaving["ready"], leaving["serving"], leaving["draining"]) == (
        (0, 0, 0, 1)
    )


def test_the_column_tells_how_far_an_update_is_and_what_it_was_rolled_back_for() -> None:
    old = revision(ready("o"), name="old", wanted=False)
    new = revision(ready("a"), pod("b"), replicas=2)
    updating = Progress(Reason.UPDATING, "1/3 replicas updated")
    assert status(situation(old, new, replicas=3, progress=updating))["reason"] == "Updating 1/3"
    assert status(situation(old, replicas=3, progress=updating))["reason"] == "Updating 0/3"
    failed = revision(replicas=0, failed=("ImagePullFailed", "the image cannot be pulled"))
    back = Progress(Reason.ROLLED_BACK, "revision new failed", stuck=True)
    assert status(situation(old, failed, progress=back))["reason"] == "RolledBack: ImagePullFailed"
    assert status(SERVING)["reason"] == "Ready"


def test_what_a_revision_answered_is_shown_and_told_once() -> None:
    before = situation(revision(ready()))
    answered = (Result(8, 0.512), Result(9, 1.0))
    after = situation(revision(ready(), answers=answered))
    assert status(after)["revisions"][0]["acceptance"] == [
        {"tokens": 8, "seconds": 0.51},
        {"tokens": 9, "seconds": 1.0},
    ]
    assert told(before, after) == [(False, "Accepted")]
    assert told(before, after, after) == []
    note = notices(status(before), status(after))[0].note
    assert note == "revision new answered 2 of 2 prompts as expected, the slowest in 1.0 s"


def test_more_than_wanted_is_not_shown_as_three_of_two() -> None:
    pods = [ready("a"), ready("b"), ready("c")]
    assert status(situation(revision(*pods, replicas=2), replicas=2))["ready"] == "2/2"


def test_nothing_known_is_left_out_and_not_null() -> None:
    found = status(situation(plan=None, held=Held(Reason.CREATING, "asking", stuck=False)))
    assert {"plan", "gpus", "image", "currentRevision"} & set(found) == set()
    assert None not in found.values()


def test_the_plan_is_shown_with_its_arithmetic() -> None:
    refused = replace(
        PLAN,
        fits=False,
        tensor_parallel=None,
        quantization=Quantization("awq", 4, 128),
        rejected=(Rejected(3, "32 heads"),),
        ways_out=("AWQ would need 40.1 GB",),
    )
    shown = plan_status(refused).model_dump(by_alias=True, exclude_none=True)
    assert shown["quantization"] == {"method": "awq", "bits": 4, "groupSize": 128}
    assert shown["rejected"] == [{"tensorParallel": 3, "reason": "32 heads"}]
    assert shown["waysOut"] == ["AWQ would need 40.1 GB"]
    assert "tensorParallel" not in shown
    assert shown["weightBytes"] == 16 << 30


def test_a_commit_that_is_not_pinned_is_warned_of_beside_the_plan() -> None:
    plan = replace(PLAN, warnings=("slow on this card",))
    shown = status(situation(revision(ready(), floats="v2"), plan=plan))
    told, *others = shown["plan"]["warnings"]
    assert told.startswith("no commit is pinned: each pod loads what 'v2' of the model is when")
    assert others == ["slow on this card"]
    pinned = status(situation(revision(ready(), commit="0123"), plan=plan))
    assert pinned["plan"]["warnings"] == ["slow on this card"]


def test_bits_may_be_a_fraction() -> None:
    plan = replace(PLAN, quantization=Quantization("exl2", 4.25))
    shown = status(situation(revision(ready()), plan=plan))
    assert shown["plan"]["quantization"]["bits"] == 4.25


def test_many_failures_are_cut_and_counted() -> None:
    pods = [pod(f"p{number:02}", container=crashed("?")) for number in range(20)]
    found = status(situation(revision(*pods, replicas=20), replicas=20))
    assert [f["pod"] for f in found["failures"]] == [f"p{n:02}" for n in range(MAX_FAILURES)]
    assert "20 pods" in found["conditions"][0]["message"]


def test_a_burst_of_edits_leaves_a_status_that_the_schema_takes() -> None:
    """Forty revisions whose pods still drain."""
    leaving = [
        revision(pod(f"p{n}", deleting=True), name=f"r{n:02}", wanted=False, replicas=0)
        for n in range(40)
    ]
    found = status(situation(revision(ready()), *leaving))
    assert LLMDeploymentStatus.model_validate(found)
    assert found["currentRevision"] == "new"
    assert "new" in [r["name"] for r in found["revisions"]]


SERVING = situation(revision(ready()))
LOADING = situation(revision(pod()))
CRASHED = situation(revision(pod(container=crashed("?"))))
REFUSED = situation(held=Held(Reason.PLAN_REFUSED, "needs 810 GB"))


def told(*story: Situation) -> list[tuple[bool, str]]:
    """(is a warning, reason) of the Events of the last step of a story."""
    before = BIRTH
    for seen in story[:-1]:
        before = status(seen, before)
    return [(n.warning, n.reason) for n in notices(before, status(story[-1], before))]


def test_events_tell_transitions_and_nothing_else() -> None:
    assert told(LOADING) == [(False, "Loading")]
    assert told(LOADING, LOADING) == []
    assert told(LOADING, SERVING) == [(False, "Ready")]
    assert told(SERVING, SERVING) == []
    assert told(SERVING, LOADING) == [(False, "Loading")]


def test_trouble_is_told_as_a_warning_with_its_message() -> None:
    assert told(LOADING, CRASHED) == [(True, "Crashed")]
    assert told(CRASHED, REFUSED) == [(True, "PlanRefused")]
    assert notices(BIRTH, status(REFUSED))[0].note == "needs 810 GB"


def test_more_restarts_of_the_same_kind_are_no_new_event() -> None:
    again = situation(revision(pod(container=crashed("?", restarts=2))))
    assert told(CRASHED, again) == []
