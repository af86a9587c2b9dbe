"""The report on runs of a trace: what stands beside what. No figure is asserted anywhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from benchmarks import trace, trace_report

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cli import scale_play
from llm_operator.cli.scale_play import Change, Play
from llm_operator.cli.timeline import Moment, Pods
from llm_operator.cluster.load.arrivals import Arrival
from llm_operator.cluster.load.records import Outcome, Record

SETTING = trace.Setting("a.csv", 60, 60, 1.0, 6)
UP = Change(1015.0, 1, 3, "Panic", "19 requests in hand")


def run(first: float, queue: float | None, *changes: Change) -> dict[str, Any]:
    records = [Record("stream", False, 1000.0 + at, 5, Outcome.OK, first=first) for at in range(50)]
    moments = [Moment(1000.0, {"a": Pods(1)}), Moment(1060.0, {"a": Pods(3)})]
    play = Play(1000.0, 1060.0, moments, records, changes)
    document = {
        "setting": asdict(SETTING),
        "machine": {"cores": 2, "cpu": "a CPU", "time": "2026-01-02T03:04:05+00:00"},
        "play": scale_play.to_json(play),
        "queueP95": queue,
        "cores": {"fleet": 0.25},
    }
    again: dict[str, Any] = json.loads(json.dumps(document))
    return again


def test_runs_stand_side_by_side_and_each_by_itself() -> None:
    sent = [Arrival(0, 100, 10)] * 50
    about = asdict(SETTING) | trace._about(sent, sent)
    text = trace_report.markdown({"scaler": run(0.5, 0.3, UP), "one": run(9.0, None)}, about)
    lines = text.splitlines()
    assert "|  | replicas: 1 to 6, scaled | replicas: 1, fixed |" in lines
    assert "| first token, p95 | 0.5 s | 9.0 s |" in lines
    assert "| queue time, p95 (engines) | 0.3 s | none |" in lines
    assert "### 1 to 6, scaled replicas" in lines
    halves = [line for line in lines if line.startswith(("| 0:00 |", "| 0:30 |"))]
    assert len(halves) == 4
    assert halves[0].endswith("| 1 -> 3 Panic |")
    assert "- 15 s, 1 to 3, Panic: 19 requests in hand" in lines
    assert "used 0.25 cores" in text
    fence = lines.index("```text")
    assert "▲" in lines[fence + 1]


def test_the_cold_start_can_be_left_out() -> None:
    slow = [Record("stream", False, 1000.0 + at, 99, Outcome.OK, first=50.0) for at in range(119)]
    swift = [Record("stream", False, 1120.0 + at, 9, Outcome.OK, first=1.0) for at in range(9)]
    assert trace_report.settled(Play(1000.0, 1200.0, (), [*slow, *swift])) == 1.0


@pytest.mark.parametrize(
    ("name", "replicas", "scaled"), [("one", 1, False), ("peak", 6, False), ("scaler", None, True)]
)
def test_runs_differ_by_nothing_but_their_replicas(
    name: str, replicas: int | None, scaled: bool
) -> None:
    found = trace.manifest(name, 6)["spec"]
    LLMDeploymentSpec.model_validate(found)
    assert (found.pop("replicas", None), bool(found.pop("autoscaling", None))) == (replicas, scaled)
    other = trace.manifest("one", 6)["spec"]
    del other["replicas"]
    assert found == other


def test_a_run_is_kept_for_the_same_setting_only(tmp_path: Path) -> None:
    file = tmp_path / "trace-one.json"
    assert not trace._is_kept(file, SETTING)
    file.write_text(json.dumps(run(1.0, 0.1)))
    assert trace._is_kept(file, SETTING)
    assert not trace._is_kept(file, trace.Setting("a.csv", 120, 60, 1.0, 6))


def test_what_is_too_long_for_the_deployment_is_cut_and_counted() -> None:
    taken = [Arrival(0, 100, 10), Arrival(1, 9000, 10), Arrival(2, 100, 2000)]
    sent = trace.fitted(taken, 1.0)
    assert all(one.input_tokens + one.output_tokens < trace.MOST_TOTAL for one in sent)
    assert trace._about(taken, sent)["cut"] == 2
