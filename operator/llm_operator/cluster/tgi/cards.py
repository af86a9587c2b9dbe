"""Published speeds of GPUs, found by the product name that a container sees.

Memory is not here: a container's own cards say what they have (`fleet.container.Gpu`). Figures are
dense 16-bit peaks and memory bandwidths from vendors' data sheets; the two cards on which decoding
was measured carry the measured effective bandwidth and time per layer (see `speed`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Speeds of one card: GB/s, TFLOPS, and how it talks to its neighbours.

    `effective_gbs` and `layer_ms` are set where a decode step was measured.
    """

    bandwidth_gbs: float
    tflops: float
    nvlink: bool
    effective_gbs: float | None = None
    layer_ms: float | None = None


# Looked up by substring, the most specific first: labels carry prefixes and suffixes.
_CARDS: tuple[tuple[str, Card], ...] = (
    ("B200", Card(8000, 2250, True)),
    ("H200", Card(4800, 989, True, 4270, 0.041)),
    ("H100-PCIe", Card(2000, 756, False)),
    ("H100", Card(3350, 989, True, 2800, 0.034)),
    ("A100-PCIE-40GB", Card(1555, 312, False)),
    ("A100-SXM4-40GB", Card(1555, 312, True)),
    ("A100-80GB-PCIe", Card(1935, 312, False)),
    ("A100-PCIE-80GB", Card(1935, 312, False)),
    ("A100", Card(2039, 312, True)),
    ("A10G", Card(600, 70, False)),
    ("A10", Card(600, 125, False)),
    ("L40S", Card(864, 362, False)),
    ("L40", Card(864, 181, False)),
    ("L4", Card(300, 121, False)),
    ("V100", Card(900, 125, True)),
    ("T4", Card(320, 65, False)),
    ("RTX-4090", Card(1008, 165, False)),
    ("RTX-3090", Card(936, 71, False)),
)
_UNKNOWN = Card(300, 60, False)


def card_of(product: str) -> Card:
    """Speeds of a product label; a card that is not listed is taken for a slow one."""
    return next((card for name, card in _CARDS if name in product), _UNKNOWN)
