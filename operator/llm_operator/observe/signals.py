"""Signals (placeholder by the lead so that imports work; helper B replaces this file)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from llm_operator.facts.cluster import PodFact
from llm_operator.facts.signals import Signals
from llm_operator.kube.store import Key


class PodSource(Protocol):
    """Who tells how busy pods are."""

    async def read(self, wanted: Mapping[Key, Collection[PodFact]]) -> Mapping[Key, Signals]:
        """The readings of all deployments at once. Never raises for what goes wrong out there."""
        ...
