"""Pods on the virtual kubelet of a real control plane: what kubectl and Services see of them.

Each test has a namespace and a tainted node of its own, so that nobody else's pods are touched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

pytestmark = pytest.mark.timeout(120)

LABEL = "fleet-test"


@dataclass(frozen=True)
class Place:
    """A namespace and a node with four small cards, and kubectl for both."""

    cluster: LocalCluster
    namespace: str

    @property
    def node(self) -> str:
        return f"{self.namespace}-0"

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, input=input)

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output=json"))

    def apply(self, *items: dict[str, Any]) -> None:
        listing = {"apiVersion": "v1", "kind": "List", "items": list(items)}
        self.kubectl("apply", "--filename=-", input=json.dumps(listing))

    def until(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, self.kubectl("get", "pods", "--output=yaml")
            time.sleep(0.1)
        return value

    def wait(self, name: str, condition: str = "Ready") -> None:
        self.kubectl("wait", f"pod/{name}", f"--for=condition={condition}", "--timeout=20s")

    def container(self, name: str = "web") -> Any:
        statuses = self.get("pod", name)["status"].get("containerStatuses")
        return statuses[0] if statuses else {}

    def waiting(self, reason: str, name: str = "web") -> bool:
        state = self.container(name).get("state", {})
        return bool(state.get("waiting", {}).get("reason") == reason)

    def fetch(self, address: str, path: str = "/") -> str:
        proxy = urllib.request.ProxyHandler({"http": self.cluster.proxy_url})
        with urllib.request.build_opener(proxy).open(f"http://{address}{path}", timeout=5) as got:
            return str(got.read().decode())

    def answers(self, address: str) -> bool:
        try:
            return bool(self.fetch(f"{address}:8080"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def is_gone(self, name: str) -> bool:
        return not self.kubectl("get", "pod", name, "--ignore-not-found", "--output=name")

    def endpoints(self) -> dict[str, bool]:
        """Pod name -> ready, as kube-proxy is told."""
        slices = self.get("endpointslices")["items"]
        return {
            endpoint["targetRef"]["name"]: endpoint["conditions"]["ready"]
            for each in slices
            for endpoint in each["endpoints"] or ()
        }


@pytest.fixture
def place(cluster: LocalCluster, namespace: str) -> Iterator[Place]:
    it = Place(cluster, namespace)
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": it.node,
            "labels": {
                "llm-operator.dev/simulated": "true",
                LABEL: namespace,
                "nvidia.com/gpu.product": "Fleet-Test-Card",
                "nvidia.com/gpu.memory": "1024",
                "nvidia.com/gpu.count": "4",
                "nvidia.com/gpu.compute.major": "7",
                "nvidia.com/gpu.compute.minor": "5",
            },
        },
        "spec": {"taints": [{"key": LABEL, "effect": "NoSchedule"}]},
    }
    it.apply(node)
    it.kubectl("wait", f"node/{it.node}", "--for=condition=Ready", "--timeout=20s")
    yield it
    cluster.kubectl("delete", "node", it.node, "--wait=false")


def template(
    namespace: str, *args: str, container: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    main = {
        "name": "main",
        "image": "example.org/fleet/http:1",
        "args": list(args),
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        **(container or {}),
    }
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {LABEL: namespace},
            "tolerations": [{"key": LABEL, "operator": "Exists"}],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "containers": [main],
            **spec,
        },
    }


def pod(place: Place, *args: str, name: str = "web", **spec: Any) -> dict[str, Any]:
    item = template(place.namespace, *args, **spec)
    item["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", **item}


def test_replicas_become_ready_and_a_service_follows_their_readiness(place: Place) -> None:
    selector = {"app": "web"}
    place.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": selector},
                "template": template(place.namespace, "--ready-after=0.5"),
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": "http"}]},
        },
    )
    place.kubectl("wait", "rs/web", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=20s")
    place.until(lambda: list(place.endpoints().values()) == [True, True])
    names = list(place.endpoints())
    service = f"web.{place.namespace}"
    assert place.until(lambda: place.fetch(service)) in names

    place.kubectl("annotate", "pod", names[0], "fleet.llm-operator.dev/fault=never-ready")
    place.until(lambda: place.endpoints() == {names[0]: False, names[1]: True})
    assert {place.fetch(service) for _ in range(10)} == {names[1]}
    place.kubectl("annotate", "pod", names[0], "fleet.llm-operator.dev/fault-")
    place.until(lambda: all(place.endpoints().values()))


def test_drain_takes_the_hook_the_program_s_time_and_not_more(place: Place) -> None:
    hook = {"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}
    place.apply(
        pod(place, "--drain=1", name="leaves", container=hook),
        pod(place, "--ignore-term", name="stays", container=hook, terminationGracePeriodSeconds=4),
        pod(place, "--ignore-term", name="forced", terminationGracePeriodSeconds=600),
    )
    for name in ("leaves", "stays", "forced"):
        place.wait(name)
    address = place.get("pod", "forced")["status"]["podIP"]
    assert place.fetch(f"{address}:8080") == "forced"

    began = time.monotonic()
    place.kubectl("delete", "pod", "leaves", "stays", "--wait=false")
    assert place.container("leaves")["state"].get("running")
    place.until(lambda: place.is_gone("leaves"))
    left = time.monotonic() - began
    place.until(lambda: place.is_gone("stays"))
    killed = time.monotonic() - began
    assert 2.0 <= left < 3.5
    assert 4.0 <= killed < 5.5

    place.kubectl("delete", "pod", "forced", "--grace-period=0", "--force")
    place.until(lambda: not place.answers(address), seconds=2)


def test_a_crash_loop_is_seen_with_its_cause(place: Place) -> None:
    args = ("--exit-after=0.3", "--exit-code=3", "--say=no such model")
    message = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    place.apply(pod(place, *args, container=message))
    place.until(lambda: place.waiting("CrashLoopBackOff"))
    last = place.container()["lastState"]["terminated"]
    assert (last["exitCode"], last["message"]) == (3, "no such model")
    place.until(lambda: place.container()["restartCount"] >= 2)


def test_a_missing_secret_and_a_missing_image_are_named(place: Place) -> None:
    token = {"secretKeyRef": {"name": "hub", "key": "token"}}
    place.apply(
        pod(place, container={"env": [{"name": "HF_TOKEN", "valueFrom": token}]}),
        pod(place, name="nowhere", container={"image": "example.org/fleet/http:does-not-exist"}),
    )
    place.until(lambda: place.waiting("CreateContainerConfigError"))
    place.until(lambda: place.waiting("ImagePullBackOff", "nowhere"))
    assert place.get("pod", "nowhere")["status"]["phase"] == "Pending"
    place.kubectl("create", "secret", "generic", "hub", "--from-literal=token=hush")
    place.wait("web")
    address = place.get("pod", "web")["status"]["podIP"]
    assert json.loads(place.fetch(f"{address}:8080", "/env"))["HF_TOKEN"] == "hush"


def test_cards_are_given_once(place: Place) -> None:
    limits = {"resources": {"limits": {"nvidia.com/gpu": 3}}}
    place.apply(pod(place, container=limits))
    place.wait("web")
    address = place.get("pod", "web")["status"]["podIP"]
    spec = json.loads(place.fetch(f"{address}:8080", "/spec"))
    assert spec["gpus"] == ["Fleet-Test-Card"] * 3

    place.apply(pod(place, name="waits", container=limits))
    place.apply(pod(place, name="forced", container=limits, nodeName=place.node))
    refused = place.until(
        lambda: (status := place.get("pod", "forced")["status"])["phase"] == "Failed" and status
    )
    assert refused["reason"] == "UnexpectedAdmissionError"
    assert place.get("pod", "waits")["status"]["phase"] == "Pending"
    place.kubectl("delete", "pod", "web", "forced")
    place.wait("waits")


def test_a_readiness_gate_is_left_to_its_owner(place: Place) -> None:
    gate = "example.org/accepted"
    place.apply(pod(place, readinessGates=[{"conditionType": gate}]))
    place.wait("web", "ContainersReady")
    assert place.kubectl("get", "pod", "web", "--output=wide").split()[-1] == "0/1"
    patch = {"status": {"conditions": [{"type": gate, "status": "True"}]}}
    place.kubectl("patch", "pod", "web", "--subresource=status", f"--patch={json.dumps(patch)}")
    place.wait("web")
    conditions = {each["type"]: each for each in place.get("pod", "web")["status"]["conditions"]}
    assert conditions[gate]["status"] == "True"


def test_a_lost_node_falls_silent_and_comes_back(place: Place) -> None:
    place.apply(pod(place))
    place.wait("web")
    before = place.get("pod", "web")
    address = before["status"]["podIP"]
    place.kubectl("annotate", "node", place.node, "fleet.llm-operator.dev/fault=lost")

    place.until(lambda: not place.answers(address))
    assert (
        place.get("pod", "web")["metadata"]["resourceVersion"]
        == (before["metadata"]["resourceVersion"])
    )
    place.kubectl("annotate", "node", place.node, "fleet.llm-operator.dev/fault-")
    place.until(lambda: place.container()["restartCount"] == 1 and place.container()["ready"])
    assert place.get("pod", "web")["status"]["podIP"] == address
    assert place.fetch(f"{address}:8080") == "web"


def test_nodes_come_and_go(place: Place) -> None:
    later = f"{place.namespace}-late"
    place.apply(pod(place, nodeSelector={LABEL: later}))
    place.until(lambda: "Unschedulable" in json.dumps(place.get("pod", "web")["status"]))
    labels = {"llm-operator.dev/simulated": "true", LABEL: later}
    place.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": later, "labels": labels}})
    place.wait("web")
    address = place.get("pod", "web")["status"]["podIP"]
    place.kubectl("delete", "node", later)
    place.until(lambda: not place.answers(address))


def test_a_fault_by_command_meets_pods_that_come_later(place: Place) -> None:
    def fault(*arguments: str) -> None:
        command = [sys.executable, "-m", "llm_operator.cluster.fleet", "fault"]
        command += [f"--kubeconfig={place.cluster.kubeconfig}", *arguments]
        subprocess.run(command, check=True, timeout=20)

    rule = f"rule-{place.namespace}"
    fault("set", rule, f"--namespace={place.namespace}", "--selector=app=web", "--fault=oom")
    try:
        place.apply(pod(place))
        place.until(lambda: place.container().get("restartCount", 0) >= 1)
        assert place.container()["lastState"]["terminated"]["reason"] == "OOMKilled"
    finally:
        fault("clear", rule)
    place.wait("web")


def test_kubectl_logs_shows_this_run_and_the_one_before(place: Place) -> None:
    crash = ("--exit-after=0.3", "--exit-code=1")
    place.apply(
        pod(place, "--say=here I am", "--drain=1"),
        pod(place, "--say=last words", *crash, name="crashes"),
        pod(place, name="nowhere", container={"image": "nowhere"}),
    )
    place.wait("web")
    assert place.kubectl("logs", "web") == "here I am\n"
    assert place.kubectl("logs", "web", "--tail=0") == ""
    with pytest.raises(ClusterError, match=r"has not started|waiting to start"):
        place.kubectl("logs", "nowhere")
    place.until(lambda: place.container("crashes").get("restartCount", 0) >= 1)
    assert place.kubectl("logs", "crashes", "--previous") == "last words\n"

    kubectl = str(place.cluster.program("kubectl"))
    command = [kubectl, f"--kubeconfig={place.cluster.kubeconfig}", "logs", "--follow", "web"]
    with subprocess.Popen(
        [*command, f"--namespace={place.namespace}"], stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "here I am\n"
        place.kubectl("delete", "pod", "web")
        assert follower.communicate(timeout=20)[0] == "SIGTERM\n"


def test_eviction_is_a_delete_that_a_budget_can_refuse(place: Place) -> None:
    place.apply(
        pod(place, "--drain=0.5"),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        },
    )
    place.wait("web")
    eviction = json.dumps(
        {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "web", "namespace": place.namespace},
        }
    )
    path = f"/api/v1/namespaces/{place.namespace}/pods/web/eviction"
    with pytest.raises(ClusterError, match="disruption budget"):
        place.kubectl("create", "--raw", path, "--filename=-", input=eviction)
    place.kubectl("delete", "pdb", "web")
    place.until(
        lambda: "Success" in place.kubectl("create", "--raw", path, "-f", "-", input=eviction)
    )
    place.until(lambda: place.is_gone("web"))
