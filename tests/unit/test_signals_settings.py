"""Where Prometheus is, is said by flags of `run` and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_operator.cli.main import app
from llm_operator.handlers import app as operator
from llm_operator.handlers.settings import Settings
from llm_operator.observe.prometheus import PrometheusConfig


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of operators that would have run."""
    found: list[Settings] = []

    def run(settings: Settings) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr(operator, "run", run)
    monkeypatch.setattr("llm_operator.cli.target.named", lambda _: None)
    monkeypatch.setattr("llm_operator.telemetry.logs.configure", lambda *_, **__: None)
    return found


def test_every_flag_arrives(made: list[Settings]) -> None:
    flags = {
        "url": "https://prometheus:9090/prefix",
        "ca-file": "/ca",
        "token-file": "/token",
        "namespace-label": "kubernetes_namespace",
        "pod-label": "kubernetes_pod",
        "matchers": 'cluster="a"',
        "timeout-seconds": "3",
        "scrape-interval-seconds": "30",
    }
    options = [f"--prometheus-{name}={value}" for name, value in flags.items()]
    done = CliRunner().invoke(app, ["run", *options, "--scaling-interval-seconds=7"])
    assert done.exit_code == 0, done.output
    assert made[0].scaling_interval_seconds == 7
    assert made[0].prometheus == PrometheusConfig(
        "https://prometheus:9090/prefix",
        Path("/ca"),
        Path("/token"),
        "kubernetes_namespace",
        "kubernetes_pod",
        'cluster="a"',
        3.0,
        30.0,
    )


def test_without_a_url_there_is_none(made: list[Settings]) -> None:
    assert CliRunner().invoke(app, ["run"]).exit_code == 0
    assert made[0].prometheus is None


def test_what_cannot_be_is_wrong_usage(made: list[Settings]) -> None:
    done = CliRunner().invoke(app, ["run", "--prometheus-url=http://me:secret@prometheus"])
    assert done.exit_code == 2
    assert "secret" not in done.output
    assert made == []
