"""What must hold of every plan, whatever is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planning_inputs import TGI, model

from llm_operator.planning import Offer, Wish, plan
from llm_operator.planning.cards import CARDS
from llm_operator.runtimes.terms import Plan

FEW = settings(max_examples=40, deadline=None)
"""A plan takes milliseconds, its ways out tens of them."""

MODELS = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
    "turboderp/Llama-3.1-8B-Instruct-exl2",
    "TheBloke/Llama-2-7B-GPTQ",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-8B",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "tiiuae/falcon-7b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "google/gemma-3-27b-it",
    "microsoft/phi-4",
    "openai/gpt-oss-20b",
]
GPUS = [card.gpu for card in CARDS]

offers = st.builds(
    Offer,
    gpu=st.sampled_from(GPUS),
    gpus_per_node=st.sampled_from([1, 2, 3, 4, 8]),
    nodes=st.integers(0, 3),
    exists=st.booleans(),
)
fleets = st.lists(offers, min_size=1, max_size=4, unique_by=lambda one: one.gpu.product)
tokens = st.sampled_from([256, 1024, 2048])
wishes = st.builds(
    Wish,
    version=st.sampled_from([(3, 3, 7), (2, 4, 1)]),
    method=st.sampled_from(["auto", "auto", "none", "eetq", "fp8", "awq", "bitsandbytes-nf4"]),
    kv_cache_dtype=st.sampled_from([None, None, "fp8_e5m2"]),
    tensor_parallel=st.sampled_from([None, None, 1, 2, 3, 4]),
    max_total_tokens=st.none() | tokens,
    max_concurrent_requests=st.none() | st.sampled_from([1, 4, 64, 1000]),
)
cases = st.tuples(wishes, st.sampled_from(MODELS), fleets)
Case = tuple[Wish, str, list[Offer]]


def of(case: Case, **changes: Any) -> Plan:
    """The plan of a case with another wish."""
    wish, name, fleet = case
    return plan(replace(wish, **changes), model(name), fleet, TGI)


def single(case: Case) -> Case:
    """The case on the first of its offers, where figures of two plans can be compared."""
    wish, name, fleet = case
    return wish, name, fleet[:1]


@FEW
@given(cases)
def test_the_arithmetic_adds_up(case: Case) -> None:
    made = of(case)
    assert made.weight_bytes > 0
    assert made.message.endswith(".")
    if not made.fits:
        assert made.tensor_parallel is None
        return
    n = made.tensor_parallel
    assert n is not None
    assert made.weight_bytes_per_gpu * n >= made.weight_bytes
    assert made.kv_bytes_per_token_per_gpu * n >= made.kv_bytes_per_token
    cache = made.kv_cache_tokens * made.kv_bytes_per_token_per_gpu
    used = made.weight_bytes_per_gpu + made.overhead_bytes_per_gpu + cache
    assert used <= made.budget_bytes_per_gpu
    assert made.gpu is not None
    assert made.budget_bytes_per_gpu < made.gpu.memory_bytes
    assert made.max_concurrent_sequences == made.kv_cache_tokens // made.max_total_tokens >= 1
    assert 0 < made.max_input_tokens < made.max_total_tokens <= made.kv_cache_tokens
    assert made.max_batch_prefill_tokens <= made.kv_cache_tokens


@FEW
@given(cases)
def test_a_plan_keeps_to_the_nodes_and_to_the_engine(case: Case) -> None:
    made = of(case)
    if not made.fits:
        return
    n, rejected = made.tensor_parallel, {one.tensor_parallel for one in made.rejected}
    assert n is not None
    assert n not in rejected
    assert made.minimum_tensor_parallel is not None
    assert made.minimum_tensor_parallel <= n
    recommended = made.recommended_tensor_parallel
    assert case[0].tensor_parallel in (None, n)
    if case[0].tensor_parallel is None:
        assert n == recommended or recommended is None
    by_product = {one.gpu.product: one for one in case[2]}
    assert made.products
    assert all(n <= by_product[product].gpus_per_node for product in made.products)


@FEW
@given(cases, st.randoms())
def test_the_same_question_has_the_same_answer(case: Case, random: Any) -> None:
    shuffled = list(case[2])
    random.shuffle(shuffled)
    assert of(case) == of((case[0], case[1], shuffled))


@FEW
@given(cases, st.sampled_from([2, 4]))
def test_more_context_never_needs_less(case: Case, factor: int) -> None:
    alone = single(case)
    total = case[0].max_total_tokens or 512
    short = of(alone, max_total_tokens=total, max_concurrent_requests=4, method="none")
    long = of(alone, max_total_tokens=total * factor, max_concurrent_requests=4, method="none")
    if long.fits:
        assert short.fits
        assert short.max_concurrent_sequences >= long.max_concurrent_sequences or (
            (short.tensor_parallel or 0) < (long.tensor_parallel or 0)
        )
        assert (short.minimum_tensor_parallel or 0) <= (long.minimum_tensor_parallel or 0)


@FEW
@given(cases, st.integers(1, 200), st.integers(1, 200))
def test_more_concurrency_never_takes_fewer_gpus(case: Case, one: int, other: int) -> None:
    few, many = sorted((one, other))
    alone = single(case)
    small = of(alone, max_concurrent_requests=few, method="none")
    large = of(alone, max_concurrent_requests=many, method="none")
    assert small.fits == large.fits
    assert (small.tensor_parallel or 0) <= (large.tensor_parallel or 0)


@FEW
@given(cases, st.integers(1, 64))
def test_more_memory_never_fits_worse(case: Case, more_gib: int) -> None:
    wish, name, fleet = single(case)
    gpu = fleet[0].gpu
    larger = replace(gpu, memory_mib=gpu.memory_mib + (more_gib << 10))
    small = of((wish, name, fleet))
    large = of((wish, name, [replace(fleet[0], gpu=larger)]))
    assert large.fits >= small.fits
    if small.fits and small.quantization == large.quantization:
        assert (large.minimum_tensor_parallel or 0) <= (small.minimum_tensor_parallel or 0)


@FEW
@given(cases)
def test_ways_out_are_at_most_three_and_only_of_refusals(case: Case) -> None:
    made = of(case)
    assert len(made.ways_out) <= 3
    assert len(set(made.ways_out)) == len(made.ways_out)
    assert not (made.fits and made.ways_out)
