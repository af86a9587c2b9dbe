"""Every state of an object's life, judged by the rules of kstatus, `kubectl wait` and Argo CD."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.kstatus import Health, KStatus, argo_health, kstatus, kubectl_wait
from tests.unit.status_samples import crashed, pending, pod, ready, revision, situation

from llm_operator.api.status import Reason
from llm_operator.status.situation import Held, Progress, Situation
from llm_operator.status.summary import summarise

NO_GPU = "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."
OLD = revision(ready("o1"), name="old", wanted=False)
REFUSED = Held(Reason.PLAN_REFUSED, "Llama-3.1-405B needs 810 GB; 8x Tesla-T4 have 120 GB")


@dataclass(frozen=True)
class Judged:
    """What each tool must say of a situation."""

    situation: Situation
    reason: Reason
    kstatus: KStatus
    ready: bool = False
    available: bool = False
    argo: Health = "Progressing"


STATES = {
    "just planned": Judged(situation(revision(replicas=1)), Reason.CREATING, "InProgress"),
    "nothing made yet": Judged(situation(), Reason.CREATING, "InProgress"),
    "loading": Judged(situation(revision(pod())), Reason.LOADING, "InProgress"),
    "one of two serves": Judged(
        situation(revision(ready("a"), pod("b"), replicas=2), replicas=2),
        Reason.LOADING,
        "InProgress",
        available=True,
    ),
    "serving": Judged(situation(revision(ready())), Reason.READY, "Current", True, True, "Healthy"),
    "updating": Judged(
        situation(OLD, revision(pod())), Reason.UPDATING, "InProgress", available=True
    ),
    "updated, old pod leaves": Judged(
        situation(revision(pod("o1", deleting=True), name="old", wanted=False), revision(ready())),
        Reason.UPDATING,
        "InProgress",
        available=True,
    ),
    "the old one crashed, the new one loads": Judged(
        situation(
            revision(pod("o1", container=crashed("401 Client Error")), name="old", wanted=False),
            revision(pod()),
        ),
        Reason.UPDATING,
        "InProgress",
    ),
    "one too many": Judged(
        situation(revision(ready("a"), ready("b"), replicas=1)),
        Reason.SCALING,
        "InProgress",
        available=True,
    ),
    "leaving for zero": Judged(
        situation(revision(ready(), replicas=0), replicas=0),
        Reason.SCALING,
        "InProgress",
        available=True,
    ),
    "scaled to zero": Judged(
        situation(revision(replicas=0), replicas=0),
        Reason.SCALED_TO_ZERO,
        "Current",
        True,
        False,
        "Healthy",
    ),
    "waiting for a GPU": Judged(
        situation(revision(pending(NO_GPU))), Reason.WAITING_FOR_GPU, "InProgress"
    ),
    "no GPU to plan for": Judged(
        situation(held=Held(Reason.WAITING_FOR_GPU, "no node", stuck=False), plan=None),
        Reason.WAITING_FOR_GPU,
        "InProgress",
    ),
    "the Hub is being asked": Judged(
        situation(held=Held(Reason.CREATING, "asking the Hub", stuck=False), plan=None),
        Reason.CREATING,
        "InProgress",
    ),
    "refused": Judged(situation(held=REFUSED), Reason.PLAN_REFUSED, "Failed", argo="Degraded"),
    "refused while the old one serves": Judged(
        situation(OLD, held=REFUSED), Reason.PLAN_REFUSED, "Failed", False, True, "Degraded"
    ),
    "somebody else's Service": Judged(
        situation(revision(ready()), held=Held(Reason.NAME_CONFLICT, "a Service named llama")),
        Reason.NAME_CONFLICT,
        "Failed",
        False,
        True,
        "Degraded",
    ),
    "crashed once": Judged(
        situation(revision(pod(container=crashed("?")))), Reason.CRASHED, "InProgress"
    ),
    "crash loop": Judged(
        situation(revision(pod(container=crashed("?", restarts=3)))),
        Reason.CRASHED,
        "Failed",
        argo="Degraded",
    ),
    "Hub refuses": Judged(
        situation(revision(pod(container=crashed("401 Client Error")))),
        Reason.HUB_UNAUTHORIZED,
        "Failed",
        argo="Degraded",
    ),
    "the new one is refused by the Hub while the old one serves": Judged(
        situation(OLD, revision(pod(container=crashed("401 Client Error")))),
        Reason.HUB_UNAUTHORIZED,
        "Failed",
        False,
        True,
        "Degraded",
    ),
    "quota": Judged(
        situation(revision(refused="exceeded quota: gpus, requested: 2, used: 8, limited: 8")),
        Reason.QUOTA_EXCEEDED,
        "InProgress",
    ),
    "evicted and replaced": Judged(
        situation(revision(pod("a", phase="Failed", reason="Evicted", container=None), pod("b"))),
        Reason.LOADING,
        "InProgress",
    ),
    "the first new pod loads": Judged(
        situation(OLD, revision(pod()), progress=Progress(Reason.UPDATING, "0/1 updated")),
        Reason.UPDATING,
        "InProgress",
        available=True,
    ),
    "the first new pod is asked, and serves nobody yet": Judged(
        situation(
            OLD,
            revision(pod(containers_ready=True, gate=False)),
            progress=Progress(Reason.UPDATING, "0/1 updated; asked the acceptance prompts"),
        ),
        Reason.UPDATING,
        "InProgress",
        available=True,
    ),
    "nothing but the new one serves, the old one has just gone": Judged(
        situation(revision(ready()), progress=Progress(Reason.UPDATING, "1/1 updated")),
        Reason.UPDATING,
        "InProgress",
        available=True,
    ),
    "a new pod crashed once": Judged(
        situation(
            OLD,
            revision(pod(container=crashed("?"))),
            progress=Progress(Reason.UPDATING, "0/1 updated"),
        ),
        Reason.CRASHED,
        "InProgress",
        available=True,
    ),
    "a new pod crashed once on the GPU that was made free for it": Judged(
        situation(
            OLD,
            revision(pod(container=crashed("?"))),
            progress=Progress(Reason.NO_SPARE_GPU, "one by one"),
        ),
        Reason.CRASHED,
        "InProgress",
        available=True,
    ),
    "no spare GPU, one at a time": Judged(
        situation(
            OLD, revision(pending(NO_GPU)), progress=Progress(Reason.NO_SPARE_GPU, "one by one")
        ),
        Reason.NO_SPARE_GPU,
        "InProgress",
        available=True,
    ),
    "no spare GPU, and none may be made": Judged(
        situation(
            OLD,
            revision(pending(NO_GPU)),
            progress=Progress(Reason.NO_SPARE_GPU, "1 must serve", stuck=True),
        ),
        Reason.NO_SPARE_GPU,
        "Failed",
        False,
        True,
        "Degraded",
    ),
    "the next new pod waits for the card of one that drains": Judged(
        situation(
            OLD,
            revision(ready("a"), pending(NO_GPU, "b"), replicas=2),
            progress=Progress(Reason.UPDATING, "room comes when 1 pod has finished"),
            replicas=2,
        ),
        Reason.UPDATING,
        "InProgress",
        available=True,
    ),
    "no node at all has the cards of the new revision": Judged(
        situation(
            OLD,
            revision(pending("0/9 nodes: 9 node(s) didn't match Pod's node affinity/selector.")),
            progress=Progress(Reason.UPDATING, "0/1 updated"),
        ),
        Reason.WAITING_FOR_GPU,
        "InProgress",
        available=True,
    ),
    "paused before the new revision was made": Judged(
        situation(OLD, progress=Progress(Reason.PAUSED, "paused")),
        Reason.PAUSED,
        "InProgress",
        available=True,
        argo="Suspended",
    ),
    "a canary waits to be promoted": Judged(
        situation(
            OLD, revision(ready()), progress=Progress(Reason.PAUSED, "step 1 of 2"), replicas=2
        ),
        Reason.PAUSED,
        "InProgress",
        available=True,
        argo="Suspended",
    ),
    "rolled back": Judged(
        situation(
            revision(ready("o1"), name="old", wanted=False),
            revision(replicas=0, failed=("HubNotFound", "404")),
            progress=Progress(Reason.ROLLED_BACK, "revision new failed: HubNotFound", stuck=True),
        ),
        Reason.ROLLED_BACK,
        "Failed",
        False,
        True,
        "Degraded",
    ),
    "the new one failed, and is left as it is": Judged(
        situation(
            OLD,
            revision(pod(), failed=("ProgressDeadlineExceeded", "late")),
            progress=Progress(Reason.PROGRESS_DEADLINE_EXCEEDED, "late", stuck=True),
        ),
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        "Failed",
        False,
        True,
        "Degraded",
    ),
    "serving, older revisions are kept": Judged(
        situation(revision(name="old", wanted=False, replicas=0), revision(ready())),
        Reason.READY,
        "Current",
        True,
        True,
        "Healthy",
    ),
    "template edited, still serving": Judged(
        situation(revision(ready()), drifted="edited by kubectl"),
        Reason.READY,
        "Current",
        True,
        True,
        "Healthy",
    ),
}


def object_with(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"generation": 3, **metadata}, "status": status}


def status_of(judged: Judged) -> dict[str, Any]:
    return summarise(judged.situation, {"observedGeneration": -1}, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("name", STATES)
def test_every_tool_judges_rightly(name: str) -> None:
    expected = STATES[name]
    thing = object_with(status_of(expected))
    conditions = {c["type"]: c for c in thing["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == expected.reason
    assert kstatus(thing) == expected.kstatus
    assert kubectl_wait(thing) == expected.ready
    assert kubectl_wait(thing, "Available") == expected.available
    assert argo_health(thing)[0] == expected.argo
    assert kubectl_wait(thing, "stalled") == (expected.kstatus == "Failed")


@pytest.mark.parametrize("name", STATES)
def test_nothing_counts_as_done_once_the_spec_has_changed_again(name: str) -> None:
    thing = object_with(status_of(STATES[name]), generation=4)
    assert kstatus(thing) == "InProgress"
    assert not kubectl_wait(thing)
    assert argo_health(thing)[0] == "Progressing"


@pytest.mark.parametrize("name", STATES)
def test_what_is_being_deleted_is_never_done(name: str) -> None:
    thing = object_with(status_of(STATES[name]), deletionTimestamp="2026-01-01T00:00:00Z")
    assert kstatus(thing) == "Terminating"
    assert argo_health(thing)[0] == "Progressing"


def test_an_object_that_nobody_has_looked_at_is_not_healthy() -> None:
    """The CRD gives every object this status at birth."""
    thing = object_with({"observedGeneration": -1})
    assert kstatus(thing) == "InProgress"
    assert not kubectl_wait(thing)
    assert argo_health(thing) == ("Progressing", "waiting for the operator")


def test_a_person_sees_who_goes_on_serving() -> None:
    told = {
        c["type"]: c["message"]
        for c in status_of(STATES["refused while the old one serves"])["conditions"]
    }
    assert REFUSED.message in told["Stalled"]
    assert "goes on: 1 replica" in told["Stalled"]


def test_the_rules_themselves() -> None:
    """The judges are only worth something if each of their rules can say no."""
    good = object_with(status_of(STATES["serving"]))
    assert kstatus(good) == "Current"
    assert kstatus({"metadata": {"generation": 1}}) == "Current"  # why -1 from birth is needed
    flipped = [
        {**c, "status": "False"} if c["type"] == "Ready" else c
        for c in good["status"]["conditions"]
    ]
    assert kstatus(object_with({"observedGeneration": 3, "conditions": flipped})) == "InProgress"
    stale = [{**c, "observedGeneration": 2} for c in good["status"]["conditions"]]
    assert not kubectl_wait(object_with({**good["status"], "conditions": stale}))
    both = [
        {"type": "Stalled", "status": "True", "message": "m"},
        {"type": "Reconciling", "status": "True"},
    ]
    assert kstatus(object_with({"observedGeneration": 3, "conditions": both})) == "Failed"


def test_the_table_holds_every_kind_of_verdict() -> None:
    assert {judged.kstatus for judged in STATES.values()} == {"InProgress", "Failed", "Current"}
    assert replace(STATES["serving"], ready=True) == STATES["serving"]
