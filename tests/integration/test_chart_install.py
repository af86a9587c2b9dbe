"""The chart on a real API server: it lints, renders, satisfies Pod Security "restricted", and its
ServiceAccount may do exactly what the operator does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.crd import crd
from llm_operator.api.names import API_VERSION, KIND
from llm_operator.cluster import binaries
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "llm-operator"
RELEASE = "llm-operator"

Objects = dict[str, dict[str, Any]]
Grant = tuple[str, str, str]

pytestmark = pytest.mark.timeout(900)  # helm may have to be built first

SELDOM_ASKED: set[Grant] = {
    # Only the admission plugin OwnerReferencesPermissionEnforcement asks for it.
    ("llm-operator.dev", "llmdeployments/finalizers", "update"),
    # Where the name of a new revision is taken, or a restarted watch does not show it yet.
    ("apps", "replicasets", "get"),
}


def helm(*arguments: str) -> str:
    """Run helm; what it prints. Raises CalledProcessError with its complaint."""
    program = binaries.need("helm")["helm"]
    done = subprocess.run([program, *arguments], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(namespace: str, *values: str) -> Objects:
    """The chart's objects by kind."""
    settings = [f"--set={value}" for value in values]
    text = helm("template", RELEASE, str(CHART), f"--namespace={namespace}", *settings)
    return {found["kind"]: found for found in yaml.safe_load_all(text) if found}


def grants(role: dict[str, Any]) -> set[Grant]:
    """What a role allows: API group, resource, verb."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until `what` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "time is up"
        time.sleep(0.1)


def test_it_lints() -> None:
    helm("lint", "--strict", str(CHART))


def test_the_crd_in_it_is_the_generated_one_and_stays() -> None:
    rendered = render("any")["CustomResourceDefinition"]
    assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered == crd()


def test_the_crd_can_be_left_to_others() -> None:
    assert "CustomResourceDefinition" not in render("any", "crds.install=false")
    assert (
        "annotations"
        not in render("any", "crds.keep=false")["CustomResourceDefinition"]["metadata"]
    )


def test_models_are_scraped_where_the_cluster_knows_how() -> None:
    assert "PodMonitor" not in render("any")
    assert "PodMonitor" in render("any", "podMonitor.enabled=true")
    text = helm("template", RELEASE, str(CHART), "--api-versions=monitoring.coreos.com/v1")
    monitor = next(m for m in yaml.safe_load_all(text) if m and m["kind"] == "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "http"
    one = render("any", "podMonitor.enabled=true", "watchNamespace=models")["PodMonitor"]
    assert one["spec"]["namespaceSelector"] == {"matchNames": ["models"]}


def test_what_proves_who_prometheus_is_comes_as_files() -> None:
    values = (
        "prometheus.url=https://prometheus.monitoring:9090",
        "prometheus.caSecretRef.name=authority,prometheus.caSecretRef.key=ca.crt",
        "prometheus.tokenSecretRef.name=token,prometheus.tokenSecretRef.key=token",
    )
    pod = render("any", *values)["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    at = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert f"--prometheus-ca-file={at['prometheus-ca']}/file" in container["args"]
    assert f"--prometheus-token-file={at['prometheus-token']}/file" in container["args"]
    secrets = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
    assert secrets["prometheus-ca"]["secretName"] == "authority"
    assert secrets["prometheus-ca"]["items"] == [{"key": "ca.crt", "path": "file"}]
    assert not any("prometheus" in argument for argument in _arguments(render("any")))


def _arguments(objects: Objects) -> list[str]:
    found = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    return [str(argument) for argument in found]


def test_it_renders_the_same_twice() -> None:
    assert render("any") == render("any")


def test_it_may_read_no_secret_and_nothing_by_wildcard() -> None:
    for role in (render("any")["ClusterRole"], render("any", "watchNamespace=a")["Role"]):
        for _, resource, verb in grants(role):
            assert "*" not in (resource, verb)
            assert resource.split("/")[0] not in {"secrets", "serviceaccounts", "roles"}
            assert resource not in {"pods/exec", "pods/attach", "pods/proxy"}


def test_for_one_namespace_it_sees_nodes_and_nothing_else_of_the_cluster() -> None:
    one = render("any", "watchNamespace=models")
    assert {resource for _, resource, _ in grants(one["ClusterRole"])} == {"nodes"}
    assert one["Role"]["metadata"]["namespace"] == "models"
    everywhere = grants(render("any")["ClusterRole"])
    assert everywhere == grants(one["ClusterRole"]) | grants(one["Role"])


def test_the_api_server_accepts_every_object(cluster: LocalCluster, namespace: str) -> None:
    text = helm("template", RELEASE, str(CHART), f"--namespace={namespace}")
    cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts",
        "--filename=-", input=text,
    )  # fmt: skip


def test_the_pod_satisfies_pod_security_restricted(cluster: LocalCluster, namespace: str) -> None:
    cluster.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    template = render(namespace)["Deployment"]["spec"]["template"]
    template["spec"]["serviceAccountName"] = "default"

    def create(template: dict[str, Any]) -> None:
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = pod["metadata"] | {"name": "operator"}
        cluster.kubectl(
            "create", "--dry-run=server", "--filename=-", f"--namespace={namespace}",
            input=json.dumps(pod),
        )  # fmt: skip

    create(template)
    template["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(ClusterError, match="PodSecurity"):
        create(template)


@contextmanager
def operator(cluster: LocalCluster, objects: Objects, namespace: str) -> Iterator[str]:
    """The operator with the chart's arguments, account and rights; the account's user name."""
    rights = [
        found
        for kind, found in objects.items()
        if kind not in ("CustomResourceDefinition", "Deployment")
    ]
    cluster.kubectl(
        "apply",
        "--filename=-",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": rights}),
    )
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    account = pod["serviceAccountName"]
    kubeconfig = cluster.service_account_kubeconfig(namespace, account)
    program = [sys.executable, "-m", "llm_operator.cli.main", *pod["containers"][0]["args"]]
    program += [f"--kubeconfig={kubeconfig}", "--hub-offline", "--http-host=127.0.0.1"]
    program += ["--http-port=0"]
    with (cluster.state_dir / f"operator-{namespace}.log").open("wb") as log:
        process = cluster.run_inside(program, stdout=log, stderr=log)
    try:
        yield f"system:serviceaccount:{namespace}:{account}"
        assert process.poll() is None, Path(log.name).read_text()
    finally:
        process.terminate()
        process.wait(20)
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            cluster.kubectl("delete", kind, objects[kind]["metadata"]["name"])


def test_its_rights_are_what_the_operator_uses(cluster: LocalCluster, namespace: str) -> None:
    """A whole life of models: no request is forbidden, and no right is left unused."""
    objects = render(namespace, f"watchNamespace={namespace}", "log.json=false")

    def kubectl(*arguments: str, **manifest: Any) -> str:
        text = json.dumps(manifest) if manifest else None
        return cluster.kubectl(*arguments, f"--namespace={namespace}", input=text)

    def make(kind: str, name: str, **content: Any) -> None:
        version = {"Service": "v1", "PodDisruptionBudget": "policy/v1"}.get(kind, API_VERSION)
        meta = {"name": name}
        kubectl("create", "--filename=-", apiVersion=version, kind=kind, metadata=meta, **content)

    def condition(name: str, kind: str, field: str = "status") -> str:
        path = f'{{.status.conditions[?(@.type=="{kind}")].{field}}}'
        return kubectl("get", f"llmd/{name}", f"--output=jsonpath={path}")

    def observed(name: str, generation: int) -> bool:
        path = "--output=jsonpath={.status.observedGeneration}"
        return kubectl("get", f"llmd/{name}", path) == str(generation)

    def children(kind: str) -> list[str]:
        owned = "--selector=llm-operator.dev/deployment=model"
        return kubectl("get", kind, owned, "--output=name").split()

    spec = yaml.safe_load((ROOT / "examples" / "mistral-7b-awq-edge.yaml").read_text())["spec"]
    spec["rollout"] = {"drainSeconds": 1}
    mark = cluster.audit_log.mark()
    with operator(cluster, objects, namespace) as user:
        # Objects of somebody else have the names that these two need.
        make("Service", "no-service", spec={"ports": [{"port": 80}]})
        make("PodDisruptionBudget", "no-budget", spec={"selector": {"matchLabels": {"a": "b"}}})
        for name in ("no-service", "no-budget"):
            make(KIND, name, spec=spec | {"replicas": 2})
        for name in ("no-service", "no-budget"):
            until(lambda name=name: condition(name, "Stalled", "reason") == "NameConflict")  # type: ignore[misc]
        kubectl("delete", "llmd", "--all")
        # From one replica to two, with what a hand may do to the children, to another revision.
        make(KIND, "model", spec=spec)
        until(lambda: condition("model", "Ready") == "True")
        kubectl("scale", "llmd/model", "--replicas=2")
        until(lambda: len(children("poddisruptionbudget")) == 1)
        for kind in ("service", "poddisruptionbudget"):
            kubectl("label", f"{kind}/model", "app.kubernetes.io/name=x", "--overwrite")
            path = r"--output=jsonpath={.metadata.labels.app\.kubernetes\.io/name}"
            until(lambda k=kind, p=path: kubectl("get", f"{k}/model", p) == RELEASE)  # type: ignore[misc]
        until(lambda: condition("model", "Ready") == "True")
        kubectl("scale", "llmd/model", "--replicas=1")  # the idle pod goes first
        until(lambda: observed("model", 3) and condition("model", "Ready") == "True")
        prompts = {"prompts": [{"prompt": "What is deep learning?", "maxTokens": 8}]}
        rollout = {"history": 0, "acceptance": prompts}
        change = {"spec": {"limits": {"maxConcurrentRequests": 4}, "rollout": rollout}}
        kubectl("patch", "llmd/model", "--type=merge", f"--patch={json.dumps(change)}")
        until(lambda: observed("model", 4) and condition("model", "Ready") == "True")
        until(lambda: len(children("replicaset")) == 1 and not children("poddisruptionbudget"))
        kubectl("delete", "llmd/model")
        until(lambda: not children("replicaset") and not children("service"))
    asked = [event for event in cluster.audit_log.events(mark) if event.user == user]
    assert [event for event in asked if event.code == 403] == []
    used = {
        (e.group, f"{e.resource}/{e.subresource}" if e.subresource else e.resource, e.verb)
        for e in asked
        if e.resource
    }
    allowed = grants(objects["ClusterRole"]) | grants(objects["Role"])
    assert allowed - used <= SELDOM_ASKED
