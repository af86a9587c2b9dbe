"""Figures, the machine they were measured on, and how both are shown and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Figure:
    """One measured value. `target` is an upper bound, or a lower one where `at_least`."""

    part: str
    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie, interpolated."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


def machine() -> dict[str, Any]:
    """The hardware and software that the figures hold for."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next((li.split(":")[1].strip() for li in cpu.splitlines() if "model name" in li), "")
    return {
        "cores": os.cpu_count(),
        "cpu": model or platform.machine(),
        "memoryGB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "loadBefore": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(figures: Iterable[Figure]) -> Table:
    """What was measured, beside what was promised."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("PART", "WHAT", "MEASURED", "PROMISED", "NOTE"):
        view.add_column(title, justify="right" if title in ("MEASURED", "PROMISED") else "left")
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        promised = "" if figure.target is None else f"{sign} {figure.target:g} {figure.unit}"
        style = {True: "green", False: "red", None: ""}[figure.met]
        measured = Text(f"{_number(figure.value)} {figure.unit}", style)
        view.add_row(figure.part, figure.what, measured, promised, Text(figure.note, "dim"))
    return view


def write(path: Path, figures: Iterable[Figure], about: dict[str, Any]) -> None:
    """Keep them as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": about, "figures": [{**asdict(f), "met": f.met} for f in figures]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"
