"""The upgrade demo, as a user runs it: every act comes to its end, and no user loses a request."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_operator.cluster import binaries

ROOT = Path(__file__).parents[2]
REASONS = ("Ready", "RolledBack: ShardFailed", "RolledBack: AcceptanceFailed", "Ready", "Ready")

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(600)]


def test_upgrade_rollback_and_drain_lose_nothing(tmp_path: Path) -> None:
    binaries.need(*binaries.CLUSTER_PROGRAMS, "helm")
    paths = os.pathsep.join([str(ROOT / "operator"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": paths}
    program = [sys.executable, "-m", "llm_operator.cli.main", "demo", "--upgrade"]
    done = subprocess.run(program, env=env, text=True, capture_output=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for number, reason in enumerate(REASONS, 1):
        assert re.search(rf"✓ {number}\. .*, {reason}$", done.stderr, re.MULTILINE), said
    in_all = re.search(r"✓ (\d+) requests, 0 failed, 0 cut", done.stderr)
    assert in_all, said
    assert int(in_all[1]) > 500, said
    models = ("Meta-Llama-3.1-8B", "DeepSeek-R1-Distill", "Qwen2.5-7B", "Mistral-7B")
    assert all(re.search(rf"^\w{{10}}  {model}", done.stdout, re.MULTILINE) for model in models)
    assert not list((tmp_path / "state" / "llm-operator").glob("*"))
