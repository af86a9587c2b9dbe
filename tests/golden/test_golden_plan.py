"""The pages that `llm-operator plan` prints, to the letter, for a few models and for refusals.

After an intended change write them anew with UPDATE_GOLDEN=1 and read the diff.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cli import plan_compare, plan_input, plan_view
from llm_operator.cli.manifests import Deployment

GOLDEN = Path(__file__).parent / "plan"

PAGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "llama-70b-awq": (
        {
            "model": {"id": "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"},
            "limits": {"maxTotalTokens": 8192, "maxConcurrentRequests": 32},
        },
        ["a100:8"],
    ),
    "llama-8b": ({"model": {"id": "meta-llama/Llama-3.1-8B-Instruct"}}, []),
    "qwen-7b-eetq": (
        {
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "quantization": {"method": "eetq"},
            "gpu": {"products": ["Tesla-T4", "NVIDIA-L4"]},
        },
        [],
    ),
    "llama-405b-on-t4": (
        {
            "model": {"id": "meta-llama/Llama-3.1-405B-Instruct"},
            "gpu": {"products": ["Tesla-T4"]},
        },
        [],
    ),
    "gpt-oss-20b": ({"model": {"id": "openai/gpt-oss-20b"}}, ["h100"]),
    "unknown": ({"model": {"id": "somebody/something"}}, ["l4:1"]),
}


def printed(page: Any) -> str:
    out = StringIO()
    Console(file=out, width=120, color_system=None, highlight=False).print(page)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def question(name: str, raw: dict[str, Any], gpus: list[str]) -> plan_input.Question:
    deployment = Deployment(name, LLMDeploymentSpec.model_validate(raw))
    (found,) = plan_input.questions([deployment], gpus, offline=True)
    return found


def check(name: str, text: str) -> None:
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", PAGES)
def test_plan_pages(name: str) -> None:
    raw, gpus = PAGES[name]
    (planned,) = plan_input.answers([question(name, raw, gpus)])
    check(name, printed(plan_view.page(planned)))


def test_comparison_of_llama_7b_beside_the_published_table() -> None:
    raw = {"model": {"id": "huggyllama/llama-7b"}}
    table = plan_compare.compare(question("llama-7b", raw, ["t4:2", "l4:1"]))
    check("compare-llama-7b", printed(plan_view.comparison(table)))
