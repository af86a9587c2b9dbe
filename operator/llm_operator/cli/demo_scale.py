"""`demo --scale`: a burst comes and goes, and replicas follow it; each decision is explained.

A real Prometheus scrapes the simulated pods, and the operator decides by it. What users noticed is
counted by clients that send at their own times, whether or not anybody answers.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llm_operator.api import names
from llm_operator.cli import demo, install, scaling_view, view
from llm_operator.cli.console import CommandError, console, step
from llm_operator.cli.scale_play import Figures, Play, changes, figures, picture
from llm_operator.cli.watching import Watch
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.load.arrivals import Arrival, Stretch, poisson
from llm_operator.cluster.load.running import Replay
from llm_operator.cluster.local import LocalCluster

NAME = "scale"
NODES = "l4=2x2"
DEPLOYMENT = "chat"
MODEL = "NousResearch/Meta-Llama-3.1-8B-Instruct"
MOST = 4
METRICS = demo.Metrics(scrape_seconds=2, decide_seconds=5)
LOAD_SPEED = 4
"""So many times as fast as in reality are weights loaded: a replica takes about ten seconds."""

IDLE = 0.3
BURST = 5.0
"""Requests per second: one replica carries less than two."""

STORY = (
    Stretch.steady(20, IDLE),
    Stretch(10, IDLE, BURST),
    Stretch.steady(70, BURST),
    Stretch.steady(80, IDLE),
)
INPUT_TOKENS, OUTPUT_TOKENS = 900, 100

_START_S = 120.0
_LOOK_S = 0.5


def manifest() -> dict[str, Any]:
    """A small model, 1 to MOST replicas, with windows short enough for a demo."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": DEPLOYMENT, "namespace": "default"},
        "spec": {
            "model": {"id": MODEL},
            "quantization": {"method": "none"},
            "gpu": {"products": ["NVIDIA-L4"]},
            "parallelism": {"tensor": 1},
            "limits": {
                "maxInputTokens": 1400,
                "maxTotalTokens": 2048,
                "maxConcurrentRequests": 64,
            },
            "autoscaling": {
                "minReplicas": 1,
                "maxReplicas": MOST,
                "behavior": {
                    "scaleDown": {
                        "stabilizationWindowSeconds": 20,
                        "maxChange": 2,
                        "periodSeconds": 15,
                    }
                },
            },
            "rollout": {"drainSeconds": 20},
        },
    }


def demo_scale(*, keep: bool, nodes: str | None, chart: Path | None) -> int:
    """Run it. 0 if replicas rose with the burst, fell after it, and no user lost a request."""
    out, to = console(), console(stderr=True)
    speed = (f"--speed={LOAD_SPEED}",)
    with demo.stage(
        NAME,
        nodes or NODES,
        chart or install.CHART,
        to,
        keep=keep,
        metrics=METRICS,
        fleet_args=speed,
    ) as (cluster, operator):
        with step(f"serving {MODEL} with one replica", to):
            cluster.kubectl("apply", "--filename=-", input=json.dumps(manifest()))
            patience = f"--timeout={_START_S:.0f}s"
            cluster.kubectl("wait", "--for=condition=Ready", patience, f"llmd/{DEPLOYMENT}")
        arrivals = poisson(STORY, INPUT_TOKENS, OUTPUT_TOKENS)
        with Watch(cluster, "default", DEPLOYMENT) as watch:
            play = run(cluster, operator, watch, arrivals, _seconds(), to)
            out.print(picture(play, out.width))
            out.print(table(play, MOST))
            if seen := watch.seen:
                out.print(scaling_view.page(seen, datetime.now(UTC), out.width))
        good, words = verdict(play)
        to.print(words)
        if keep:
            to.print(
                f"It goes on running: `llm-operator scaling {DEPLOYMENT} -w` shows it,"
                f" `llm-operator down {NAME}` ends it."
            )
    return 0 if good else 1


def run(
    cluster: LocalCluster,
    operator: subprocess.Popen[bytes],
    watch: Watch,
    arrivals: Sequence[Arrival],
    seconds: float,
    to: Console,
    *,
    gpus: int = 1,
) -> Play:
    """Send the arrivals and look on for at least so many seconds, until all answers are there.

    Each change of replicas is a line; on a terminal the load and the last decision with its
    arithmetic are shown meanwhile. Raises CommandError if the operator ends.
    """
    url = f"http://{demo.service_address(cluster, 'default', DEPLOYMENT)}"
    told, line = 0, Text()

    def shown() -> RenderableType:
        seen, now = watch.seen, datetime.now(UTC)
        if seen is None:
            return Text()
        page = scaling_view.page(seen, now, to.width) if seen.autoscaled else view.page(seen, now)
        return Group(line, "", page)

    growing = Live(get_renderable=shown, console=to, refresh_per_second=2, transient=True)
    with Replay(cluster, url, arrivals) as load, growing if to.is_terminal else nullcontext():
        began = load.started
        while time.time() < began + seconds or not load.is_over:
            if operator.poll() is not None:
                raise CommandError(f"the operator ended: {demo.last_words(cluster)}")
            found = changes(watch.decisions.values(), since=began)
            for change in found[told:]:
                to.print(
                    f"{change.sign} {change.at - began:4.0f} s  {change.previous} ->"
                    f" {change.replicas}  {change.reason}: {change.message}",
                    markup=False,
                )
            told = len(found)
            if to.is_terminal:
                line = _line(cluster, time.time() - began)
            time.sleep(_LOOK_S)
        load.stop()
        moments = [moment for moment in watch.moments if moment.at >= began]
        found = changes(watch.decisions.values(), since=began)
        return Play(began, time.time(), moments, load.records, found, gpus)


def _line(cluster: LocalCluster, seconds: float) -> Text:
    """The load at this moment, as Prometheus has it."""
    running, waiting = (
        sum(
            float(found["value"][1]) for found in _ask(cluster, f"{name}{{pod=~'{DEPLOYMENT}-.*'}}")
        )
        for name in ("tgi_batch_current_size", "tgi_queue_size")
    )
    return Text(f"{seconds:.0f} s: {running:.0f} requests run, {waiting:.0f} wait", "bold")


def _ask(cluster: LocalCluster, promql: str) -> list[dict[str, Any]]:
    try:
        return cluster.ask_prometheus(promql)
    except ClusterError:
        return []


def table(play: Play, peak: int) -> Table:
    """The figures, beside those of `peak` replicas all the time."""
    found = figures(play)
    always = peak * play.gpus * (play.ended - play.began)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    shown.add_column(style="dim")
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column()
    shown.add_row("requests", str(found.requests), _said(found))
    shown.add_row(
        "first token, p95",
        f"{found.wait_p95:.1f} s",
        f"p50 {found.wait_p50:.1f} s, p99 {found.wait_p99:.1f} s, as clients saw it",
    )
    shown.add_row("waiting at once", str(found.most_waiting), "at most, in all queues together")
    shown.add_row("replicas", str(found.most), f"at most, after {found.changes} changes")
    shown.add_row(
        "GPU-seconds",
        f"{found.gpu_seconds:.0f}",
        f"{100 * found.gpu_seconds / always:.0f} % of those of {peak} replicas all the time",
    )
    return shown


def verdict(play: Play) -> tuple[bool, str]:
    """Whether all went as promised, and in words."""
    found = figures(play)
    ups = sum(change.replicas > change.previous for change in play.changes)
    downs = len(play.changes) - ups
    last = play.moments[-1].pods.values() if play.moments else ()
    serving = sum(pods.serving for pods in last)
    good = found.most > 1 and serving == 1 and bool(ups and downs) and not found.lost
    mark = "[green]✓[/]" if good else "[red]✗[/]"
    return good, (
        f"{mark} {found.most} replicas at most, {serving} at the end, {ups} times up, {downs} times"
        f" down; {found.requests} requests, {found.lost} lost, {found.refused} refused"
    )


def _said(found: Figures) -> str:
    return f"{found.ok} answered, {found.refused} refused (overloaded), {found.lost} lost"


def _seconds() -> float:
    return sum(stretch.seconds for stretch in STORY)
