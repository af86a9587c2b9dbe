"""A step of a rollout, from what was observed to what is written.

The stepper decides; here its facts are gathered and its answer is carried out: marks first, so that
nothing is done whose reason could be forgotten, then more pods, then fewer. Keeps only what a
restart may forget: who is being asked, what is being measured, and when a pod last left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import Any

from llm_operator.api import names
from llm_operator.api.rollout import Acceptance
from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.api.status import Reason
from llm_operator.desired import marks, objects, revision
from llm_operator.desired.compare import contains
from llm_operator.desired.template import gated
from llm_operator.facts.acceptance import Proof
from llm_operator.facts.cluster import PodFact
from llm_operator.kube.store import Key
from llm_operator.observe.acceptance import Candidate, Examiner
from llm_operator.observe.canary import Analyst, Question
from llm_operator.observe.gather import Observed
from llm_operator.reconcile.departures import Departures
from llm_operator.reconcile.revisions import (
    Existing,
    known,
    owner_of,
    seen_from,
    side_of,
    timestamp,
)
from llm_operator.reconcile.writer import Writer
from llm_operator.rollout import seen
from llm_operator.rollout.policy import policy_from, promoted_steps
from llm_operator.rollout.stepper import Step, next_step
from llm_operator.runtimes.base import Engine, engine
from llm_operator.telemetry import metrics

Object = dict[str, Any]
InHand = Callable[[Collection[PodFact], Engine], Awaitable[Mapping[str, int]]]

LEAVES_FIRST = -1
"""Deletion cost of a pod that is to go before its peers."""
HEED_SECONDS = 0.1
"""The ReplicaSet controller has to have seen a pod's cost before it is asked for fewer."""


class Rollouts:
    """Steps for all LLMDeployments. `in_hand` asks pods how many requests they have."""

    def __init__(
        self,
        writer: Writer,
        examiner: Examiner,
        analyst: Analyst,
        in_hand: InHand,
        clock: Callable[[], datetime],
    ) -> None:
        self._writer = writer
        self._examiner = examiner
        self._analyst = analyst
        self._in_hand = in_hand
        self._clock = clock
        self._departures = Departures(clock().timestamp())

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._examiner.forget(key)
        self._analyst.forget(key)
        self._departures.forget(key)

    def next_step(
        self,
        observed: Observed,
        existing: Mapping[str, Existing],
        spec: LLMDeploymentSpec | None,
        wanted: revision.Record | None,
        replicas: int,
        lost: Collection[str],
    ) -> Step:
        """What to do now. `lost` are nodes that do not answer."""
        now = self._clock().timestamp()
        annotations = observed.deployment["metadata"].get("annotations") or {}
        name = wanted.revision if wanted else None
        looked_at = seen.Seen(
            revisions=tuple(seen_from(one, observed.pods, lost) for one in existing.values()),
            retry=annotations.get(names.ANNOTATION_RETRY),
            promoted=promoted_steps(annotations.get(names.ANNOTATION_PROMOTE), name),
            verdict=self._verdict(observed, spec),
            freed_at=self._departures.last(observed.key, observed.pods, now),
            measured=self._analyst.result(observed.key),
        )
        startup = wanted.resolved.startup_seconds if wanted else 0
        policy = policy_from(spec.rollout if spec else None, replicas, startup)
        return next_step(looked_at, name, replicas, policy, now)

    async def carry_out(
        self,
        step: Step,
        observed: Observed,
        existing: Mapping[str, Existing],
        spec: LLMDeploymentSpec | None,
        wanted: revision.Record | None,
    ) -> bool:
        """Write what the step says; True if a ReplicaSet was made."""
        await self._mark(step, observed, existing, spec)
        made = await self._more(step, observed, existing, spec, wanted)
        await self._fewer(step, observed, existing, wanted)
        for name in step.delete:
            await self._writer.delete(existing[name].replica_set)
        self._examine(step, observed, existing, spec)
        self._analyse(step, observed, existing)
        return made

    async def open_gates(self, observed: Observed, existing: Mapping[str, Existing]) -> None:
        """Let requests reach the pods of revisions that need not be accepted (any more)."""
        for pod in observed.pods:
            one = existing.get(pod.revision)
            if pod.gate is False and not pod.deleting and one is not None and not one.gated:
                condition = {
                    "type": names.GATE_ACCEPTED,
                    "status": "True",
                    "reason": Reason.ACCEPTED.value,
                    "lastTransitionTime": timestamp(self._clock()),
                }
                status = {"status": {"conditions": [condition]}}
                await self._writer.pod(observed.key.namespace, pod, status, sub="/status")

    # marks

    async def _mark(
        self,
        step: Step,
        observed: Observed,
        existing: Mapping[str, Existing],
        spec: LLMDeploymentSpec | None,
    ) -> None:
        now = timestamp(self._clock())
        if step.mark_failed is not None:
            annotations = observed.deployment["metadata"].get("annotations") or {}
            cause = step.mark_failed.cause
            retry = annotations.get(names.ANNOTATION_RETRY)
            mark = marks.failed(marks.Failed(cause.reason, cause.message, now, retry))
            await self._annotate(existing[step.mark_failed.revision], mark)
            self._examiner.forget(observed.key)
            metrics.FAILED_REVISIONS.labels(cause.reason).inc()
            if cause.reason == Reason.ACCEPTANCE_FAILED:
                metrics.ACCEPTANCES.labels("refused").inc()
        if step.mark_accepted is not None:
            found = self._result(observed.key, spec)
            results = found[1].results if found and found[1].accepted else ()
            mark = marks.accepted(marks.Accepted(now, results))
            await self._annotate(existing[step.mark_accepted], mark, open_gate=True)
            self._examiner.forget(observed.key)
            if results:
                metrics.ACCEPTANCES.labels("accepted").inc()
        if step.mark_completed is not None:
            mark = marks.completed(now)
            await self._annotate(existing[step.mark_completed], mark, forgive=True)

    async def _annotate(
        self,
        one: Existing,
        annotations: Mapping[str, str],
        *,
        open_gate: bool = False,
        forgive: bool = False,
    ) -> None:
        """Set annotations of a ReplicaSet, all or none, and what they bring with them."""
        there = one.replica_set["metadata"].get("annotations")
        operations: list[Object] = []
        if not there:
            operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        for name, text in annotations.items():
            operations.append({"op": "add", "path": _annotation(name), "value": text})
        if forgive and names.ANNOTATION_FAILED in (there or {}):
            operations.append({"op": "remove", "path": _annotation(names.ANNOTATION_FAILED)})
        if open_gate and one.gated:
            operations.append({"op": "remove", "path": "/spec/template/spec/readinessGates"})
        await self._writer.patch(one.replica_set, operations)

    # acceptance

    def _result(self, key: Key, spec: LLMDeploymentSpec | None) -> tuple[Candidate, Proof] | None:
        questions = _questions(spec)
        return self._examiner.result(key, questions) if questions else None

    def _verdict(self, observed: Observed, spec: LLMDeploymentSpec | None) -> seen.Verdict | None:
        """What the answers mean. Of a pod that has left, bad ones mean nothing."""
        found = self._result(observed.key, spec)
        if found is None:
            return None
        candidate, proof = found
        if proof.accepted:
            return seen.Verdict(candidate.revision)
        if not any(p.uid == candidate.pod and p.containers_ready for p in observed.pods):
            return None
        failure = seen.Cause(Reason.ACCEPTANCE_FAILED.value, proof.message)
        return seen.Verdict(candidate.revision, failure)

    def _examine(
        self,
        step: Step,
        observed: Observed,
        existing: Mapping[str, Existing],
        spec: LLMDeploymentSpec | None,
    ) -> None:
        questions = _questions(spec)
        ask = step.ask
        if ask is None or questions is None:
            self._examiner.forget(observed.key)
            return
        pod = next((pod for pod in observed.pods if pod.name == ask.pod), None)
        record = existing[ask.revision].record
        if pod is not None and pod.ip:
            port = engine(record.resolved.engine if record else None).port
            candidate = Candidate(ask.revision, pod.uid, f"http://{pod.ip}:{port}")
            self._examiner.ask(observed.key, candidate, questions)

    # analysis

    def _analyse(self, step: Step, observed: Observed, existing: Mapping[str, Existing]) -> None:
        """Have measured what the step says, if it says so."""
        trial = step.trial
        if trial is None:
            self._analyst.forget(observed.key)
            return
        new, old = (side_of(existing[name], observed.pods) for name in (trial.new, trial.old))
        self._analyst.ask(observed.key, Question(trial, observed.key.namespace, new, old))

    # replicas

    async def _more(
        self,
        step: Step,
        observed: Observed,
        existing: Mapping[str, Existing],
        spec: LLMDeploymentSpec | None,
        wanted: revision.Record | None,
    ) -> bool:
        """Make the ReplicaSet that is not there, and ask those for more that should have more."""
        made = False
        for name, count in step.replicas.items():
            one = existing.get(name)
            if one is None and wanted is not None and wanted.revision == name:
                owner = owner_of(observed)
                template = revision.render(owner.name, name, wanted.user, wanted.resolved)
                if _questions(spec):
                    template = gated(template)
                body = objects.replica_set(owner, wanted, template, count)
                found = await self._writer.create(body, owner.uid)
                made = found is None
                one = known(name, found) if found else None
            if one is not None and count >= one.replicas:
                await self._repair(observed, one, wanted, count)
        return made

    async def _fewer(
        self,
        step: Step,
        observed: Observed,
        existing: Mapping[str, Existing],
        wanted: revision.Record | None,
    ) -> None:
        for name, count in step.replicas.items():
            one = existing.get(name)
            if one is not None and count < one.replicas:
                await self._choose(observed, one, count)
                await self._repair(observed, one, wanted, count)

    async def _repair(
        self, observed: Observed, one: Existing, wanted: revision.Record | None, count: int
    ) -> None:
        """Put right what of a ReplicaSet is not its template: replicas, labels, owner.

        The record is another only where the wish has another one: how this operator would write
        down what is recorded already is no reason to touch a child. It is always sent, since an
        apply without it would remove what an earlier apply has set.
        """
        body = objects.replica_set_shell(owner_of(observed), one.name, count)
        meant = wanted if wanted is not None and wanted.revision == one.name else None
        kept = one.record if meant is None or meant == one.record else meant
        if kept is not None:
            body["metadata"]["annotations"] = objects.record_annotation(kept)
        if contains(one.replica_set, body):
            await self._writer.repair(body, one.replica_set)

    async def _choose(self, observed: Observed, one: Existing, count: int) -> None:
        """Have the least busy pods go first, as far as they tell; others choose by age."""
        mine = [p for p in observed.pods if p.revision == one.name and not p.deleting]
        serving = [pod for pod in mine if pod.ready]
        going = len(serving) - count  # those that do not serve go before any that does
        if one.record is None or not 0 < going < len(serving):
            return
        in_hand = await self._in_hand(serving, engine(one.record.resolved.engine))
        by_load = sorted(in_hand, key=lambda name: (in_hand[name], name))
        first = set(by_load[:going])
        changed = [p for p in serving if (p.name in first) != (p.deletion_cost < 0)]
        for pod in changed:
            cost = str(LEAVES_FIRST if pod.name in first else 0)
            fields = {"metadata": {"annotations": {names.ANNOTATION_DELETION_COST: cost}}}
            await self._writer.pod(observed.key.namespace, pod, fields)
        if changed:
            await asyncio.sleep(HEED_SECONDS)


def has_marks(step: Step) -> bool:
    """What has been marked is to be looked at again before anything is said of it."""
    return bool(step.mark_failed or step.mark_accepted or step.mark_completed)


def _questions(spec: LLMDeploymentSpec | None) -> Acceptance | None:
    return spec.rollout.acceptance if spec and spec.rollout else None


def _annotation(name: str) -> str:
    """An annotation's place as a JSON pointer."""
    return f"/metadata/annotations/{name.replace('/', '~1')}"
