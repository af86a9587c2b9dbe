"""The children: names, owners, selectors, and the pod around the engine's container."""

from __future__ import annotations

from typing import Any

from tests.unit.desired_inputs import plan, resolved, spec

from llm_operator.api import names
from llm_operator.api.spec import user_inputs
from llm_operator.desired import objects, revision
from llm_operator.runtimes.terms import Plan

OWNER = objects.Owner("chat", "team", "0b1c")


def template(of: Plan | None = None, **parts: Any) -> dict[str, Any]:
    wanted = spec(**parts)
    decided = resolved(wanted, of or plan())
    return revision.render("chat", "bcdfghjklm", user_inputs(wanted), decided)


def pod(of: Plan | None = None, **parts: Any) -> dict[str, Any]:
    found: dict[str, Any] = template(of, **parts)["spec"]
    return found


def test_replica_set() -> None:
    wanted = spec()
    record = revision.make_record("chat", user_inputs(wanted), resolved(wanted))
    made = revision.restore("chat", record)
    assert made is not None
    child = objects.replica_set(OWNER, record, made, 3)
    assert child["metadata"]["name"] == f"chat-{record.revision}"
    assert child["spec"]["replicas"] == 3
    selector = child["spec"]["selector"]["matchLabels"]
    assert selector == {names.LABEL_DEPLOYMENT: "chat", names.LABEL_REVISION: record.revision}
    assert selector.items() <= child["spec"]["template"]["metadata"]["labels"].items()
    text = child["metadata"]["annotations"][names.ANNOTATION_RECORD]
    assert revision.record_from_json(text) == record


def test_every_child_is_owned_and_labelled() -> None:
    for child in (objects.service(OWNER), objects.disruption_budget(OWNER)):
        metadata = child["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("chat", "team")
        assert metadata["ownerReferences"] == [
            {
                "apiVersion": "llm-operator.dev/v1alpha1",
                "kind": "LLMDeployment",
                "name": "chat",
                "uid": "0b1c",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        assert metadata["labels"] == {
            "app.kubernetes.io/name": "llm-operator",
            "app.kubernetes.io/managed-by": "llm-operator",
            "llm-operator.dev/deployment": "chat",
        }


def test_service_and_budget_select_every_revision() -> None:
    labels = template()["metadata"]["labels"]
    for selector in (
        objects.service(OWNER)["spec"]["selector"],
        objects.disruption_budget(OWNER)["spec"]["selector"]["matchLabels"],
    ):
        assert names.LABEL_REVISION not in selector
        assert selector.items() <= labels.items()


def test_service_port_is_the_containers_by_name() -> None:
    (port,) = objects.service(OWNER)["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, "http")
    assert port["targetPort"] in [p["name"] for p in pod()["containers"][0]["ports"]]


def test_pods_hold_no_token_and_see_no_other_services() -> None:
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False
    assert "serviceAccountName" not in pod()


def test_grace_covers_the_drain() -> None:
    assert pod(rollout={"drainSeconds": 60})["terminationGracePeriodSeconds"] == 10 + 60 + 15


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def terms(found: dict[str, Any]) -> Any:
    return found["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]


def test_pods_land_on_the_products_of_the_plan() -> None:
    products = ("NVIDIA-L4", "Tesla-T4")
    card = {"key": "nvidia.com/gpu.product", "operator": "In", "values": list(products)}
    assert terms(pod(plan(products=products))) == [{"matchExpressions": [card]}]


def test_every_alternative_of_the_user_keeps_the_products() -> None:
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    name = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    preferred = [{"weight": 1, "preference": {"matchExpressions": [zone]}}]
    spread = {"podAntiAffinity": {REQUIRED: [{"topologyKey": "kubernetes.io/hostname"}]}}
    wish = {
        "nodeAffinity": {
            REQUIRED: {
                "nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchFields": [name]}]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        },
        **spread,
    }
    found = pod(plan(products=("NVIDIA-L4",)), scheduling={"affinity": wish})
    card = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}
    assert terms(found) == [
        {"matchExpressions": [zone, card]},
        {"matchFields": [name], "matchExpressions": [card]},
    ]
    node = found["affinity"]["nodeAffinity"]
    assert node["preferredDuringSchedulingIgnoredDuringExecution"] == preferred
    assert found["affinity"]["podAntiAffinity"] == spread["podAntiAffinity"]


def test_memory_by_hand_names_no_product() -> None:
    assert "affinity" not in pod(plan(products=()))


def test_placement_of_the_user() -> None:
    team = {"key": "team", "operator": "Equal", "value": "a", "tolerationSeconds": 0}
    found = pod(
        scheduling={
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [team],
            "priorityClassName": "high",
            "topologySpread": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
            ],
        },
        runtime={"imagePullSecrets": ["mirror"]},
    )
    assert found["nodeSelector"] == {"pool": "gpu"}
    assert found["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        team,
    ]
    assert found["priorityClassName"] == "high"
    assert found["imagePullSecrets"] == [{"name": "mirror"}]
    (spread,) = found["topologySpreadConstraints"]
    assert spread["labelSelector"] == {"matchLabels": {names.LABEL_DEPLOYMENT: "chat"}}
    assert spread["matchLabelKeys"] == [names.LABEL_REVISION]
    assert (spread["maxSkew"], spread["topologyKey"]) == (1, "zone")


def test_what_is_not_asked_for_is_not_written() -> None:
    absent = {"nodeSelector", "priorityClassName", "topologySpreadConstraints", "imagePullSecrets"}
    assert not absent & set(pod())


def test_names_stay_within_what_kubernetes_takes() -> None:
    longest = "a" * names.MAX_NAME_LENGTH
    assert len(objects.replica_set_name(longest, "b" * revision.HASH_LENGTH)) <= 63
