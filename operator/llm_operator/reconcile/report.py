"""The end of a pass: what was seen and decided becomes status, and Events where it has changed.

Decides when a status is written: only if it differs, and counts that move quickly together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from llm_operator.api import names
from llm_operator.desired import revision
from llm_operator.facts.cluster import PodFact
from llm_operator.kube import events
from llm_operator.kube.client import KubeClient
from llm_operator.kube.store import Key, Store
from llm_operator.observe.gather import Observed, gather
from llm_operator.observe.models import floating
from llm_operator.reconcile.loop import Result
from llm_operator.reconcile.revisions import Existing, existing_of, refusal, timestamp
from llm_operator.reconcile.writer import Writer
from llm_operator.rollout.stepper import Step
from llm_operator.runtimes.terms import Plan
from llm_operator.status.situation import (
    Held,
    Progress,
    RevisionSeen,
    ScalingSeen,
    Situation,
)
from llm_operator.status.summary import Notice, notices, summarise
from llm_operator.telemetry.metrics import API_WRITES

STATUS_PAUSE_SECONDS = 0.5
"""Changes of mere counts within this time after a status write are written together."""


@dataclass(frozen=True)
class Wanted:
    """What a pass aims at: a revision, or why the wish is held; and the plan to show."""

    record: revision.Record | None
    held: Held | None = None
    plan: Plan | None = None
    waits_for_nodes: bool = False
    requeue_after: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a pass has come to. `generation` is the one it has decided on, `retry` its annotation.

    `lost_nodes` do not answer; `drifted` says whose edits were left.
    """

    generation: int
    replicas: int
    wanted: Wanted
    step: Step | None = None
    retry: str | None = None
    drifted: str | None = None
    lost_nodes: Collection[str] = ()
    scaling: ScalingSeen | None = None

    @property
    def requeue_after(self) -> float | None:
        """Seconds until time alone may change something."""
        moments = [self.wanted.requeue_after, self.step.wake_after if self.step else None]
        return min((moment for moment in moments if moment is not None), default=None)


class Reporter:
    """Writes statuses and publishes Events."""

    def __init__(
        self, client: KubeClient, store: Store, writer: Writer, clock: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._store = store
        self._writer = writer
        self._clock = clock
        self._written: dict[Key, float] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._written.pop(key, None)

    async def report(self, key: Key, outcome: Outcome) -> Result:
        """Write the status if it differs, and say when to look again."""
        observed = gather(self._store, key)
        if observed is None or observed.deleting:
            return Result()
        if observed.generation != outcome.generation:  # nothing of this pass answers that wish
            return Result(again=True)
        requeue = outcome.requeue_after
        previous = observed.deployment.get("status") or {}
        now = timestamp(self._clock())
        status = self._writer.fitting(summarise(situation(observed, outcome), previous, now))
        if status == previous:
            return Result(requeue_after=requeue)
        told = notices(previous, status)
        moment = asyncio.get_running_loop().time()
        wait = self._written.get(key, 0.0) + STATUS_PAUSE_SECONDS - moment
        if wait > 0 and not told and previous.get("observedGeneration") == outcome.generation:
            return Result(requeue_after=wait)
        if not await self._writer.status(key, observed.uid, status):
            return Result()
        self._written[key] = moment
        for notice in told:
            self._publish(key, observed.uid, notice)
        # A wish that came just before is known by the answer; the watch then tells nothing new.
        after = gather(self._store, key)
        changed = after is not None and after.generation != outcome.generation
        return Result(requeue_after=requeue, again=changed)

    def _publish(self, key: Key, uid: str, notice: Notice) -> None:
        """Events are told in the background: nothing waits for them."""

        async def publish() -> None:
            if await events.publish(
                self._client,
                key,
                uid,
                warning=notice.warning,
                reason=notice.reason,
                note=notice.note,
            ):
                API_WRITES.labels("Event", "event").inc()

        task = asyncio.create_task(publish())
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)


def situation(observed: Observed, outcome: Outcome) -> Situation:
    """All that status looks at."""
    wanted, report = outcome.wanted, outcome.step.report if outcome.step else None
    name = wanted.record.revision if wanted.record else None
    found = sorted(existing_of(observed).values(), key=lambda one: one.created)
    seen = [_revision(one, observed, one.name == name, outcome.retry) for one in found]
    orphans = {pod.revision for pod in observed.pods} - {one.name for one in found}
    seen.extend(
        RevisionSeen(other, False, 0, None, 0, tuple(_pods(observed, other)))
        for other in sorted(orphans)
    )
    return Situation(
        generation=observed.generation,
        replicas=outcome.replicas,
        revisions=tuple(seen),
        plan=wanted.plan,
        held=wanted.held,
        progress=Progress(report.reason, report.message, report.stalled) if report else None,
        drifted=outcome.drifted,
        endpoint=f"http://{observed.key.name}.{observed.key.namespace}.svc/v1",
        selector=f"{names.LABEL_DEPLOYMENT}={observed.key.name}",
        lost_nodes=outcome.lost_nodes,
        scaling=outcome.scaling,
    )


def _revision(one: Existing, observed: Observed, wanted: bool, retry: str | None) -> RevisionSeen:
    """A mark of failure counts only as long as the user has not asked to try again."""
    resolved = one.record.resolved if one.record else None
    mark, accepted = one.marks.failed, one.marks.accepted
    model = one.record.user["model"] if one.record else {}
    commit = resolved.commit if resolved else None
    return RevisionSeen(
        name=one.name,
        wanted=wanted,
        replicas=one.replicas,
        image=resolved.image if resolved else None,
        gpus_per_replica=one.gpus,
        pods=tuple(_pods(observed, one.name)),
        refused=refusal(one.replica_set),
        created=one.created,
        model=model.get("id"),
        commit=commit,
        floats=floating(model, commit) if resolved else None,
        failed=(mark.reason, mark.message) if mark and mark.retry == retry else None,
        answers=accepted.results if accepted else (),
    )


def _pods(observed: Observed, name: str) -> list[PodFact]:
    return [pod for pod in observed.pods if pod.revision == name]
