"""What the model server refuses when a shard starts: counts, divisibility, quantization, dtype.

These are the checks that the launcher does not make. Each failure is the last line of a Python
traceback. Refuses to know how much memory there is (`warmup`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from .shape import Config, Shape
from .weights import bits, group_size, quantization

_NATIVE = """
deepseek_v2 deepseek_v3 llama llama4 phi3 granite gemma gemma2 gemma3 gemma3_text cohere dbrx
mistral mixtral gpt_bigcode phi phimoe baichuan falcon starcoder2 qwen2 qwen2_vl qwen2_5_vl opt t5
galactica santacoder bloom mpt gpt2 gpt_neox gptj idefics idefics2 idefics3 llava_next paligemma
mllama mamba
"""
_FIRST_CLASS = frozenset(_NATIVE.split())
# Through the fallback to transformers: the classes that have a tensor-parallel plan.
_FALLBACK_PARALLEL = frozenset(
    {"qwen3", "qwen3_moe", "olmo", "olmo2", "glm", "stablelm", "granitemoe"}
)
# Loaded so that every rank keeps the whole cache.
_WHOLE_CACHE = frozenset({"olmo2", "phi3"})
_PRE_QUANTIZED = ("awq", "compressed-tensors", "exl2", "gptq", "marlin")


class ShardError(Exception):
    """A shard dies. The text is the last line of its traceback."""


def check(
    config: Config,
    shape: Shape,
    shards: int,
    method: str | None,
    dtype: str | None,
    kv_dtype: str | None,
    capability: float,
    env: Mapping[str, str],
) -> None:
    """Everything a shard refuses before it allocates. `method` is what the launcher settled on."""
    if capability < 7.5:
        major, minor = str(float(capability)).split(".")
        raise ShardError(f"ImportError: GPU with CUDA capability {major} {minor} is not supported")
    if dtype is not None and method is not None and not method.startswith("bitsandbytes"):
        raise ShardError(
            "RuntimeError: Only 1 can be set between `dtype` and `quantize`, as they both decide "
            "how goes the final model."
        )
    attention = attention_of(shape, capability, env)
    _check_attention(attention, kv_dtype, env)
    _check_class(shape.model_type, method, shards)
    _check_method(config, method)
    _check_capability(method, config, capability)
    if method == "exl2" and shards > 1:
        raise ShardError(
            "NotImplementedError: Sharding is currently not supported with `exl2` quantization"
        )
    _check_division(config, shape, shards)
    _check_quantized_split(config, shape, shards, method, capability)


def attention_of(shape: Shape, capability: float, env: Mapping[str, str]) -> str:
    """Which attention kernels are used: asked for, or chosen by head size and card."""
    asked = env.get("ATTENTION")
    if asked is not None:
        if asked not in ("paged", "flashdecoding", "flashinfer", "flashdecoding-ipex"):
            raise ShardError(f"AssertionError: Invalid attention was specified :`{asked}`")
        return asked
    if capability < 8.0:
        return "paged"
    special = shape.model_type in ("falcon", "deepseek_v2")
    return "flashinfer" if shape.head_dim in (64, 128, 256) and not special else "flashdecoding"


def block_size(attention: str) -> int:
    """Tokens per block of the KV cache."""
    return {"flashinfer": 1, "flashdecoding": 256, "flashdecoding-ipex": 64}.get(attention, 16)


def kv_bytes_per_token(shape: Shape, shards: int, kv_dtype: str | None) -> int:
    """Cache bytes of one token on one rank.

    KV heads are divided among ranks and never replicated, but for a single one; the compressed
    cache of latent attention, and that of a few classes, is whole on every rank.
    """
    size = 1 if kv_dtype else 2
    whole = shape.kv_heads <= 1 or shape.model_type in _WHOLE_CACHE
    return shape.layers * shape.kv_elements * size // (1 if whole else shards)


def _check_attention(attention: str, kv_dtype: str | None, env: Mapping[str, str]) -> None:
    prefix_caching = env.get("PREFIX_CACHING", "").lower() in ("1", "true")
    if prefix_caching and attention not in ("flashinfer", "flashdecoding", "flashdecoding-ipex"):
        raise ShardError(
            "RuntimeError: Prefix caching is only supported with flashinfer and flashdecoding"
        )
    if kv_dtype is not None and attention not in ("flashinfer", "paged"):
        raise ShardError(
            "ValueError: FP8 KV cache is currently only supported for flashinfer on CUDA and paged "
            "attention on CUDA, ROCm and INTEL IPEX."
        )


def _check_class(model_type: str, method: str | None, shards: int) -> None:
    if model_type == "mamba" and shards > 1:
        raise ShardError("RuntimeError: Mamba does not support sharding")
    if model_type in _FIRST_CLASS:
        return
    if method not in (None, "bitsandbytes"):
        raise ShardError(
            f"NotImplementedError: {method} quantization is not supported for AutoModel"
        )
    if shards > 1 and model_type not in _FALLBACK_PARALLEL:
        raise ShardError("ValueError: sharded is not supported for AutoModel")


def _check_method(config: Config, method: str | None) -> None:
    """The method must be what the checkpoint is, or one that starts from 16-bit weights."""
    made_by = quantization(config).get("quant_method")
    made_by = "fp8" if made_by == "fbgemm_fp8" else made_by
    if made_by == "bitsandbytes":
        raise ShardError(
            "RuntimeError: weights quantized by bitsandbytes beforehand cannot be loaded"
        )
    if made_by is not None and method is None:
        raise ShardError(f"ValueError: Unknown quantization method {made_by}")
    if method in _PRE_QUANTIZED and made_by is None:
        raise ShardError(
            f"RuntimeError: Cannot load `{method}` weight, make sure the model is already quantized"
        )
    if made_by is not None and method != made_by and {made_by, method} != {"awq", "gptq"}:
        raise ShardError(
            f"RuntimeError: Cannot load `{method}` weight: the checkpoint is `{made_by}`"
        )


def _check_capability(method: str | None, config: Config, capability: float) -> None:
    floating = method == "compressed-tensors" and "float" in str(quantization(config).get("format"))
    if (method in ("marlin", "fp8") or floating) and capability < 8.0:
        raise ShardError(
            "RuntimeError: Using quantized Marlin models requires a GPU with CUDA capability 8.0 "
            "or later"
        )


def _check_division(config: Config, shape: Shape, shards: int) -> None:
    if shards == 1:
        return
    if shape.heads % shards:
        raise ShardError(
            "ValueError: `num_heads` must be divisible by `num_shards` (got `num_heads`: "
            f"{shape.heads} and `num_shards`: {shards}"
        )
    if shape.kv_heads > 1 and shape.kv_heads % shards:
        raise ShardError(
            "ValueError: `num_key_value_heads` must be divisible by `num_shards` (got "
            f"`num_key_value_heads`: {shape.kv_heads} and `num_shards`: {shards}"
        )
    if shape.model_type == "falcon" and config.get("alibi"):
        raise ShardError("NotImplementedError: sharded is not supported for Falcon with alibi")
    for size in (*shape.rows_in, *shape.columns_out, shape.hidden):
        # A single key/value head is kept whole by every rank.
        single = size == shape.head_dim and shape.kv_heads == 1
        if size % shards and not single:
            raise _unequal(size, shards)


def _check_quantized_split(
    config: Config, shape: Shape, shards: int, method: str | None, capability: float
) -> None:
    """Scales must split with the rows they belong to, and Marlin wants whole tiles per shard."""
    section = quantization(config)
    if method == "fp8" and section.get("weight_block_size"):
        for size in (*shape.rows_in, *shape.columns_out):
            if ceil(size / 128) % shards:
                raise _unequal(ceil(size / 128), shards)
        return
    if method not in ("awq", "gptq", "marlin"):
        return
    group = group_size(section)
    for size in shape.rows_in:
        if group and not section.get("desc_act") and ceil(size / group) % shards:
            raise _unequal(ceil(size / group), shards)
    if capability >= 8.0 and _uses_marlin(section, method):
        _check_tiles(shape, shards)


def _uses_marlin(section: Mapping[str, object], method: str) -> bool:
    if method == "marlin":
        return True
    symmetric = method == "awq" or section.get("sym", True) is True
    return bits(section) in (4, 8) and group_size(section) in (None, 32, 64, 128) and symmetric


def _check_tiles(shape: Shape, shards: int) -> None:
    sizes = [(shape.hidden, out // shards) for out in shape.columns_out]
    sizes += [(size // shards, shape.hidden) for size in shape.rows_in]
    for i, o in sizes:
        if not ((i % 128 == 0 and o % 64 == 0) or (i % 64 == 0 and o % 128 == 0)):
            raise ShardError(
                "ValueError: The GPTQ Marlin kernel does not have a valid thread configuration for "
                f"weight matrix with shape ({o}, {i}). The shape elements must be divisible by "
                "(128, 64) or (64, 128)."
            )


def _unequal(size: int, shards: int) -> ShardError:
    return ShardError(
        f"AssertionError: The choosen size {size} is not compatible with sharding on {shards} "
        "shards"
    )
