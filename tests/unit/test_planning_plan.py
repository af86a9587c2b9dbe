"""What is decided: the degree, the quantization, the GPU; and what is refused, with numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.planning_inputs import (
    A100,
    H100,
    L4,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_70B_AWQ,
    LLAMA_405B,
    NODES,
    T4,
    TGI,
    model,
    offer,
    planned,
    wish,
)

from llm_operator.planning import Offer, SizeUnknown, plan
from llm_operator.planning.catalogue import catalogued
from llm_operator.planning.wish import DEFAULT_SEQUENCES
from llm_operator.runtimes.terms import Gpu


def gpus(*products: str) -> dict[str, Any]:
    return {"gpu": {"products": list(products)}}


def limits(**tokens: int) -> dict[str, Any]:
    return {"limits": tokens}


def test_70b_awq_on_a100() -> None:
    made = planned(LLAMA_70B_AWQ, **gpus(A100))
    assert made.fits
    assert made.gpu is not None
    assert (made.gpu.product, made.tensor_parallel, made.quantization.method) == (A100, 1, "awq")
    assert made.weight_bytes == pytest.approx(39.77e9, rel=0.001)
    kv = made.kv_cache_tokens * made.kv_bytes_per_token_per_gpu
    assert made.weight_bytes_per_gpu + made.overhead_bytes_per_gpu + kv <= made.budget_bytes_per_gpu
    assert "39.8 GB" in made.message


def test_concurrency_asks_for_more_gpus_and_both_numbers_are_told() -> None:
    made = planned(
        LLAMA_70B_AWQ, **gpus(A100), **limits(maxTotalTokens=8192, maxConcurrentRequests=32)
    )
    assert (made.minimum_tensor_parallel, made.recommended_tensor_parallel) == (1, 2)
    assert made.tensor_parallel == 2
    assert made.max_concurrent_sequences >= 32
    assert made.max_concurrent_requests == 32


def test_more_concurrency_than_there_is_memory_for_is_said() -> None:
    made = planned(LLAMA_70B_AWQ, offer(A100, 1), **limits(maxConcurrentRequests=500))
    assert (made.fits, made.tensor_parallel, made.recommended_tensor_parallel) == (True, 1, None)
    assert made.max_concurrent_requests == 500
    assert "fewer than the 500 asked for" in made.message


def test_never_more_gpus_than_a_node_has() -> None:
    assert planned(LLAMA_70B, offer(A100, 1), quantization={"method": "none"}).fits is False
    made = planned(LLAMA_8B, offer(L4, 2), parallelism={"tensor": 4})
    assert not made.fits
    assert "has 2, not 4" in made.message


def test_auto_takes_the_best_quality_that_fits() -> None:
    assert planned(LLAMA_8B, offer(L4)).quantization.method == "none"
    assert planned(LLAMA_405B, offer(H100)).quantization.method == "fp8"
    assert planned(LLAMA_8B, offer(T4, 1)).quantization.method == "eetq"  # fp8 needs 8.0
    assert planned(LLAMA_70B, offer(A100, 1)).quantization.method == "bitsandbytes-nf4"
    assert planned(LLAMA_70B_AWQ, offer(H100)).quantization.method == "awq"


def test_auto_gives_up_quality_only_for_a_concurrency_that_was_named() -> None:
    qwen, one_card = "Qwen/Qwen2.5-32B-Instruct", offer(A100, 1)
    unset = planned(qwen, one_card, **limits(maxTotalTokens=16384))
    assert unset.quantization.method == "none"
    assert unset.max_concurrent_sequences < DEFAULT_SEQUENCES
    named = planned(qwen, one_card, **limits(maxTotalTokens=16384, maxConcurrentRequests=8))
    assert named.quantization.method == "fp8"
    assert named.max_concurrent_sequences >= 8


def test_least_memory_then_fewest_gpus_wins_among_products() -> None:
    made = planned(LLAMA_8B)
    assert made.products == (L4,)
    small = planned("TheBloke/Mistral-7B-Instruct-v0.2-AWQ")
    assert small.products == (T4,)


def test_products_are_those_named_on_which_the_very_plan_holds() -> None:
    awq = "TheBloke/Mistral-7B-Instruct-v0.2-AWQ"
    assert planned(awq, **gpus(T4, L4)).products == (T4, L4)
    single = (offer(T4, 1), offer(A100))
    assert planned(LLAMA_8B, *single, **gpus(T4, A100)).products == (A100,)
    many = limits(maxConcurrentRequests=100)
    assert planned(LLAMA_8B, **gpus(L4, A100), **many).products == (A100,)


def test_a_product_without_nodes_is_planned_from_the_catalogue() -> None:
    made = planned(LLAMA_8B, offer(T4), **gpus("NVIDIA-H200"))
    assert made.fits
    assert made.products == ("NVIDIA-H200",)
    assert "No node has NVIDIA-H200 yet" in made.message


def test_nodes_that_exist_come_before_smaller_ones_that_do_not() -> None:
    made = planned(LLAMA_8B, offer(A100), **gpus(A100, L4))
    assert made.products == (A100, L4)


def test_memory_by_hand_names_no_product_and_says_what_was_not_checked() -> None:
    unlabelled = Offer(Gpu("", 0, None), 2, nodes=3)
    made = planned(LLAMA_8B, unlabelled, gpu={"memory": "24Gi"})
    assert (made.fits, made.products) == (True, ())
    assert "compute capability is not known" in made.message
    alone = planned(LLAMA_8B, unlabelled, gpu={"memory": "24Gi"}, parallelism={"tensor": 4})
    assert "has 2, not 4" in alone.message


def test_without_gpus_the_way_out_is_named() -> None:
    made = plan(wish(LLAMA_8B), model(LLAMA_8B), (), TGI)
    assert not made.fits
    assert "gpu.products" in made.message
    assert made.weight_bytes > 16e9
    unknown = plan(wish(LLAMA_8B, **gpus("NVIDIA-XYZ")), model(LLAMA_8B), (), TGI)
    assert "NVIDIA-XYZ" in unknown.message


def test_limits_are_derived_from_what_is_set() -> None:
    unset = planned(LLAMA_8B)
    assert (unset.max_input_tokens, unset.max_total_tokens) == (3072, 4096)
    assert unset.max_concurrent_requests == 128
    short = planned("huggyllama/llama-7b")
    assert (short.max_input_tokens, short.max_total_tokens) == (1536, 2048)
    only_input = planned(LLAMA_8B, **limits(maxInputTokens=8000))
    assert (only_input.max_input_tokens, only_input.max_total_tokens) == (8000, 9024)
    only_total = planned(LLAMA_8B, **limits(maxTotalTokens=16384))
    assert (only_total.max_input_tokens, only_total.max_total_tokens) == (15360, 16384)
    at_the_end = planned(LLAMA_8B, **limits(maxInputTokens=131071))
    assert at_the_end.max_total_tokens == 131072


def test_limits_beyond_the_model_are_refused() -> None:
    made = planned("huggyllama/llama-7b", **limits(maxTotalTokens=4096))
    assert not made.fits
    assert "2,048 position embeddings" in made.message
    stretched = planned(
        "huggyllama/llama-7b",
        **limits(maxTotalTokens=4096),
        runtime={"ropeScaling": {"type": "dynamic", "factor": 2}},
    )
    assert stretched.fits
    whole = planned(LLAMA_8B, **limits(maxInputTokens=131072))
    assert "no room for an answer" in whole.message


def test_long_prompts_are_computed_in_chunks_where_the_engine_can() -> None:
    long = limits(maxTotalTokens=65536)
    assert planned(LLAMA_8B, offer(A100), **long).max_batch_prefill_tokens == 4096
    speculating = planned(LLAMA_8B, offer(A100), **long, runtime={"speculate": 2})
    assert speculating.max_batch_prefill_tokens == speculating.max_input_tokens == 64512
    assert (
        speculating.overhead_bytes_per_gpu
        > 2 * planned(LLAMA_8B, offer(A100), **long).overhead_bytes_per_gpu
    )
    small = planned(LLAMA_8B, offer(A100), **limits(maxTotalTokens=1024, maxInputTokens=512))
    assert small.max_batch_prefill_tokens == 4096
    told = planned(LLAMA_8B, offer(A100), runtime={"maxBatchPrefillTokens": 8192})
    assert told.max_batch_prefill_tokens == 8192


GPTQ_7B = "TheBloke/Llama-2-7B-GPTQ"
IMPOSSIBLE: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "TP 3 for 32 heads": (LLAMA_8B, {"parallelism": {"tensor": 3}}, r"3.*32.*1, 2, 4, 8", 1),
    "405B on T4": (LLAMA_405B, gpus(T4), r"needs 41\d\.\d GB per GPU.*14\.5 GB are usable", 3),
    "exl2 with TP 2": (
        "turboderp/Llama-3.1-8B-Instruct-exl2",
        {"parallelism": {"tensor": 2}},
        r"exl2.*2 GPUs.*Possible here: 1\.",
        3,
    ),
    "fp8 KV on an old image": (
        LLAMA_8B,
        {"quantization": {"kvCacheDtype": "fp8_e5m2"}, "runtime": {"version": "2.3.1"}},
        r"2\.4\.0.*2\.3\.1",
        0,
    ),
    "a group size that the split breaks": (
        GPTQ_7B,
        {"parallelism": {"tensor": 4}},
        r"128.*2752.*4 shards.*Possible here: 1, 2\.",
        1,
    ),
    "Qwen3 AWQ on TGI": ("Qwen/Qwen3-8B-AWQ", {}, r"qwen3.*awq", 1),
    "mxfp4": ("openai/gpt-oss-20b", {}, r"mxfp4", 1),
    "AWQ of a 16-bit checkpoint": (
        LLAMA_8B,
        {"quantization": {"method": "awq"}},
        r"16-bit checkpoint.*hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        3,
    ),
    "bitsandbytes of an AWQ checkpoint": (
        "TheBloke/Llama-2-7B-AWQ",
        {"quantization": {"method": "bitsandbytes"}},
        r"AWQ 4-bit g128.*meta-llama/Llama-2-7b-hf with method bitsandbytes",
        1,
    ),
    "fp8 on T4": (LLAMA_8B, {"quantization": {"method": "fp8"}, **gpus(T4)}, r"fp8.*8\.0.*7\.5", 1),
    "a V100": (LLAMA_8B, gpus("Tesla-V100-SXM2-32GB"), r"7\.0", 0),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_wishes_are_refused_with_numbers_and_ways_out(name: str) -> None:
    model_id, parts, pattern, ways = IMPOSSIBLE[name]
    made = planned(model_id, **parts)
    assert not made.fits
    assert made.tensor_parallel is None
    assert re.search(pattern, made.message), made.message
    assert made.weight_bytes > 3e9
    assert ways <= len(made.ways_out) <= 3
    for way in made.ways_out:
        assert re.search(
            r"would need \d+(\.\d+)? GB on \d+x [\w-]+ \(\d+(\.\d+)? GB usable\)\.$", way
        )


def test_a_way_out_that_is_named_works() -> None:
    refused = planned(LLAMA_405B, offer(A100))
    assert refused.fits, "made while loading it fits 8 A100"
    refused = planned(LLAMA_405B, offer(A100), quantization={"method": "none"})
    assert "quantization.method fp8" in refused.ways_out[0]
    named = next(way for way in refused.ways_out if "(model.id" in way)
    found = re.search(r"model\.id (\S+)\) would need (\S+) GB on (\d)x (\S+)", named)
    assert found is not None
    made = planned(found[1], offer(found[4]))
    assert made.fits
    assert made.minimum_tensor_parallel == int(found[3])


def test_context_is_a_way_out_where_it_is_what_does_not_fit() -> None:
    made = planned(
        LLAMA_8B, offer(L4, 1), **limits(maxTotalTokens=131072), quantization={"method": "none"}
    )
    assert not made.fits
    context = next(way for way in made.ways_out if "limits.maxTotalTokens" in way)
    tokens = int(context.split()[1])
    assert planned(
        LLAMA_8B, offer(L4, 1), **limits(maxTotalTokens=tokens), quantization={"method": "none"}
    ).fits
    assert not planned(
        LLAMA_8B, offer(L4, 1), **limits(maxTotalTokens=2 * tokens), quantization={"method": "none"}
    ).fits


def test_rejected_degrees_are_told_with_a_reason_each() -> None:
    qwen = planned("Qwen/Qwen2.5-7B-Instruct", offer(L4))
    assert {one.tensor_parallel for one in qwen.rejected} == {3, 5, 6, 7, 8}
    reasons = {one.tensor_parallel: one.reason for one in qwen.rejected}
    assert "28" in reasons[8]
    assert "4 KV heads" in reasons[7]
    falcon = planned("tiiuae/falcon-7b", offer(A100))
    assert {one.tensor_parallel for one in falcon.rejected} == set(range(2, 9))
    phi = planned("microsoft/phi-4", offer(A100))
    five = next(one for one in phi.rejected if one.tensor_parallel == 5)
    assert "power of two" in five.reason
    assert planned("microsoft/phi-4", offer(A100), parallelism={"tensor": 5}).tensor_parallel == 5


def test_degrees_that_are_too_small_are_rejected_by_numbers() -> None:
    made = planned(LLAMA_70B, offer(A100), quantization={"method": "none"})
    one = next(one for one in made.rejected if one.tensor_parallel == 1)
    assert made.tensor_parallel == 2
    assert re.search(r"needs 14\d\.\d GB per GPU.*77\.3 GB are usable", one.reason)


def test_mig_slices_serve_alone() -> None:
    made = planned(LLAMA_8B, offer("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", 4))
    assert (made.fits, made.tensor_parallel) == (True, 1)
    assert {one.tensor_parallel for one in made.rejected} == {2, 3, 4}
    assert all("MIG" in one.reason or "heads" in one.reason for one in made.rejected)


def test_an_engine_that_keeps_only_windows_carries_more() -> None:
    class Windowed:
        on_the_fly = TGI.on_the_fly
        windowed_kv_cache = True
        refuse = TGI.refuse
        warnings = TGI.warnings

    asked = wish("google/gemma-3-27b-it", **limits(maxTotalTokens=32768))
    gemma = model("google/gemma-3-27b-it")
    whole = plan(asked, gemma, (offer(A100, 1),), TGI)
    windowed = plan(asked, gemma, (offer(A100, 1),), Windowed())
    assert windowed.max_concurrent_sequences > 3 * whole.max_concurrent_sequences


def test_a_smaller_memory_fraction_leaves_less() -> None:
    half = planned(LLAMA_8B, offer(A100, 1), runtime={"cudaMemoryFraction": 0.5})
    assert half.budget_bytes_per_gpu == pytest.approx(0.45 * (81920 << 20), rel=1e-6)


def test_what_is_on_the_disk_is_told_apart_from_what_is_loaded() -> None:
    made = planned(LLAMA_8B, offer(L4), quantization={"method": "eetq"})
    assert made.weight_bytes < 9.2e9 < 16e9 < made.checkpoint_bytes


def test_unlabelled_or_unknown_gpus_are_not_planned_on() -> None:
    unknown = replace(NODES[0], gpu=Gpu("NVIDIA-XYZ", 0, None))
    assert not planned(LLAMA_8B, unknown).fits


def test_the_catalogue_reads_branches_that_say_what_they_are() -> None:
    known = catalogued("TheBloke/Llama-2-7B-GPTQ", "gptq-8bit--1g-actorder_True")
    assert known is not None
    assert not isinstance(known, SizeUnknown)
    assert (known.quantization.bits, known.quantization.group_size) == (8, None)
    assert catalogued("TheBloke/Llama-2-7B-GPTQ", "something-else") is None
    assert catalogued("nobody/knows-it") is None
    assert catalogued(LLAMA_8B.upper(), "some-branch") is not None


def test_the_warm_up_must_fit_too() -> None:
    """The engine fills one prefill batch with requests of full length before it serves."""
    small = {"limits": {"maxInputTokens": 1024, "maxTotalTokens": 2048}}
    unset = planned(LLAMA_8B, offer(L4, 1), **small, quantization={"method": "none"})
    assert unset.fits
    assert 16384 < unset.kv_cache_tokens < 32768
    large = {"runtime": {"maxBatchPrefillTokens": 16384}}
    told = planned(LLAMA_8B, offer(L4, 1), **small, **large, quantization={"method": "none"})
    assert not told.fits
    assert "KV cache of 32,768 tokens" in told.message


def test_a_refusal_does_not_depend_on_the_order_of_nodes_either() -> None:
    alike = [offer(A100, 1), offer("NVIDIA-A100-80GB-PCIe", 1)]
    asked, big = wish(LLAMA_405B), model(LLAMA_405B)
    assert plan(asked, big, alike, TGI) == plan(asked, big, alike[::-1], TGI)


def test_what_runs_but_badly_is_said() -> None:
    assert planned(LLAMA_8B).warnings == ()
    old = planned(LLAMA_8B, runtime={"version": "3.3.0"})
    assert old.fits
    assert any("CVE-2026-0599" in warning for warning in old.warnings)
