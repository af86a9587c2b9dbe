"""The operator as a process on the run's cluster, and a room for a module of tests.

A room is a namespace with an operator that watches it alone, and with GPU nodes whose product no
other room has. So modules neither wait for each other's cards nor see each other's objects.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml

from llm_operator.cluster.local import LocalCluster

Object = dict[str, Any]
T = TypeVar("T")

TINY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
GROUP = "/apis/llm-operator.dev/v1alpha1"
PATHS = {
    "LLMDeployment": (GROUP, "llmdeployments"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "Service": ("/api/v1", "services"),
    "Pod": ("/api/v1", "pods"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "Event": ("/apis/events.k8s.io/v1", "events"),
}
CHILDREN = ("ReplicaSet", "Service", "PodDisruptionBudget")
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Below those that the kernel gives to clients; all in that network are workers of one run.
_ports = itertools.count(10_000 + 1_000 * (_worker % 20))


class Refused(Exception):
    """The API server said no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """A plain client of the API server, as administrator, from the host. Not thread-safe."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = b64decode(cluster["certificate-authority-data"]).decode()
        host = urlsplit(cluster["server"]).netloc
        context = ssl.create_default_context(cadata=authority)
        self._http = http.client.HTTPSConnection(host, context=context, timeout=30)
        self._headers = {"Authorization": f"Bearer {user['token']}", "User-Agent": "test"}

    def request(self, method: str, path: str, body: Any = None, kind: str = "json") -> Object:
        """One request; the answer. Raises Refused."""
        headers = {**self._headers, "Content-Type": f"application/{kind}"}
        data = None if body is None else json.dumps(body)
        try:
            self._http.request(method, path, body=data, headers=headers)
            response = self._http.getresponse()
        except (http.client.HTTPException, OSError):  # an idle connection was closed
            self._http.close()
            self._http.request(method, path, body=data, headers=headers)
            response = self._http.getresponse()
        answer: Object = json.loads(response.read())
        if response.status >= 400:
            raise Refused(response.status, answer["message"])
        return answer

    def close(self) -> None:
        self._http.close()


def until(
    look: Callable[[], T], seconds: float = 60, tell: Callable[[], object] | None = None
) -> T:
    """Poll until what is seen is true, and give it. `tell` is what to show if it never is."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it never came true: {tell() if tell else seen}")
        time.sleep(0.1)
    return seen


@dataclass
class Operator:
    """`llm-operator run` in the cluster's network, on one namespace; started and ended at will."""

    cluster: LocalCluster
    namespace: str
    log: Path
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[Any] | None = None
    port: int = 0

    def start(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        """Start it, and return once it has listed everything."""
        self.port = next(_ports)
        command = [sys.executable, "-m", "llm_operator.cli.main", "run"]
        command += [f"--namespace={self.namespace}", "--hub-offline", "--http-host=127.0.0.1"]
        command += [f"--http-port={self.port}", *self.options, *options]
        with self.log.open("ab") as log:
            self.process = self.cluster.run_inside(
                command, env={**self.env, **(env or {})}, stdout=log, stderr=log
            )
        until(self._is_ready, 120)  # several operators may start at once on few cores

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        return self._ask("readyz") == "ok"

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def passes(self) -> int:
        """How many passes have ended well since it was started."""
        found = re.search(
            r'llm_operator_reconciles_total\{result="ok"\} (\S+)', self._ask("metrics")
        )
        return int(float(found[1])) if found else 0

    def _ask(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}/{path}"
        with self.cluster.run_inside(
            ["curl", "-s", "--max-time", "2", url], stdout=subprocess.PIPE, text=True
        ) as asking:
            return str(asking.communicate()[0])

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(10)
        self.process = None
        return code


class Room:
    """A namespace of its own, what is in it, and the operator that watches it."""

    def __init__(self, cluster: LocalCluster, log: Path) -> None:
        self.cluster = cluster
        self.namespace = f"room-{secrets.token_hex(3)}"
        self.product = f"Card-{self.namespace}"
        self.api = Api(cluster.kubeconfig)
        self.operator = Operator(cluster, self.namespace, log)
        self._nodes: list[str] = []
        self.faults: list[str] = []

    def open(self) -> None:
        """Make the namespace; wait until pods can be made in it."""
        body = {"metadata": {"name": self.namespace}}
        self.api.request("POST", "/api/v1/namespaces", body)
        account = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"
        until(lambda: self.try_get(account))

    def close(self) -> None:
        """End the operator; take namespace, nodes and faults away."""
        self.operator.kill()
        self.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
        for pod in self.all("Pod"):  # no need to drain
            with suppress(Refused):
                self.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=0)
        for node in list(self._nodes):
            self.remove_node(node)
        for name in self.faults:
            self.heal(name)
        self.api.close()

    # any kind of object

    def path(self, kind: str, name: str = "") -> str:
        group, plural = PATHS[kind]
        return f"{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def try_get(self, path: str) -> Object | None:
        try:
            return self.api.request("GET", path)
        except Refused as error:
            if error.code != 404:
                raise
            return None

    def get(self, kind: str, name: str) -> Object:
        return self.api.request("GET", self.path(kind, name))

    def find(self, kind: str, name: str) -> Object | None:
        return self.try_get(self.path(kind, name))

    def all(self, kind: str, deployment: str = "") -> list[Object]:
        """Objects of a kind; those of one deployment, by label."""
        selector = f"?labelSelector=llm-operator.dev/deployment={deployment}" if deployment else ""
        found: list[Object] = self.api.request("GET", self.path(kind) + selector)["items"]
        return found

    def create(self, kind: str, body: Object) -> Object:
        group = PATHS[kind][0].removeprefix("/apis/").removeprefix("/api/")
        return self.api.request(
            "POST", self.path(kind), {"apiVersion": group, "kind": kind, **body}
        )

    def patch(self, kind: str, name: str, body: Object, sub: str = "") -> Object:
        return self.api.request("PATCH", self.path(kind, name) + sub, body, "merge-patch+json")

    def delete(self, kind: str, name: str, **options: Any) -> None:
        self.api.request("DELETE", self.path(kind, name), options or None)

    # LLMDeployments

    def want(self, name: str, model_id: str = TINY, /, **spec: Any) -> Object:
        """Create an LLMDeployment; on this room's cards unless `gpu` says otherwise."""
        return self.create("LLMDeployment", self.manifest(name, model_id, **spec))

    def manifest(self, name: str, model_id: str = TINY, /, **spec: Any) -> Object:
        """What `want` creates."""
        spec = {"gpu": {"products": [self.product]}, "rollout": {"drainSeconds": 1}, **spec}
        model = {"id": model_id, **spec.pop("model", {})}
        return {"metadata": {"name": name}, "spec": {"model": model, **spec}}

    def change(self, name: str, **spec: Any) -> Object:
        """Change fields of an LLMDeployment's spec; None takes one away."""
        return self.patch("LLMDeployment", name, {"spec": spec})

    def deployment(self, name: str) -> Object:
        return self.get("LLMDeployment", name)

    def status(self, name: str) -> Object:
        found: Object = self.deployment(name)["status"]
        return found

    def condition(self, name: str, kind: str = "Ready") -> Object:
        """A condition, {} if it is not there or is not about the present generation."""
        thing = self.deployment(name)
        for condition in thing["status"].get("conditions", ()):
            current = condition["observedGeneration"] == thing["metadata"]["generation"]
            if condition["type"] == kind and current:
                return dict(condition)
        return {}

    def reason(self, name: str, kind: str = "Ready") -> str:
        """The reason of a condition; "" if it is not there."""
        return str(self.condition(name, kind).get("reason", ""))

    def is_ready(self, name: str) -> bool:
        return self.condition(name).get("status") == "True"

    def until_ready(self, *names: str, seconds: float = 90) -> None:
        for name in names:
            until(
                lambda name=name: self.is_ready(name),  # type: ignore[misc]
                seconds,
                lambda name=name: self.story(name),  # type: ignore[misc]
            )

    def until_reason(self, name: str, reason: str, seconds: float = 60) -> Object:
        """Wait for a reason of Ready; the condition."""
        until(lambda: self.reason(name) == reason, seconds, lambda: self.story(name))
        return self.condition(name)

    def story(self, name: str) -> str:
        """Status, pods and the operator's log, for a failed test to show."""
        pods = {pod["metadata"]["name"]: pod["status"] for pod in self.all("Pod", name)}
        log = self.operator.log.read_text()[-2000:]
        return json.dumps({"status": self.status(name), "pods": pods}, indent=1) + log

    def versions(self, name: str) -> dict[str, tuple[str, str]]:
        """uid and resourceVersion of each child."""
        return {
            f"{kind}/{child['metadata']['name']}": (
                child["metadata"]["uid"],
                child["metadata"]["resourceVersion"],
            )
            for kind in CHILDREN
            for child in self.all(kind, name)
        }

    def pods(self, name: str) -> list[Object]:
        """Pods of a deployment that are not on their way out."""
        return [p for p in self.all("Pod", name) if "deletionTimestamp" not in p["metadata"]]

    # nodes and faults

    def add_node(self, name: str, gpus: int, **labels: str) -> str:
        """A simulated node; of this room's product unless the labels say otherwise."""
        own = {
            "nvidia.com/gpu.product": self.product,
            "nvidia.com/gpu.memory": "81920",
            "nvidia.com/gpu.compute.major": "8",
            "nvidia.com/gpu.compute.minor": "0",
        }
        full_name = f"{self.namespace}-{name}"
        marks = {"llm-operator.dev/simulated": "true", "nvidia.com/gpu.count": str(gpus)}
        metadata = {"name": full_name, "labels": {**marks, **(labels or own)}}
        self.api.request("POST", "/api/v1/nodes", {"metadata": metadata})
        self._nodes.append(full_name)
        until(lambda: "nvidia.com/gpu" in self._allocatable(full_name))
        return full_name

    def _allocatable(self, node: str) -> Object:
        found: Object = self.api.request("GET", f"/api/v1/nodes/{node}")
        return dict(found.get("status", {}).get("allocatable", {}))

    def remove_node(self, name: str) -> None:
        self._nodes.remove(name)
        self.api.request("DELETE", f"/api/v1/nodes/{name}")

    def fault(self, name: str, fault: str, revision: str = "") -> None:
        """Have the pods of a deployment, or of one revision of it, fail; those yet to come too."""
        selector = {"llm-operator.dev/deployment": name}
        if revision:
            selector["llm-operator.dev/revision"] = revision
        rule = {"namespace": self.namespace, "selector": selector, "fault": fault}
        key = f"{self.namespace}.{name}"
        self._rules({key: json.dumps(rule)})
        self.faults.append(key)

    def heal(self, key: str) -> None:
        self._rules({key: None})

    def _rules(self, data: Mapping[str, str | None]) -> None:
        collection = "/api/v1/namespaces/kube-system/configmaps"
        body: Object = {"metadata": {"name": "fleet-faults"}, "data": data}
        try:
            self.api.request("PATCH", f"{collection}/fleet-faults", body, "merge-patch+json")
        except Refused as error:
            if error.code != 404:
                raise
            self.api.request("POST", collection, body)

    # what the API server saw

    def writes(self, since: int) -> list[str]:
        """The operator's writes in this room after a mark of the audit log."""
        return [
            f"{event.verb} {event.resource}/{event.name} {event.subresource}".strip()
            for event in self.cluster.audit_log.writes(since)
            if (event.user_agent, event.namespace) == ("llm-operator", self.namespace)
        ]


@contextmanager
def room(cluster: LocalCluster, log: Path, *options: str, gpus: int = 8) -> Iterator[Room]:
    """A room with an operator at work and one node of its own cards."""
    made = Room(cluster, log)
    try:
        made.open()
        made.operator.start(*options)
        made.add_node("gpu", gpus)
        yield made
    finally:
        made.close()
