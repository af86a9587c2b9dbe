"""`python -m benchmarks [PART ...]`: start a cluster, measure, print a table, keep a JSON file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import report
from benchmarks.parts import PARTS
from llm_operator.cli import install, local
from llm_operator.cli.console import console, step
from llm_operator.cluster.local import LocalCluster

ROOT = Path(__file__).parents[1]
_GPUS_PER_NODE = 8
LARGE = ("scale", "scaling")
"""Parts that make many objects, each on a cluster of its own."""
_SCRAPE_S = 15.0


def run(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Some of: {' '.join(PARTS)}.")] = None,
    many: Annotated[int, typer.Option(help=f"Objects of {' and '.join(LARGE)}.", min=1)] = 1000,
    out: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
) -> None:
    """Measure the numbers that the operator promises, on this machine."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = parts or list(PARTS)
    if unknown := set(wanted) - PARTS.keys():
        raise typer.BadParameter(
            f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    about, to = report.machine(), console(stderr=True)
    to.print("  ".join(f"{key} {value}" for key, value in about.items()))
    local.get_programs(to)
    figures: list[report.Figure] = []
    complete = True
    large = [[part] for part in LARGE if part in wanted]
    small = [part for part in wanted if part not in LARGE]
    for group, pods in ((small, 2), *((part, many) for part in large)):
        if group:
            measured, well = _measure(group, pods, to)
            figures, complete = figures + measured, complete and well
    console().print(report.table(figures))
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    file = out or ROOT / ".bench" / f"{stamp}.json"
    report.write(file, figures, about)
    to.print(f"written to {file}")
    if not complete:
        raise typer.Exit(1)


def _measure(parts: list[str], pods: int, to: Console) -> tuple[list[report.Figure], bool]:
    """The figures of these parts, on a cluster with room for so many pods; and whether all could
    be taken."""
    # A GPU for each pod, and a node to spare: a pod that ends holds its GPU for a while. And no
    # more nodes than that, because their heartbeats are no part of being idle.
    nodes = f"t4={pods // _GPUS_PER_NODE + 1}x{_GPUS_PER_NODE}"
    with tempfile.TemporaryDirectory() as directory:
        state_dir = Path(directory) / "bench"
        with step(f"starting Kubernetes with simulated nodes {nodes}", to) as tell:
            cluster = LocalCluster.start(
                "bench", nodes=nodes, state_dir=state_dir, die_with=os.getpid(), progress=tell
            )
        try:
            local.install_crd(cluster)
            installed, program = install.install(cluster, install.CHART)
            prometheus = ""
            if "scaling" in parts:
                with step("starting Prometheus", to) as tell:
                    prometheus = cluster.start_prometheus(scrape_seconds=_SCRAPE_S, progress=tell)
                program = (*program, f"--prometheus-url={prometheus}")
            asked = {
                "state_dir": str(state_dir),
                "program": program,
                "user": installed.user,
                "many": pods,
                "parts": parts,
                "prometheus": prometheus,
            }
            argv = [sys.executable, "-m", "benchmarks.inside", json.dumps(asked)]
            with cluster.run_inside(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
                answer = process.communicate()[0]
            if process.returncode != 0:
                to.print(_last_lines(cluster.files.log("operator")), markup=False)
            figures = [report.Figure(**json.loads(line)) for line in answer.splitlines()]
            return figures, process.returncode == 0
        finally:
            cluster.stop()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:]) if log.exists() else ""


if __name__ == "__main__":
    typer.run(run)
