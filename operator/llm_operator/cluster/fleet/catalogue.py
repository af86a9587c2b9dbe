"""The cards that nodes of the fleet can carry, and the notation `a100=4x8,l4=2x1`.

Decides what a card is called and how large it is. Refuses to know what runs on it. Product names,
memory and compute capability are those that NVIDIA's GPU feature discovery and nvidia-smi report;
CPU, memory and local disk per card follow the common cloud machine of that card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .container import Gpu


@dataclass(frozen=True)
class Card:
    """A kind of GPU and the share of its machine that comes with each card."""

    product: str
    memory_mib: int
    compute: tuple[int, int]
    family: str
    cpus: int
    memory_gib: int
    disk_gib: int

    def gpu(self) -> Gpu:
        """The card as a container sees it."""
        major, minor = self.compute
        return Gpu(self.product, self.memory_mib, float(f"{major}.{minor}"))


CARDS: Mapping[str, Card] = {
    "t4": Card("Tesla-T4", 15360, (7, 5), "turing", 12, 48, 225),
    "l4": Card("NVIDIA-L4", 23034, (8, 9), "ada-lovelace", 16, 64, 600),
    "a10g": Card("NVIDIA-A10G", 23028, (8, 6), "ampere", 24, 96, 950),
    "l40s": Card("NVIDIA-L40S", 46068, (8, 9), "ada-lovelace", 24, 192, 950),
    "a100-40": Card("NVIDIA-A100-SXM4-40GB", 40960, (8, 0), "ampere", 12, 144, 1000),
    "a100": Card("NVIDIA-A100-SXM4-80GB", 81920, (8, 0), "ampere", 12, 144, 1000),
    "h100": Card("NVIDIA-H100-80GB-HBM3", 81559, (9, 0), "hopper", 24, 256, 3840),
    "h200": Card("NVIDIA-H200", 143771, (9, 0), "hopper", 24, 256, 3840),
}

MAX_NODES = 255

_BY_PRODUCT = {card.product: card for card in CARDS.values()}


@dataclass(frozen=True)
class NodeGroup:
    """`count` nodes of one kind with `gpus` cards each."""

    kind: str
    count: int
    gpus: int

    def names(self) -> list[str]:
        """`a100-0`, `a100-1`, ..."""
        return [f"{self.kind}-{index}" for index in range(self.count)]


def parse_nodes(text: str) -> list[NodeGroup]:
    """Read `KIND=COUNTxGPUS[,...]`. ValueError, with the kinds there are, on anything else."""
    groups: list[NodeGroup] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([a-z0-9-]+)=(\d+)x(\d+)", item)
        if match is None:
            raise ValueError(f"nodes: {item!r} is not KIND=COUNTxGPUS, for example a100=4x8")
        kind, count, gpus = match[1], int(match[2]), int(match[3])
        if kind not in CARDS:
            raise ValueError(f"nodes: no card {kind!r}; there are {', '.join(CARDS)}")
        if any(group.kind == kind for group in groups):
            raise ValueError(f"nodes: {kind!r} is named twice")
        if not 1 <= gpus <= 16:
            raise ValueError(f"nodes: {item!r} asks for {gpus} cards a node; 1 to 16 are possible")
        groups.append(NodeGroup(kind, count, gpus))
    if sum(group.count for group in groups) > MAX_NODES:
        raise ValueError(f"nodes: at most {MAX_NODES} are possible")
    return groups


def card_for(labels: Mapping[str, str]) -> Card | None:
    """The card that a node's labels stand for.

    A known product is what the catalogue says, whatever else the labels claim; an unknown product
    is taken at its labels' word. None where the labels name no card.
    """
    kind = CARDS.get(labels.get("fleet.llm-operator.dev/kind", ""))
    if kind is not None:
        return kind
    product = labels.get("nvidia.com/gpu.product", "")
    if product in _BY_PRODUCT:
        return _BY_PRODUCT[product]
    try:
        memory = int(labels["nvidia.com/gpu.memory"])
        major = int(labels["nvidia.com/gpu.compute.major"])
        minor = int(labels["nvidia.com/gpu.compute.minor"])
    except (KeyError, ValueError):
        return None
    if not product:
        return None
    family = labels.get("nvidia.com/gpu.family", "unknown")
    return Card(product, memory, (major, minor), family, 16, 128, 1000)
