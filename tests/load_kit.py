"""A stage for tests under load: a cluster of its own, a model that serves, and traffic to it.

Its own, because a test here pauses kube-proxy and loses nodes, and because its traffic must not
slow down others'.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster_fixture import install_crds
from tests.operator_kit import Object, Room, until

from llm_operator.cluster.load.records import Outcome
from llm_operator.cluster.load.running import Load
from llm_operator.cluster.local import LocalCluster

MODELS = (
    "NousResearch/Meta-Llama-3.1-8B-Instruct",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
)
CARD = "NVIDIA-L4"
NODES = "l4=5x3"
DRAIN_SECONDS = 40
"""A long stream takes some 12 s here, longer than the Service needs to forget a pod."""

log = logging.getLogger(__name__)

POLICIES = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies"
LONG_TOKENS = 192


class Stage(Room):
    """A room whose one deployment `chat` is served on L4 cards, and can be put under load."""

    _limits = itertools.count(128)

    def serve(self, replicas: int = 3) -> None:
        """Create `chat` and wait until it serves."""
        self.want(
            "chat",
            MODELS[0],
            gpu={"products": [CARD]},
            parallelism={"tensor": 1},
            quantization={"method": "none"},
            limits=self._next_limits(),
            rollout={"drainSeconds": DRAIN_SECONDS, "maxSurge": replicas},
            replicas=replicas,
        )
        self.until_ready("chat")

    def upgrade(self, model: str | None = None, **spec: Any) -> None:
        """Change `chat` to a revision that never was: the other model, and other limits."""
        now = self.deployment("chat")["spec"]["model"]["id"]
        other = MODELS[MODELS.index(now) - 1] if now in MODELS else MODELS[0]
        self.change("chat", model={"id": model or other}, limits=self._next_limits(), **spec)

    def _next_limits(self) -> Object:
        most = next(self._limits)
        return {"maxInputTokens": 1024, "maxTotalTokens": 2048, "maxConcurrentRequests": most}

    @contextmanager
    def load(self, **options: float) -> Iterator[Load]:
        """Traffic through the Service's address, once it is in full swing."""
        address = self.get("Service", "chat")["spec"]["clusterIP"]
        options = {
            "streams": 28,
            "chats": 8,
            "long_streams": 8,
            "long_tokens": LONG_TOKENS,
            **options,
        }
        with Load(self.cluster, f"http://{address}", **options) as load:
            until(lambda: len(load.records) > 40)
            yield load
            log.info("%s", load.report())
            for record in load.records:
                if record.outcome is not Outcome.OK:
                    log.info("%s", record)

    @contextmanager
    def pods_without(self, *operations: Object) -> Iterator[None]:
        """Pods made meanwhile have these JSON patches applied on admission, behind our back."""
        name = f"{self.namespace}-without"
        patches = ", ".join(_cel(operation) for operation in operations)
        policy = {
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": self.namespace}
                    },
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["pods"],
                        }
                    ],
                },
                "mutations": [
                    {"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{patches}]"}}
                ],
            },
        }
        binding = {"metadata": {"name": name}, "spec": {"policyName": name}}
        self.api.request("POST", POLICIES, policy)
        self.api.request("POST", POLICIES.replace("policies", "policybindings"), binding)
        try:
            until(lambda: self._is_patched())
            yield
        finally:
            self.api.request("DELETE", f"{POLICIES.replace('policies', 'policybindings')}/{name}")
            self.api.request("DELETE", f"{POLICIES}/{name}")
            until(lambda: not self._is_patched())

    def _is_patched(self) -> bool:
        """Whether the policy is in force: a dry run of a pod of ours shows it."""
        (replica_set, *_) = self.all("ReplicaSet", "chat")
        template = replica_set["spec"]["template"]
        body = {"metadata": {"name": "dry-run"}, "spec": template["spec"]}
        made = self.api.request("POST", f"{self.path('Pod')}?dryRun=All", body)
        return any(
            made["spec"]["containers"][0].get(key) != template["spec"]["containers"][0].get(key)
            for key in ("lifecycle", "readinessProbe")
        )

    def endpoints(self) -> dict[str, bool]:
        """Whether each pod behind the Service counts as ready, by the pod's name."""
        slices = self.api.request(
            "GET", self.path("EndpointSlice") + "?labelSelector=kubernetes.io/service-name=chat"
        )["items"]
        return {
            endpoint["targetRef"]["name"]: bool(endpoint["conditions"].get("ready"))
            for each in slices
            for endpoint in each.get("endpoints") or ()
        }


def _cel(operation: Object) -> str:
    value = f", value: {json.dumps(operation['value'])}" if "value" in operation else ""
    return f'JSONPatch{{op: "{operation["op"]}", path: "{operation["path"]}"{value}}}'


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """A cluster, an operator at work in it, and `chat` serving."""
    cluster = LocalCluster.start(
        "load", state_dir=directory / "cluster", nodes=NODES, die_with=os.getpid()
    )
    try:
        install_crds(cluster)
        made = Stage(cluster, directory / "operator.log")
        try:
            made.open()
            made.operator.start()
            made.serve()
            yield made
        finally:
            made.operator.kill()
            made.api.close()
    finally:
        cluster.stop(keep_files=True)
