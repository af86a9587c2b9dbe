"""One pass over one LLMDeployment: gather, decide, apply, summarise.

Writes in the order that matters to a user: the pods first, then how they are reached, then the
status, and only what differs. Holds no state that a restart would miss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.api.status import Reason
from llm_operator.desired import objects, revision
from llm_operator.desired.compare import contains
from llm_operator.kube import events
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.store import Key, Store
from llm_operator.observe.gather import Observed, gather, nodes
from llm_operator.reconcile.loop import Result
from llm_operator.reconcile.queue import WorkQueue
from llm_operator.reconcile.wishes import Wishes
from llm_operator.reconcile.writer import NameTaken, Writer
from llm_operator.rollout.step import Revision, Step, next_step
from llm_operator.runtimes.terms import Plan
from llm_operator.status.situation import Held, RevisionSeen, Situation
from llm_operator.status.summary import notices, summarise
from llm_operator.telemetry.metrics import API_WRITES

Object = dict[str, Any]

log = logging.getLogger(__name__)

CONFLICT_RETRY_SECONDS = 30.0
"""A foreign object with our name is not watched; look again whether it has gone."""

STATUS_PAUSE_SECONDS = 0.5
"""Changes of mere counts within this time after a status write are written together."""


@dataclass(frozen=True)
class Existing:
    """A revision that exists: its ReplicaSet and the record on it (None if it was lost)."""

    name: str
    replica_set: Object
    record: revision.Record | None


@dataclass(frozen=True)
class Wanted:
    """What a pass aims at: a revision, or why the wish is held; and the plan to show."""

    record: revision.Record | None
    held: Held | None = None
    plan: Plan | None = None
    waits_for_nodes: bool = False
    requeue_after: float | None = None


class Reconciler:
    """Callable with a key. Shared by all workers; one key is never in two passes at once."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        queue: WorkQueue[Key],
        waiting_for_nodes: set[Key],
        wishes: Wishes,
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._waiting_for_nodes = waiting_for_nodes
        self._wishes = wishes
        self._writer = Writer(client, store)
        self._status_written: dict[Key, float] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    async def __call__(self, key: Key) -> Result:
        observed = gather(self._store, key)
        if observed is None or observed.deleting:
            self._forget(key)
            return Result()
        if await self._recover(observed):
            return Result(again=True)
        existing = _existing(observed)
        spec, wanted = self._decide(observed, existing)
        if wanted.waits_for_nodes:
            self._waiting_for_nodes.add(key)
        else:
            self._waiting_for_nodes.discard(key)

        replicas = spec.replicas if spec else int(observed.deployment["spec"].get("replicas", 1))
        held, drifted, requeue = wanted.held, None, wanted.requeue_after
        try:
            made = await self._apply_revisions(observed, existing, wanted, replicas)
            if made and self._queue.urgent_waiting:
                return Result(again=True)
            await self._apply_access(observed, replicas)
            drifted = await self._restore_templates(observed, existing)
        except NameTaken as error:
            message = f"{error}: rename it, or this LLMDeployment"
            held, requeue = Held(Reason.NAME_CONFLICT, message), CONFLICT_RETRY_SECONDS
        except ApiError as error:
            if not error.is_final:
                raise
            message = f"the API server refuses a child: {error.message[:500]}"
            held, requeue = Held(Reason.ADMISSION_REFUSED, message), CONFLICT_RETRY_SECONDS
        wanted = replace(wanted, held=held, requeue_after=requeue)
        return await self._report(key, observed.generation, wanted, replicas, drifted)

    async def _recover(self, observed: Observed) -> bool:
        """Find a revision that the watch lost (its labels were edited) before another is made."""
        current = (observed.deployment.get("status") or {}).get("currentRevision")
        if current is None or current in _existing(observed):
            return False
        name = objects.replica_set_name(observed.key.name, current)
        return await self._writer.find("ReplicaSet", observed.key.namespace, name, observed.uid)

    def _decide(
        self, observed: Observed, existing: Mapping[str, Existing]
    ) -> tuple[LLMDeploymentSpec | None, Wanted]:
        """Which revision the spec means: one that is recorded, else a new one, else none."""
        try:
            spec = LLMDeploymentSpec.model_validate(observed.deployment["spec"])
        except ValidationError as error:
            return None, Wanted(None, Held(Reason.INVALID_SPEC, _first_error(error)))
        user = user_inputs(spec)
        records = {
            e.name: e.record
            for e in sorted(existing.values(), key=lambda e: _created(e.replica_set), reverse=True)
            if e.record is not None
        }
        name = revision.matching(records, user)
        if name is not None:
            record = records[name]
            return spec, Wanted(record, plan=record.resolved.plan)
        answer = self._wishes.resolve(observed.key, spec, nodes(self._store))
        if answer.resolved is None:
            return spec, Wanted(
                None,
                answer.held,
                answer.plan,
                waits_for_nodes=answer.depends_on_nodes,
                requeue_after=answer.retry_after,
            )
        record = revision.make_record(observed.key.name, user, answer.resolved)
        alike = (_as_revision(observed.key, known, record) for known in records.values())
        same = next((known for known in alike if known is not None), None)
        return spec, Wanted(same or record, plan=answer.resolved.plan)

    async def _apply_revisions(
        self,
        observed: Observed,
        existing: Mapping[str, Existing],
        wanted: Wanted,
        replicas: int,
    ) -> bool:
        """Bring ReplicaSets one step on; True if a new one was made."""
        seen = [_seen(e, observed) for e in existing.values()]
        step: Step = next_step(seen, wanted.record.revision if wanted.record else None, replicas)
        owner = _owner(observed)
        made = False
        for name, count in step.replicas.items():
            known = existing.get(name)
            record = wanted.record if wanted.record and wanted.record.revision == name else None
            if known is None and record is not None:
                template = revision.render(owner.name, name, record.user, record.resolved)
                body = objects.replica_set(owner, record, template, count)
                found = await self._writer.create(body, owner.uid)
                known = _known(name, found) if found else None
                made = found is None
            if known is not None:
                await self._repair(owner, known, record, count)
        for name in step.delete:
            await self._writer.delete(existing[name].replica_set)
        return made

    async def _apply_access(self, observed: Observed, replicas: int) -> None:
        """The Service always; the disruption budget where there is something to protect."""
        owner = _owner(observed)
        await self._ensure(objects.service(owner), observed.service, owner)
        if replicas >= objects.BUDGET_FROM_REPLICAS:
            await self._ensure(objects.disruption_budget(owner), observed.budget, owner)
        elif observed.budget is not None:
            await self._writer.delete(observed.budget)

    async def _ensure(self, wanted: Object, actual: Object | None, owner: objects.Owner) -> None:
        if actual is None:
            actual = await self._writer.create(wanted, owner.uid)
        if actual is not None and contains(actual, wanted):
            await self._writer.repair(wanted, actual)

    async def _repair(
        self, owner: objects.Owner, known: Existing, record: revision.Record | None, count: int
    ) -> None:
        """Put right what of a ReplicaSet is not its template: replicas, labels, owner.

        The record is another only where the wish has another one: how this operator would write
        down what is recorded already is no reason to touch a child. It is always sent, since an
        apply without it would remove what an earlier apply has set.
        """
        body = objects.replica_set_shell(owner, known.name, count)
        kept = known.record if record is None or record == known.record else record
        if kept is not None:
            body["metadata"]["annotations"] = objects.record_annotation(kept)
        if contains(known.replica_set, body):
            await self._writer.repair(body, known.replica_set)

    async def _restore_templates(
        self, observed: Observed, existing: Mapping[str, Existing]
    ) -> str | None:
        """Undo edits of templates by others where that can be done without a guess."""
        stubborn = []
        for one in existing.values():
            editors = one.replica_set.get("templateEditors") or ()
            if not editors:
                continue
            template = revision.restore(observed.key.name, one.record) if one.record else None
            if template is None:
                stubborn.append(f"{one.replica_set['metadata']['name']} by {', '.join(editors)}")
            else:
                await self._writer.replace_template(one.replica_set, template)
        if not stubborn:
            return None
        return (
            f"the pod template was edited: {'; '.join(stubborn)}. This operator cannot tell what"
            " it was; new pods follow the edit until the spec changes"
        )

    async def _report(
        self, key: Key, generation: int, wanted: Wanted, replicas: int, drifted: str | None
    ) -> Result:
        """Write the status if it differs. `generation` is the one that the pass has decided on."""
        observed = gather(self._store, key)
        if observed is None or observed.deleting:
            return Result()
        if observed.generation != generation:  # nothing of this pass answers that wish
            return Result(again=True)
        situation = _situation(observed, wanted, replicas, drifted, self._lost_nodes())
        previous = observed.deployment.get("status") or {}
        status = summarise(situation, previous, _now())
        if status == previous:
            return Result(requeue_after=wanted.requeue_after)
        told = notices(previous, status)
        moment = asyncio.get_running_loop().time()
        wait = self._status_written.get(key, 0.0) + STATUS_PAUSE_SECONDS - moment
        if wait > 0 and not told and previous.get("observedGeneration") == generation:
            return Result(requeue_after=wait)
        if not await self._writer.status(key, observed.uid, status):
            return Result()
        self._status_written[key] = moment
        for notice in told:
            self._publish(key, observed.uid, notice.warning, notice.reason, notice.note)
        # A wish that came just before is known by the answer; the watch then tells nothing new.
        after = gather(self._store, key)
        changed = after is not None and after.generation != generation
        return Result(requeue_after=wanted.requeue_after, again=changed)

    def _publish(self, key: Key, uid: str, warning: bool, reason: str, note: str) -> None:
        """Events are told in the background: nothing waits for them."""

        async def publish() -> None:
            if await events.publish(
                self._client, key, uid, warning=warning, reason=reason, note=note
            ):
                API_WRITES.labels("Event", "event").inc()

        task = asyncio.create_task(publish())
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def _lost_nodes(self) -> frozenset[str]:
        return frozenset(node.name for node in nodes(self._store) if not node.ready)

    def _forget(self, key: Key) -> None:
        self._waiting_for_nodes.discard(key)
        self._status_written.pop(key, None)


def _existing(observed: Observed) -> dict[str, Existing]:
    """Revisions by name, those that are being deleted left out."""
    found = {}
    for replica_set in observed.replica_sets:
        metadata = replica_set["metadata"]
        if "deletionTimestamp" in metadata:
            continue
        name = metadata["name"].removeprefix(f"{observed.key.name}-")
        found[name] = _known(name, replica_set)
    return found


def _known(name: str, replica_set: Object) -> Existing:
    text = (replica_set["metadata"].get("annotations") or {}).get(names.ANNOTATION_RECORD, "")
    return Existing(name, replica_set, _read_record(text))


@lru_cache(maxsize=4096)
def _read_record(text: str) -> revision.Record | None:
    """The same few annotations are read in every pass."""
    return revision.record_from_json(text)


def _seen(existing: Existing, observed: Observed) -> Revision:
    pods = [p for p in observed.pods if p.revision == existing.name and not p.deleting]
    return Revision(
        name=existing.name,
        created=_created(existing.replica_set),
        replicas=int(existing.replica_set["spec"].get("replicas", 0)),
        ready=sum(p.ready for p in pods),
    )


def _created(replica_set: Object) -> str:
    return str(replica_set["metadata"].get("creationTimestamp", ""))


def _as_revision(key: Key, known: revision.Record, new: revision.Record) -> revision.Record | None:
    """`new` under the known revision's name, if both mean the very same pod.

    So a change of the spec that changes nothing for the pod restarts nothing.
    """
    alike = revision.render(key.name, known.revision, new.user, new.resolved)
    if revision.rendering_sha(alike) != known.rendering:
        return None
    return replace(new, revision=known.revision, rendering=known.rendering)


def _owner(observed: Observed) -> objects.Owner:
    return objects.Owner(observed.key.name, observed.key.namespace, observed.uid)


def _situation(
    observed: Observed,
    wanted: Wanted,
    replicas: int,
    drifted: str | None,
    lost_nodes: frozenset[str],
) -> Situation:
    wanted_name = wanted.record.revision if wanted.record else None
    found = sorted(_existing(observed).values(), key=lambda e: _created(e.replica_set))
    labelled = {e.name for e in found}
    orphans = {p.revision for p in observed.pods} - labelled
    seen = [
        RevisionSeen(
            name=e.name,
            wanted=e.name == wanted_name,
            replicas=int(e.replica_set["spec"].get("replicas", 0)),
            image=e.record.resolved.image if e.record else None,
            gpus_per_replica=(e.record.resolved.plan.tensor_parallel or 1) if e.record else 1,
            pods=tuple(p for p in observed.pods if p.revision == e.name),
            refused=_refused(e.replica_set),
        )
        for e in found
    ]
    seen.extend(
        RevisionSeen(name, False, 0, None, 0, tuple(p for p in observed.pods if p.revision == name))
        for name in sorted(orphans)
    )
    return Situation(
        generation=observed.generation,
        replicas=replicas,
        revisions=tuple(seen),
        plan=wanted.plan,
        held=wanted.held,
        drifted=drifted,
        endpoint=f"http://{observed.key.name}.{observed.key.namespace}.svc/v1",
        selector=f"{names.LABEL_DEPLOYMENT}={observed.key.name}",
        lost_nodes=lost_nodes,
    )


def _refused(replica_set: Object) -> str | None:
    for condition in (replica_set.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message") or "")
    return None


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"spec.{place}: {first['msg']} (it is {str(first['input'])[:100]!r})"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
