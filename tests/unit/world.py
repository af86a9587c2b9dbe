"""One operator at work on an API server in memory, in the event loop's own (virtual) time.

The test plays everybody else: users, kubelets, the ReplicaSet controller.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit.desired_inputs import plan
from tests.unit.fake_api import FakeApi

from llm_operator.api import names
from llm_operator.api.rollout import Acceptance
from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.desired.revision import Defaults, resolve
from llm_operator.facts.acceptance import Proof, Result
from llm_operator.facts.cluster import NodeFact, PodFact
from llm_operator.facts.signals import Fresh, Load, Reading, Signals
from llm_operator.kube.store import Key, Store
from llm_operator.observe.canary import Queries
from llm_operator.reconcile.loop import Loop
from llm_operator.reconcile.reconciler import Reconciler
from llm_operator.reconcile.revisions import timestamp
from llm_operator.reconcile.wishes import Answer
from llm_operator.runtimes.base import Engine

Object = dict[str, Any]

BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
RESYNC = 600.0
WATCH_DELAY = 0.01
TICK = 15.0
MODEL = {"id": "meta-llama/Llama-3.1-8B-Instruct"}


class FixedWishes:
    """Every wish gets one plan, or `answer` if that is set. Stands for the planner."""

    def __init__(self, defaults: Defaults | None = None) -> None:
        self.defaults = defaults or Defaults()
        self.answer: Answer | None = None
        self.asked = 0

    def resolve(
        self,
        key: Key,
        spec: LLMDeploymentSpec,
        nodes: Sequence[NodeFact],
        *,
        can_wait: bool = False,
    ) -> Answer:
        self.asked += 1
        if self.answer is not None:
            return self.answer
        tensor = spec.parallelism.tensor if spec.parallelism else None
        made = plan(
            tensor_parallel=tensor if isinstance(tensor, int) else 1,
            max_concurrent_requests=(spec.limits and spec.limits.max_concurrent_requests) or 128,
        )
        return Answer(resolve(spec, made, None, self.defaults), plan=made)


def is_ready(pod: Object) -> bool:
    """Whether requests may reach it."""
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


class World:
    """The API server, and the operator that runs on it within `operator()`."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.wishes = FixedWishes()
        self.loop: Loop | None = None
        self.room = 1000
        self.loading = ""
        self.load: dict[str, int] = {}
        self.answers = Proof((Result(8, 0.5),), 1)
        self.answer_seconds = 1.0
        self.asked: list[str] = []
        self.prometheus: Queries | None = None
        self.demand: dict[str, int] = {}
        self.slots = 16
        self.unread: dict[str, Reading] = {}
        self.outage = ""
        self.reads = 0
        self.api.watch = self._tell
        self.api.now = lambda: timestamp(self.now())

    def now(self) -> datetime:
        """The event loop's clock, from an arbitrary birth of this world on."""
        return BIRTH + timedelta(seconds=asyncio.get_running_loop().time())

    async def in_hand(self, pods: Collection[PodFact], _: Engine) -> dict[str, int]:
        """Requests in each pod's hands, as the pods tell."""
        return {pod.name: self.load[pod.name] for pod in pods if pod.name in self.load}

    async def examine(self, url: str, _: Acceptance) -> Proof:
        """What the model answers when it is asked before it serves."""
        self.asked.append(url)
        await asyncio.sleep(self.answer_seconds)
        return self.answers

    async def read(self, wanted: Mapping[Key, Collection[PodFact]]) -> Mapping[Key, Signals]:
        """What Prometheus would say: requests of a deployment spread evenly over its pods.

        Of a pod's share `slots` run and the rest waits. `unread` pods have another reading.
        """
        self.reads += 1
        at = self.now().timestamp()
        if self.outage:
            return {key: Signals(at, outage=self.outage) for key in wanted}
        found = {}
        for key, pods in wanted.items():
            readings: dict[str, Reading] = {}
            for number, pod in enumerate(pods):
                share, rest = divmod(self.demand.get(key.name, 0), len(pods))
                mine = share + (number < rest)
                load = Load(queued=max(mine - self.slots, 0), running=min(mine, self.slots))
                readings[pod.name] = self.unread.get(pod.name, Fresh(load, at))
            found[key] = Signals(at, readings)
        return found

    def close(self) -> None:
        """As a source of signals: nothing to give back."""

    def _tell(self, verb: str, body: Object) -> None:
        if self.loop is not None:
            asyncio.get_running_loop().call_later(WATCH_DELAY, self.loop.seen, verb, body)

    @asynccontextmanager
    async def operator(self, workers: int = 2) -> AsyncIterator[None]:
        """A process of the operator from its start until it is killed."""
        loop = Loop(
            self.api,  # type: ignore[arg-type]
            Store(),
            namespace=None,
            workers=workers,
            resync_seconds=RESYNC,
        )
        reconciler = Reconciler(
            self.api,  # type: ignore[arg-type]
            loop.store,
            loop.queue,
            loop.waiting_for_nodes,
            self.wishes,  # type: ignore[arg-type]
            in_hand=self.in_hand,
            examine=self.examine,
            prometheus=self.prometheus,
            clock=self.now,
        )
        self.loop = loop
        await loop.first_listing()
        loop.start(reconciler)
        ticking = asyncio.create_task(reconciler.scaler.run(self, TICK))
        try:
            yield
        finally:
            self.loop = None
            ticking.cancel()
            await loop.stop()
            await reconciler.close()

    async def settle(self, seconds: float = 3) -> None:
        """Let everything happen that happens by itself."""
        await asyncio.sleep(seconds)

    # users

    def want(self, name: str = "llama", **spec: Any) -> None:
        """Apply an LLMDeployment."""
        self.api.put(
            {
                "kind": names.KIND,
                "apiVersion": names.API_VERSION,
                "metadata": {"name": name, "namespace": "ns"},
                "spec": {"model": MODEL, "replicas": 1, **spec},
            }
        )

    # the ReplicaSet controller and the kubelets

    def play(self, *, ready: bool = True) -> bool:
        """One look of theirs: ReplicaSets get their pods, and these are all ready, or none is.

        Of too many pods the one that does not serve goes first, then the last that came. Pods
        beyond `room` get no node, those of the ReplicaSet that is `loading` are not ready yet.
        True if anything changed.
        """
        before = self.api.version
        names_wanted = set()
        for replica_set in self.api.all("ReplicaSet"):
            names_wanted |= self._keep_replicas(replica_set)
        for pod in self.api.all("Pod"):
            if pod["metadata"]["name"] not in names_wanted:
                self.api.drop("Pod", pod["metadata"]["name"])
        pods = sorted(self.api.all("Pod"), key=lambda pod: "nodeName" not in pod["spec"])
        for number, pod in enumerate(pods):
            loads = pod["metadata"]["name"].rpartition("-")[0] == self.loading
            self._run(pod, ready=ready and not loads, has_room=number < self.room)
        return self.api.version != before

    def _keep_replicas(self, replica_set: Object) -> set[str]:
        """The names of the pods of one ReplicaSet, those that are to come included."""
        metadata, spec = replica_set["metadata"], replica_set["spec"]
        there = [
            pod
            for pod in self.api.all("Pod")
            if pod["metadata"]["name"].rpartition("-")[0] == metadata["name"]
        ]
        there.sort(key=lambda pod: (not is_ready(pod), pod["metadata"]["creationTimestamp"]))
        kept = [pod["metadata"]["name"] for pod in there[: spec["replicas"]]]
        numbers = (f"{metadata['name']}-{number}" for number in itertools.count())
        while len(kept) < spec["replicas"]:
            name = next(name for name in numbers if name not in kept)
            template = spec["template"]
            labels = template["metadata"]["labels"]
            gates = {k: v for k, v in template["spec"].items() if k == "readinessGates"}
            self.api.put(
                {
                    "kind": "Pod",
                    "metadata": {"name": name, "namespace": "ns", "labels": labels},
                    "spec": gates,
                    "status": {"conditions": []},
                }
            )
            kept.append(name)
        status = {
            "replicas": spec["replicas"],
            "observedGeneration": metadata["generation"],
        }
        if replica_set.get("status") != status:
            self.api.put({"kind": "ReplicaSet", "metadata": metadata, "status": status})
        return set(kept)

    def _run(self, pod: Object, *, ready: bool, has_room: bool) -> None:
        """The scheduler and a kubelet on one pod."""
        before = {c["type"]: c for c in pod["status"].get("conditions", ())}
        is_open = all(
            before.get(gate["conditionType"], {}).get("status") == "True"
            for gate in pod["spec"].get("readinessGates", ())
        )
        states = {
            "Ready": (has_room and ready and is_open, ""),
            "ContainersReady": (has_room and ready, ""),
            "PodScheduled": (has_room, "" if has_room else "Unschedulable"),
        }
        conditions = []
        for kind, (holds, reason) in states.items():
            condition = {"type": kind, "status": str(holds), "reason": reason}
            if reason:
                condition["message"] = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
            old = before.pop(kind, {})
            same = old.get("status") == str(holds) and "lastTransitionTime" in old
            moment = old["lastTransitionTime"] if same else timestamp(self.now())
            conditions.append({**condition, "lastTransitionTime": moment})
        spec = pod["spec"] | ({"nodeName": "n1"} if has_room else {})
        state = {"name": "tgi", "state": {"running": {}}, "started": ready}
        status = {
            "phase": "Running" if has_room else "Pending",
            "conditions": [*conditions, *before.values()],
            "podIP": "10.0.0.1",
            "containerStatuses": [state] if has_room else [],
        }
        if (spec, status) != (pod["spec"], pod["status"]):
            metadata = pod["metadata"]
            self.api.put({"kind": "Pod", "metadata": metadata, "spec": spec, "status": status})

    async def serve(self) -> None:
        """Play until nothing happens any more."""
        quiet = 0
        for _ in range(60):
            await self.settle()
            quiet = 0 if self.play() else quiet + 1
            if quiet == 2:
                return

    # what there is

    def writes(self) -> list[tuple[str, str, str]]:
        """Writes of the operator so far, Events apart; forgets them."""
        done = [write for write in self.api.writes if write[1] != "Event"]
        self.api.writes.clear()
        return done

    def status(self, name: str = "llama") -> Object:
        found = next(o for o in self.api.all(names.KIND) if o["metadata"]["name"] == name)
        status: Object = found["status"]
        return status

    def current(self, name: str = "llama") -> Object:
        """The ReplicaSet of the revision that the spec asks for."""
        wanted = f"{name}-{self.status(name).get('currentRevision')}"
        found = (r for r in self.api.all("ReplicaSet") if r["metadata"]["name"] == wanted)
        return next(found, {"metadata": {"name": wanted}})

    def condition(self, kind: str = "Ready") -> tuple[str, str]:
        """Status and reason of a condition; ("", "") where it is not there."""
        for condition in self.status().get("conditions", ()):
            if condition["type"] == kind:
                return condition["status"], condition["reason"]
        return "", ""

    def versions(self) -> dict[tuple[str, str], str]:
        """resourceVersion of every object but the pods."""
        return {
            (kind, name): held.body["metadata"]["resourceVersion"]
            for (kind, _, name), held in self.api.objects.items()
            if kind not in ("Pod", "Event")
        }
