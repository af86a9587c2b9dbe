"""`demo`: the whole product on this machine, from nothing to an answer of every example.

Starts a local cluster, runs the operator in it with the chart's own arguments, ServiceAccount and
RBAC, applies the examples, watches them become ready, and talks with each. Checks nothing by
itself that it does not show.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llm_operator.cli import install, local, view
from llm_operator.cli.chat import QUESTION, Answer
from llm_operator.cli.console import CommandError, console, step
from llm_operator.cli.status import fetch
from llm_operator.cluster import prometheus, state
from llm_operator.cluster.local import LocalCluster, default_state_dir
from llm_operator.kube.client import KubeClient

NAME = "demo"
_EXAMPLES = Path(__file__).parents[3] / "examples"
_EVERY_S = 0.25
_LOG_LINES = 5
_REST_WIDTH = 32
"""What the table of answers needs beside name and answer."""


def demo(
    *, keep: bool, nodes: str | None, examples: Path | None, chart: Path | None, timeout: float
) -> int:
    """Run it. 0 if every example got ready and answered, else 1."""
    out, to = console(), console(stderr=True)
    examples, chart = examples or _EXAMPLES, chart or install.CHART
    _need(examples, "--examples")
    with stage(NAME, nodes or local.NODES, chart, to, keep=keep) as (cluster, operator):
        with step(f"applying {local.shown(examples)}", to):
            cluster.kubectl("apply", f"--filename={examples}")
        seen = asyncio.run(_follow(cluster, operator, timeout, out, to))
        ready = [found for found in seen if found.ready]
        with step(f"asking {len(ready)} models: {QUESTION}", to):
            answers = _ask(cluster, ready)
        out.print(_answers(answers, out.width))
        good = bool(seen) and len(ready) == len(seen) and not any(a.error for a in answers)
        to.print(_what_next(cluster if keep else None, seen))
    return 0 if good else 1


@dataclass(frozen=True)
class Metrics:
    """A Prometheus for the demo, and how the operator uses it: how often pods are scraped, and how
    often replicas are decided on. Seconds."""

    scrape_seconds: int
    decide_seconds: int

    @property
    def values(self) -> tuple[str, ...]:
        """What the chart is told of it."""
        return (
            f"prometheus.url={prometheus.URL}",
            f"prometheus.scrapeIntervalSeconds={self.scrape_seconds}",
            f"scaling.intervalSeconds={self.decide_seconds}",
        )


@contextmanager
def stage(
    name: str,
    nodes: str,
    chart: Path,
    to: Console,
    *,
    keep: bool,
    metrics: Metrics | None = None,
    fleet_args: Sequence[str] = (),
) -> Iterator[tuple[LocalCluster, subprocess.Popen[bytes]]]:
    """A cluster and the operator at work in it, for the time of a demo; kept, if so wished, also
    when the demo fails."""
    _need(chart, "--chart")
    if state.is_running(default_state_dir(name)):
        raise CommandError(f"a demo is running: `llm-operator down {name}` first")
    local.get_programs(to, *(["prometheus"] if metrics else []))
    die_with = None if keep else os.getpid()
    cluster = local.start(name, nodes, to, die_with=die_with, fleet_args=fleet_args)
    try:
        if metrics:
            with step("starting Prometheus", to):
                cluster.start_prometheus(scrape_seconds=metrics.scrape_seconds)
        yield cluster, _start_operator(cluster, chart, metrics.values if metrics else (), to)
    finally:
        if not keep:
            local.stop(cluster, to)


def _need(wanted: Path, option: str) -> None:
    if not wanted.exists():
        raise CommandError(f"{wanted} is not there: run this in a checkout, or give {option}")


def _start_operator(
    cluster: LocalCluster, chart: Path, values: Sequence[str], to: Console
) -> subprocess.Popen[bytes]:
    with step("starting the operator with the chart's RBAC", to):
        _, program = install.install(cluster, chart, values)
        with _log_file(cluster).open("wb") as log:
            return cluster.run_inside(program, stdout=log, stderr=log, start_new_session=True)


def _log_file(cluster: LocalCluster) -> Path:
    return cluster.files.log("operator")


async def _follow(
    cluster: LocalCluster,
    operator: subprocess.Popen[bytes],
    timeout: float,
    out: Console,
    to: Console,
) -> list[view.Seen]:
    """Show the table until all are ready, or nothing more will come, or time is up."""
    client = await KubeClient.connect(str(cluster.kubeconfig), user_agent="llm-operator-cli")
    started, told = time.monotonic(), dict[str, str]()
    seen: list[view.Seen] = []
    try:
        with Live(console=to, auto_refresh=False, transient=True) as live:
            while time.monotonic() - started < timeout:
                if operator.poll() is not None:
                    raise CommandError(f"the operator ended: {last_words(cluster)}")
                seen = await fetch(client, None)
                elapsed = time.monotonic() - started
                if to.is_terminal:
                    live.update(_progress(seen, elapsed, to.width), refresh=True)
                else:
                    _tell_changes(seen, told, elapsed, to)
                if seen and all(found.ready or found.stalled for found in seen):
                    break
                await asyncio.sleep(_EVERY_S)
    finally:
        await client.close()
    out.print(view.table(seen, datetime.now(UTC), out.width))
    for found in seen:
        if not found.ready:
            out.print(view.page(found, datetime.now(UTC)))
    ready = sum(found.ready for found in seen)
    mark = "[green]✓[/]" if seen and ready == len(seen) else "[red]✗[/]"
    to.print(f"{mark} {ready} of {len(seen)} ready after {time.monotonic() - started:.1f} s")
    return seen


def _progress(seen: Sequence[view.Seen], elapsed: float, width: int) -> Group:
    ready = sum(found.ready for found in seen)
    line = Text(f"{ready} of {len(seen)} ready, {elapsed:.0f} s", "dim")
    return Group(view.table(seen, datetime.now(UTC), width), line)


def _tell_changes(
    seen: Sequence[view.Seen], told: dict[str, str], elapsed: float, to: Console
) -> None:
    """In a pipe: a line for each deployment that is another way than it was."""
    for found in seen:
        if told.get(found.name) != found.reason:
            told[found.name] = found.reason
            to.print(f"  {elapsed:5.1f} s  {found.name}: {found.reason}", markup=False)


def _ask(cluster: LocalCluster, ready: Sequence[view.Seen]) -> list[Answer]:
    """One question to each, through its Service's own address, from inside the cluster."""
    targets = [
        f"{found.name}=http://{service_address(cluster, found.namespace, found.name)}"
        for found in ready
    ]
    program = [sys.executable, "-m", "llm_operator.cli.chat", *targets]
    with cluster.run_inside(program, stdout=subprocess.PIPE, text=True) as process:
        said = process.communicate()[0]
    answers = [Answer(**json.loads(line)) for line in said.splitlines()]
    return sorted(answers, key=lambda answer: answer.name)


def service_address(cluster: LocalCluster, namespace: str, name: str) -> str:
    """Address and port of a Service: there is no DNS in the local cluster."""
    service = json.loads(
        cluster.kubectl("get", "service", name, f"--namespace={namespace}", "-o=json")
    )
    return f"{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"


def _answers(answers: Sequence[Answer], width: int) -> Table:
    """A line each, cut to the terminal."""
    longest = max((len(answer.name) for answer in answers), default=0)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("NAME", no_wrap=True)
    shown.add_column("ANSWER (words and speed are simulated)")
    shown.add_column("FIRST TOKEN", no_wrap=True, justify="right")
    shown.add_column("TOKENS", no_wrap=True, justify="right")
    for answer in answers:
        if answer.error:
            shown.add_row(answer.name, Text(answer.error, "red"), "", "")
            continue
        said = Text(
            shorten(answer.text, max(24, width - longest - _REST_WIDTH), placeholder=" …"), "italic"
        )
        first, speed = 1000 * answer.first_token_seconds, answer.tokens_per_second
        shown.add_row(Text(answer.name, "bold"), said, f"{first:.0f} ms", f"{speed:.0f}/s")
    return shown


def _what_next(cluster: LocalCluster | None, seen: Sequence[view.Seen]) -> str:
    name = seen[0].name if seen else "NAME"
    if cluster is None:
        return (
            "\nNothing was left behind. [bold]make demo DEMO=--keep[/] leaves it running, to try:\n"
            f"  llm-operator status {name}\n"
            f"  kubectl scale llmd/{name} --replicas=2\n"
        )
    return (
        "\nIt goes on running. To try next:\n"
        f"  export KUBECONFIG={local.shown(cluster.kubeconfig)}\n"
        "  kubectl get llmd -o wide\n"
        f"  llm-operator status {name}\n"
        f"  kubectl scale llmd/{name} --replicas=2\n"
        "  llm-operator fault set try --fault crash-loading -n default && kubectl delete pod -l "
        f"llm-operator.dev/deployment={name}\n"
        f"  curl -x {cluster.proxy_url} http://{name}.default/info\n"
        f"  tail -f {local.shown(_log_file(cluster))}\n"
        f"  llm-operator down {cluster.name}\n"
    )


def last_words(cluster: LocalCluster) -> str:
    """The end of the operator's log."""
    lines = _log_file(cluster).read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:]) or "it says nothing"
