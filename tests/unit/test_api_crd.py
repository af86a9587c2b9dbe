"""The generated CustomResourceDefinition: fresh, structural, small, without hidden defaults."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api import autoscaling_rules, rollout_rules
from llm_operator.api.crd import COLUMNS, OVERRIDES, crd, crd_yaml, schema, walk
from llm_operator.api.reference import reference
from llm_operator.api.rules import PATTERN_MESSAGES, RULES
from llm_operator.api.spec import NOT_IN_POD

ROOT = Path(__file__).parents[2]
NODES = dict(walk(schema()))
MAX_CLIENT_SIDE_APPLY = 262_144

GENERATED = {
    "crds/llmdeployments.yaml": crd_yaml,
    "charts/llm-operator/files/crd.yaml": crd_yaml,
    "docs/reference.md": reference,
}
FORBIDDEN_IN_STRUCTURAL = {
    "$ref", "$defs", "title", "const", "propertyNames", "allOf", "anyOf", "oneOf", "not",
    "uniqueItems",
}  # fmt: skip


@pytest.mark.parametrize(("file", "generate"), GENERATED.items())
def test_generated_files_are_fresh(file: str, generate: Callable[[], str]) -> None:
    """After a change of the models: UPDATE_GOLDEN=1 pytest tests/unit/test_api_crd.py."""
    if os.environ.get("UPDATE_GOLDEN"):
        (ROOT / file).write_text(generate())
    assert (ROOT / file).read_text() == generate()


def test_yaml_and_dict_say_the_same() -> None:
    assert yaml.safe_load(crd_yaml()) == crd()


def test_it_is_small_enough_for_client_side_apply() -> None:
    # kubectl keeps the applied object as compact JSON in an annotation.
    assert len(json.dumps(crd())) < MAX_CLIENT_SIDE_APPLY / 2
    assert len(crd_yaml().encode()) < 200_000


def test_no_field_that_reaches_a_pod_has_a_default() -> None:
    defaults = {path for path, node in NODES.items() if "default" in node}
    assert defaults == {"spec.replicas", "status"}
    assert "replicas" in NOT_IN_POD


def test_status_is_unobserved_from_birth() -> None:
    assert NODES["status"]["default"] == {"observedGeneration": -1}


@pytest.mark.parametrize("path", NODES)
def test_every_node_is_structural_and_bounded(path: str) -> None:
    node = NODES[path]
    assert not FORBIDDEN_IN_STRUCTURAL & node.keys()
    assert "type" in node or node.get("x-kubernetes-int-or-string")
    if not path.startswith("spec"):
        return  # no rules there, so no cost to bound
    if node.get("type") == "string" and "enum" not in node:
        assert "maxLength" in node
    if node.get("type") == "array":
        assert "maxItems" in node
    if "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields"):
        assert "maxProperties" in node


def test_every_field_of_the_spec_is_described() -> None:
    bare = [
        path
        for path, node in NODES.items()
        if path.startswith("spec") and not path.endswith(("[]", "{}")) and "description" not in node
    ]
    assert bare == ["spec.model.config.model_type"]


def test_every_rule_and_override_has_its_place() -> None:
    rules = {*RULES, *rollout_rules.RULES, *autoscaling_rules.RULES}
    messages = {*PATTERN_MESSAGES, *autoscaling_rules.PATTERN_MESSAGES}
    assert rules | messages | {*OVERRIDES} <= NODES.keys()


def test_no_bare_pattern_is_left_for_a_user_to_read() -> None:
    assert [path for path, node in NODES.items() if "pattern" in node] == []


def _rules() -> list[Any]:
    return [
        pytest.param(path, rule, id=f"{path or 'root'}-{i}")
        for path, node in NODES.items()
        for i, rule in enumerate(node.get("x-kubernetes-validations", []))
    ]


@pytest.mark.parametrize(("path", "rule"), _rules())
def test_every_message_names_its_field_and_a_way_out(path: str, rule: dict[str, str]) -> None:
    message = rule["message"]
    place = re.sub(r"\[\]|\{\}", "", path.removeprefix("spec").lstrip("."))
    field = (place + rule.get("fieldPath", "")).lstrip(".")
    assert field.split(".")[-1] in message or place in message
    ways_out = "add|choose|copy|leave|lower|make|must be|name t|raise|rename|see|set|use|write"
    assert re.search(rf"\b({ways_out})", message + rule.get("messageExpression", ""))
    for line_break in ("\n", "\r"):  # the API server refuses them in a message
        assert line_break not in message


def test_scale_and_status_subresources_point_at_real_fields() -> None:
    version = crd()["spec"]["versions"][0]
    scale = version["subresources"]["scale"]
    for key in ("specReplicasPath", "statusReplicasPath", "labelSelectorPath"):
        assert scale[key].lstrip(".") in NODES
    assert version["subresources"]["status"] == {}


def test_printer_columns_point_at_real_fields() -> None:
    for name, kind, path, _ in COLUMNS:
        plain = re.sub(r"\[\?\([^)]*\)\]", "[]", path).lstrip(".")
        if plain.startswith("metadata"):
            continue
        assert NODES[plain]["type"] == kind, name


def test_conditions_merge_by_type() -> None:
    assert NODES["status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
