"""Whatever happens in whatever order: never below the floor, never above surge, and it ends."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)
from tests.unit.rollout_world import Kind, World, measured_by_kind

from llm_operator.api.rollout import Rollout
from llm_operator.api.status import Reason
from llm_operator.rollout.policy import Policy, Strategy, policy_from
from llm_operator.rollout.stepper import Step

KINDS = st.builds(
    Kind,
    gpus=st.sampled_from([1, 1, 2]),
    load=st.sampled_from([20.0, 300.0]),
    crashes_after=st.sampled_from([None, None, None, 5.0, 400.0]),
    garbage=st.sampled_from([False, False, True]),
    fails=st.sampled_from([0.0, 0.0, 0.0, 0.5]),
) | st.just(Kind(load=1e9))
SHARES = st.sampled_from([0, 1, 2, "25%", "50%"])
WISHES = st.builds(
    lambda strategy, surge, unavailable, least, analysis, **rest: Rollout.model_validate(
        {
            "strategy": strategy,
            "maxSurge": surge,
            "maxUnavailable": unavailable,
            "minAvailable": least,
            "canary": {
                "steps": [{"replicas": 1, "pauseSeconds": 30}, {"replicas": "50%"}],
                "analysis": analysis,
            },
            **rest,
        }
    ),
    strategy=st.sampled_from(["RollingUpdate", "RollingUpdate", "Recreate", "Canary"]),
    surge=st.sampled_from(["auto", 0, 1, 2, "25%", "100%"]),
    unavailable=SHARES,
    least=st.none() | SHARES,
    analysis=st.sampled_from([None, {}, {}]),
    onNoSpareGPU=st.sampled_from(["Wait", "Recreate"]),
    onFailure=st.sampled_from(["Rollback", "Rollback", "Hold"]),
    history=st.integers(0, 3),
)


class Rollouts(RuleBasedStateMachine):
    """Users, nodes, controllers and the operator take turns as they like."""

    world: World
    wish: Rollout
    accept: bool

    @initialize(
        nodes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        replicas=st.integers(1, 4),
        wish=WISHES,
        accept=st.booleans(),
    )
    def begin(self, nodes: list[int], replicas: int, wish: Rollout, accept: bool) -> None:
        self.wish, self.accept, self.paused = wish, accept, False
        self.world = World(nodes, "r0", replicas, self.policy)
        self.world.put("r0")
        self.world.measure = measured_by_kind(self.world, 1000)
        self.edits = 0

    def policy(self, replicas: int) -> Policy:
        policy = policy_from(self.wish, replicas, startup_seconds=300)
        return replace(policy, acceptance=self.accept, paused=self.paused)

    @property
    def now_policy(self) -> Policy:
        return self.policy(self.world.replicas)

    # the user

    @rule(kind=KINDS)
    def edit(self, kind: Kind) -> None:
        self.edits += 1
        self.world.wanted = f"r{self.edits}"
        self.world.kinds[self.world.wanted] = kind
        self.world.promoted = 0

    @rule(pick=st.integers(0, 9))
    def revert(self, pick: int) -> None:
        names = sorted(self.world.sets)
        if names:
            self.world.wanted = names[pick % len(names)]

    @rule(replicas=st.integers(0, 4))
    def scale(self, replicas: int) -> None:
        self.world.replicas = replicas

    @rule(wish=WISHES)
    def change_policy(self, wish: Rollout) -> None:
        self.wish = wish

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.paused = paused

    @rule(number=st.integers(0, 2))
    def promote(self, number: int) -> None:
        self.world.promoted = number

    @rule(value=st.sampled_from([None, "1", "2"]))
    def retry(self, value: str | None) -> None:
        self.world.retry = value

    # the cluster

    @rule(pick=st.integers(0, 99))
    def crash(self, pick: int) -> None:
        alive = [p for p in self.world.pods if p.alive and not p.stuck]
        if alive:
            self.world.crash(alive[pick % len(alive)])
            self.world.look()

    @rule(pick=st.integers(0, 99))
    def evict(self, pick: int) -> None:
        alive = [p for p in self.world.pods if p.alive]
        if alive:
            self.world.delete(alive[pick % len(alive)])
            self.world.look()

    @rule(pick=st.integers(0, 9))
    def lose_node(self, pick: int) -> None:
        self.world.lose_node(pick % len(self.world.nodes))
        self.world.look()

    @rule(gpus=st.integers(1, 4))
    def add_node(self, gpus: int) -> None:
        self.world.nodes.append(gpus)

    @rule(quota=st.none() | st.integers(1, 6))
    def set_quota(self, quota: int | None) -> None:
        self.world.quota = quota

    @rule(pick=st.integers(0, 9))
    def controller(self, pick: int) -> None:
        names = sorted(self.world.sets)
        if names:
            self.world.sync(names[pick % len(names)])

    @rule()
    def scheduler(self) -> None:
        self.world.schedule()

    @rule()
    def watch(self) -> None:
        self.world.look()

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0, 120.0, 1000.0]))
    def time(self, seconds: float) -> None:
        serving = self.world.serving()
        self.world.now += seconds
        self.world.kubelet()
        if self.world.serving() < serving or seconds > 6:
            self.world.look()  # a watch lags by seconds, not by minutes

    # the operator

    @rule(seed=st.integers(0, 10**6), cut=st.sampled_from([99, 99, 99, 0, 1, 2]))
    def operator(self, seed: int, cut: int) -> None:
        """One pass, its writes in any order, and perhaps killed in between."""
        step = self.world.decide()
        self.check(step)
        self.world.asked = step.ask
        writes = self.world.writes_of(step)
        random.Random(seed).shuffle(writes)
        for write in writes[:cut]:
            write()

    @rule(seed=st.integers(0, 10**6))
    def live(self, seed: int) -> None:
        """Everybody at work for a while, in any order, nobody waiting for the others."""
        self._live(random.Random(seed), 40)

    @rule(seed=st.integers(0, 10**6))
    def live_long(self, seed: int) -> None:
        """Until most of what was begun has come to something."""
        self._live(random.Random(seed), 150)

    @rule(seed=st.integers(0, 10**6), kind=KINDS)
    def edit_and_live(self, seed: int, kind: Kind) -> None:
        self.edit(kind)
        self._live(random.Random(seed), 40)

    def _live(self, chance: random.Random, turns: int) -> None:
        for _ in range(turns):
            turn = chance.randrange(8)
            if turn == 0:
                self.operator(seed=chance.randrange(10**6), cut=chance.choice([99, 99, 1]))
            elif turn == 1:
                self.controller(pick=chance.randrange(10))
            elif turn == 2:
                self.scheduler()
            elif turn == 3:
                self.watch()
            elif turn == 4:
                self.answer()
            elif turn == 5:
                self.time(seconds=chance.choice([1.0, 6.0, 20.0]))
            else:
                step = self.world.last
                moment = self.world.next_event(step.wake_after if step else None)
                self.time(seconds=max((moment or 0) - self.world.now, 0.0))

    @rule()
    def restart(self) -> None:
        self.world.freed_at, self.world.verdict, self.world.asked = self.world.now, None, None
        self.world.measured = None

    @rule()
    def answer(self) -> None:
        self.world.answer()
        self.world.analyse()

    @rule(requests=st.sampled_from([0, 10, 1000, 1000]))
    def traffic(self, requests: int) -> None:
        """More of it or less; with 0 it is not even measured."""
        by_kind = measured_by_kind(self.world, requests)
        self.world.measure = by_kind if requests else lambda trial: None

    # what must hold

    def check(self, step: Step) -> None:
        world, policy = self.world, self.now_policy
        counts = {n: max(s.replicas, len(world.alive(n))) for n, s in world.sets.items()}
        goals = {**{n: 0 for n in step.delete}, **step.replicas}
        assert set(world.sets) <= set(goals), "every revision is decided on"
        assert not set(step.delete) & set(step.replicas)
        assert world.wanted in step.replicas or (policy.paused and world.sets)
        above = sum(max(counts.get(n, 0), goals[n]) for n in goals)
        assert above <= max(world.replicas + policy.surge, sum(counts.values())), "above surge"
        for name in step.delete:
            assert not world.alive(name), "only revisions without pods are deleted"
        if step.mark_failed and world.kind(step.mark_failed.revision).good:
            assert step.mark_failed.cause.reason in (
                Reason.PROGRESS_DEADLINE_EXCEEDED,
                Reason.NO_SPARE_GPU,
            )
        if policy.strategy is not Strategy.RECREATE:
            waits = any(p.unschedulable_since for p in world.pods if p.alive)
            waits = waits or any(s.refused for s in world.sets.values())
            floor = self.tight_floor(policy) if waits else policy.floor
            before = sum(self.kept(n, s.replicas) for n, s in world.sets.items())
            after = sum(self.kept(n, min(s.replicas, goals[n])) for n, s in world.sets.items())
            assert after >= min(floor, before), f"below {floor}: {before} -> {after}"

    def tight_floor(self, policy: Policy) -> int:
        """Of all that can be placed, one may be missing, unless the user has said how many."""
        if not policy.one_at_a_time:
            return policy.tight_floor
        pods = [p for r in self.world.seen().revisions for p in r.pods]
        placed = sum(p.alive and p.scheduled_at is not None for p in pods)
        return min(policy.tight_floor, max(min(self.world.replicas, placed) - 1, 1))

    def kept(self, name: str, replicas: int) -> int:
        alive = self.world.alive(name)
        ready = sum(p.ready for p in alive)
        doomed = max(len(alive) - replicas, 0)
        return ready - max(doomed - (len(alive) - ready), 0)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        step = world.settle(self.check)
        wanted = world.sets.get(world.wanted)
        others = sum(s.replicas for n, s in world.sets.items() if n != world.wanted)
        done = world.serving(world.wanted) == world.replicas and others == 0
        told = step.report
        if done and wanted and wanted.failed is None:
            assert told is None
        elif told is None:
            # The wanted revision is alone, and not the rollout is what it waits for.
            assert others == 0
            assert wanted is not None
            assert wanted.replicas == world.replicas
        elif not self.room_for_all() or self.paused:
            assert told.stalled or told.reason in (Reason.PAUSED, Reason.NO_SPARE_GPU)
        elif world.kind(world.wanted).good and wanted and wanted.failed is None:
            assert told.reason is Reason.PAUSED, told
        else:
            assert told.stalled or told.reason is Reason.PAUSED, told

    def room_for_all(self) -> bool:
        """Any pod of any revision would find a node in any order."""
        most = max((self.world.kind(n).gpus for n in self.world.sets), default=1)
        places = sum(n // most for n in self.world.nodes)
        pods = self.world.replicas + self.now_policy.surge
        quota = self.world.quota
        return places >= pods and (quota is None or quota >= pods)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=100,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
