"""What a scaler meets: readings by hand, and replicas that load, queue and serve in virtual time.

The engine here is a fluid model of its own: requests are quantities, spread evenly over the pods
that serve; each pod decodes so many at once and refuses what is above its limit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llm_operator.api.autoscaling import Autoscaling
from llm_operator.facts.signals import Absent, Fresh, Idle, Load, Reading, Signals
from llm_operator.scaling.law import decide
from llm_operator.scaling.policy import Capacity, Policy, policy_from
from llm_operator.scaling.terms import Decision, History, Look, Replica

CAPACITY = Capacity(sequences=20, concurrent_requests=64, startup_seconds=1200)
"""At the default targets a replica holds 16 requests."""
START = 1_700_000_000.0
TICK = 15.0


def policy(capacity: Capacity = CAPACITY, /, **spec: Any) -> Policy:
    """Of a spec in its own words; at most 10 replicas unless it says otherwise."""
    return policy_from(Autoscaling.model_validate({"maxReplicas": 10, **spec}), capacity)


def even(demand: float, serving: int, capacity: Capacity = CAPACITY) -> list[Load]:
    """A demand spread evenly over the replicas that serve."""
    share = demand / serving if serving else 0.0
    running = min(share, capacity.sequences)
    return [Load(queued=share - running, running=running, served_rate=1.0)] * serving


def look(
    loads: Sequence[Load | Reading],
    *,
    current: int | None = None,
    loading: int = 0,
    policy: Policy,
    capacity: Capacity = CAPACITY,
    outage: str = "",
    rolling_out: bool = False,
    load_seconds: float = 60.0,
) -> Look:
    """A look at replicas that serve, one for each load or reading, and others that still load."""
    readings: dict[str, Reading] = {
        f"serving-{i}": Fresh(one, START) if isinstance(one, Load) else one
        for i, one in enumerate(loads)
    }
    replicas = [Replica(name, True, load_seconds) for name in readings]
    replicas += [Replica(f"loading-{i}", False) for i in range(loading)]
    return Look(
        signals=Signals(START, {} if outage else readings, outage=outage),
        replicas=tuple(replicas),
        current=len(replicas) if current is None else current,
        capacity=capacity,
        policy=policy,
        rolling_out=rolling_out,
    )


@dataclass
class Law:
    """The law with its memory, tick by tick. `at` is the moment of the next decision."""

    policy: Policy
    capacity: Capacity = CAPACITY
    at: float = START
    history: History = field(default_factory=History)
    replicas: int = 1

    def see(self, loads: Sequence[Load | Reading] = (), **facts: Any) -> Decision:
        """One decision, taken at once: all replicas serve at the next look."""
        facts.setdefault("current", self.replicas)
        seen = look(loads, policy=self.policy, capacity=self.capacity, **facts)
        decision, self.history = decide(seen, self.history, self.at)
        self.replicas = decision.replicas
        self.at += TICK
        return decision

    def hold(self, demand: float) -> Decision:
        """One decision at an even demand over all replicas."""
        return self.see(even(demand, self.replicas, self.capacity))

    def settle(self, demand: float, ticks: int) -> list[int]:
        """The replicas after each of so many ticks of a constant demand."""
        return [self.hold(demand).replicas for _ in range(ticks)]


@dataclass
class Pod:
    """One replica in virtual time."""

    name: str
    serves_at: float
    load_seconds: float
    running: float = 0.0
    queued: float = 0.0
    served: deque[float] = field(default_factory=lambda: deque(maxlen=60))
    refused: deque[float] = field(default_factory=lambda: deque(maxlen=60))

    def step(self, arriving: float, slots: float, limit: float, seconds: float) -> None:
        """One second: requests end, waiting ones begin, others come, and the rest is refused."""
        done = self.running / seconds
        room = max(limit - (self.running - done) - self.queued, 0.0)
        taken = min(arriving, room)
        self.served.append(done)
        self.refused.append(arriving - taken)
        waiting = self.queued + taken
        self.running -= done
        begins = min(waiting, max(slots - self.running, 0.0))
        self.running += begins
        self.queued = waiting - begins

    def load(self) -> Load:
        """As the signals give it, with the rates of a minute."""
        return Load(self.queued, self.running, sum(self.served) / 60, sum(self.refused) / 60)


Scaler = Callable[[list[Pod], int, float], int]
"""From the pods, the replicas asked for and the time to the replicas to ask for."""


@dataclass
class Run:
    """What came of it, second by second."""

    replicas: list[int] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    served: float = 0.0
    refused: float = 0.0

    @property
    def replica_seconds(self) -> int:
        return sum(self.replicas)

    @property
    def wait_seconds(self) -> float:
        """Mean wait of a served request, by Little's law."""
        return sum(self.waiting) / max(self.served, 1e-9)

    @property
    def turns(self) -> int:
        """How often it went from up to down, or from down to up."""
        steps = [b - a for a, b in pairwise(self.replicas) if a != b]
        return sum(1 for a, b in pairwise(steps) if (a > 0) != (b > 0))


@dataclass(frozen=True)
class Engine:
    """Requests decoded at once, the limit, seconds that one takes, and seconds to load."""

    slots: float = 20
    limit: float = 64
    seconds: float = 10
    load_seconds: float = 90


def simulate(
    arrivals: Callable[[float], float], scaler: Scaler, *, seconds: int, engine: Engine
) -> Run:
    """`arrivals(t)` requests a second, for so many seconds; one replica serves at the beginning."""
    pods, born, run = [Pod("pod-0", 0.0, engine.load_seconds)], 1, Run()
    wanted = 1
    for second in range(seconds):
        serving = [pod for pod in pods if pod.serves_at <= second]
        for pod in serving:
            pod.step(arrivals(second) / len(serving), engine.slots, engine.limit, engine.seconds)
        run.served += sum(pod.served[-1] for pod in serving)
        run.refused += sum(pod.refused[-1] for pod in serving)
        run.replicas.append(len(pods))
        run.waiting.append(sum(pod.queued for pod in serving))
        if second % int(TICK) == 0:
            wanted = scaler(pods, wanted, float(second))
            while len(pods) < wanted:
                serves_at = second + engine.load_seconds
                pods.append(Pod(f"pod-{born}", serves_at, engine.load_seconds))
                born += 1
            pods.sort(key=lambda pod: (pod.serves_at > second, -pod.running - pod.queued))
            del pods[wanted:]
    return run


def law_scaler(policy: Policy, capacity: Capacity = CAPACITY) -> Scaler:
    """The law under test."""
    memory = [History()]

    def scale(pods: list[Pod], wanted: int, now: float) -> int:
        readings: Mapping[str, Reading] = {
            pod.name: (Fresh(pod.load(), now) if pod.served else Idle(now))
            if pod.serves_at <= now
            else Absent()
            for pod in pods
        }
        replicas = tuple(
            Replica(p.name, p.serves_at <= now, p.load_seconds if p.serves_at <= now else None)
            for p in pods
        )
        seen = Look(Signals(now, readings), replicas, wanted, capacity, policy)
        decision, memory[0] = decide(seen, memory[0], now)
        return decision.replicas

    return scale


def hpa_scaler(target: float, low: int, high: int, running: bool = False) -> Scaler:
    """The Horizontal Pod Autoscaler on requests that wait, as usually recommended, or on all.

    ceil(requests / target), at once up; down to the most that was asked for within five minutes.
    """
    asked: list[tuple[float, int]] = []

    def scale(pods: list[Pod], wanted: int, now: float) -> int:
        requests = sum(pod.queued + running * pod.running for pod in pods)
        if abs(requests / (target * wanted) - 1) > 0.1:
            asked.append((now, min(max(math.ceil(requests / target), low), high)))
        else:
            asked.append((now, wanted))
        return max(replicas for at, replicas in asked if now - at <= 300)

    return scale
