"""The API server takes our children as they are, and gives back nothing that we would repair."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.desired_inputs import EETQ, plan, resolved, spec

from llm_operator.api.spec import user_inputs
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster
from llm_operator.desired import objects, revision
from llm_operator.desired.compare import contains
from llm_operator.runtimes.terms import Plan

Json = dict[str, Any]

PLAIN: Json = {}
FULL: Json = {
    "model": {
        "id": "org/model",
        "path": "org/model",
        "cache": {"claimName": "models"},
        "trustRemoteCode": True,
    },
    "runtime": {
        "imagePullSecrets": ["mirror", "other"],
        "env": [{"name": "NCCL_DEBUG", "value": "$(HOME)"}, {"name": "LOG_LEVEL", "value": "info"}],
        "prefixCaching": False,
        "apiKeySecretRef": {"name": "keys", "key": "llm"},
    },
    "resources": {
        "requests": {"cpu": "1500m", "memory": "1536Mi"},
        "limits": {"cpu": "2000m", "memory": "16.5Gi", "ephemeral-storage": "100000M"},
    },
    "scheduling": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "team", "operator": "Exists", "tolerationSeconds": 0,
                         "effect": "NoExecute"}],
        "priorityClassName": "system-node-critical",
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                     "labelSelector": {"matchLabels": {"a": "b"}}}}
                ]
            }
        },
        "topologySpread": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
    },
    "rollout": {"drainSeconds": 600},
}  # fmt: skip


def children(namespace: str, parts: Json, of: Plan) -> list[Json]:
    wanted = spec(**parts)
    user = user_inputs(wanted)
    record = revision.make_record("chat", user, resolved(wanted, of))
    template = revision.render("chat", record.revision, user, record.resolved)
    owner = objects.Owner("chat", namespace, "8f5f1c2e-0000-0000-0000-000000000000")
    return [
        objects.replica_set(owner, record, template, 0),
        objects.service(owner),
        objects.disruption_budget(owner),
    ]


@pytest.mark.parametrize(
    ("parts", "of"),
    [(PLAIN, plan()), (FULL, plan(tensor_parallel=8, quantization=EETQ))],
    ids=["plain", "full"],
)
def test_nothing_differs_after_an_apply(
    cluster: LocalCluster, namespace: str, parts: Json, of: Plan
) -> None:
    for wanted in children(namespace, parts, of):
        answer = cluster.kubectl(
            "apply",
            "--server-side",
            "--dry-run=server",
            "--output=json",
            "--filename=-",
            input=json.dumps(wanted),
        )
        assert contains(json.loads(answer), wanted) == ()


def test_pods_are_admitted_where_pod_security_is_baseline(
    cluster: LocalCluster, namespace: str
) -> None:
    label = "pod-security.kubernetes.io/enforce=baseline"
    cluster.kubectl("label", "namespace", namespace, label)
    template = children(namespace, PLAIN, plan(tensor_parallel=2))[0]["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "chat", "namespace": namespace},
        "spec": template["spec"],
    }
    create = ("create", "--dry-run=server", "--output=name", "--filename=-")
    assert cluster.kubectl(*create, input=json.dumps(pod)).strip() == "pod/chat"
    pod["spec"]["hostNetwork"] = True
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        cluster.kubectl(*create, input=json.dumps(pod))
