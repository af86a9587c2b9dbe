"""Replicas that follow the load: a pass says what there is, a tick decides, the next pass acts.

One tick asks once for the load of all deployments, and has the law decide for each. Keeps in memory
what a restart may forget: the law's history, and the replicas wanted (which status knows as well).
A pass is asked for only where a decision is worth telling, so a steady load writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from llm_operator.api import names
from llm_operator.api.autoscaling import Autoscaling
from llm_operator.api.rollout import Rollout
from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.desired.revision import Record
from llm_operator.facts.cluster import PodFact
from llm_operator.facts.signals import Signals
from llm_operator.kube.store import Key, Store
from llm_operator.observe.gather import Observed
from llm_operator.observe.signals import PodSource
from llm_operator.reconcile.revisions import existing_of, seconds
from llm_operator.reconcile.scaling_status import Mode, Told, read_told
from llm_operator.rollout.policy import policy_from as rollout_policy
from llm_operator.rollout.stepper import Step
from llm_operator.scaling.law import decide
from llm_operator.scaling.policy import Capacity, policy_from
from llm_operator.scaling.terms import Decision, History, Look, Replica
from llm_operator.status.situation import ScalingSeen
from llm_operator.telemetry import metrics

log = logging.getLogger(__name__)

AT_ONCE = 50
"""Decisions after which others of the process get their turn."""


@dataclass(frozen=True)
class Subject:
    """What the last pass knew of one deployment that is autoscaled."""

    wish: Autoscaling
    user_replicas: int
    capacity: Capacity | None
    rolling_out: bool
    writers: tuple[str, ...]

    @property
    def mode(self) -> Mode:
        """Whose word counts."""
        if self.writers:
            return Mode.ASIDE
        return Mode.ADVISE if self.wish.mode == "Advise" else Mode.AUTO


@dataclass
class Tracked:
    """One deployment's state between passes and ticks."""

    subject: Subject
    desired: int
    told: Told
    history: History = field(default_factory=History)


class Scaler:
    """Shared by all passes. `enqueue` asks for a pass over a key."""

    def __init__(
        self, store: Store, enqueue: Callable[[Key], None], clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._enqueue = enqueue
        self._clock = clock
        self._tracked: dict[Key, Tracked] = {}

    # for passes

    def replicas(self, observed: Observed, spec: LLMDeploymentSpec | None) -> int:
        """Replicas to run now: the user's, or the scaler's where the user left it to us.

        A spec that cannot be read changes nothing about who decides.
        """
        raw = observed.deployment["spec"]
        user = spec.replicas if spec else int(raw.get("replicas", 1))
        if raw.get("autoscaling") is None:
            if spec is not None:
                self.forget(observed.key)
            return user
        tracked = self._tracked.get(observed.key)
        if spec is None and tracked is not None:
            return tracked.desired
        wish = spec.autoscaling if spec else _readable(raw)
        if wish is None:
            return _without_a_wish(observed, user)
        if tracked is None:
            subject = Subject(wish, user, None, False, _writers(observed))
            told = read_told(observed.deployment)
            history = History(observed_sequences=told.observed)
            rollout = spec.rollout if spec else None
            tracked = Tracked(subject, _first(observed, wish, rollout, told), told, history)
            self._tracked[observed.key] = tracked
        else:
            tracked.subject = replace(
                tracked.subject, wish=wish, user_replicas=user, writers=_writers(observed)
            )
        subject = tracked.subject
        if subject.mode is Mode.AUTO:
            tracked.desired = _clamped(tracked.desired, subject.wish)
        else:
            tracked.desired = user
        return tracked.desired

    def follow(self, key: Key, capacity: Capacity | None, rolling_out: bool) -> None:
        """What a pass has found out. Capacity None: no plan, so nothing can be decided."""
        tracked = self._tracked.get(key)
        if tracked is not None:
            s = tracked.subject
            if None not in (s.capacity, capacity) and s.capacity != capacity:
                # What was observed is of another model, or on other cards.
                tracked.history = replace(tracked.history, observed_sequences=None)
            tracked.subject = Subject(s.wish, s.user_replicas, capacity, rolling_out, s.writers)

    def seen(self, key: Key) -> ScalingSeen | None:
        """What status shows; None where nothing is autoscaled."""
        tracked = self._tracked.get(key)
        if tracked is None:
            return None
        subject = tracked.subject
        low, high = _bounds(subject.wish)
        return tracked.told.seen(
            subject.mode, low, high, tracked.desired, subject.user_replicas, subject.writers
        )

    def forget(self, key: Key) -> None:
        """The object is gone, or no longer autoscaled."""
        if self._tracked.pop(key, None) is not None:
            metrics.forget_scaling(key.namespace, key.name)

    # for the tick

    async def run(self, source: PodSource, interval_seconds: float) -> None:
        """Tick for ever."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self.tick(source)
            except Exception as error:
                log.warning("no decision in this tick: %s", error, exc_info=error)
            metrics.SCALING_TICK_SECONDS.observe(loop.time() - started)
            await asyncio.sleep(max(interval_seconds - (loop.time() - started), 0.05))

    async def tick(self, source: PodSource) -> None:
        """Read the load of all at once, decide for each, ask for passes where it matters."""
        for key in [k for k in self._tracked if self._store.get(names.KIND, *k) is None]:
            self.forget(key)  # its end was missed
        looked_at = {
            key: (tracked, self._pods(key))
            for key, tracked in self._tracked.items()
            if tracked.subject.capacity is not None and tracked.subject.mode is not Mode.ASIDE
        }
        if not looked_at:
            metrics.set_scaling_states({})
            return
        wanted = {key: [pod for pod in pods if pod.ready] for key, (_, pods) in looked_at.items()}
        found = await source.read(wanted)
        states: dict[str, int] = {}
        for number, (key, (tracked, pods)) in enumerate(looked_at.items(), 1):
            signals = found.get(key) or Signals(self._now(), outage="no answer")
            try:
                decision = self._decide(key, tracked, pods, signals)
            except Exception as error:  # one that goes wrong keeps no other from its decision
                log.warning("%s/%s: no decision: %s", *key, error, exc_info=error)
                continue
            if decision is not None:
                states[decision.state] = states.get(decision.state, 0) + 1
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        metrics.set_scaling_states(states)

    def _decide(
        self, key: Key, tracked: Tracked, pods: Iterable[PodFact], signals: Signals
    ) -> Decision | None:
        subject = tracked.subject
        gone = self._tracked.get(key) is not tracked
        if gone or subject.capacity is None or subject.mode is Mode.ASIDE:
            return None  # while we asked
        look = Look(
            signals=signals,
            replicas=tuple(_replica(pod) for pod in pods),
            current=tracked.desired,
            capacity=subject.capacity,
            policy=policy_from(subject.wish, subject.capacity),
            rolling_out=subject.rolling_out,
        )
        now = self._now()
        decision, tracked.history = decide(look, tracked.history, now)
        metrics.SCALING_DESIRED.labels(*key).set(decision.replicas)
        moved = decision.replicas != tracked.desired
        if subject.mode is Mode.AUTO:
            tracked.desired = decision.replicas
        patience = 0.0 if subject.mode is Mode.AUTO else look.policy.down.stabilization_seconds
        told = tracked.told.take(decision, tracked.history.observed_sequences, patience)
        if told or (moved and subject.mode is Mode.AUTO):
            metrics.SCALING_DECISIONS.labels(decision.why).inc()
            self._enqueue(key)
        return decision

    def _pods(self, key: Key) -> list[PodFact]:
        return _counting(e.fact for e in self._store.owned(key, "Pod"))

    def _now(self) -> float:
        return self._clock().timestamp()


def _counting(pods: Iterable[PodFact]) -> list[PodFact]:
    """The pods that count: neither on their way out nor ended for good."""
    return [p for p in pods if not p.deleting and p.phase not in ("Failed", "Succeeded")]


def capacity_of(record: Record | None) -> Capacity | None:
    """What the plan of a revision says that one of its replicas can take."""
    if record is None:
        return None
    resolved = record.resolved
    return Capacity(
        sequences=resolved.plan.max_concurrent_sequences,
        concurrent_requests=resolved.plan.max_concurrent_requests,
        startup_seconds=resolved.startup_seconds,
    )


def is_rolling_out(observed: Observed, step: Step) -> bool:
    """Pods of more than the step's target are there, or to come, or something is on its way.

    What has come to a standstill with one revision is at rest, as after a rollback.
    """
    if step.report is not None and not step.report.stalled:
        return True
    others = any(one.replicas for name, one in existing_of(observed).items() if name != step.target)
    return others or any(pod.revision != step.target for pod in _counting(observed.pods))


def _replica(pod: PodFact) -> Replica:
    started, ready = seconds(pod.scheduled_at), seconds(pod.ready_at)
    took = ready - started if pod.ready and started is not None and ready is not None else None
    return Replica(pod.name, serving=pod.ready, load_seconds=took)


def _writers(observed: Observed) -> tuple[str, ...]:
    """Who else writes our scale subresource."""
    found = observed.deployment.get("scaledBy") or ()
    return tuple(name for name in found if name != names.FIELD_MANAGER)


def _readable(raw: Mapping[str, Any]) -> Autoscaling | None:
    """What is said of scaling in a spec that cannot be read as a whole."""
    try:
        return Autoscaling.model_validate(raw["autoscaling"])
    except ValidationError:
        return None


def _running(observed: Observed) -> tuple[int, int]:
    """What the ReplicaSets are asked for in all, and how many of them are asked for any."""
    counts = [one.replicas for one in existing_of(observed).values() if one.replicas]
    return sum(counts), len(counts)


def _without_a_wish(observed: Observed, user: int) -> int:
    """As many as before, after a restart with a spec that cannot be read."""
    told = read_told(observed.deployment)
    if told.mode in (Mode.ADVISE, Mode.ASIDE):
        return user
    running, revisions = _running(observed)
    known = told.desired if told.mode is Mode.AUTO else None
    if known is None:
        return running or user
    return max(known, running) if revisions == 1 else known


def _first(observed: Observed, wish: Autoscaling, rollout: Rollout | None, told: Told) -> int:
    """Where to begin: after a restart with what was wanted, else with what runs.

    What runs may be more than was written down, if a process ended in between; it is not taken
    back on that ground. Nor is it where nothing was written down: then the surge of a rollout may
    stay, rather than a replica go that was wanted.
    """
    running, revisions = _running(observed)
    known = told.desired if told.mode is Mode.AUTO else None
    if known is None:
        return running or _bounds(wish)[0]
    surge = rollout_policy(rollout, known, 0).surge if revisions > 1 else 0
    return max(known, running - surge)


def _bounds(wish: Autoscaling) -> tuple[int, int]:
    return min(wish.min_replicas or 1, wish.max_replicas), wish.max_replicas


def _clamped(replicas: int, wish: Autoscaling) -> int:
    low, high = _bounds(wish)
    return min(max(replicas, low), high)
