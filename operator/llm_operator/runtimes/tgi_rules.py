"""What text-generation-inference can shard and quantize, on which card, in which version.

Each rule is one small function from a launch to a refusal or None, listed in `RULES`; the first
refusal wins. A rule whose fact is missing (compute capability of a card given by hand) stays
silent. Sources are TGI 3.3.7's launcher and server; numbers in reasons are the launch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llm_operator.runtimes import tgi_shards
from llm_operator.runtimes.base import Version, show_version
from llm_operator.runtimes.terms import Launch, Refusal
from llm_operator.runtimes.tgi_shards import AMPERE

OLDEST: Final[Version] = (2, 4, 0)
"""1.x lacks --max-input-tokens; the entrypoint of 2.0-2.3 keeps SIGTERM to itself (no drain)."""
NEWEST: Final[Version] = (3, 3, 7)

CHUNKING_SINCE: Final[Version] = (3, 0, 0)

PRE_QUANTIZED: Final = ("gptq", "awq", "marlin", "exl2", "compressed-tensors", "fp8")
ON_THE_FLY: Final = ("fp8", "eetq", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
METHODS_SINCE: Final[dict[str, Version]] = {"compressed-tensors": (2, 4, 1)}

_FIRST_CLASS: Final = """
    baichuan bloom cohere dbrx deepseek_v2 deepseek_v3 falcon galactica gemma gemma2 gemma3
    gemma3_text gpt2 gpt_bigcode gpt_neox gptj granite idefics idefics2 idefics3 llama llama4
    llava_next mamba mistral mixtral mllama mpt opt paligemma phi phi3 phimoe qwen2 qwen2_5_vl
    qwen2_vl RefinedWeb RefinedWebModel santacoder ssm starcoder2 t5
"""
FIRST_CLASS: Final = frozenset(_FIRST_CLASS.split())
"""Model types with a class of TGI's own; any other goes through the transformers fallback."""
SHARDED_FALLBACK: Final = frozenset({"qwen3", "qwen3_moe", "olmo2"})
"""Fallback types known to carry a tensor-parallel plan of transformers."""

FLASHINFER_HEAD_DIMS: Final = (64, 128, 256)
NO_FLASHINFER: Final = frozenset({"falcon", "RefinedWeb", "RefinedWebModel", "deepseek_v2"})
FLASHINFER_OR_PAGED: Final = ("flashinfer", "paged")
TURING: Final = (7, 5)


def refuse(launch: Launch) -> Refusal | None:
    """The first rule of TGI that this launch breaks, or None."""
    for rule in RULES:
        if (found := rule(launch)) is not None:
            return found
    return None


def warnings(launch: Launch) -> tuple[str, ...]:
    """What runs, but not as well or as safely as it could."""
    found: list[str] = []
    q, cc = launch.quantization, launch.gpu.compute_capability
    if launch.version < NEWEST:
        found.append(
            f"TGI {show_version(launch.version)} is open to CVE-2026-0599 (unbounded image"
            f" download); {show_version(NEWEST)} is not."
        )
    if launch.version > NEWEST:
        found.append(
            f"TGI {show_version(launch.version)} is newer than {show_version(NEWEST)}, the newest"
            " version whose rules are known here."
        )
    if q.method == "gptq" and q.desc_act and launch.tensor_parallel > 1:
        found.append(
            f"GPTQ with act-order over {launch.tensor_parallel} shards uses slower kernels and"
            " loads every scale on each GPU."
        )
    if q.method.startswith("bitsandbytes"):
        found.append(f"{q.method} is slower than 16 bit in TGI; eetq or fp8 are the faster 8 bit.")
    if launch.dtype == "bfloat16" and cc is not None and cc < AMPERE:
        found.append(f"{launch.gpu.product} has no bfloat16 units; float16 is faster there.")
    return tuple(found)


def attention(launch: Launch) -> str | None:
    """The attention kernels TGI would choose: flashinfer, flashdecoding or paged; None if unknown.

    Source: resolve_attention of the launcher.
    """
    if launch.custom_attention:
        return launch.custom_attention
    cc = launch.gpu.compute_capability
    if cc is None:
        return None
    if cc < AMPERE:
        return "paged"
    fits = launch.shape.head_dim in FLASHINFER_HEAD_DIMS
    return (
        "flashinfer" if fits and launch.shape.model_type not in NO_FLASHINFER else "flashdecoding"
    )


def _kv_cache(launch: Launch) -> Refusal | None:
    wanted = launch.kv_cache_dtype
    if wanted is None:
        return None
    if launch.version < OLDEST:
        return Refusal(
            "kvCacheDtype",
            f"KV cache in {wanted} needs TGI {show_version(OLDEST)} or newer, this is"
            f" {show_version(launch.version)}: raise runtime.version or leave"
            " quantization.kvCacheDtype unset.",
        )
    kernels = attention(launch)
    if kernels is not None and kernels not in FLASHINFER_OR_PAGED:
        return Refusal(
            "kvCacheDtype",
            f"KV cache in {wanted} needs flashinfer or paged attention; {launch.shape.model_type}"
            f" with head size {launch.shape.head_dim} runs on {kernels}: set runtime.attention to"
            " paged or leave quantization.kvCacheDtype unset.",
        )
    return None


def _version(launch: Launch) -> Refusal | None:
    if launch.version >= OLDEST:
        return None
    why = (
        "does not pass SIGTERM on, so requests in flight would be cut when a pod goes"
        if launch.version >= (2, 0, 0)
        else "has no --max-input-tokens, so limits could not be set"
    )
    return Refusal(
        "version",
        f"TGI {show_version(launch.version)} {why}: use {show_version(OLDEST)} or newer,"
        f" best {show_version(NEWEST)}.",
    )


def _gpu(launch: Launch) -> Refusal | None:
    gpu = launch.gpu
    if not gpu.resource.startswith("nvidia.com/"):
        return Refusal(
            "gpu",
            f"{gpu.resource} is not an NVIDIA resource and only TGI's CUDA image is supported:"
            " set gpu.resourceName to nvidia.com/gpu.",
        )
    if "/mig-" in gpu.resource and launch.tensor_parallel > 1:
        return Refusal(
            "tensorParallel",
            f"{launch.tensor_parallel} MIG slices ({gpu.resource}) cannot serve one model together:"
            " use whole GPUs or parallelism.tensor 1.",
        )
    cc = gpu.compute_capability
    if cc is not None and cc < AMPERE and cc != TURING:
        return Refusal(
            "gpu",
            f"{gpu.product} has compute capability {cc[0]}.{cc[1]}; TGI's kernels need 7.5 or 8.0"
            " and newer: name another product in gpu.products.",
        )
    return None


def _attention(launch: Launch) -> Refusal | None:
    cc, wanted = launch.gpu.compute_capability, launch.custom_attention
    if wanted in ("flashinfer", "flashdecoding") and cc is not None and cc < AMPERE:
        return Refusal(
            "gpu",
            f"runtime.attention {wanted} needs compute capability 8.0, {launch.gpu.product} has"
            f" {cc[0]}.{cc[1]}: leave it unset or set it to paged.",
        )
    if launch.prefix_caching and attention(launch) == "paged":
        return Refusal(
            "gpu",
            "runtime.prefixCaching needs flashinfer or flashdecoding, this launch runs on paged"
            f" attention ({launch.gpu.product}): leave prefixCaching unset or use a GPU of compute"
            " capability 8.0 or newer without runtime.attention paged.",
        )
    return None


def _prefill(launch: Launch) -> Refusal | None:
    """The router's check after warm-up: without chunking, one prefill holds the longest input."""
    longest, batch = launch.max_input_tokens, launch.max_batch_prefill_tokens
    if longest is None or batch is None or batch >= longest:
        return None
    if launch.version < CHUNKING_SINCE:
        why = f"TGI {show_version(launch.version)} does not chunk prefill"
    elif launch.prefill_chunking is False:
        why = "runtime.prefillChunking is false"
    elif launch.speculate is not None:
        why = "runtime.speculate turns prefill chunking off"
    elif attention(launch) == "paged":
        why = f"paged attention ({launch.gpu.product}) does not chunk prefill"
    else:
        return None
    return Refusal(
        "runtime",
        f"{why}, so runtime.maxBatchPrefillTokens {batch} must hold an input of {longest} tokens:"
        f" raise it to {longest} or leave it unset.",
    )


def _method(launch: Launch) -> Refusal | None:
    q = launch.quantization
    if q.method == "none":
        return None
    if q.method not in (*PRE_QUANTIZED, *ON_THE_FLY):
        return Refusal(
            "quantization",
            f"TGI cannot run {q.method} weights: use a 16-bit checkpoint of this model, or one in"
            f" {', '.join(PRE_QUANTIZED)}.",
        )
    if q.on_the_fly and q.method not in ON_THE_FLY:
        return Refusal(
            "quantization",
            f"TGI cannot make {q.method} from a 16-bit checkpoint: name a model.id that is stored"
            f" in {q.method}, or use one of {', '.join(ON_THE_FLY)}.",
        )
    if not q.on_the_fly and q.method not in PRE_QUANTIZED:
        return Refusal(
            "quantization",
            f"TGI cannot load a checkpoint stored in {q.method}: name the 16-bit model.id and set"
            f" quantization.method to {q.method}.",
        )
    since = METHODS_SINCE.get(q.method, OLDEST)
    if launch.version < since:
        return Refusal(
            "quantization",
            f"{q.method} needs TGI {show_version(since)} or newer, this is"
            f" {show_version(launch.version)}: raise runtime.version.",
        )
    return None


def _fallback(launch: Launch) -> Refusal | None:
    kind, q = launch.shape.model_type, launch.quantization
    if kind in FIRST_CLASS:
        return None
    if q.method not in ("none", "bitsandbytes"):
        return Refusal(
            "quantization",
            f"TGI runs {kind} through transformers, which takes no {q.method}: use a 16-bit"
            " checkpoint with quantization.method none or bitsandbytes.",
        )
    if launch.tensor_parallel > 1 and kind not in SHARDED_FALLBACK:
        return Refusal(
            "tensorParallel",
            f"TGI runs {kind} through transformers and no tensor-parallel plan of it is known:"
            f" {launch.tensor_parallel} shards cannot be; use a larger GPU or bitsandbytes.",
        )
    return None


def _card(launch: Launch) -> Refusal | None:
    cc, method = launch.gpu.compute_capability, launch.quantization.method
    if cc is None or cc >= AMPERE or method not in ("fp8", "marlin"):
        return None
    return Refusal(
        "quantization",
        f"{method} needs a GPU of compute capability 8.0 or newer, {launch.gpu.product} has"
        f" {cc[0]}.{cc[1]}: name another product in gpu.products or another quantization.method.",
    )


def _dtype(launch: Launch) -> Refusal | None:
    method = launch.quantization.method
    if launch.dtype is None or method == "none" or method.startswith("bitsandbytes"):
        return None
    return Refusal(
        "quantization",
        f"TGI takes only one of runtime.dtype ({launch.dtype}) and {method} weights: leave"
        " runtime.dtype unset.",
    )


RULES: Final[tuple[Callable[[Launch], Refusal | None], ...]] = (
    _kv_cache,
    _version,
    _gpu,
    _attention,
    _prefill,
    _method,
    _fallback,
    _card,
    _dtype,
    *tgi_shards.RULES,
)
