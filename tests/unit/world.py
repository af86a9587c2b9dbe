"""One operator at work on an API server in memory, in the event loop's own (virtual) time.

The test plays everybody else: users, kubelets, the ReplicaSet controller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.unit.desired_inputs import plan
from tests.unit.fake_api import FakeApi

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.desired.revision import Defaults, resolve
from llm_operator.facts.cluster import NodeFact
from llm_operator.kube.store import Key, Store
from llm_operator.reconcile.loop import Loop
from llm_operator.reconcile.reconciler import Reconciler
from llm_operator.reconcile.wishes import Answer

Object = dict[str, Any]

RESYNC = 600.0
WATCH_DELAY = 0.01
MODEL = {"id": "meta-llama/Llama-3.1-8B-Instruct"}


class FixedWishes:
    """Every wish gets one plan, or `answer` if that is set. Stands for the planner."""

    def __init__(self, defaults: Defaults | None = None) -> None:
        self.defaults = defaults or Defaults()
        self.answer: Answer | None = None
        self.asked = 0

    def resolve(self, key: Key, spec: LLMDeploymentSpec, nodes: Sequence[NodeFact]) -> Answer:
        self.asked += 1
        if self.answer is not None:
            return self.answer
        tensor = spec.parallelism.tensor if spec.parallelism else None
        made = plan(
            tensor_parallel=tensor if isinstance(tensor, int) else 1,
            max_concurrent_requests=(spec.limits and spec.limits.max_concurrent_requests) or 128,
        )
        return Answer(resolve(spec, made, None, self.defaults), plan=made)


class World:
    """The API server, and the operator that runs on it within `operator()`."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.wishes = FixedWishes()
        self.loop: Loop | None = None
        self.api.watch = self._tell

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
        )
        self.loop = loop
        await loop.first_listing()
        loop.start(reconciler)
        try:
            yield
        finally:
            self.loop = None
            await loop.stop()

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

    def play(self, *, ready: bool = True) -> None:
        """Give every ReplicaSet its pods, all ready or none, and take those of others away."""
        wanted: dict[str, Object] = {}
        for replica_set in self.api.all("ReplicaSet"):
            for number in range(replica_set["spec"]["replicas"]):
                name = f"{replica_set['metadata']['name']}-{number}"
                wanted[name] = replica_set["spec"]["template"]["metadata"]["labels"]
        for pod in self.api.all("Pod"):
            if pod["metadata"]["name"] not in wanted:
                self.api.drop("Pod", pod["metadata"]["name"])
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "tgi", "state": {"running": {}}, "started": ready}],
        }
        for name, labels in wanted.items():
            metadata = {"name": name, "namespace": "ns", "labels": labels}
            body = {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1"}}
            self.api.put(body | {"status": status})

    async def serve(self) -> None:
        """Play until every wish that can be served is."""
        for _ in range(4):
            await self.settle()
            self.play()
        await self.settle()

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
