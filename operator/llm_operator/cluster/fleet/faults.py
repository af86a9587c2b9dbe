"""Failures on demand: what a pod's annotation and the rules in force ask of it.

A fault is a kind with an optional argument, `slow-start=30`; several are separated by commas.
Rules lie in the ConfigMap `kube-system/fleet-faults`, so that a fault can be set before its pod
exists. The engine acts on most kinds; `kill` is the kubelet's own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .nodes import FAULT

log = logging.getLogger(__name__)

NAMESPACE = "kube-system"
CONFIG_MAP = "fleet-faults"
KINDS = frozenset(
    {
        *("crash-loading", "oom", "slow-start", "never-ready", "hang", "crash-after", "slow"),
        *("hub-401", "hub-404", "hub-429", "shard-failed"),
        *("generation-error", "garbage", "kill"),
    }
)


def parse_faults(text: str) -> dict[str, str]:
    """`hang,slow-start=30` -> {"hang": "", "slow-start": "30"}. ValueError for an unknown kind."""
    faults: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        kind, _, argument = item.partition("=")
        if kind not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(KINDS))}")
        faults[kind] = argument
    return faults


@dataclass(frozen=True)
class Rule:
    """A fault for the pods of a namespace (all if None) that carry all labels of `selector`."""

    faults: Mapping[str, str]
    namespace: str | None = None
    selector: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Rule:
        """From its JSON. ValueError if it is not one."""
        entry = json.loads(text)
        if not isinstance(entry, dict):
            raise ValueError(f"a rule is a JSON object, not {text!r}")
        return cls(
            parse_faults(entry.get("fault", "")),
            entry.get("namespace"),
            entry.get("selector") or {},
        )

    def matches(self, pod: Mapping[str, Any]) -> bool:
        """Whether the pod is meant."""
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        return self.namespace in (None, metadata.get("namespace")) and all(
            labels.get(key) == value for key, value in self.selector.items()
        )


class FaultRules:
    """The rules in force. `changed` is called after each change of the ConfigMap."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._rules: dict[str, Rule] = {}
        self._changed = changed

    def on_change(self, kind: str, config_map: Mapping[str, Any]) -> None:
        """Take over the ConfigMap; a rule that cannot be read is reported and left out."""
        self._rules = {}
        for name, text in (config_map.get("data") or {}).items() if kind != "DELETED" else ():
            try:
                self._rules[name] = Rule.parse(text)
            except ValueError as error:
                log.warning("fault rule %s: %s", name, error)
        self._changed()

    def of(self, pod: Mapping[str, Any]) -> dict[str, str]:
        """All faults asked of a pod, by rules in order of name and by its own annotation."""
        faults: dict[str, str] = {}
        for name in sorted(self._rules):
            if self._rules[name].matches(pod):
                faults |= self._rules[name].faults
        annotation = (pod["metadata"].get("annotations") or {}).get(FAULT, "")
        try:
            faults |= parse_faults(annotation)
        except ValueError as error:
            log.warning("pod %s: %s", pod["metadata"]["name"], error)
        return faults
