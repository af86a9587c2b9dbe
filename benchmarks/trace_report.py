"""The report on runs of a trace, as Markdown: figures side by side, then each by the half minute.

Pure. Decides words and columns; the reckoning is `llm_operator.cli.scale_play`'s.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, RenderableType

from llm_operator.cli import scale_play
from llm_operator.cli.scale_play import Play
from llm_operator.cluster.load.records import percentile, waits

_PART_S = 30.0
_COLD_START_S = 120.0
_WIDTH = 118

_TITLES = {"scaler": "1 to {most}, scaled", "one": "1, fixed", "peak": "{most}, fixed"}


def markdown(runs: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """`runs` by name, each as `benchmarks.trace` keeps it; `about` is what they have in common."""
    plays = {name: scale_play.from_json(run["play"]) for name, run in runs.items()}
    lines = [_introduction(about, runs), "", *_side_by_side(plays, runs, about)]
    for name, play in plays.items():
        lines += ["", f"### {_title(name, about)} replicas", "", *_by_time(play)]
        lines += ["", "```text", _text(scale_play.picture(play, _WIDTH)), "```"]
        if play.changes:
            lines += ["", *_decisions(play)]
    return "\n".join(lines) + "\n"


def _introduction(about: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> str:
    machine = next(iter(runs.values()))["machine"]
    cores = max(sum(run["cores"].values()) for run in runs.values())
    return (
        f"{about['trace']}, {about['seconds'] / 60:.0f} minutes from second {about['start']:.0f},"
        f" in real time, {100 * about['share']:.0f} % of its requests: {about['requests']}, on"
        f" average {about['input_tokens']:.0f} tokens in and {about['output_tokens']:.0f} out"
        f" ({about['cut']} were cut to the limits). {about['model']} on {about['card']}, loading as"
        f" slowly as in reality. Prometheus scrapes every {about['scrape']} s, the operator decides"
        f" every {about['decide']} s; all else is default. {machine['cores']} cores of"
        f" {machine['cpu']}, {machine['time'][:10]}; fleet, Prometheus and API server together used"
        f" {cores:.2f} cores at most on average."
    )


def _side_by_side(
    plays: Mapping[str, Play], runs: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]
) -> list[str]:
    found = {name: scale_play.figures(play) for name, play in plays.items()}
    queue = {name: run["queueP95"] for name, run in runs.items()}
    rows: list[tuple[str, Iterable[str]]] = [
        ("requests sent", (str(f.requests) for f in found.values())),
        ("answered", (str(f.ok) for f in found.values())),
        ("refused, overloaded (429)", (str(f.refused) for f in found.values())),
        ("failed or cut", (str(f.lost) for f in found.values())),
        ("queue time, p95 (engines)", (_seconds(queue[name]) for name in found)),
        ("first token, p50 (clients)", (_seconds(f.wait_p50) for f in found.values())),
        ("first token, p95", (_seconds(f.wait_p95) for f in found.values())),
        ("first token, p99", (_seconds(f.wait_p99) for f in found.values())),
        ("first token, p95, from minute 2 on", (_seconds(settled(p)) for p in plays.values())),
        ("waiting at once, most", (str(f.most_waiting) for f in found.values())),
        ("replicas serving, most", (str(f.most) for f in found.values())),
        ("changes of replicas", (str(f.changes) for f in found.values())),
        ("GPU-seconds", (f"{f.gpu_seconds:.0f}" for f in found.values())),
        ("sent after its time, p99", (f"{1000 * f.latest:.0f} ms" for f in found.values())),
    ]
    titles = [f"replicas: {_title(name, about)}" for name in found]
    return _table(["", *titles], ([what, *cells] for what, cells in rows))


def settled(play: Play) -> float:
    """p95 of the time to the first token, without the minutes in which a cold start shows."""
    late = [one for one in play.records if one.began >= play.began + _COLD_START_S]
    return percentile(waits(late), 0.95)


def _by_time(play: Play) -> list[str]:
    parts = scale_play.parts(play, _PART_S)
    return _table(scale_play.TITLES, (scale_play.cells(part) for part in parts))


def _decisions(play: Play) -> list[str]:
    return [
        f"- {one.at - play.began:.0f} s, {one.previous} to {one.replicas}, {one.reason}:"
        f" {one.message}"
        for one in play.changes
    ]


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(titles)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _title(name: str, about: Mapping[str, Any]) -> str:
    return _TITLES[name].format(most=about["most"])


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} s"


def _text(shown: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
    with console.capture() as caught:
        console.print(shown)
    return "\n".join(line.rstrip() for line in caught.get().rstrip("\n").splitlines())
