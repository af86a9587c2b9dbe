"""The simulated launcher against 135 command lines that the real 3.3.7 launcher was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_operator.cluster.tgi.args import PrintAndExit, UsageError, parse
from llm_operator.cluster.tgi.launcher import Refused, launch
from llm_operator.cluster.tgi.versions import NEWEST

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "tgi_launcher_cases.json").read_text()
)


def _name(case: dict[str, Any]) -> str:
    env = " ".join(f"{key}={value}" for key, value in case.get("env", {}).items())
    method = case.get("config", {}).get("quantization_config", {}).get("quant_method", "")
    return " ".join(filter(None, [env, method and f"[{method}]", *case["args"]])) or "nothing"


def _observe(case: dict[str, Any]) -> dict[str, Any]:
    """Run one row as it was recorded: a local model, no nvidia-smi."""
    argv = case["args"]
    if "--model-id" not in argv:
        argv = ["--model-id", "/models/llama", *argv]
    env = case.get("env", {})
    try:
        args = parse(argv, env, NEWEST)
        settled = launch(args, env, case.get("config", {}), NEWEST)
    except PrintAndExit:
        return {"outcome": "printed", "exit_code": 0}
    except UsageError as error:
        return {"outcome": "refused", "exit_code": 2, "error": str(error)}
    except Refused as error:
        return {"outcome": "refused", "exit_code": error.code, "error": error.error}
    return {"outcome": "serving", "shards": settled.shards}


def test_the_recording_is_whole() -> None:
    assert len(CASES) == 135


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_outcome_exit_code_shards_and_message(case: dict[str, Any]) -> None:
    seen = _observe(case)
    recorded = {key: case[key] for key in ("outcome", "exit_code", "shards") if key in case}
    assert {key: seen.get(key) for key in recorded} == recorded
    # The recording cuts long lines.
    assert seen.get("error", "").startswith(case.get("error", ""))
