"""The field reference for people, generated from the same schema as the CRD.

Decides how a schema reads as Markdown. Refuses to know anything that is not in the schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_operator.api import names
from llm_operator.api.crd import COLUMNS, schema

Schema = dict[str, Any]

_HEAD = f"""\
# {names.KIND}: every field

`{names.API_VERSION}`, short name `{names.SHORT_NAME}`. Generated from the models that the CRD comes
from; `kubectl explain {names.SHORT_NAME}.spec` tells the same on a cluster.

No field that reaches a pod has a default in the schema: what is left out is decided by the operator
when it makes a revision, kept with that revision, and shown in `status.plan`. So neither another
version of the operator nor of this schema changes what runs.
"""


def reference() -> str:
    """The content of `docs/reference.md`."""
    root = schema()
    parts = [_HEAD, "## metadata\n", *_rules(root)]
    for name in ("spec", "status"):
        parts += [f"## {name}\n", *_section(root["properties"][name], name)]
    parts += ["## Columns of kubectl get\n", *_columns()]
    return "\n".join(parts)


def _section(node: Schema, path: str) -> Iterator[str]:
    """A table of the fields of one object, its rules, then the objects inside it."""
    yield f"{node['description']}\n"
    yield "| field | type | meaning |\n|---|---|---|"
    inner: list[tuple[str, Schema]] = []
    for name, field in node["properties"].items():
        required = " (required)" if name in node.get("required", ()) else ""
        target = field.get("items", field)
        if "properties" in target and not target.get("x-kubernetes-preserve-unknown-fields"):
            suffix = "[]" if "items" in field else ""
            inner.append((f"{path}.{name}{suffix}", target))
            kind = f"[{'list' if suffix else 'object'}](#{_anchor(inner[-1][0])})"
        else:
            kind = _type(field)
        # The description of an object stands at the head of its own section.
        meaning = "" if target is field and "properties" in target else _cell(field)
        yield f"| `{name}`{required} | {kind} | {meaning or _cell(target)} |"
    yield ""
    yield from _rules(node, deep=True)
    for inner_path, target in inner:
        yield f"### {inner_path}\n"
        yield from _section(target, inner_path)


def _cell(field: Schema) -> str:
    text: str = field.get("description", "")
    if "default" in field and not isinstance(field["default"], dict):
        text += f" Default: {field['default']}."
    return text.strip().replace("|", "\\|")


def _rules(node: Schema, *, deep: bool = False) -> Iterator[str]:
    """What the API server refuses about this object, and with `deep` about its plain fields."""
    places = [node]
    for field in node.get("properties", {}).values() if deep else ():
        places += [field, *(field[k] for k in ("items", "additionalProperties") if k in field)]
    own = [place for place in places if place is node or "properties" not in place]
    messages = [
        rule["message"] for place in own for rule in place.get("x-kubernetes-validations", [])
    ]
    if messages:
        yield "What the API server refuses, in its words:\n"
        yield from (f"- {message}" for message in dict.fromkeys(messages))
        yield ""


def _type(field: Schema) -> str:
    """The type of a field in a few words, with its limits."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind: str = field["type"]
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    if kind == "object":
        return "object, its fields as they are"
    low, high = field.get("minimum"), field.get("maximum")
    if low is None and high is None:
        return kind
    low_text = f"above {low}" if field.get("exclusiveMinimum") else f"from {low}"
    return f"{kind} {low_text}" + ("" if high is None else f", at most {high}")


def _anchor(path: str) -> str:
    return path.lower().replace(".", "").replace("[]", "")


def _columns() -> Iterator[str]:
    yield "| column | field | |\n|---|---|---|"
    for name, _, path, priority in COLUMNS:
        yield f"| {name} | `{path.lstrip('.')}` | {'with `-o wide`' if priority else ''} |"
    yield ""
