"""The hardware of one simulated node: cards, addresses, memory, and the images it has pulled.

Decides who holds what. Refuses to know pods' states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from .catalogue import card_for
from .container import Gpu
from .devices import Addresses, Cards
from .nodes import gpu_count
from .quantity import parse_quantity


class Machine:
    """What a Node object stands for. Lives as long as the Node; survives a loss of it."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        self.name: str = node["metadata"]["name"]
        self.addresses = Addresses(node["spec"]["podCIDR"])
        self.cards = Cards(0)
        self.gpu: Gpu | None = None
        self.memory_bytes = 0
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self.update(node)

    def update(self, node: Mapping[str, Any]) -> None:
        """Take over what the Node object says now."""
        card = card_for(node["metadata"].get("labels") or {})
        self.gpu = card.gpu() if card else None
        self.cards.count = gpu_count(node) if card else 0
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        self.memory_bytes = parse_quantity(allocatable.get("memory", "64Gi"))

    def gpus(self, count: int) -> tuple[Gpu, ...]:
        """So many of the machine's cards, as a container sees them."""
        return (self.gpu,) * count if self.gpu else ()

    def has_image(self, reference: str) -> bool:
        """Whether the image has been pulled."""
        pull = self._pulls.get(reference)
        return pull is not None and pull.done()

    async def pull(self, reference: str, seconds: float) -> None:
        """Wait until the image is here; those who want the same one wait for the same pull."""
        pull = self._pulls.get(reference)
        if pull is None:
            pull = self._pulls[reference] = asyncio.create_task(asyncio.sleep(seconds))
        await asyncio.shield(pull)
