"""Kubernetes resource quantities as whole numbers of their base unit."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{
        unit: Decimal(1000) ** power for power, unit in enumerate(["k", "M", "G", "T", "P", "E"], 1)
    },
    **{
        unit: Decimal(1024) ** power
        for power, unit in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], 1)
    },
}


def parse_quantity(text: str | int) -> int:
    """`8Gi` -> 8589934592, `500m` -> 1: rounded up, as Kubernetes does. ValueError if malformed."""
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?\d+)?)([A-Za-z]*)", str(text).strip())
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"not a quantity: {text!r}")
    return int((Decimal(match[1]) * _SUFFIXES[match[2]]).to_integral_value(ROUND_CEILING))
