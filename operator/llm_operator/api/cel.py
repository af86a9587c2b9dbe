"""How a validation rule is written: a CEL expression, and what is said where it is false.

Decides the form of rules and the phrases that many of them share. Refuses to know what is allowed:
that is `rules.py`. Phrases need Kubernetes 1.30: they use optional values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_operator.api.spec import VERSION_PATTERN


@dataclass(frozen=True)
class Rule:
    """A CEL expression that is true for what is accepted, and what is said about the rest.

    `field` is where the fault is, relative to the place of the rule, e.g. `.revision`.
    `computed` is a CEL expression for a message that shows a value, said instead of `message`.
    """

    rule: str
    message: str
    field: str | None = None
    computed: str | None = None

    def to_schema(self) -> dict[str, Any]:
        """An item of `x-kubernetes-validations`."""
        out: dict[str, Any] = {"rule": self.rule, "message": self.message}
        if self.computed:
            out["messageExpression"] = self.computed
        if self.field:
            out["fieldPath"] = self.field
        return out


def pattern_rule(pattern: str, message: str, *, text: bool) -> Rule:
    """A schema's `pattern` as a rule, so that it can say in words what it wants.

    `text`: the field is a string, else an int-or-string.
    """
    return Rule(f"{'self' if text else 'string(self)'}.matches(r'{pattern}')", message)


def value(path: str, default: str) -> str:
    """The field `a.b` of self, or the CEL value `default` where it is unset."""
    return "self.?" + path.replace(".", ".?") + f".orValue({default})"


def is_set(path: str) -> str:
    """Whether the field `a.b` of self is set."""
    return "self.?" + path.replace(".", ".?") + ".hasValue()"


def not_both(first: str, second: str, message: str) -> Rule:
    """Refuses two fields together; the fault is shown at the first."""
    return Rule(f"!({is_set(first)} && {is_set(second)})", message, f".{first}")


def older(version: str) -> str:
    """Whether self.runtime.version (set) is a proper x.y.z and older than `version`."""
    parts = [f"int(self.runtime.version.split('.')[{i}])" for i in range(3)]
    major, minor, patch = (int(part) for part in version.split("."))
    number = (major * 1000 + minor) * 1000 + patch
    return (
        f"(self.runtime.version.matches(r'{VERSION_PATTERN}')"
        f" && ({parts[0]} * 1000 + {parts[1]}) * 1000 + {parts[2]} < {number})"
    )


def since(version: str, path: str, used: str | None = None) -> Rule:
    """An option that older engines do not have; `used`: CEL, whether it is (default: it is set)."""
    return Rule(
        f"!({used or is_set(path)}) || !{is_set('runtime.version')} || !{older(version)}",
        f"{path} needs an engine of version {version} or newer: raise runtime.version"
        f" or leave out {path}",
        f".{path}",
    )
