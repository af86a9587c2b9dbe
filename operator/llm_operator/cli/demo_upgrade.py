"""`demo --upgrade`: models are changed, and worse, while users talk to them; what users noticed.

Acts of one play on the local cluster, under traffic through the Service's own address. What users
noticed is counted by the clients, and never taken from what the operator says of itself.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llm_operator.api import names
from llm_operator.api.status import Reason
from llm_operator.cli import demo, install, local, view
from llm_operator.cli.console import CommandError, console, step
from llm_operator.cli.timeline import Story, picture
from llm_operator.cli.watching import Watch
from llm_operator.cluster.load.records import Report
from llm_operator.cluster.load.running import Load
from llm_operator.cluster.local import LocalCluster

NAME = "upgrade"
NODES = "l4=4x2"
DEPLOYMENT = "chat"
REPLICAS = 3
DRAIN_SECONDS = 40

FIRST = "NousResearch/Meta-Llama-3.1-8B-Instruct"
SECOND = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
CRASHING = "Qwen/Qwen2.5-7B-Instruct"
BABBLING = "mistralai/Mistral-7B-Instruct-v0.3"

ACCEPTANCE = {
    "prompts": [
        {
            "prompt": "What is deep learning?",
            "maxTokens": 16,
            "expect": {"contains": "deep learning"},
        }
    ]
}

_FAULT = "demo-upgrade"
_START_S = 120.0
_WARM_UP_REQUESTS = 40
_POLL_S = 0.2


@dataclass(frozen=True)
class Act:
    """Something that is done, and how one sees that it is over."""

    title: str
    begin: Callable[[Stage], None]
    is_over: Callable[[view.Seen], bool]


@dataclass(frozen=True)
class Scene:
    """An act as it was played. Times in seconds since the epoch."""

    number: int
    title: str
    began: float
    ended: float
    over: bool


@dataclass(frozen=True)
class Stage:
    """What acts do things to. Blocking. `patience`: seconds that an act may take."""

    cluster: LocalCluster
    patience: float

    def want(self, model: str, acceptance: dict[str, Any] | None = None) -> None:
        """Wish for another model, which has to pass the acceptance, if there is one."""
        spec = {"model": {"id": model}, "rollout": {"acceptance": acceptance}}
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("patch", "llmd", DEPLOYMENT, "--type=merge", f"--patch={patch}")

    def want_what_cannot_load(self) -> None:
        """Wish for a model of which every pod that is yet to come dies while it loads."""
        self._spoil("crash-loading", f"{names.LABEL_DEPLOYMENT}={DEPLOYMENT}")
        self.want(CRASHING)

    def want_what_babbles(self) -> None:
        """Wish for a model that loads well, and then answers with nonsense."""
        before = self._revisions()
        self.want(BABBLING, ACCEPTANCE)
        deadline = time.monotonic() + self.patience
        while not (new := self._revisions() - before):
            if time.monotonic() > deadline:
                raise CommandError("the operator makes no new revision")
            time.sleep(_POLL_S)
        self._spoil("garbage", f"{names.LABEL_REVISION}={new.pop().rpartition('-')[2]}")

    def take_back(self) -> None:
        """Wish for the model that serves, as `rollout undo` would."""
        local.change_fault(self.cluster, ["clear", _FAULT])
        self.want(SECOND)

    def drain_a_node(self) -> None:
        """Evict what runs on the node of one of the pods, and let the node serve again."""
        selector = f"--selector={names.LABEL_DEPLOYMENT}={DEPLOYMENT}"
        where = "--output=jsonpath={.items[0].spec.nodeName}"
        node = self.cluster.kubectl("get", "pods", selector, where)
        self.cluster.kubectl(
            "drain", node, "--delete-emptydir-data", f"--timeout={self.patience:.0f}s"
        )
        self.cluster.kubectl("uncordon", node)

    def _spoil(self, fault: str, selector: str) -> None:
        where = [f"--selector={selector}", "--namespace=default"]
        local.change_fault(self.cluster, ["set", _FAULT, f"--fault={fault}", *where])

    def _revisions(self) -> set[str]:
        selector = f"--selector={names.LABEL_DEPLOYMENT}={DEPLOYMENT}"
        return set(
            self.cluster.kubectl("get", "replicasets", selector, "--output=name").splitlines()
        )


def is_served(seen: view.Seen) -> bool:
    """All as wished for, and nothing else left."""
    return seen.ready and len(seen.pods) == REPLICAS


def is_rolled_back(seen: view.Seen) -> bool:
    """Given up, and the old revision serves in full."""
    return seen.stalled and seen.reason == Reason.ROLLED_BACK


ACTS = (
    Act("another model", lambda stage: stage.want(SECOND), is_served),
    Act("a model that cannot load", Stage.want_what_cannot_load, is_rolled_back),
    Act("a model that talks nonsense", Stage.want_what_babbles, is_rolled_back),
    Act("that wish is taken back", Stage.take_back, is_served),
    Act("a node is drained", Stage.drain_a_node, is_served),
)


def manifest() -> dict[str, Any]:
    """What the play begins with."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": DEPLOYMENT, "namespace": "default"},
        "spec": {
            "model": {"id": FIRST},
            "quantization": {"method": "none"},
            "gpu": {"products": ["NVIDIA-L4"]},
            "parallelism": {"tensor": 1},
            "limits": {
                "maxInputTokens": 1024,
                "maxTotalTokens": 2048,
                "maxConcurrentRequests": 128,
            },
            "replicas": REPLICAS,
            "rollout": {"drainSeconds": DRAIN_SECONDS},
        },
    }


def demo_upgrade(*, keep: bool, nodes: str | None, chart: Path | None, timeout: float) -> int:
    """Run it, with `timeout` seconds for each act.

    0 if every act came to its end and no user lost a request, else 1.
    """
    out, to = console(), console(stderr=True)
    chart = chart or install.CHART
    with demo.stage(NAME, nodes or NODES, chart, to, keep=keep) as (cluster, operator):
        with step(f"serving {FIRST} with {REPLICAS} replicas", to):
            cluster.kubectl("apply", "--filename=-", input=json.dumps(manifest()))
            patience = f"--timeout={_START_S:.0f}s"
            cluster.kubectl("wait", "--for=condition=Ready", patience, f"llmd/{DEPLOYMENT}")
        url = f"http://{demo.service_address(cluster, 'default', DEPLOYMENT)}"
        with Watch(cluster, "default", DEPLOYMENT) as watch, Load(cluster, url) as load:
            scenes = _play(Stage(cluster, timeout), watch, load, operator, to)
            with step("letting the last requests end", to):
                report = load.stop()
            out.print(picture(_story(watch, load, scenes), out.width))
            out.print(_table(scenes, load, report))
        good, words = verdict(scenes, report)
        to.print(words)
        if keep:
            to.print(f"It goes on running: `llm-operator down {NAME}` ends it.")
    return 0 if good else 1


def _play(
    stage: Stage, watch: Watch, load: Load, operator: subprocess.Popen[bytes], to: Console
) -> list[Scene]:
    """Act after act; on a terminal the picture grows meanwhile."""
    scenes: list[Scene] = []

    def shown() -> Group:
        return picture(_story(watch, load, scenes), to.width)

    while len(load.records) < _WARM_UP_REQUESTS:
        time.sleep(_POLL_S)
    growing = Live(get_renderable=shown, console=to, refresh_per_second=2, transient=True)
    with growing if to.is_terminal else nullcontext():
        for number, act in enumerate(ACTS, 1):
            began = time.time()
            act.begin(stage)
            over = watch.look_until(act.is_over, since=time.time(), seconds=stage.patience)
            if operator.poll() is not None:
                raise CommandError(f"the operator ended: {demo.last_words(stage.cluster)}")
            scenes.append(Scene(number, act.title, began, time.time(), over))
            mark = "[green]✓[/]" if over else "[red]✗[/]"
            to.print(f"{mark} {number}. {act.title} [dim]{time.time() - began:.0f} s,[/]", end=" ")
            to.print(watch.reason, style="dim")
    return scenes


def _story(watch: Watch, load: Load, scenes: Sequence[Scene]) -> Story:
    marks = {scene.began: str(scene.number) for scene in scenes}
    return Story(watch.moments, load.records, watch.models, marks)


def _table(scenes: Sequence[Scene], load: Load, report: Report) -> Table:
    """What clients saw of each act, and in all; for first tokens of streams, the slowest."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("ACT")
    for title in (
        "TOOK",
        "REQUESTS",
        "STREAMS AT ONCE",
        "FAILED",
        "CUT",
        "SENT AGAIN",
        "FIRST TOKEN",
    ):
        shown.add_column(title, justify="right", no_wrap=True)
    for scene in scenes:
        part = load.report(scene.began, scene.ended)
        took = f"{scene.ended - scene.began:.0f} s"
        shown.add_row(f"{scene.number}. {scene.title}", took, *_cells(part))
    shown.add_row("in all", "", *_cells(report), style="bold")
    return shown


def _cells(report: Report) -> tuple[Text | str, ...]:
    lost = [Text(str(n), "red" if n else "green") for n in (report.failed, report.cut)]
    return (
        str(report.requests),
        str(report.most_streams),
        *lost,
        str(report.stale),
        f"{report.slowest_first:.1f} s",
    )


def verdict(scenes: Sequence[Scene], report: Report) -> tuple[bool, str]:
    """Whether all went as promised, and in words."""
    good = report.broken == 0 and all(scene.over for scene in scenes)
    mark = "[green]✓[/]" if good else "[red]✗[/]"
    lines = [f"{mark} {report.requests} requests, {report.failed} failed, {report.cut} cut"]
    if report.stale:
        lines.append(
            f"  {report.stale} sent again: the server was closing the idle connection that they"
            " were sent on, as HTTP/1.1 lets it, and had not taken them"
        )
    lines += [f"  {count} x {what}" for what, count in report.details.items()]
    return good, "\n".join(lines)
