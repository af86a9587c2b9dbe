"""One pass over one LLMDeployment: gather, decide, apply, summarise.

Writes in the order that matters to a user: the pods first, then how they are reached, then the
status, and only what differs. Holds no state that a restart would miss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.api.status import Reason
from llm_operator.desired import objects, revision
from llm_operator.desired.compare import contains
from llm_operator.desired.template import gated
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.store import Key, Store
from llm_operator.observe.acceptance import Examine, Examiner, examine
from llm_operator.observe.busy import requests_in_hand
from llm_operator.observe.canary import Analyst, Queries
from llm_operator.observe.gather import Observed, gather, nodes
from llm_operator.reconcile.loop import Result
from llm_operator.reconcile.queue import WorkQueue
from llm_operator.reconcile.report import Outcome, Reporter, Wanted
from llm_operator.reconcile.revisions import Existing, existing_of, owner_of
from llm_operator.reconcile.rollouts import InHand, Rollouts, has_marks
from llm_operator.reconcile.scaler import Scaler, capacity_of, is_rolling_out
from llm_operator.reconcile.wishes import Wishes
from llm_operator.reconcile.writer import NameTaken, Writer
from llm_operator.status.situation import Held

Object = dict[str, Any]

CONFLICT_RETRY_SECONDS = 30.0
"""A foreign object with our name is not watched; look again whether it has gone."""


class Reconciler:
    """Callable with a key. Shared by all workers; one key is never in two passes at once."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        queue: WorkQueue[Key],
        waiting_for_nodes: set[Key],
        wishes: Wishes,
        *,
        in_hand: InHand = requests_in_hand,
        examine: Examine = examine,
        prometheus: Queries | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._queue = queue
        self._waiting_for_nodes = waiting_for_nodes
        self._wishes = wishes
        self._writer = Writer(client, store)
        self._examiner = Examiner(queue.add, examine)
        self._analyst = Analyst(queue.add, prometheus, lambda: clock().timestamp())
        self._rollouts = Rollouts(self._writer, self._examiner, self._analyst, in_hand, clock)
        self._reporter = Reporter(client, store, self._writer, clock)
        self.scaler = Scaler(store, queue.add, clock)

    async def close(self) -> None:
        """End what runs in the background."""
        await self._examiner.close()
        await self._analyst.close()

    async def __call__(self, key: Key) -> Result:
        observed = gather(self._store, key)
        if observed is None or observed.deleting:
            self._waiting_for_nodes.discard(key)
            self._rollouts.forget(key)
            self._reporter.forget(key)
            self.scaler.forget(key)
            return Result()
        if await self._recover(observed):
            return Result(again=True)
        spec, wanted = self._decide(observed, existing_of(observed))
        if wanted.waits_for_nodes:
            self._waiting_for_nodes.add(key)
        else:
            self._waiting_for_nodes.discard(key)
        outcome = await self._apply(observed, spec, wanted)
        if outcome is None:
            return Result(again=True)
        return await self._reporter.report(key, outcome)

    async def _apply(
        self, observed: Observed, spec: LLMDeploymentSpec | None, wanted: Wanted
    ) -> Outcome | None:
        """Write what differs; None if another pass must follow before there is a status to tell."""
        existing = existing_of(observed)
        replicas = self.scaler.replicas(observed, spec)
        lost = frozenset(node.name for node in nodes(self._store) if not node.ready)
        step = self._rollouts.next_step(observed, existing, spec, wanted.record, replicas, lost)
        annotations = observed.deployment["metadata"].get("annotations") or {}
        retry = annotations.get(names.ANNOTATION_RETRY)
        # After a failure the one before is what serves, and what the load is held against.
        serves = existing.get(step.target or "")
        record = (serves and serves.record) or wanted.record
        rolling_out = is_rolling_out(observed, step)
        self.scaler.follow(observed.key, capacity_of(record), rolling_out)
        outcome = Outcome(
            observed.generation,
            replicas,
            wanted,
            step,
            retry,
            lost_nodes=lost,
            scaling=self.scaler.seen(observed.key),
        )
        try:
            made = await self._rollouts.carry_out(step, observed, existing, spec, wanted.record)
            if (made and self._queue.urgent_waiting) or has_marks(step):
                return None
            await self._rollouts.open_gates(observed, existing)
            await self._apply_access(observed, spec, replicas)
            drifted = await self._restore_templates(observed, existing)
            return replace(outcome, drifted=drifted)
        except NameTaken as error:
            message = f"{error}: rename it, or this LLMDeployment"
            held = Held(Reason.NAME_CONFLICT, message)
        except ApiError as error:
            if not error.is_final:
                raise
            message = f"the API server refuses a child: {error.message[:500]}"
            held = Held(Reason.ADMISSION_REFUSED, message)
        wanted = replace(wanted, held=held, requeue_after=CONFLICT_RETRY_SECONDS)
        return replace(outcome, wanted=wanted)

    async def _recover(self, observed: Observed) -> bool:
        """Find a revision that the watch lost (its labels were edited) before another is made."""
        current = (observed.deployment.get("status") or {}).get("currentRevision")
        if current is None or current in existing_of(observed):
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
            for e in sorted(existing.values(), key=lambda e: e.created, reverse=True)
            if e.record is not None
        }
        name = revision.matching(records, user)
        if name is not None:
            record = records[name]
            return spec, Wanted(record, plan=record.resolved.plan)
        can_wait = any(pod.ready for pod in observed.pods)
        answer = self._wishes.resolve(observed.key, spec, nodes(self._store), can_wait=can_wait)
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

    async def _apply_access(
        self, observed: Observed, spec: LLMDeploymentSpec | None, replicas: int
    ) -> None:
        """The Service always; the disruption budget where there is something to protect.

        It does not come and go with the load.
        """
        scaling = spec.autoscaling if spec else None
        replicas = max(replicas, scaling.max_replicas if scaling else 0)
        owner = owner_of(observed)
        await self._ensure(objects.service(owner), observed.service, owner)
        if replicas >= objects.BUDGET_FROM_REPLICAS:
            await self._ensure(objects.disruption_budget(owner), observed.budget, owner)
        elif observed.budget is not None and spec is not None:
            await self._writer.delete(observed.budget)

    async def _ensure(self, wanted: Object, actual: Object | None, owner: objects.Owner) -> None:
        if actual is None:
            actual = await self._writer.create(wanted, owner.uid)
        if actual is not None and contains(actual, wanted):
            await self._writer.repair(wanted, actual)

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
                whole = gated(template) if one.gated else template
                await self._writer.replace_template(one.replica_set, whole)
        if not stubborn:
            return None
        return (
            f"the pod template was edited: {'; '.join(stubborn)}. This operator cannot tell what"
            " it was; new pods follow the edit until the spec changes"
        )


def _as_revision(key: Key, known: revision.Record, new: revision.Record) -> revision.Record | None:
    """`new` under the known revision's name, if both mean the very same pod.

    So a change of the spec that changes nothing for the pod restarts nothing.
    """
    alike = revision.render(key.name, known.revision, new.user, new.resolved)
    if revision.rendering_sha(alike) != known.rendering:
        return None
    return replace(new, revision=known.revision, rendering=known.rendering)


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"spec.{place}: {first['msg']} (it is {str(first['input'])[:100]!r})"
