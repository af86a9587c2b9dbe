"""The CustomResourceDefinition, generated from the pydantic models.

Decides how a model becomes a structural OpenAPI v3 schema: references inlined, null dropped, maps
and lists marked for server-side apply, the rules attached. A default is kept only for a
field that never reaches a pod, so that another default can never restart a model. Refuses to know
what any field means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from llm_operator.api import autoscaling_rules, names, rollout_rules
from llm_operator.api.cel import Rule, pattern_rule
from llm_operator.api.rules import PATTERN_MESSAGES, RULES
from llm_operator.api.spec import NOT_IN_POD, LLMDeploymentSpec
from llm_operator.api.status import LLMDeploymentStatus

Schema = dict[str, Any]

# By path: `[]` is an item of a list, `{}` a value of a map.
OVERRIDES: dict[str, Schema] = {
    "spec.model.config": {
        "x-kubernetes-preserve-unknown-fields": True,
        "maxProperties": 300,
        "properties": {"model_type": {"type": "string", "maxLength": 100}},
    },
    "spec.scheduling.affinity": {
        "x-kubernetes-preserve-unknown-fields": True,
        "maxProperties": 3,
    },
    "spec.scheduling.nodeSelector": {"maxProperties": 32},
    "spec.resources.requests": {"maxProperties": 8},
    "spec.resources.limits": {"maxProperties": 8},
    "spec.gpu.products": {"x-kubernetes-list-type": "set"},
    "spec.runtime.cudaGraphs": {"x-kubernetes-list-type": "set"},
    "spec.runtime.imagePullSecrets": {"x-kubernetes-list-type": "set"},
    "spec.runtime.env": {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    },
    "spec.runtime.loraAdapters": {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["id"],
    },
    "spec.scheduling.tolerations": {"x-kubernetes-list-type": "atomic"},
    "spec.scheduling.topologySpread": {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["topologyKey", "whenUnsatisfiable"],
    },
    "spec.rollout.acceptance.prompts": {"x-kubernetes-list-type": "atomic"},
    "spec.rollout.canary.steps": {"x-kubernetes-list-type": "atomic"},
    "spec.autoscaling.schedule": {"x-kubernetes-list-type": "atomic"},
    "status.conditions": {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    },
}

# name, type, JSON path, priority (1: only with -o wide)
COLUMNS = (
    ("Model", "string", ".spec.model.id", 0),
    ("Quant", "string", ".status.plan.quantization.method", 0),
    ("TP", "integer", ".status.plan.tensorParallel", 0),
    ("GPUs", "integer", ".status.gpus", 0),
    ("Ready", "string", ".status.ready", 0),
    ("Reason", "string", ".status.reason", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("GPU", "string", ".status.plan.gpu", 1),
    ("Revision", "string", ".status.currentRevision", 1),
    ("Min", "integer", ".status.scaling.minReplicas", 1),
    ("Max", "integer", ".status.scaling.maxReplicas", 1),
    ("Wanted", "integer", ".status.scaling.desiredReplicas", 1),
    ("Scaling", "string", ".status.scaling.lastDecision.reason", 1),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1),
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as a JSON-like dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path}
                        | ({"priority": priority} if priority else {})
                        for name, kind, path, priority in COLUMNS
                    ],
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The CustomResourceDefinition as YAML, the content of `crds/llmdeployments.yaml`."""
    return yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def schema() -> Schema:
    """The structural schema of one LLMDeployment, with its validation rules."""
    root: Schema = {
        "type": "object",
        "description": "A model to serve: planned, run, scaled and upgraded by llm-operator.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 253}},
            },
            "spec": _structural(LLMDeploymentSpec),
            # On the whole object: a default on the property alone is not set without a status.
            "status": _structural(LLMDeploymentStatus) | {"default": {"observedGeneration": -1}},
        },
    }
    nodes = dict(walk(root))
    for field in NOT_IN_POD:
        default = LLMDeploymentSpec.model_fields[field].get_default()
        if default is not None:
            nodes[f"spec.{field}"]["default"] = default
    for path, override in OVERRIDES.items():
        nodes[path].update(override)
    for path, message in {**PATTERN_MESSAGES, **autoscaling_rules.PATTERN_MESSAGES}.items():
        # A bare pattern tells a user nothing; as a rule it has a message.
        node = nodes[path]
        _attach(node, pattern_rule(node.pop("pattern"), message, text=node.get("type") == "string"))
    for group in (RULES, rollout_rules.RULES, autoscaling_rules.RULES):
        for path, rules in group.items():
            for rule in rules:
                _attach(nodes[path], rule)
    return root


def walk(node: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema node with its path, e.g. `spec.runtime.env[].name`; the root's path is empty."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], f"{path}{{}}")


def _attach(node: Schema, rule: Rule) -> None:
    node.setdefault("x-kubernetes-validations", []).append(rule.to_schema())


def _structural(model: type[BaseModel]) -> Schema:
    raw = model.model_json_schema(by_alias=True)
    return _convert(raw, raw.get("$defs", {}))


def _convert(node: Schema, defs: dict[str, Schema]) -> Schema:
    """One JSON-schema node (draft 2020-12, as pydantic writes it) as a structural one."""
    if "$ref" in node:
        target = defs[node["$ref"].removeprefix("#/$defs/")]
        return _convert(target | {k: v for k, v in node.items() if k != "$ref"}, defs)
    if "anyOf" in node:
        return _convert_union(node, defs)
    out: Schema = {}
    for key, value in node.items():
        match key:
            case "title" | "default" | "$defs" | "propertyNames":
                pass
            case "const":
                out["enum"] = [value]
            case "exclusiveMinimum":
                out |= {"minimum": value, "exclusiveMinimum": True}
            case "properties":
                out[key] = {name: _convert(child, defs) for name, child in value.items()}
            case "items":
                out[key] = _convert(value, defs)
            case "additionalProperties":
                if isinstance(value, dict):
                    out[key] = _convert(value, defs)
            case "description":
                out[key] = " ".join(value.split())
            case _:
                out[key] = value
    if "x-kubernetes-int-or-string" in out:
        out.pop("type", None)
    return out


def _convert_union(node: Schema, defs: dict[str, Schema]) -> Schema:
    """`X | None` becomes X; a union of integer and string becomes int-or-string."""
    outer = {k: v for k, v in node.items() if k != "anyOf"}
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(options) == 1:
        return _convert(options[0] | outer, defs)
    kinds = {option["type"] for option in options}
    if kinds != {"integer", "string"}:
        raise TypeError(f"no structural schema for a union of {sorted(kinds)}")
    merged: Schema = {"x-kubernetes-int-or-string": True}
    for option in options:
        merged |= {k: v for k, v in option.items() if k in ("pattern", "maxLength")}
    return _convert(merged | outer, defs)


class _Dumper(yaml.SafeDumper):
    """Block style without aliases: equal sub-schemas are written out, as is usual."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
