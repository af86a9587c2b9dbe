"""Kubernetes quantities: reading, rounding and writing them. Knows no resource by name."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

GIB: Final = 1 << 30

_SCALES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(1 << 10),
    "Mi": Fraction(1 << 20),
    "Gi": Fraction(1 << 30),
    "Ti": Fraction(1 << 40),
    "Pi": Fraction(1 << 50),
    "Ei": Fraction(1 << 60),
}


def parse_quantity(text: str | int | float) -> Fraction:
    """The exact value of `1500m`, `24Gi`, `1e3` or a plain number. ValueError if it is none."""
    literal = str(text)
    for suffix in (literal[-2:], literal[-1:]):
        if suffix in _SCALES:
            return Fraction(literal[: -len(suffix)]) * _SCALES[suffix]
    return Fraction(literal)


def gibibytes(count: int) -> str:
    """Bytes as whole GiB, rounded up: the form in which the operator writes sizes."""
    return f"{-(-count // GIB)}Gi"
