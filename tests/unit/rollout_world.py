"""A model of cluster, scheduler and ReplicaSet controller in virtual time, for the stepper.

It knows no rollout: pods come and go as ReplicaSets ask, take GPUs where a node has them, load,
serve, crash and drain. What the operator sees may lag behind what is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from llm_operator.facts.canary import Histogram, Measured, Trial, Window
from llm_operator.rollout.policy import Policy, Strategy
from llm_operator.rollout.seen import (
    Cause,
    FailedMark,
    PodSeen,
    Refused,
    RevisionSeen,
    Seen,
    Verdict,
)
from llm_operator.rollout.stepper import Ask, Step, next_step

DRAIN = 100.0
CRASH = Cause("Crashed", "the engine ended with exit code 1")
REFUSED = Cause("AdmissionRefused", "the API server refuses pods: no such runtime class")
GARBAGE = Cause("AcceptanceFailed", "the answer does not contain 'Paris'")


@dataclass(frozen=True)
class Kind:
    """What a revision's pods are like. `load` seconds until they answer; inf: never.

    `fails`: the share of its requests that do.
    """

    gpus: int = 1
    load: float = 60.0
    crashes_after: float | None = None
    garbage: bool = False
    fails: float = 0.0

    @property
    def good(self) -> bool:
        bad = self.garbage or self.fails or self.crashes_after is not None
        return not bad and self.load < 1e6


@dataclass
class Pod:
    name: str
    revision: str
    created: float
    gated: bool = False
    node: int | None = None
    scheduled_at: float | None = None
    started_at: float = 0.0
    unschedulable_since: float | None = None
    ready: bool = False
    ready_since: float | None = None
    unready_since: float = 0.0
    served: bool = False
    stuck: bool = False
    gone_by: float | None = None
    ended: bool = False

    @property
    def alive(self) -> bool:
        return self.gone_by is None and not self.ended


@dataclass
class ReplicaSet:
    name: str
    created: float
    replicas: int
    gated: bool
    acted: bool = False
    reported: int = 0
    accepted: bool = False
    completed_at: float | None = None
    failed: FailedMark | None = None
    refused: Refused | None = None


@dataclass
class World:
    """`nodes`: GPUs of each. `wanted` and `replicas` are the user's wish.

    `refuses`: revisions whose pods the API server refuses; `silent`: nodes that do not answer.
    """

    nodes: list[int]
    wanted: str
    replicas: int
    policy: Callable[[int], Policy]
    kinds: dict[str, Kind] = field(default_factory=dict)
    now: float = 1_000_000.0
    retry: str | None = None
    promoted: int = 0
    sets: dict[str, ReplicaSet] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    quota: int | None = None
    refuses: frozenset[str] = frozenset()
    silent: frozenset[int] = frozenset()
    measure: Callable[[Trial], Measured | None] = lambda trial: None
    measured: Measured | None = None
    verdict: Verdict | None = None
    asked: Ask | None = None
    freed_at: float = 0.0
    created: int = 0
    lowest: int = 10**9
    writes: int = 0
    history: list[str] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=count)
    _view: tuple[list[Pod], dict[str, tuple[bool, int]]] | None = None
    last: Step | None = None

    def kind(self, revision: str) -> Kind:
        return self.kinds.get(revision, Kind())

    # what is

    def of(self, revision: str) -> list[Pod]:
        return [p for p in self.pods if p.revision == revision]

    def alive(self, revision: str) -> list[Pod]:
        return [p for p in self.of(revision) if p.alive]

    def serving(self, revision: str | None = None) -> int:
        return sum(
            p.ready and p.alive for p in self.pods if revision is None or p.revision == revision
        )

    def free(self, node: int) -> int:
        used = sum(self.kind(p.revision).gpus for p in self.pods if p.node == node and not p.ended)
        return self.nodes[node] - used

    # controllers and kubelets

    def sync(self, name: str) -> None:
        """The ReplicaSet's controller makes or deletes pods."""
        rs = self.sets[name]
        alive = self.alive(name)
        rs.refused = None if len(alive) >= rs.replicas else rs.refused
        for _ in range(rs.replicas - len(alive)):
            if name in self.refuses:
                rs.refused = rs.refused or Refused(REFUSED, self.now)
                break
            if self.quota is not None and sum(p.gone_by is None for p in self.pods) >= self.quota:
                rs.refused = rs.refused or Refused(Cause("QuotaExceeded", "pods"), self.now, True)
                break
            gated = rs.gated and not rs.accepted
            self.pods.append(Pod(f"{name}-{next(self._names)}", name, self.now, gated))
            self.pods[-1].unready_since = self.now
            self.created += 1
        doomed = sorted(
            alive, key=lambda p: (p.node is not None, p.ready, p.ready_since or 0.0, p.name)
        )
        for pod in doomed[: max(len(alive) - rs.replicas, 0)]:
            self.delete(pod)
        rs.acted, rs.reported = True, len(self.alive(name))

    def delete(self, pod: Pod) -> None:
        """Ask the pod to go; one without a node goes at once."""
        if pod.node is None:
            self.pods.remove(pod)
        else:
            pod.gone_by = self.now + (DRAIN if pod.ready else 1.0)

    def schedule(self) -> None:
        for pod in self.pods:
            if pod.node is not None or not pod.alive:
                continue
            need = self.kind(pod.revision).gpus
            node = next((n for n in range(len(self.nodes)) if self.free(n) >= need), None)
            if node is None:
                pod.unschedulable_since = pod.unschedulable_since or self.now
            else:
                pod.node, pod.scheduled_at, pod.unschedulable_since = node, self.now, None
                pod.started_at = self.now

    def kubelet(self) -> None:
        for pod in list(self.pods):
            kind, rs = self.kind(pod.revision), self.sets.get(pod.revision)
            if pod.node in self.silent:
                continue
            if pod.gone_by is not None:
                if self.now >= pod.gone_by:
                    self.pods.remove(pod)
                    self.freed_at = self.now
                continue
            if pod.scheduled_at is None or pod.ended:
                continue
            age = self.now - pod.started_at
            if kind.crashes_after is not None and age >= kind.crashes_after:
                pod.stuck = True
                self._unready(pod)
            elif self._answers(pod) and (not pod.gated or (rs and rs.accepted)) and not pod.ready:
                pod.ready, pod.ready_since, pod.served = True, self.now, True

    def _answers(self, pod: Pod) -> bool:
        if pod.scheduled_at is None or not pod.alive or pod.stuck:
            return False
        return self.now >= pod.started_at + self.kind(pod.revision).load

    def _unready(self, pod: Pod) -> None:
        if pod.ready:
            pod.ready, pod.ready_since, pod.unready_since = False, None, self.now

    def settle_controllers(self) -> None:
        for name in list(self.sets):
            self.sync(name)
        self.schedule()
        self.kubelet()
        self.look()

    # what happens to it

    def crash(self, pod: Pod) -> None:
        """The container starts again: the pod loads anew."""
        self._unready(pod)
        pod.started_at = self.now

    def lose_node(self, node: int) -> None:
        self.nodes[node] = 0
        self.pods = [p for p in self.pods if p.node != node]
        self.freed_at = self.now

    # the operator

    def look(self) -> None:
        """The watch catches up."""
        status = {name: (rs.acted, rs.reported) for name, rs in self.sets.items()}
        self._view = ([replace(p) for p in self.pods], status)

    def seen(self) -> Seen:
        if self._view is None:
            self.look()
        assert self._view is not None
        pods, status = self._view
        revisions = []
        for name, rs in self.sets.items():
            mine = [p for p in pods if p.revision == name]
            acted, reported = status.get(name, (False, 0))
            alive = sum(p.alive for p in mine)
            revisions.append(
                RevisionSeen(
                    name=name,
                    created=rs.created,
                    replicas=rs.replicas,
                    pods=tuple(self._pod_seen(p) for p in mine),
                    gpus=self.kind(name).gpus,
                    settled=rs.acted and acted and reported == alive,
                    gated=rs.gated and not rs.accepted,
                    accepted=rs.accepted,
                    completed_at=rs.completed_at,
                    failed=rs.failed,
                    refused=rs.refused,
                )
            )
        return Seen(
            tuple(revisions),
            self.retry,
            self.promoted,
            self.verdict,
            self.freed_at,
            self.measured,
        )

    def _pod_seen(self, pod: Pod) -> PodSeen:
        return PodSeen(
            name=pod.name,
            created=pod.created,
            ready=pod.ready,
            answers=self._answers(pod),
            served=pod.served,
            ready_since=pod.ready_since,
            unready_since=None if pod.ready else pod.unready_since,
            scheduled_at=pod.scheduled_at,
            unschedulable_since=pod.unschedulable_since,
            gone_by=pod.gone_by,
            ended=pod.ended,
            stuck=CRASH if pod.stuck else None,
        )

    def decide(self) -> Step:
        policy = self.policy(self.replicas)
        self.last = next_step(self.seen(), self.wanted, self.replicas, policy, self.now)
        return self.last

    def writes_of(self, step: Step) -> list[Callable[[], None]]:
        """The writes that a step comes to, each of which may be the last before a crash."""
        found: list[Callable[[], None]] = []
        for name, replicas in step.replicas.items():
            rs = self.sets.get(name)
            if rs is None or rs.replicas != replicas:
                found.append(lambda n=name, r=replicas: self._ask_for(n, r))  # type: ignore[misc]
        if step.mark_failed:
            found.append(lambda: self._mark_failed(step))
        if step.mark_accepted:
            found.append(lambda: self._mark_accepted(step))
        if step.mark_completed:
            found.append(lambda: self._mark_completed(step))
        found.extend(lambda n=name: self._remove(n) for name in step.delete)  # type: ignore[misc]
        return found

    def carry_out(self, step: Step) -> int:
        self.asked = step.ask
        if not (step.ask or step.mark_failed or step.mark_accepted):
            self.verdict = None
        writes = self.writes_of(step)
        for write in writes:
            write()
        self.writes += len(writes)
        return len(writes)

    def answer(self) -> None:
        """The pod that was asked has answered."""
        if self.asked is not None:
            bad = self.kind(self.asked.revision).garbage
            self.verdict = Verdict(self.asked.revision, GARBAGE if bad else None)
            self.asked = None

    def analyse(self) -> bool:
        """The requests that the last step wants to be measured are; whether that told anything."""
        before, trial = self.measured, self.last.trial if self.last else None
        self.measured = self.measure(trial) if trial else None
        return self.measured != before

    def _ask_for(self, name: str, replicas: int) -> None:
        rs = self.sets.get(name)
        if rs is None:
            gated = self.policy(self.replicas).acceptance
            self.sets[name] = ReplicaSet(name, self.now, replicas, gated)
        else:
            rs.replicas, rs.acted = replicas, False

    def _mark_failed(self, step: Step) -> None:
        assert step.mark_failed is not None
        rs = self.sets[step.mark_failed.revision]
        rs.failed = FailedMark(step.mark_failed.cause, self.now, self.retry)
        self.verdict = None

    def _mark_accepted(self, step: Step) -> None:
        self.sets[step.mark_accepted or ""].accepted = True
        self.verdict = None

    def _mark_completed(self, step: Step) -> None:
        self.sets[step.mark_completed or ""].completed_at = self.now

    def _remove(self, name: str) -> None:
        del self.sets[name]
        for pod in self.of(name):
            self.delete(pod)

    # time

    def next_event(self, wake_after: float | None) -> float | None:
        moments = [self.now + wake_after] if wake_after is not None else []
        for pod in self.pods:
            kind = self.kind(pod.revision)
            if pod.gone_by is not None:
                moments.append(pod.gone_by)
            elif pod.scheduled_at is not None and not pod.ended:
                if not pod.ready and kind.load < 1e6:
                    moments.append(pod.started_at + kind.load)
                if kind.crashes_after is not None and not pod.stuck:
                    moments.append(pod.started_at + kind.crashes_after)
        return min((m for m in moments if m > self.now), default=None)

    def settle(
        self, check: Callable[[Step], None] | None = None, within: float = 1e9, steps: int = 500
    ) -> Step:
        """Run until nothing happens by itself any more; AssertionError if that never comes."""
        end = self.now + within
        for _ in range(steps):
            self.settle_controllers()
            step = self.decide()
            if check:
                check(step)
            moved = self.carry_out(step)
            self.answer()
            self._note()
            if self.analyse() or moved or self.asked or self.verdict:
                continue
            moment = self.next_event(step.wake_after)
            if moment is None or moment > end:
                return step
            self.now = moment
        raise AssertionError(f"it does not come to rest: {self.picture()}")

    def _note(self) -> None:
        self.lowest = min(self.lowest, self.serving())
        picture = self.picture()
        if not self.history or self.history[-1] != picture:
            self.history.append(picture)

    def picture(self) -> str:
        return " ".join(
            f"{name}:{rs.replicas}({self.serving(name)}/{len(self.alive(name))})"
            for name, rs in sorted(self.sets.items())
        )

    def put(self, name: str, replicas: int | None = None) -> None:
        """A revision that has served for long."""
        count = self.replicas if replicas is None else replicas
        self.sets[name] = ReplicaSet(name, self.now - 1e5, count, gated=False, acted=True)
        self.settle_controllers()
        for pod in self.of(name):
            if pod.node is not None:
                pod.created = pod.scheduled_at = pod.started_at = self.now - 1e5
        self.kubelet()
        for pod in self.of(name):
            if pod.ready:
                pod.ready_since = self.now - 1e4
        self.look()


def measured_by_kind(one: World, requests: int) -> Callable[[Trial], Measured | None]:
    """Every revision has had so many requests, all of which took a second, and fails its share."""

    def window(revision: str) -> Window:
        failures = requests * one.kind(revision).fails
        return Window(requests, failures, *[Histogram((1.0,), (requests - failures, 0.0))] * 2)

    return lambda trial: Measured(trial, 300, window(trial.new), window(trial.old))


def world(
    nodes: list[int],
    replicas: int,
    wanted: str = "b",
    policy: Policy | Callable[[int], Policy] | None = None,
    **kinds: Kind,
) -> World:
    """A world in which revision `a` serves and `wanted` is asked for."""

    def default(n: int) -> Policy:
        return Policy(
            strategy=Strategy.ROLLING_UPDATE,
            surge=1,
            floor=n,
            tight_floor=1 if n == 1 else max(n - 1, 0),
            one_at_a_time=n > 1,
            deadline_seconds=900,
        )

    chosen = policy or default
    made = World(
        nodes,
        "a",
        replicas,
        chosen if callable(chosen) else (lambda _: chosen),
        kinds=dict(kinds),
    )
    made.put("a")
    made.wanted = wanted
    return made
