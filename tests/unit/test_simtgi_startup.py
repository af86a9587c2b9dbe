"""What is refused between the command line and the open port, and what memory allows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.simtgi import A100, H100, L4, T4, V100, spec

from llm_operator.cluster.fleet.container import ContainerSpec, Gpu, Volume
from llm_operator.cluster.tgi import startup
from llm_operator.cluster.tgi.hub import DownloadError
from llm_operator.cluster.tgi.shard import ShardError
from llm_operator.cluster.tgi.warmup import Limits, NotEnoughMemory, OutOfMemory

TOKEN = {"HF_TOKEN": "hf_x"}
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_70B_AWQ = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
GIB = 1 << 30


def container(model: str, gpu: Gpu = A100, shards: int = 1, *args: str) -> ContainerSpec:
    argv = ("--model-id", model, "--num-shard", str(shards), *args)
    return spec(*argv, gpu=gpu, gpus=shards, env=TOKEN)


def start(given: ContainerSpec) -> Limits:
    prepared = startup.prepare(given)
    if prepared.missing:
        raise prepared.missing
    loaded = startup.load(given, prepared)
    return startup.settle(given, prepared, loaded)


LIMITED = ("--max-input-tokens", "4096", "--max-total-tokens", "8192")


@pytest.mark.parametrize(
    ("model", "gpu", "shards", "args", "cache_tokens"),
    [
        (LLAMA_70B_AWQ, A100, 1, LIMITED, 110_000),
        (LLAMA_70B_AWQ, A100, 2, LIMITED, 335_000),
        (LLAMA_70B, A100, 2, (*LIMITED, "--max-batch-prefill-tokens", "4096"), 33_000),
        (LLAMA_70B, A100, 4, LIMITED, 480_000),
        (LLAMA_8B, L4, 1, LIMITED, 30_000),
        (LLAMA_8B, A100, 1, LIMITED, 440_000),
        ("TheBloke/Mistral-7B-Instruct-v0.2-AWQ", T4, 1, LIMITED, 70_000),
        ("huggyllama/llama-7b", A100, 1, ("--quantize", "eetq"), 132_000),
    ],
)
def test_what_fits_and_how_many_tokens_are_left_for_the_cache(
    model: str, gpu: Gpu, shards: int, args: tuple[str, ...], cache_tokens: int
) -> None:
    limits = start(container(model, gpu, shards, *args))
    assert limits.cache_tokens == pytest.approx(cache_tokens, rel=0.1)


@pytest.mark.parametrize(
    ("model", "gpu", "shards"),
    [
        (LLAMA_70B, A100, 1),
        (LLAMA_8B, T4, 1),
        ("huggyllama/llama-30b", L4, 2),
        ("meta-llama/Llama-3.1-405B-Instruct", A100, 8),
        ("deepseek-ai/DeepSeek-R1", H100, 8),
    ],
)
def test_weights_that_do_not_fit(model: str, gpu: Gpu, shards: int) -> None:
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        start(container(model, gpu, shards))


def test_weights_that_fit_with_no_room_for_the_prefill() -> None:
    given = container("meta-llama/Llama-2-13b-hf", replace(A100, memory_mib=27_500))
    with pytest.raises(NotEnoughMemory, match="Not enough memory to handle 4096 prefill tokens"):
        start(replace(given, args=(*given.args, "--max-batch-prefill-tokens", "4096")))
    small = start(replace(given, args=(*given.args, "--max-batch-prefill-tokens", "512")))
    assert small.cache_tokens >= 512


def test_a_smaller_share_of_the_card_leaves_a_smaller_cache() -> None:
    whole = start(container(LLAMA_8B, A100, 1, *LIMITED))
    half = start(container(LLAMA_8B, A100, 1, *LIMITED, "--cuda-memory-fraction", "0.5"))
    assert half.cache_tokens < whole.cache_tokens / 2
    with pytest.raises(OutOfMemory):
        start(container(LLAMA_8B, A100, 1, *LIMITED, "--cuda-memory-fraction", "0.15"))


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    plain = start(container(LLAMA_8B, H100, 1, *LIMITED))
    fp8 = start(container(LLAMA_8B, H100, 1, *LIMITED, "--kv-cache-dtype", "fp8_e4m3fn"))
    assert fp8.cache_tokens == pytest.approx(2 * plain.cache_tokens, rel=0.02)


def test_limits_are_chosen_where_none_is_given() -> None:
    limits = start(container(LLAMA_8B, A100))
    assert limits.max_total_tokens == 131_072
    assert limits.max_input_tokens == 131_071
    assert limits.max_batch_prefill_tokens < 25_000  # a second of arithmetic
    old = container(LLAMA_8B, A100)
    old = replace(old, image="ghcr.io/huggingface/text-generation-inference:2.4.0")
    assert start(old).max_total_tokens == 4096


QUANTIZED = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


def private(quantization: dict[str, object] | None = None, **config: object) -> Volume:
    shape = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }
    described = shape | config
    if quantization:
        described["quantization_config"] = quantization
    return Volume("/models", True, models={"own": json.dumps({"config": described})})


@pytest.mark.parametrize(
    ("config", "gpu", "shards", "args", "message"),
    [
        ({"num_attention_heads": 28}, A100, 8, (), "`num_heads` must be divisible"),
        ({"num_attention_heads": 71, "hidden_size": 4544}, A100, 2, (), "`num_heads` must be"),
        ({"num_key_value_heads": 2}, A100, 4, (), "`num_key_value_heads` must be divisible"),
        ({"intermediate_size": 11010}, A100, 4, (), "choosen size 11010 is not compatible"),
        ({"quantization": QUANTIZED}, A100, 4, (), "choosen size 86 is not compatible"),
        (
            {"quantization": QUANTIZED | {"desc_act": True}, "intermediate_size": 11040},
            A100,
            4,
            (),
            "divisible by (128, 64) or (64, 128)",
        ),
        ({}, A100, 1, ("--quantize", "awq"), "Cannot load `awq` weight"),
        ({}, A100, 1, ("--quantize", "marlin"), "Cannot load `marlin` weight"),
        ({"quantization": QUANTIZED}, A100, 1, ("--quantize", "eetq"), "checkpoint is `gptq`"),
        ({"quantization": QUANTIZED}, A100, 1, ("--dtype", "float16"), "Only 1 can be set"),
        ({}, A100, 1, ("--dtype", "float16", "--quantize", "eetq"), "Only 1 can be set"),
        ({}, T4, 1, ("--quantize", "fp8"), "CUDA capability 8.0"),
        ({}, V100, 1, (), "GPU with CUDA capability 7 0 is not supported"),
        ({"quantization": {"quant_method": "mxfp4"}}, A100, 1, (), "Unknown quantization method"),
        (
            {"quantization": {"quant_method": "exl2", "bits": 4.0}},
            A100,
            2,
            (),
            "Sharding is currently not supported with `exl2`",
        ),
        (
            {"quantization": {"quant_method": "bitsandbytes", "bits": 4}},
            A100,
            1,
            (),
            "cannot be loaded",
        ),
        ({"head_dim": 96}, A100, 1, ("--kv-cache-dtype", "fp8_e5m2"), "FP8 KV cache is"),
        ({"model_type": "qwen3", "quantization": QUANTIZED}, A100, 1, (), "not supported for Auto"),
        ({"model_type": "gpt_oss", "num_local_experts": 4}, A100, 2, (), "sharded is not supp"),
        ({"model_type": "newmodel"}, A100, 1, (), "Unsupported model"),
    ],
)
def test_what_a_shard_refuses(
    config: dict[str, object], gpu: Gpu, shards: int, args: tuple[str, ...], message: str
) -> None:
    quantization = config.pop("quantization", None)
    assert quantization is None or isinstance(quantization, dict)
    given = container("/models/own", gpu, shards, *args)
    with pytest.raises(ShardError) as error:
        start(replace(given, volumes=(private(quantization, **config),)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "shards", "args"),
    [
        ({"quantization": QUANTIZED}, 2, ()),
        ({"quantization": QUANTIZED | {"desc_act": True}}, 4, ()),
        ({"num_key_value_heads": 1}, 8, ()),
        ({}, 1, ("--dtype", "bfloat16", "--quantize", "bitsandbytes")),
        ({"model_type": "qwen3"}, 2, ("--quantize", "bitsandbytes")),
    ],
)
def test_what_a_shard_takes(config: dict[str, object], shards: int, args: tuple[str, ...]) -> None:
    quantization = config.pop("quantization", None)
    assert quantization is None or isinstance(quantization, dict)
    given = container("/models/own", A100, shards, *args)
    start(replace(given, volumes=(private(quantization, **config),)))


def test_variables_that_choose_the_attention() -> None:
    given = container(LLAMA_8B, A100)
    for env, message in (
        ({"ATTENTION": "flash"}, "Invalid attention"),
        ({"ATTENTION": "paged", "PREFIX_CACHING": "1"}, "Prefix caching is only supported"),
    ):
        with pytest.raises(ShardError, match=message):
            start(replace(given, env=TOKEN | env))


def test_the_room_that_the_server_plans_with() -> None:
    given = container(LLAMA_8B, A100, 1, *LIMITED)
    roomy = start(replace(given, env=TOKEN | {"TGI_WIGGLE_ROOM": "0.95"}))
    assert roomy.cache_tokens > start(given).cache_tokens
    with pytest.raises(ShardError, match="could not convert"):
        start(replace(given, env=TOKEN | {"TGI_WIGGLE_ROOM": "much"}))


def test_the_router_checks_late() -> None:
    given = container(LLAMA_8B, A100, 1, *LIMITED, "--max-batch-prefill-tokens", "1000")
    start(given)
    for env_or_args, message in (
        (("--speculate", "2"), "`max_input_tokens` must be <= `max_batch_prefill_tokens`"),
        (("--max-batch-size", "0"), "`max_batch_size` must be > 0"),
        (("--ngrok", "--ngrok-authtoken", "x", "--ngrok-edge", "y"), "ngrok is not supported"),
    ):
        with pytest.raises(startup.RouterError, match=message):
            start(replace(given, args=(*given.args, *env_or_args)))


def test_memory_of_the_host_while_quantizing() -> None:
    given = container(LLAMA_8B, A100, 1, "--quantize", "eetq")
    start(replace(given, memory_limit_bytes=8 * GIB))
    with pytest.raises(startup.OutOfHostMemory):
        start(replace(given, memory_limit_bytes=4 * GIB))
    start(replace(container(LLAMA_8B), memory_limit_bytes=4 * GIB))  # nothing to quantize


def test_shared_memory_grows_with_the_ranks() -> None:
    given = container(LLAMA_8B, A100, 8)
    with pytest.raises(startup.BusError):
        start(replace(given, shm_bytes=256 << 20))
    start(replace(given, shm_bytes=512 << 20))
    start(replace(given, shm_bytes=64 << 20, env=TOKEN | {"NCCL_SHM_DISABLE": "1"}))


# Where the files come from.


def test_a_gated_model_wants_a_token() -> None:
    with pytest.raises(DownloadError, match="Cannot access gated repo"):
        start(replace(container(LLAMA_8B), env={}))
    with pytest.raises(DownloadError, match="401 Client Error"):
        start(replace(container(LLAMA_8B), env={"HF_TOKEN": ""}))
    start(replace(container(LLAMA_8B), env={"HUGGING_FACE_HUB_TOKEN": "x"}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nobody/nothing", "404 Client Error. Repository Not Found"),
        ("/models/missing", "Repo id must be in the form"),
    ],
)
def test_models_that_are_nowhere(model: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        start(container(model))


def test_offline_needs_a_cache_or_a_directory() -> None:
    model, offline = "Qwen/Qwen2.5-7B-Instruct", TOKEN | {"HF_HUB_OFFLINE": "1"}
    given = replace(container(model), env=offline)
    with pytest.raises(DownloadError, match="offline mode is enabled"):
        start(given)
    cached = Volume("/data", models={"hub/models--Qwen--Qwen2.5-7B-Instruct": model})
    start(replace(given, volumes=(cached,)))
    local = container("/models/qwen")
    start(replace(local, env=offline, volumes=(Volume("/models", True, models={"qwen": model}),)))


def test_what_is_in_the_cache_is_not_downloaded_again() -> None:
    model = "Qwen/Qwen2.5-7B-Instruct"
    cached = Volume("/data", models={"hub/models--Qwen--Qwen2.5-7B-Instruct": model})
    fresh = startup.prepare(container(model)).found
    again = startup.prepare(replace(container(model), volumes=(cached,))).found
    assert fresh is not None
    assert again is not None
    assert (fresh.download_bytes, again.download_bytes) == (15_231_233_024, 0)


def test_the_cache_of_a_2_2_image_is_not_seen_by_a_later_one() -> None:
    model = "Qwen/Qwen2.5-7B-Instruct"
    old = Volume("/data", models={"models--Qwen--Qwen2.5-7B-Instruct": model})
    given = replace(container(model), volumes=(old,))
    image = "ghcr.io/huggingface/text-generation-inference:2.2.0"
    before = startup.prepare(replace(given, image=image)).found
    after = startup.prepare(given).found
    assert before is not None
    assert after is not None
    assert before.download_bytes == 0 < after.download_bytes


def test_a_branch_with_other_files() -> None:
    model = "TheBloke/Llama-2-7b-Chat-GPTQ"
    main = startup.prepare(container(model)).found
    branch = startup.prepare(
        container(model, A100, 1, "--revision", "gptq-4bit-32g-actorder_True")
    ).found
    assert main is not None
    assert branch is not None
    assert (main.download_bytes, branch.download_bytes) == (3_900_000_000, 4_280_000_000)
