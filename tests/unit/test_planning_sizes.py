"""Weight bytes against published checkpoints, and GPU counts against published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_operator.planning import Model, SizeUnknown, model_of
from llm_operator.planning.fit import share
from llm_operator.planning.quantization import ON_THE_FLY
from llm_operator.planning.shape import shape_of
from llm_operator.planning.weights import weights
from llm_operator.planning.wish import Limits
from llm_operator.runtimes.terms import NONE, Gpu, ModelShape, Quantization

DATA = Path(__file__).parent.parent / "data"
SIZES: list[dict[str, Any]] = json.loads((DATA / "published_sizes.json").read_text())
COUNTS: list[dict[str, Any]] = json.loads((DATA / "published_gpu_counts.json").read_text())
WITHOUT_FORMULA = {"Qwen/Qwen3.5-122B-A10B", "Qwen/Qwen3.5-122B-A10B-GPTQ-Int4"}


def as_hub_config(row: dict[str, Any]) -> dict[str, Any]:
    """The row as a config.json: dimensions, dtype, and quantization_config as builds write it."""
    quant = row["quant"]
    config = {**row["config"], "torch_dtype": row["torch_dtype"]}
    if quant["method"] == "fp8":
        blocks = {"weight_block_size": [128, 128]}
        config["quantization_config"] = {"quant_method": "fp8", **blocks}
    elif quant["method"] != "none":
        config["quantization_config"] = {
            "quant_method": quant["method"],
            "bits": quant["bits"],
            "group_size": quant["group_size"] or -1,
            "desc_act": bool(quant["desc_act"]),
        }
    return config


def sized(row: dict[str, Any], name: str) -> int | str:
    """What is downloaded: the bytes as stored, before an engine casts them to 16 bit."""
    found = model_of(name, as_hub_config(row))
    if isinstance(found, SizeUnknown):
        return found.reason
    assert found.checkpoint_bytes is not None
    return found.checkpoint_bytes


@pytest.mark.parametrize("row", SIZES, ids=lambda row: row["name"])
def test_published_sizes(row: dict[str, Any]) -> None:
    predicted = sized(row, row["name"])
    if row["name"] in WITHOUT_FORMULA:
        assert isinstance(predicted, str)
        assert "size unknown" in predicted
        return
    assert isinstance(predicted, int)
    published = row["weight_bytes"]
    off = abs(predicted - published)
    assert off <= (0.001 if row["precision"] == "exact" else 0.01) * published
    assert off <= row["tolerance_bytes"] + 0.001 * published


def test_most_exact_sizes_are_met_to_the_byte() -> None:
    exact = [row for row in SIZES if row["precision"] == "exact"]
    met = [row["name"] for row in exact if sized(row, "x") == row["weight_bytes"]]
    assert len(met) == 8


def test_nearly_all_sizes_are_met_within_their_rounding_alone() -> None:
    """So small terms (zero biases, scales, group indices) are there and are not there twice."""
    off = [
        row["name"]
        for row in SIZES
        if isinstance(predicted := sized(row, "x"), int)
        and abs(predicted - row["weight_bytes"]) > row["tolerance_bytes"]
    ]
    assert len(off) <= 2, off


def test_names_do_not_matter() -> None:
    for row in SIZES:
        assert sized(row, row["name"]) == sized(row, "somebody/renamed-it")


def test_the_naive_formula_would_not_do() -> None:
    """Parameters x bits / 8: what the tensor kinds are for."""
    errors = []
    for row in SIZES:
        shape = shape_of(row["config"])
        if isinstance(shape, ModelShape) and row["quant"]["bits"] < 16:
            plain = weights(shape, NONE, "float16")
            assert plain is not None
            errors.append(abs(plain.total * row["quant"]["bits"] / 16 / row["weight_bytes"] - 1))
    assert max(errors) > 0.25


PRECISIONS = {
    "fp16": NONE,
    "bf16": NONE,
    "bnb-int8": ON_THE_FLY["bitsandbytes"],
    "fp8": ON_THE_FLY["fp8"],
    "awq-int4": Quantization("awq", 4, 128),
    "nvfp4": Quantization("compressed-tensors", 4, 16),
}


def least_gpus(row: dict[str, Any]) -> int:
    """The memory minimum for one request of 4,096 tokens, whatever an engine can split."""
    model = model_of("x", row["config"])
    assert isinstance(model, Model)
    form = PRECISIONS[row["precision"]]
    loaded = model.loaded(form)
    assert loaded is not None
    gpu = Gpu("", int(row["gpu_mem_gib_reported"] * 1024), None)
    return next(
        degree
        for degree in (1, 2, 4, 8, 16)
        if share(
            gpu,
            degree,
            model.shape,
            loaded,
            Limits(3072, 4096),
            on_the_fly=form.on_the_fly,
        ).fits
    )


def test_published_gpu_counts() -> None:
    rows = [row for row in COUNTS if row["config"] is not None]
    assert len(rows) == 37
    more = [
        f"{row['model']} {row['precision']} on {row['gpu']}"
        for row in rows
        if least_gpus(row) > row["num_gpus"]
    ]
    # The two whose sources contradict themselves: weights of 18.0 GiB in 24 GB, of 67.7 GiB in 80.
    assert more == ["Qwen3-32B awq-int4 on 24GB", "Llama-3.3-70B-Instruct fp8 on H100-80"]


def test_the_memory_minimum_is_not_idle() -> None:
    """It must also say no: a third of the published counts are the minimum itself."""
    rows = [row for row in COUNTS if row["config"] is not None]
    exactly = [row for row in rows if least_gpus(row) == row["num_gpus"]]
    assert len(exactly) >= 19
