"""What TGI refuses, with the facts of each rule, and what it must not refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llm_operator.runtimes import tgi_rules
from llm_operator.runtimes.terms import NONE, Gpu, Launch, Mla, ModelShape, Moe, Quantization

A100 = Gpu("NVIDIA-A100-SXM4-80GB", 81920, (8, 0))
H100 = Gpu("NVIDIA-H100-80GB-HBM3", 81559, (9, 0))
T4 = Gpu("Tesla-T4", 15360, (7, 5))
V100 = Gpu("Tesla-V100-SXM2-16GB", 16384, (7, 0))
BY_HAND = Gpu("", 24576, None)

LLAMA_7B = ModelShape("llama", 4096, 32, 32, 32, 128, 11008, 32000, False)
LLAMA_8B = ModelShape("llama", 4096, 32, 32, 8, 128, 14336, 128256, False)
QWEN2_72B = ModelShape("qwen2", 8192, 80, 64, 8, 128, 29568, 152064, False)
QWEN2_7B = ModelShape("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, False)
QWEN3_8B = ModelShape("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, False)
FALCON_7B = ModelShape("falcon", 4544, 32, 71, 1, 64, 18176, 65024, True)
MULTI_QUERY = replace(LLAMA_8B, model_type="falcon", kv_heads=1)
MIXTRAL = ModelShape(
    "mixtral", 4096, 32, 32, 8, 128, 14336, 32000, False, moe=Moe(8, 14336, experts_per_token=2)
)
DEEPSEEK = ModelShape(
    "deepseek_v2", 5120, 60, 128, 128, 192, 12288, 102400, False,
    moe=Moe(160, 1536, 6, 3072, first_dense=1), mla=Mla(1536, 512, 128, 64, 128),
)  # fmt: skip

AWQ = Quantization("awq", 4, 128, symmetric=False)
GPTQ = Quantization("gptq", 4, 128)
FP8 = Quantization("fp8", 8, on_the_fly=True)
EETQ = Quantization("eetq", 8, on_the_fly=True)
BNB8 = Quantization("bitsandbytes", 8, on_the_fly=True)
NF4 = Quantization("bitsandbytes-nf4", 4, 64, on_the_fly=True)


def launch(**facts: Any) -> Launch:
    plain = Launch(LLAMA_8B, NONE, A100, tensor_parallel=1, version=(3, 3, 7))
    return replace(plain, **facts)


RUNS = {
    "16 bit": launch(),
    "all the ways to shard 8 KV heads": launch(tensor_parallel=8),
    "awq over 8 GPUs": launch(quantization=AWQ, tensor_parallel=8),
    "awq on a T4": launch(quantization=AWQ, gpu=T4),
    "gptq whose groups two shards still hold": launch(
        shape=LLAMA_7B, quantization=GPTQ, tensor_parallel=2
    ),
    "KV heads of multi-query attention stay whole": launch(shape=MULTI_QUERY, tensor_parallel=4),
    "fp8 on Ampere runs by Marlin": launch(quantization=FP8),
    "fp8 in blocks": launch(
        quantization=Quantization("fp8", 8, detail={"weight_block_size": [128, 128]}),
        gpu=H100,
        tensor_parallel=8,
    ),
    "fp8 on Hopper": launch(quantization=FP8, gpu=H100, tensor_parallel=8),
    "an unknown card is not judged": launch(quantization=FP8, gpu=BY_HAND),
    "fp8 KV cache": launch(kv_cache_dtype="fp8_e4m3fn"),
    "fp8 KV cache on paged attention": launch(
        kv_cache_dtype="fp8_e5m2", shape=FALCON_7B, custom_attention="paged"
    ),
    "qwen3 in 8 bit": launch(shape=QWEN3_8B, quantization=BNB8),
    "qwen3 with experts, sharded": launch(
        shape=replace(MIXTRAL, model_type="qwen3_moe"), tensor_parallel=4
    ),
    "qwen3 sharded in 16 bit": launch(shape=QWEN3_8B, tensor_parallel=4),
    "dtype with bitsandbytes": launch(quantization=BNB8, dtype="bfloat16"),
    "dtype without quantization": launch(dtype="float16"),
    "falcon-7b on one GPU": launch(shape=FALCON_7B),
    "mixtral": launch(shape=MIXTRAL, quantization=GPTQ, tensor_parallel=2),
    "latent attention": launch(shape=DEEPSEEK, tensor_parallel=8),
    "exl2 on one GPU": launch(quantization=Quantization("exl2", 4.25)),
    "the oldest version that drains": launch(version=(2, 4, 0)),
    "a chunked prefill": launch(max_input_tokens=8192, max_batch_prefill_tokens=4096),
    "int8 on a T4": launch(quantization=EETQ, gpu=T4),
    "one MIG slice": launch(gpu=replace(A100, resource="nvidia.com/mig-3g.40gb")),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str) -> None:
    assert tgi_rules.refuse(RUNS[name]) is None


REFUSED: dict[str, tuple[Launch, str, tuple[str, ...]]] = {
    "heads": (launch(tensor_parallel=3), "tensorParallel", ("3 shards", "32 attention heads")),
    "kv heads": (
        launch(shape=QWEN2_7B, tensor_parallel=7),
        "tensorParallel",
        ("7 shards", "4 KV heads"),
    ),
    "more shards than kv heads": (
        launch(tensor_parallel=16),
        "tensorParallel",
        ("16 shards", "8 KV heads"),
    ),
    "a single KV head of a family that does not keep it whole": (
        launch(shape=replace(LLAMA_8B, kv_heads=1), tensor_parallel=2),
        "tensorParallel",
        ("1 KV heads",),
    ),
    "falcon-7b": (launch(shape=FALCON_7B, tensor_parallel=2), "tensorParallel", ("71",)),
    "hidden size": (
        launch(shape=replace(LLAMA_8B, hidden_size=4100), tensor_parallel=8),
        "tensorParallel",
        ("8 shards", "4100 hidden size"),
    ),
    "intermediate size": (
        launch(shape=replace(LLAMA_8B, intermediate_size=14340), tensor_parallel=8),
        "tensorParallel",
        ("14340 MLP intermediate size",),
    ),
    "experts": (
        launch(shape=replace(MIXTRAL, moe=Moe(8, 1500)), tensor_parallel=8),
        "tensorParallel",
        ("1500 expert intermediate size",),
    ),
    "shared experts": (
        launch(shape=replace(DEEPSEEK, moe=Moe(160, 1536, 6, 3004, 1)), tensor_parallel=8),
        "tensorParallel",
        ("3004 shared expert intermediate size",),
    ),
    "exl2": (
        launch(quantization=Quantization("exl2", 4.25), tensor_parallel=2),
        "tensorParallel",
        ("exl2", "2 GPUs", "parallelism.tensor to 1"),
    ),
    "mamba": (
        launch(shape=replace(LLAMA_8B, model_type="mamba"), tensor_parallel=2),
        "tensorParallel",
        ("mamba",),
    ),
    "alibi": (
        launch(shape=replace(LLAMA_8B, options={"alibi": True}), tensor_parallel=2),
        "tensorParallel",
        ("alibi",),
    ),
    "group size against the split, llama-7b": (
        launch(shape=LLAMA_7B, quantization=GPTQ, tensor_parallel=4),
        "tensorParallel",
        ("128", "2752", "4 shards"),
    ),
    "group size against the split, qwen-72b": (
        launch(shape=QWEN2_72B, quantization=AWQ, tensor_parallel=2),
        "tensorParallel",
        ("14784",),
    ),
    "fp8 blocks against the split": (
        launch(
            shape=replace(MIXTRAL, moe=Moe(128, 1536)),
            quantization=Quantization("fp8", 8, detail={"weight_block_size": [128, 128]}),
            gpu=H100,
            tensor_parallel=8,
        ),
        "tensorParallel",
        ("12 blocks of 128", "1536", "8 shards"),
    ),
    "fp8 blocks of narrow KV heads": (
        launch(
            shape=replace(LLAMA_8B, heads=64, head_dim=64),
            quantization=Quantization("fp8", 8, detail={"weight_block_size": [128, 128]}),
            gpu=H100,
            tensor_parallel=8,
        ),
        "tensorParallel",
        ("4 blocks of 128", "512"),
    ),
    "marlin tiles, gptq": (
        launch(
            shape=replace(LLAMA_8B, intermediate_size=14368),
            quantization=Quantization("gptq", 4, 32),
        ),
        "quantization",
        ("Marlin", "14368"),
    ),
    "marlin tiles, fp8 on Ampere": (
        launch(shape=replace(LLAMA_8B, intermediate_size=14368), quantization=FP8),
        "quantization",
        ("Marlin",),
    ),
    "marlin tiles per shard": (
        launch(shape=LLAMA_7B, quantization=Quantization("marlin", 4), tensor_parallel=4),
        "tensorParallel",
        ("(128, 256)", "4 shards", "5504"),
    ),
    "marlin group": (
        launch(quantization=Quantization("marlin", 4, 64)),
        "quantization",
        ("64",),
    ),
    "fp8 on a T4": (launch(quantization=FP8, gpu=T4), "quantization", ("8.0", "7.5", "Tesla-T4")),
    "marlin on a T4": (
        launch(quantization=Quantization("marlin", 4, 128), gpu=T4),
        "quantization",
        ("8.0", "7.5"),
    ),
    "V100": (launch(gpu=V100), "gpu", ("7.0", "Tesla-V100")),
    "AMD": (launch(gpu=replace(A100, resource="amd.com/gpu")), "gpu", ("amd.com/gpu",)),
    "MIG slices together": (
        launch(gpu=replace(A100, resource="nvidia.com/mig-3g.40gb"), tensor_parallel=2),
        "tensorParallel",
        ("2 MIG slices",),
    ),
    "qwen3 awq": (
        launch(shape=QWEN3_8B, quantization=AWQ),
        "quantization",
        ("qwen3", "awq", "bitsandbytes"),
    ),
    "qwen3 nf4": (launch(shape=QWEN3_8B, quantization=NF4), "quantization", ("bitsandbytes-nf4",)),
    "an unknown type sharded": (
        launch(shape=replace(LLAMA_8B, model_type="newcomer"), tensor_parallel=2),
        "tensorParallel",
        ("newcomer",),
    ),
    "mxfp4": (launch(quantization=Quantization("mxfp4", 4, 32)), "quantization", ("mxfp4",)),
    "awq on the fly": (
        launch(quantization=replace(AWQ, on_the_fly=True)),
        "quantization",
        ("awq", "16-bit"),
    ),
    "a checkpoint stored in nf4": (
        launch(quantization=replace(NF4, on_the_fly=False)),
        "quantization",
        ("bitsandbytes-nf4",),
    ),
    "compressed-tensors too early": (
        launch(quantization=Quantization("compressed-tensors", 8), version=(2, 4, 0)),
        "quantization",
        ("2.4.1", "2.4.0"),
    ),
    "dtype with quantization": (
        launch(quantization=AWQ, dtype="float16"),
        "quantization",
        ("runtime.dtype", "float16", "awq"),
    ),
    "fp8 KV cache on an old image": (
        launch(kv_cache_dtype="fp8_e5m2", version=(2, 3, 1)),
        "kvCacheDtype",
        ("2.4.0", "2.3.1"),
    ),
    "fp8 KV cache on flashdecoding": (
        launch(kv_cache_dtype="fp8_e5m2", shape=replace(LLAMA_8B, head_dim=96)),
        "kvCacheDtype",
        ("96", "flashdecoding"),
    ),
    "fp8 KV cache of falcon": (
        launch(kv_cache_dtype="fp8_e5m2", shape=FALCON_7B),
        "kvCacheDtype",
        ("falcon",),
    ),
    "SIGTERM is lost": (launch(version=(2, 0, 4)), "version", ("2.0.4", "SIGTERM", "3.3.7")),
    "first generation": (launch(version=(1, 4, 5)), "version", ("1.4.5", "--max-input-tokens")),
    "flashinfer on a T4": (launch(custom_attention="flashinfer", gpu=T4), "gpu", ("7.5",)),
    "prefix caching on a T4": (launch(prefix_caching=True, gpu=T4), "gpu", ("paged",)),
    "prefill on a T4": (
        launch(gpu=T4, max_input_tokens=8192, max_batch_prefill_tokens=4096),
        "runtime",
        ("4096", "8192", "paged"),
    ),
    "prefill while speculating": (
        launch(speculate=2, max_input_tokens=8192, max_batch_prefill_tokens=4096),
        "runtime",
        ("speculate",),
    ),
    "prefill unchunked": (
        launch(prefill_chunking=False, max_input_tokens=8192, max_batch_prefill_tokens=4096),
        "runtime",
        ("prefillChunking",),
    ),
    "prefill before 3.0": (
        launch(version=(2, 4, 1), max_input_tokens=8192, max_batch_prefill_tokens=4096),
        "runtime",
        ("2.4.1",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_numbers_and_a_way_out(name: str) -> None:
    asked, about, mentioned = REFUSED[name]
    refusal = tgi_rules.refuse(asked)
    assert refusal is not None
    assert refusal.about == about
    for text in mentioned:
        assert text in refusal.reason
    assert ": " in refusal.reason, "the way out follows a colon"
    assert refusal.reason.endswith(".")


def test_a_card_given_by_hand_is_judged_by_shape_alone() -> None:
    refusal = tgi_rules.refuse(
        launch(gpu=BY_HAND, shape=LLAMA_7B, quantization=GPTQ, tensor_parallel=4)
    )
    assert refusal is not None
    assert refusal.about == "tensorParallel"


def test_warnings() -> None:
    assert tgi_rules.warnings(launch()) == ()
    assert "CVE-2026-0599" in tgi_rules.warnings(launch(version=(3, 3, 6)))[0]
    assert "newest" in tgi_rules.warnings(launch(version=(3, 4, 0)))[0]
    slow = tgi_rules.warnings(launch(quantization=replace(GPTQ, desc_act=True), tensor_parallel=2))
    assert "act-order" in slow[0]
    assert "slower" in tgi_rules.warnings(launch(quantization=NF4))[0]
    assert "float16" in tgi_rules.warnings(launch(gpu=T4, dtype="bfloat16"))[0]
