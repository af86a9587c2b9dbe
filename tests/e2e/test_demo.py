"""The demo, as a user runs it: two examples, from nothing to their answers, and nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_operator.cluster import binaries

ROOT = Path(__file__).parents[2]
EXAMPLES = ("llama-7b-gptq.yaml", "mistral-7b-awq-edge.yaml")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user whose local clusters are of this test alone."""
    binaries.need(*binaries.CLUSTER_PROGRAMS, "helm")
    paths = os.pathsep.join([str(ROOT / "operator"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": paths}


def command(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "llm_operator.cli.main", *arguments]
    return subprocess.run(program, env=env, text=True, capture_output=True)


def demo(examples: Path, env: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    return command("demo", "--nodes=t4=1x2", f"--examples={examples}", *more, env=env)


def test_demo_answers_and_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    examples = tmp_path / "examples"
    examples.mkdir()
    for name in EXAMPLES:
        shutil.copy(ROOT / "examples" / name, examples)
    done = demo(examples, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 ready" in done.stderr
    for name in EXAMPLES:
        answers = [li for li in done.stdout.splitlines() if li.strip().startswith(Path(name).stem)]
        assert len(answers) == 2, "a line of the table, and its answer"
        assert " ms " in answers[1]
    assert "no local cluster 'demo' is running" in command("down", "demo", env=environment).stderr
    assert not list((tmp_path / "state" / "llm-operator").glob("*"))


def test_demo_says_no_where_an_example_cannot_run(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    examples = tmp_path / "examples"
    examples.mkdir()
    text = (ROOT / "examples" / "llama-7b-gptq.yaml").read_text()
    (examples / "three.yaml").write_text(f"{text}  parallelism:\n    tensor: 3\n")
    try:
        done = demo(examples, environment, "--keep")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "0 of 1 ready" in done.stderr
        assert "PlanRefused" in done.stdout
        kept = command("status", "llama-7b-gptq", env=environment)
        assert kept.returncode == 0, kept.stderr
        assert "Stalled" in kept.stdout
    finally:
        stopped = command("down", "demo", env=environment)
    assert stopped.returncode == 0
