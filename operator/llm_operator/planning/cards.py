"""The catalogue of GPUs: what a node label's product stands for.

Decides memory, compute capability and speeds of a card by its `nvidia.com/gpu.product`, so that a
product can be planned for before a node has it. Where a node reports its own memory, that wins.
Figures: `nvidia-smi` and node-label readings for memory, vendor datasheets for the rest (dense
16-bit TFLOPS). Cards of other vendors are not here: their nodes carry no such label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from llm_operator.runtimes.terms import Gpu


@dataclass(frozen=True)
class Card:
    """A card, the short names that people use for it, and other labels seen on nodes."""

    gpu: Gpu
    names: tuple[str, ...]
    other_labels: tuple[str, ...] = ()
    common: bool = False
    """One that the big clouds rent: offered where the user names no GPU at all."""


def _gpu(product: str, mib: int, major: int, minor: int, gbs: float, tflops: float) -> Gpu:
    return Gpu(product, mib, (major, minor), gbs, tflops)


CARDS: Final = (
    Card(_gpu("Tesla-T4", 15360, 7, 5, 320, 65), ("t4",), ("NVIDIA-T4",), common=True),
    Card(_gpu("NVIDIA-L4", 23034, 8, 9, 300, 121), ("l4",), common=True),
    # no label value of the A10 was seen: its memory is taken from the A10G, the same chip
    Card(_gpu("NVIDIA-A10", 23028, 8, 6, 600, 125), ("a10",)),
    Card(_gpu("NVIDIA-A10G", 23028, 8, 6, 600, 70), ("a10g",), common=True),
    Card(_gpu("NVIDIA-L40S", 46068, 8, 9, 864, 362), ("l40s",), common=True),
    Card(_gpu("NVIDIA-L40", 46068, 8, 9, 864, 181), ("l40",)),
    Card(_gpu("Tesla-V100-SXM2-16GB", 16384, 7, 0, 900, 125), ("v100", "v100-16gb")),
    Card(_gpu("Tesla-V100-SXM2-32GB", 32768, 7, 0, 900, 125), ("v100-32gb",)),
    Card(
        _gpu("NVIDIA-A100-SXM4-40GB", 40960, 8, 0, 1555, 312),
        ("a100-40gb", "a100-40"),
        ("A100-SXM4-40GB",),
        common=True,
    ),
    Card(
        _gpu("NVIDIA-A100-SXM4-80GB", 81920, 8, 0, 2039, 312),
        ("a100", "a100-80gb", "a100-80"),
        ("A100-SXM4-80GB",),
        common=True,
    ),
    Card(
        _gpu("NVIDIA-A100-80GB-PCIe", 81920, 8, 0, 1935, 312),
        ("a100-pcie",),
        ("NVIDIA-A100-PCIE-80GB",),
    ),
    Card(_gpu("NVIDIA-H100-PCIe", 81559, 9, 0, 2000, 756), ("h100-pcie",)),
    Card(
        _gpu("NVIDIA-H100-80GB-HBM3", 81559, 9, 0, 3350, 989),
        ("h100", "h100-80gb", "h100-sxm"),
        common=True,
    ),
    Card(_gpu("NVIDIA-H200", 143771, 9, 0, 4800, 989), ("h200",), common=True),
    Card(_gpu("NVIDIA-B200", 183359, 10, 0, 8000, 2250), ("b200",)),
    Card(_gpu("NVIDIA-GeForce-RTX-3090", 24576, 8, 6, 936, 71), ("rtx3090", "3090")),
    Card(_gpu("NVIDIA-GeForce-RTX-4090", 24564, 8, 9, 1008, 165), ("rtx4090", "4090")),
)

GPUS_PER_NODE: Final = 8
"""Assumed of a node that does not exist yet: the usual server has 8."""

_BY_LABEL: Final = {
    label: card for card in CARDS for label in (card.gpu.product, *card.other_labels)
}
_BY_NAME: Final = {name: card for card in CARDS for name in card.names}
_SLICE: Final = re.compile(r"-MIG-(\d+)g\.(\d+)gb")
_SUFFIX: Final = re.compile(r"(-MIG-\d+g\.\d+gb.*|-SHARED)$")


def gpu_of(
    product: str,
    memory_mib: int | None = None,
    compute_capability: tuple[int, int] | None = None,
    resource: str = "nvidia.com/gpu",
) -> Gpu | None:
    """The card that a node label names, with what the node itself reports where it does.

    A shared or MIG-sliced card keeps its product as written; a slice's memory is read from its
    name. None if the catalogue has no such card and the node reports no memory.
    """
    card = _BY_LABEL.get(_SUFFIX.sub("", product))
    if card is None:
        return (
            Gpu(product, memory_mib, compute_capability, resource=resource) if memory_mib else None
        )
    gpu = card.gpu
    part = _SLICE.search(product)
    return replace(
        gpu,
        product=product,
        memory_mib=memory_mib or (int(part[2]) << 10 if part else gpu.memory_mib),
        compute_capability=compute_capability or gpu.compute_capability,
        resource=resource,
    )


def product_named(name: str) -> str | None:
    """The product label that a short name (`a100`, `l4`) or a label in any case stands for."""
    card = _BY_NAME.get(name.lower())
    if card is not None:
        return card.gpu.product
    return next((label for label in _BY_LABEL if label.lower() == name.lower()), None)


def short_name(product: str) -> str:
    """`A100-80GB` for `NVIDIA-A100-SXM4-80GB`; the product itself where the catalogue has none."""
    card = _BY_LABEL.get(product)
    return max(card.names, key=len).upper() if card else product


def common_cards() -> Iterable[Gpu]:
    """Cards worth comparing where nobody named one, smallest memory first."""
    return sorted((card.gpu for card in CARDS if card.common), key=lambda g: g.memory_mib)


def is_slice(gpu: Gpu) -> bool:
    """A MIG slice: one process cannot join several."""
    return "-MIG-" in gpu.product or "/mig-" in gpu.resource
