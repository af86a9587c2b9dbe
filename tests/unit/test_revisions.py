"""From children to what the stepper looks at, and the marks that outlive the operator."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.unit.status_samples import crashed, pending, pod, ready

from llm_operator.api import names
from llm_operator.desired import marks
from llm_operator.facts.acceptance import Result
from llm_operator.facts.cluster import PodFact
from llm_operator.kube.store import Key
from llm_operator.reconcile.departures import Departures
from llm_operator.reconcile.revisions import known, pod_from, seconds, seen_from, timestamp
from llm_operator.rollout.seen import Cause, FailedMark, PodSeen, Refused

T0 = "2026-01-01T00:00:00Z"
NOON = "2026-01-01T12:00:00Z"
AT_NOON = 1767268800.0


def replica_set(**changes: Any) -> dict[str, Any]:
    metadata = {"name": "llama-new", "namespace": "ns", "uid": "u", "generation": 2}
    return {
        "kind": "ReplicaSet",
        "metadata": {**metadata, "creationTimestamp": NOON},
        "spec": {"replicas": 2},
        "status": {"replicas": 1, "observedGeneration": 2},
        **changes,
    }


def refused(message: str) -> dict[str, Any]:
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    status = {"conditions": [{**condition, "lastTransitionTime": NOON}]}
    return replica_set(status=status)


def test_times_are_read_as_the_api_writes_them() -> None:
    assert seconds(NOON) == AT_NOON
    assert seconds("2026-01-01T12:00:00.500000Z") == AT_NOON + 0.5
    assert [seconds(text) for text in (None, "", "soon")] == [None, None, None]


def test_a_revision_with_its_pods() -> None:
    pods = [ready("a", revision="new"), pod("b", revision="other")]
    seen = seen_from(known("new", replica_set()), pods, ())
    assert (seen.name, seen.created, seen.replicas, seen.gpus) == ("new", AT_NOON, 2, 1)
    assert [p.name for p in seen.pods] == ["a"]
    assert (seen.gated, seen.accepted, seen.completed_at, seen.failed) == (False, False, None, None)
    assert seen_from(known("new", replica_set(gated=True)), pods, ()).gated


def settled(*pods: PodFact, **status: int) -> bool:
    found = replica_set(status={"observedGeneration": 2, **status})
    return seen_from(known("new", found), pods, ()).settled


def test_settled_is_what_the_controller_has_acted_on_and_counts_as_we_do() -> None:
    assert settled(ready(), replicas=1)
    assert settled(ready(), pod("gone", deleting=True), replicas=1)
    assert settled(ready(), pod("ended", phase="Failed"), replicas=1)
    assert settled()
    assert not settled(ready(), replicas=2)  # of one of them we have not been told yet
    assert not settled(ready())
    assert not settled(ready(), replicas=1, observedGeneration=1)
    assert not seen_from(known("new", replica_set(status={})), (), ()).settled


def test_marks_are_read_back_and_one_that_cannot_be_read_is_none() -> None:
    failed = marks.Failed("HubNotFound", "no such model", NOON, "again")
    accepted = marks.Accepted(NOON, (Result(8, 0.5), Result(3, 1.0)))
    written = marks.failed(failed) | marks.accepted(accepted) | marks.completed(NOON)
    assert marks.read(written) == marks.Marks(failed, accepted, NOON)
    marked = replica_set()
    marked["metadata"]["annotations"] = written
    seen = seen_from(known("new", marked), (), ())
    assert seen.failed == FailedMark(Cause("HubNotFound", "no such model"), AT_NOON, "again")
    assert seen.accepted
    assert seen.completed_at == AT_NOON
    junk = dict.fromkeys((names.ANNOTATION_FAILED, names.ANNOTATION_ACCEPTED), "{")
    assert marks.read(junk) == marks.Marks()


def test_refusals_for_want_of_room_are_told_from_those_for_want_of_rights() -> None:
    quota = seen_from(known("new", refused("pods is forbidden: exceeded quota: gpus")), (), ())
    assert quota.refused == Refused(
        Cause("QuotaExceeded", "exceeded quota: gpus"), AT_NOON, quota=True
    )
    policy = seen_from(known("new", refused("denied the request: no")), (), ())
    assert policy.refused is not None
    assert (policy.refused.cause.reason, policy.refused.quota) == ("AdmissionRefused", False)


def look(fact: PodFact, *lost: str) -> PodSeen:
    return pod_from(fact, lost)


def test_a_pod_that_serves() -> None:
    seen = look(ready(created=T0, ready_at=NOON, scheduled_at=T0, containers_ready=True))
    assert (seen.ready, seen.answers, seen.served, seen.ready_since) == (True, True, True, AT_NOON)
    assert (seen.unready_since, seen.gone_by, seen.ended, seen.stuck) == (None, None, False, None)
    assert seen.scheduled_at == AT_NOON - 12 * 3600


def test_a_pod_behind_the_gate_answers_and_is_not_ready() -> None:
    seen = look(pod(gate=False, containers_ready=True, ready_at=NOON))
    assert (seen.ready, seen.answers, seen.served) == (False, True, False)
    assert seen.unready_since == AT_NOON


def test_a_pod_that_was_ready_long_after_its_start_has_served_whatever_its_container_says() -> None:
    shortly, later = NOON.replace("00Z", "09Z"), NOON.replace("00Z", "30Z")
    assert not look(pod(node="n1", scheduled_at=NOON, ready_at=shortly)).served
    assert look(pod(node="n1", scheduled_at=NOON, ready_at=later)).served


def test_a_pod_on_a_lost_node_serves_nobody() -> None:
    seen = look(ready(node="n1", containers_ready=True, ready_at=NOON), "n1")
    assert (seen.ready, seen.answers, seen.ready_since) == (False, False, None)


def test_only_want_of_room_is_unschedulable() -> None:
    """To make room helps neither a claim nor the want of such nodes."""

    def since(message: str) -> float | None:
        fact = pending(message)
        return look(type(fact)(**_fields(fact) | {"scheduled_at": NOON})).unschedulable_since

    assert since("0/9 nodes are available: 9 Insufficient nvidia.com/gpu.") == AT_NOON
    assert since("0/9 nodes are available: 9 Insufficient memory.") == AT_NOON
    assert since("0/9 nodes: 9 node(s) didn't match Pod's node affinity/selector.") is None
    assert since("persistentvolumeclaim not found") is None
    assert since("") is None
    assert look(pending()).scheduled_at is None


def test_pods_on_their_way_out_and_pods_that_ended() -> None:
    assert look(ready(deleting=True, gone_by=NOON)).gone_by == AT_NOON
    assert look(ready(deleting=True)).gone_by == 0.0
    assert look(pod(phase="Failed")).ended
    assert not look(ready(deleting=True)).alive


def test_stuck_is_what_no_patience_helps() -> None:
    lasting = look(pod(container=crashed("401 Client Error")))
    assert lasting.stuck is not None
    assert lasting.stuck.reason == "HubUnauthorized"
    assert look(pod(container=crashed("429 Client Error"))).stuck is None
    assert look(pending("9 Insufficient nvidia.com/gpu.")).stuck is None


def _fields(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in thing.__dataclass_fields__}


def test_a_time_of_ours_is_read_back() -> None:
    assert timestamp(datetime.fromtimestamp(AT_NOON, UTC)) == NOON


def test_departures_are_dated_and_before_the_start_nothing_is_known() -> None:
    key, a, b = Key("ns", "llama"), pod("a"), pod("b")
    departures = Departures(started=100.0)
    assert departures.last(key, [a, b], 101.0) == 100.0
    assert departures.last(key, [b], 102.0) == 102.0
    assert departures.last(key, [b], 103.0) == 102.0
    assert departures.last(key, [b, a], 104.0) == 102.0
    departures.forget(key)
    assert departures.last(key, [a], 105.0) == 100.0
