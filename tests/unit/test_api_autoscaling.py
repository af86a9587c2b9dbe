"""`spec.autoscaling`: what is accepted, that nothing of it reaches a pod, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llm_operator.api import autoscaling_rules
from llm_operator.api.crd import schema, walk
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs

BAD = Path(__file__).parents[1] / "data" / "bad_manifests"
NODES = {path: node for path, node in walk(schema()) if path.startswith("spec.autoscaling")}
RULES = [
    (path, rule["message"])
    for path, node in NODES.items()
    for rule in node.get("x-kubernetes-validations", [])
]


def spec(**autoscaling: Any) -> LLMDeploymentSpec:
    raw = {"model": {"id": "acme/llama"}, "autoscaling": {"maxReplicas": 4, **autoscaling}}
    return LLMDeploymentSpec.model_validate(raw)


def test_nothing_of_it_is_part_of_a_revision() -> None:
    plain = LLMDeploymentSpec.model_validate({"model": {"id": "acme/llama"}})
    assert user_inputs(spec(minReplicas=2, mode="Advise")) == user_inputs(plain)


def test_only_the_maximum_must_be_said_and_nothing_else_is_made_up() -> None:
    assert NODES["spec.autoscaling"]["required"] == ["maxReplicas"]
    wish = spec().autoscaling
    assert wish is not None
    assert wish.model_dump(exclude_none=True) == {"max_replicas": 4}
    assert [path for path, node in NODES.items() if "default" in node] == []


def test_replicas_may_stand_beside_it() -> None:
    """They are ignored, as status says: a tool that sets both must not be refused."""
    raw = {"model": {"id": "a/b"}, "replicas": 9, "autoscaling": {"maxReplicas": 4}}
    assert LLMDeploymentSpec.model_validate(raw).replicas == 9


@pytest.mark.parametrize("change", [1, 1000, "1%", "100%"])
def test_a_change_is_a_number_of_replicas_or_a_share_of_them(change: int | str) -> None:
    wish = spec(behavior={"scaleUp": {"maxChange": change}}).autoscaling
    assert wish is not None
    assert wish.behavior is not None
    assert wish.behavior.scale_up is not None
    assert wish.behavior.scale_up.max_change == change


@pytest.mark.parametrize("change", [0, -1, 1001, "0%", "101%", "all", "5 %"])
def test_a_change_of_another_kind_is_refused_by_the_operator_too(change: int | str) -> None:
    with pytest.raises(ValidationError, match="maxChange"):
        spec(behavior={"scaleUp": {"maxChange": change}})


@pytest.mark.parametrize(
    "wish",
    [
        {"minReplicas": 0},
        {"maxReplicas": 0},
        {"mode": "Off"},
        {"metric": {"runningShare": 101}},
        {"metric": {"waitingRequests": -1}},
        {"metric": {"queueSeconds": -0.1}},
        {"schedule": [{"start": "0 8 * * *", "end": "18:00", "minReplicas": 2}]},
        {"schedule": [{"start": "0 8 * * *", "minReplicas": 2}]},
    ],
)
def test_what_can_mean_nothing_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**wish)


def test_every_rule_has_a_manifest_that_breaks_it() -> None:
    """The API server is asked about these in tests/integration/test_crd_rules.py."""
    said = [
        found[1]
        for file in BAD.glob("scaling-*.yaml")
        if (found := re.search(r"^# says: (.*)$", file.read_text(), re.MULTILINE))
    ]
    unbroken = [message for _, message in RULES if not any(part in message for part in said)]
    assert unbroken == []


def test_rules_stand_where_the_fields_are() -> None:
    assert {path for path, _ in RULES} == {
        *autoscaling_rules.RULES,
        *autoscaling_rules.PATTERN_MESSAGES,
    }


def test_there_is_no_way_to_name_a_server_or_a_query() -> None:
    """Both belong to the operator's configuration: an object must not make it ask anybody."""
    texts = [
        path.rpartition(".")[2]
        for path, node in NODES.items()
        if node.get("type") == "string" and "enum" not in node
    ]
    assert sorted(texts) == ["end", "start", "timeZone"]
