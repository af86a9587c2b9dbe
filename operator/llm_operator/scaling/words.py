"""How numbers are written in what a decision says. Refuses to know what they mean."""

from __future__ import annotations


def number(value: float) -> str:
    """Three digits at least where there are so many, no trailing zeros: 31, 2.25, 0.5, 1024."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """`1 replica`, `2 replicas`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
