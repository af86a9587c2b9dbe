"""The scaling demo, as a user runs it: replicas follow a burst, by a real Prometheus."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_operator.cluster import binaries

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(600)]


def test_replicas_follow_a_burst(tmp_path: Path) -> None:
    binaries.need(*binaries.CLUSTER_PROGRAMS, "helm", "prometheus")
    paths = os.pathsep.join([str(ROOT / "operator"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": paths}
    program = [sys.executable, "-m", "llm_operator.cli.main", "demo", "--scale"]
    done = subprocess.run(program, env=env, text=True, capture_output=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert re.search(r"▲ +\d+ s  1 -> [2-4]  \w+: .*requests in hand", done.stderr), said
    assert re.search(r"▼ +\d+ s  \d -> 1  ScaledDown: ", done.stderr), said
    in_all = re.search(r"✓ (\d) replicas at most, 1 at the end, .* (\d+) requests, 0 lost", said)
    assert in_all, said
    assert int(in_all[1]) >= 3, said
    assert int(in_all[2]) > 300, said
    held = re.search(r"(\d+) % of those of 4 replicas all the time", done.stdout)
    assert held, said
    assert int(held[1]) < 90, said
    assert not list((tmp_path / "state" / "llm-operator").glob("*"))
