"""From observed children to what the stepper looks at: revisions with their marks, pods in seconds.

Decides what of Kubernetes' words means "it answers", "it is stuck", "it is settled". Refuses to
know what follows from that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from llm_operator.api import names
from llm_operator.desired import marks, objects, revision
from llm_operator.facts.cluster import PodFact
from llm_operator.observe.canary import Side
from llm_operator.observe.gather import Observed
from llm_operator.rollout import seen
from llm_operator.runtimes.base import engine
from llm_operator.status import causes

Object = dict[str, Any]

FIRST_LOOK_SECONDS = 10.0
"""A kubelet has looked at a new pod within this time."""


@dataclass(frozen=True)
class Existing:
    """A revision that exists: its ReplicaSet, the record on it (None if lost), its marks."""

    name: str
    replica_set: Object
    record: revision.Record | None
    marks: marks.Marks

    @property
    def created(self) -> str:
        return str(self.replica_set["metadata"].get("creationTimestamp", ""))

    @property
    def replicas(self) -> int:
        return int(self.replica_set["spec"].get("replicas", 0))

    @property
    def gated(self) -> bool:
        """New pods of it are ready only once it is accepted."""
        return bool(self.replica_set.get("gated"))

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return (self.record.resolved.plan.tensor_parallel or 1) if self.record else 1


def existing_of(observed: Observed) -> dict[str, Existing]:
    """Revisions by name, those that are being deleted left out."""
    found = {}
    for replica_set in observed.replica_sets:
        metadata = replica_set["metadata"]
        if "deletionTimestamp" in metadata:
            continue
        name = metadata["name"].removeprefix(f"{observed.key.name}-")
        found[name] = known(name, replica_set)
    return found


def known(name: str, replica_set: Object) -> Existing:
    """The revision of one ReplicaSet."""
    annotations = replica_set["metadata"].get("annotations") or {}
    record = _read_record(annotations.get(names.ANNOTATION_RECORD, ""))
    return Existing(name, replica_set, record, marks.read(annotations))


@lru_cache(maxsize=4096)
def _read_record(text: str) -> revision.Record | None:
    """The same few annotations are read in every pass."""
    return revision.record_from_json(text)


def seen_from(one: Existing, pods: Collection[PodFact], lost: Collection[str]) -> seen.RevisionSeen:
    """A revision as the stepper sees it. `lost` are nodes that do not answer."""
    mine = tuple(pod_from(pod, lost) for pod in pods if pod.revision == one.name)
    failed, refused = one.marks.failed, _refused(one.replica_set)
    return seen.RevisionSeen(
        name=one.name,
        created=seconds(one.created) or 0.0,
        replicas=one.replicas,
        pods=mine,
        gpus=one.gpus,
        settled=_settled(one.replica_set, sum(pod.alive for pod in mine)),
        gated=one.gated,
        accepted=one.marks.accepted is not None,
        completed_at=seconds(one.marks.completed),
        failed=seen.FailedMark(
            seen.Cause(failed.reason, failed.message), seconds(failed.at) or 0.0, failed.retry
        )
        if failed
        else None,
        refused=refused,
    )


def pod_from(pod: PodFact, lost: Collection[str]) -> seen.PodSeen:
    """A pod as the stepper sees it."""
    cause = causes.failure(pod, lost)
    changed = seconds(pod.ready_at)
    serves = pod.ready and pod.node not in lost
    return seen.PodSeen(
        name=pod.name,
        created=seconds(pod.created) or 0.0,
        ready=serves,
        answers=pod.containers_ready and pod.node not in lost,
        served=pod.ready or _has_served(pod),
        ready_since=changed if serves else None,
        unready_since=None if pod.ready else changed,  # of a lost node: not known yet
        scheduled_at=seconds(pod.scheduled_at) if pod.node else None,
        unschedulable_since=seconds(pod.scheduled_at) if cause and cause.room else None,
        gone_by=(seconds(pod.gone_by) or 0.0) if pod.deleting else None,
        ended=pod.phase in ("Failed", "Succeeded"),
        stuck=seen.Cause(cause.reason.value, cause.message) if cause and cause.stuck else None,
    )


def side_of(one: Existing, pods: Collection[PodFact]) -> Side:
    """A revision as its requests are measured: its pods that serve, or did and may again."""
    serving = {
        pod.name: seconds(pod.ready_at if pod.ready else pod.created) or 0.0
        for pod in pods
        if pod.revision == one.name and not pod.deleting and (pod.ready or _has_served(pod))
    }
    metrics = engine(one.record.resolved.engine if one.record else None).metrics
    return Side(one.replica_set["metadata"]["name"], metrics, serving)


def _has_served(pod: PodFact) -> bool:
    """It was ready at any time: of its container, or else since long after it got its node.

    A pod that never was is "not ready" from the kubelet's first look at it.
    """
    if pod.container is not None and pod.container.served:
        return True
    scheduled, changed = seconds(pod.scheduled_at), seconds(pod.ready_at)
    if not pod.node or scheduled is None or changed is None:
        return False
    return changed > scheduled + FIRST_LOOK_SECONDS


def refusal(replica_set: Object) -> str | None:
    """The API server's word on why this ReplicaSet has too few pods."""
    condition = _replica_failure(replica_set)
    return str(condition.get("message") or "") if condition else None


def _refused(replica_set: Object) -> seen.Refused | None:
    condition = _replica_failure(replica_set)
    if condition is None:
        return None
    cause = causes.creation_refused(str(condition.get("message") or ""))
    return seen.Refused(
        seen.Cause(cause.reason.value, cause.message),
        since=seconds(condition.get("lastTransitionTime")) or 0.0,
        quota=cause.room,
    )


def _replica_failure(replica_set: Object) -> Mapping[str, Any] | None:
    for condition in (replica_set.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return dict(condition)
    return None


def _settled(replica_set: Object, alive: int) -> bool:
    """Its controller has seen our last word, and counts as many pods as we do.

    Its count may be of pods that our watch has not shown yet, or of pods that have gone since.
    """
    status = replica_set.get("status") or {}
    acted = int(status.get("observedGeneration", 0)) >= replica_set["metadata"]["generation"]
    return acted and int(status.get("replicas", 0)) == alive


def owner_of(observed: Observed) -> objects.Owner:
    """The LLMDeployment as its children name it."""
    return objects.Owner(observed.key.name, observed.key.namespace, observed.uid)


def timestamp(moment: datetime) -> str:
    """As the API writes times: RFC 3339 in UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(moment: str | None) -> float | None:
    """Seconds since the epoch of a time as the API writes it; None if there is none."""
    if not moment:
        return None
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None
