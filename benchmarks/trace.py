"""`python -m benchmarks.trace FILE`: minutes of a recorded trace, with and without the scaler.

In real time. Each run has a fresh cluster, on which weights load as slowly as in reality, and the
operator with its chart's defaults. Clients send every request at its time, whatever became of
earlier ones. A run is kept in `.bench/` and not repeated; the report is made of those that are
there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import report, trace_report
from llm_operator.api import names
from llm_operator.cli import demo, install, scale_play
from llm_operator.cli.console import console, step
from llm_operator.cli.demo_scale import DEPLOYMENT, run
from llm_operator.cli.watching import Watch
from llm_operator.cluster.load import arrivals
from llm_operator.cluster.load.arrivals import Arrival
from llm_operator.cluster.local import LocalCluster

ROOT = Path(__file__).parents[1]
NAME = "trace"
MODEL = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
CARD = "NVIDIA-L4"
NODES = "l4=4x2"
MOST_INPUT, MOST_TOTAL, MOST_OUTPUT = 4096, 5120, 1000
_TEMPLATE_TOKENS = 32
METRICS = demo.Metrics(scrape_seconds=5, decide_seconds=15)
REAL_TIME = ("--speed=1",)
_START_S = 180.0
_QUEUE = "tgi_request_queue_duration_bucket"


@dataclass(frozen=True)
class Setting:
    """What makes two runs comparable. `share`: of the trace's requests, 0 to 1."""

    trace: str
    start: float
    seconds: float
    share: float
    most: int
    model: str = MODEL
    card: str = CARD


def main(
    file: Annotated[Path, typer.Argument(help="CSV: TIMESTAMP, ContextTokens, GeneratedTokens.")],
    minutes: Annotated[float, typer.Option(help="How much of it.", min=0.1)] = 10,
    start: Annotated[
        float | None, typer.Option(help="Seconds into it. Unset: where it is busiest.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of its requests.", min=0.01, max=1)] = 1.0,
    most: Annotated[int, typer.Option(help="maxReplicas, and replicas of the run peak.")] = 6,
    runs: Annotated[
        str, typer.Option(help="Some of scaler (1 to most), one, peak (as many all the time).")
    ] = "scaler,one,peak",
    again: Annotated[bool, typer.Option("--again", help="Repeat runs that are there.")] = False,
    out: Annotated[Path, typer.Option(help="Where runs and report go.")] = ROOT / ".bench",
) -> None:
    """Replay a trace against the local cluster, and say how long its users waited."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    to = console(stderr=True)
    recorded = arrivals.read_trace(file)
    seconds = 60 * minutes
    begin = arrivals.busiest(recorded, seconds) if start is None else start
    setting = Setting(file.name, begin, seconds, share, most)
    taken = arrivals.window(recorded, begin, seconds)
    sent = fitted(taken, share)
    to.print(f"{len(sent)} requests of {file.name}, from {begin:.0f} s on")
    played = {}
    for name in runs.split(","):
        kept = out / f"trace-{name}.json"
        if again or not _is_kept(kept, setting):
            document = {"setting": asdict(setting), "machine": report.machine()}
            document |= _run(name, setting, sent, to)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(document))
        played[name] = json.loads(kept.read_text())
    text = trace_report.markdown(played, asdict(setting) | _about(taken, sent))
    (out / "trace.md").write_text(text)
    print(text)
    to.print(f"written to {out / 'trace.md'}")


def fitted(taken: Sequence[Arrival], share: float) -> list[Arrival]:
    """What is sent: lengths cut to what the deployment allows."""
    longest = MOST_INPUT - _TEMPLATE_TOKENS
    return arrivals.fitted(taken, share=share, most_input=longest, most_output=MOST_OUTPUT)


def manifest(run_name: str, most: int) -> dict[str, Any]:
    """The deployment of a run: `scaler` has `autoscaling` as it is, the others have replicas."""
    spec: dict[str, Any] = {
        "model": {"id": MODEL},
        "quantization": {"method": "awq"},
        "gpu": {"products": [CARD]},
        "parallelism": {"tensor": 1},
        "limits": {
            "maxInputTokens": MOST_INPUT,
            "maxTotalTokens": MOST_TOTAL,
            "maxConcurrentRequests": 128,
        },
    }
    if run_name == "scaler":
        spec["autoscaling"] = {"minReplicas": 1, "maxReplicas": most}
    else:
        spec["replicas"] = {"one": 1, "peak": most}[run_name]
    metadata = {"name": DEPLOYMENT, "namespace": "default"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": metadata,
        "spec": spec,
    }


def _run(name: str, setting: Setting, sent: Sequence[Arrival], to: Console) -> dict[str, Any]:
    """One run, from its first replica's readiness on; what was seen of it."""
    to.print(f"[bold]{name}[/]")
    with demo.stage(
        f"{NAME}-{name}-{os.getpid()}",
        NODES,
        install.CHART,
        to,
        keep=False,
        metrics=METRICS,
        fleet_args=REAL_TIME,
    ) as (cluster, operator):
        with step("loading the model, as slowly as in reality", to):
            text = json.dumps(manifest(name, setting.most))
            cluster.kubectl("apply", "--filename=-", input=text)
            patience = f"--timeout={_START_S:.0f}s"
            cluster.kubectl("wait", "--for=condition=Ready", patience, f"llmd/{DEPLOYMENT}")
        before = _cpu(cluster)
        with Watch(cluster, "default", DEPLOYMENT) as watch:
            play = run(cluster, operator, watch, sent, setting.seconds, to)
        lasted = play.ended - play.began
        cpu = {key: (value - before[key]) / lasted for key, value in _cpu(cluster).items()}
        end = play.began + setting.seconds
        play = replace(play, ended=end, moments=[m for m in play.moments if m.at <= end])
        return {
            "play": scale_play.to_json(play),
            "queueP95": queue_p95(cluster, lasted),
            "cores": cpu,
        }


def queue_p95(cluster: LocalCluster, seconds: float) -> float | None:
    """Seconds that 95 % of requests waited at most, as the engines counted; None if they did not.

    Every engine's counters began in the run and never went back: their largest values are all.
    """
    total = f"sum by (le) (max_over_time({_QUEUE}[{seconds:.0f}s]))"
    found = cluster.ask_prometheus(f"histogram_quantile(0.95, {total})")
    return float(found[0]["value"][1]) if found else None


def _cpu(cluster: LocalCluster) -> dict[str, float]:
    wanted = ("fleet", "prometheus", "kube-apiserver")
    return {name: cluster.processes()[name].cpu_seconds for name in wanted}


def _is_kept(kept: Path, setting: Setting) -> bool:
    return kept.exists() and json.loads(kept.read_text())["setting"] == asdict(setting)


def _about(taken: Sequence[Arrival], sent: Sequence[Arrival]) -> dict[str, Any]:
    longest = MOST_INPUT - _TEMPLATE_TOKENS
    return {
        "requests": len(sent),
        "input_tokens": sum(one.input_tokens for one in sent) / max(len(sent), 1),
        "output_tokens": sum(one.output_tokens for one in sent) / max(len(sent), 1),
        "cut": sum(one.input_tokens > longest or one.output_tokens > MOST_OUTPUT for one in taken),
        "scrape": METRICS.scrape_seconds,
        "decide": METRICS.decide_seconds,
    }


if __name__ == "__main__":
    typer.run(main)
