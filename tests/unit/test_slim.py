"""What is kept of a watched object, and whose it is."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from llm_operator.api import names
from llm_operator.kube.store import Key, Store
from llm_operator.observe.gather import gather
from llm_operator.observe.slim import container, controller_uid, entry, node, pod, template_editors

OWNER = {"kind": "LLMDeployment", "name": "llama", "uid": "u-llama", "controller": True}


def body(kind: str, **metadata: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "apiVersion": "v1",
        "metadata": {
            "name": "x",
            "namespace": "ns",
            "uid": "u",
            "resourceVersion": "7",
            **metadata,
        },
    }


def llm_pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {names.LABEL_DEPLOYMENT: "llama", names.LABEL_REVISION: "abc"}
    return {**body("Pod", labels=labels, **metadata), "spec": {"nodeName": "n1"}, "status": status}


def test_place_version_and_uid() -> None:
    item = entry(body("Service"))
    assert (item.kind, item.namespace, item.name, item.uid, item.version) == (
        "Service",
        "ns",
        "x",
        "u",
        7,
    )


def test_an_llm_deployment_belongs_to_itself() -> None:
    assert entry(body(names.KIND)).owner == Key("ns", "x")


def test_a_child_belongs_to_its_controller_whatever_its_labels_say() -> None:
    labels = {names.LABEL_DEPLOYMENT: "edited-by-hand"}
    item = entry(body("Service", labels=labels, ownerReferences=[OWNER]))
    assert item.owner == Key("ns", "llama")


def test_a_pod_belongs_by_label_since_its_controller_is_the_replica_set() -> None:
    reference = {"kind": "ReplicaSet", "name": "llama-abc", "uid": "u-rs", "controller": True}
    item = entry(llm_pod({}, ownerReferences=[reference]))
    assert item.owner == Key("ns", "llama")


def test_an_owner_that_does_not_control_does_not_count() -> None:
    item = entry(body("Service", ownerReferences=[{**OWNER, "controller": False}]))
    assert item.owner is None
    assert controller_uid(body("Service", ownerReferences=[{**OWNER, "controller": False}])) is None


def test_a_node_belongs_to_nobody() -> None:
    thing = body("Node", labels={names.LABEL_DEPLOYMENT: "llama"})
    del thing["metadata"]["namespace"]
    assert entry(thing).owner is None


def test_objects_are_kept_without_what_is_never_compared() -> None:
    kept = entry(
        body(
            "Service",
            managedFields=[{"manager": "kubectl"}],
            annotations={
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                names.ANNOTATION_RECORD: "r",
            },
        )
        | {"spec": {"type": "ClusterIP"}}
    ).fact
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {names.ANNOTATION_RECORD: "r"}
    assert kept["spec"] == {"type": "ClusterIP"}
    assert kept["kind"] == "Service"


def test_a_replica_set_is_kept_without_its_template_but_with_its_editors() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:template": {"f:spec": {}}}}
    thing = body(
        "ReplicaSet",
        managedFields=[
            {"manager": names.FIELD_MANAGER, "fieldsV1": fields},
            {"manager": "kubectl-edit", "fieldsV1": fields},
            {"manager": "kube-controller-manager", "fieldsV1": {"f:status": {}}},
            {"manager": "kubectl-scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        ],
    ) | {"spec": {"replicas": 2, "template": {"spec": {"containers": []}}}}
    assert template_editors(thing) == ("kubectl-edit",)
    kept = entry(thing).fact
    assert kept["spec"] == {"replicas": 2}
    assert kept["templateEditors"] == ("kubectl-edit",)


def test_a_pod_that_was_just_made() -> None:
    fact = pod(llm_pod({}))
    assert (fact.phase, fact.ready, fact.scheduled, fact.container) == (
        "Pending",
        False,
        False,
        None,
    )
    assert (fact.revision, fact.node) == ("abc", "n1")


def test_why_a_pod_is_not_scheduled() -> None:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    refused = pod(llm_pod({"conditions": [condition | {"reason": "Unschedulable"}]}))
    assert refused.unschedulable == message
    assert pod(llm_pod({"conditions": [condition | {"reason": "Gated"}]})).unschedulable == ""


def test_a_pod_on_its_way_out() -> None:
    assert pod(llm_pod({}, deletionTimestamp="2026-01-01T00:00:00Z")).deleting


def test_a_ready_pod() -> None:
    assert pod(llm_pod({"conditions": [{"type": "Ready", "status": "True"}]})).ready
    assert not pod(llm_pod({"conditions": [{"type": "Ready", "status": "False"}]})).ready


def test_the_engine_is_found_among_containers_that_others_inject() -> None:
    # The kubelet sorts statuses by name; a mesh injects its proxy into the pod.
    engine = {"name": "tgi", "state": {"running": {}}, "started": True, "restartCount": 3}
    proxy = {"name": "istio-proxy", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    thing = llm_pod({"containerStatuses": [proxy, engine]})
    found = pod(thing).container
    assert found is not None
    assert (found.state, found.restarts) == ("running", 3)


STATES: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    # status -> state, reason, message, exit code, how it ended, restarts
    ("nothing yet", {}, ("waiting", "", "", None, "", 0)),
    (
        "running for the first time",
        {"state": {"running": {"startedAt": "t"}}, "restartCount": 0},
        ("running", "", "", None, "", 0),
    ),
    (
        "just ended",
        {"state": {"terminated": {"reason": "Error", "exitCode": 1, "message": "Error: X"}}},
        ("terminated", "Error", "Error: X", 1, "Error", 0),
    ),
    (
        "in back-off",
        {
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            "restartCount": 2,
        },
        ("waiting", "CrashLoopBackOff", "", 137, "OOMKilled", 2),
    ),
    (
        "running again",
        {
            "state": {"running": {}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 1, "message": "m"}},
            "restartCount": 1,
        },
        ("running", "", "m", 1, "Error", 1),
    ),
]


@pytest.mark.parametrize(
    ("status", "expected"), [s[1:] for s in STATES], ids=[s[0] for s in STATES]
)
def test_state_of_a_container(status: dict[str, Any], expected: tuple[Any, ...]) -> None:
    fact = container(status, {})
    seen = (
        fact.state, fact.reason, fact.message, fact.exit_code, fact.ended_reason, fact.restarts
    )  # fmt: skip
    assert seen == expected


def test_of_a_long_message_the_end_is_kept_since_errors_come_last() -> None:
    message = "x" * 5000 + "Error: ShardCannotStart"
    fact = container({"state": {"terminated": {"exitCode": 1, "message": message}}}, {})
    assert len(fact.message) == 2048
    assert fact.message.endswith("Error: ShardCannotStart")


def gpu_node(**changes: Any) -> dict[str, Any]:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-L4",
        "nvidia.com/gpu.memory": "23034",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "9",
    }
    thing = body("Node", labels=labels) | {
        "spec": {},
        "status": {
            "allocatable": {"cpu": "8", "memory": "1Gi", "nvidia.com/gpu": "4"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    return thing | changes


def test_a_gpu_node() -> None:
    fact = node(gpu_node())
    assert (fact.product, fact.memory_mib, fact.compute_capability) == ("NVIDIA-L4", 23034, (8, 9))
    assert fact.allocatable == (("nvidia.com/gpu", 4),)
    assert (fact.ready, fact.schedulable) == (True, True)


def test_a_node_that_says_nothing_of_gpus_or_garbage() -> None:
    fact = node(body("Node"))
    assert (fact.product, fact.memory_mib, fact.compute_capability) == ("", None, None)
    assert (fact.allocatable, fact.ready) == ((), False)
    odd = gpu_node()
    odd["metadata"]["labels"]["nvidia.com/gpu.memory"] = "lots"
    del odd["metadata"]["labels"]["nvidia.com/gpu.compute.minor"]
    odd["status"]["allocatable"]["nvidia.com/gpu"] = "0"
    fact = node(odd)
    assert (fact.memory_mib, fact.compute_capability, fact.allocatable) == (None, None, ())


def test_a_cordoned_node() -> None:
    assert not node(gpu_node(spec={"unschedulable": True})).schedulable


@pytest.mark.parametrize(
    ("readiness_changed", "served"),
    [
        ("2026-01-01T00:00:00Z", False),
        ("2026-01-01T00:05:00Z", False),
        ("2026-01-01T00:09:00Z", True),
    ],
)
def test_a_container_has_served_if_its_pod_was_ready_since(
    readiness_changed: str, served: bool
) -> None:
    status = {"state": {"running": {"startedAt": "2026-01-01T00:05:00Z"}}, "started": True}
    fact = container(status, {"status": "False", "lastTransitionTime": readiness_changed})
    assert fact.served is served


def test_a_pod_fact_is_small() -> None:
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "tgi", "state": {"running": {}}, "started": True}],
    }
    fact = pod(llm_pod(status))
    assert fact.container is not None
    own = sys.getsizeof(fact) + sys.getsizeof(fact.container) + sys.getsizeof(fact.name)
    assert own < 500


def test_gather_takes_only_children_that_the_object_controls() -> None:
    store = Store()
    root = body(names.KIND, name="llama", uid="u-llama", generation=1) | {"spec": {}}
    foreign = {**OWNER, "uid": "u-namesake-deleted-long-ago"}
    store.put(entry(root))
    store.put(entry(body("Service", name="llama", uid="s", ownerReferences=[OWNER])))
    store.put(entry(body("Service", name="other", uid="s2", ownerReferences=[OWNER])))
    budget = body("PodDisruptionBudget", name="llama", uid="b", ownerReferences=[foreign])
    store.put(entry(budget))
    labelled = body("ReplicaSet", name="rs", labels={names.LABEL_DEPLOYMENT: "llama"})
    store.put(entry(labelled | {"spec": {"replicas": 1}}))
    observed = gather(store, Key("ns", "llama"))
    assert observed is not None
    assert observed.service is not None
    assert observed.service["metadata"]["name"] == "llama"
    assert observed.budget is None
    assert observed.replica_sets == ()
    assert gather(store, Key("ns", "nobody")) is None
