"""Whatever the operator accepts, TGI takes: random specs against the simulated engine's own rules.

A spec that no refusal stops is planned and rendered, and the container is started in the simulated
TGI, which has its own parser, its own shard checks and its own count of memory. Beside it stand the
rules that no engine can check: they hold between the arguments and the pod around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cluster.fleet import container as kubelet
from llm_operator.cluster.tgi import hub, shape, startup, weights
from llm_operator.desired import revision
from llm_operator.planning import Model, Offer, model_of, offers_for, plan, wish_from
from llm_operator.planning.cards import gpu_of
from llm_operator.runtimes.base import Resolved, engine, show_version
from llm_operator.runtimes.quantities import parse_quantity
from llm_operator.runtimes.terms import Refusal

Json = dict[str, Any]

TGI = engine("tgi")
NODES = {"NVIDIA-A100-SXM4-80GB": 8, "NVIDIA-H100-80GB-HBM3": 8, "NVIDIA-L4": 4, "Tesla-T4": 4}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = {"name": "hub", "key": "token"}

QUANTIZED = [
    {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
    {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True},
    {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False, "desc_act": False},
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "fbgemm_fp8"},
    {"quant_method": "exl2", "bits": 4.25},
    {"quant_method": "mxfp4"},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
    },
]


@st.composite
def configs(draw: st.DrawFn) -> Json:
    """config.json of a decoder: real proportions mixed so that some divide and some do not."""
    heads = draw(st.sampled_from([8, 14, 28, 32, 40, 52, 64, 71]))
    kind = draw(st.sampled_from(["llama", "mistral", "qwen2", "qwen3", "phi3", "mixtral"]))
    head_dim = draw(st.sampled_from([64, 80, 96, 128]))
    config = {
        "model_type": kind,
        "hidden_size": heads * head_dim,
        "head_dim": head_dim,
        "num_hidden_layers": draw(st.sampled_from([16, 32, 80])),
        "num_attention_heads": heads,
        "num_key_value_heads": draw(
            st.sampled_from([n for n in (1, 2, 4, 8, 10, 32) if heads % n == 0] + [heads])
        ),
        "intermediate_size": draw(st.sampled_from([4096, 8960, 11008, 13824, 14336, 18944, 29568])),
        "vocab_size": draw(st.sampled_from([32000, 50257, 152064])),
        "max_position_embeddings": draw(st.sampled_from([4096, 32768, 131072])),
        "torch_dtype": draw(st.sampled_from(["float16", "bfloat16"])),
        "tie_word_embeddings": draw(st.booleans()),
    }
    if kind == "mixtral":
        config |= {"num_local_experts": 8, "num_experts_per_tok": 2}
    if draw(st.booleans()):
        config["quantization_config"] = draw(st.sampled_from(QUANTIZED))
    return config


@st.composite
def optional(draw: st.DrawFn, fields: Mapping[str, st.SearchStrategy[Any]]) -> Json:
    """An object with a few of these fields."""
    names = st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=4)
    return {name: draw(fields[name]) for name in draw(names)}


METHODS = [
    "auto", "none", "gptq", "awq", "marlin", "exl2", "compressed-tensors", "bitsandbytes",
    "bitsandbytes-nf4", "bitsandbytes-fp4", "eetq", "fp8",
]  # fmt: skip

RUNTIME = optional(
    {
        "version": st.sampled_from(["3.3.7", "3.3.7", "3.2.2", "3.0.0", "2.4.1", "2.4.0", "2.2.0"]),
        "dtype": st.sampled_from(["float16", "bfloat16"]),
        "cudaGraphs": st.lists(st.integers(1, 64), max_size=4),
        "speculate": st.integers(1, 8),
        "prefixCaching": st.booleans(),
        "prefillChunking": st.booleans(),
        "attention": st.sampled_from(["paged", "flashdecoding", "flashinfer"]),
        "cudaMemoryFraction": st.sampled_from([0.5, 0.8, 1.0]),
        "maxBatchPrefillTokens": st.sampled_from([512, 4096, 16384]),
        "maxBatchSize": st.integers(1, 64),
        "maxWaitingTokens": st.integers(1, 64),
        "waitingServedRatio": st.floats(0, 10),
        "maxBestOf": st.integers(1, 8),
        "maxStopSequences": st.integers(1, 8),
        "maxTopNTokens": st.integers(1, 8),
        "maxClientBatchSize": st.integers(1, 64),
        "payloadLimit": st.integers(1, 10**9),
        "validationWorkers": st.integers(1, 8),
        "ropeScaling": st.fixed_dictionaries(
            {"type": st.sampled_from(["linear", "dynamic"]), "factor": st.floats(1, 8)}
        ),
        "loraAdapters": st.lists(
            st.sampled_from([{"id": "org/a"}, {"id": "org/b", "revision": "v1"}]), max_size=2
        ),
        "disableGrammarSupport": st.booleans(),
        "enablePrefillLogprobs": st.booleans(),
        "disableCustomKernels": st.booleans(),
        "apiKeySecretRef": st.just(SECRET),
        "env": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["NCCL_DEBUG", "LOG_LEVEL", "PORT", "QUANTIZE"]),
                    "value": st.sampled_from(["info", "$(HF_TOKEN)", "a b"]),
                }
            ),
            max_size=2,
        ),
    }
)


@st.composite
def specs(draw: st.DrawFn) -> LLMDeploymentSpec:
    """Specs as the API server would let them through, most of them modest."""
    model: Json = {"id": "org/model", "config": draw(configs())}
    model |= draw(
        st.sampled_from(
            [
                {},
                {"cache": {"claimName": "cache"}, "revision": "v1"},
                {"cache": {"claimName": "models"}, "path": "org/model"},
                {"tokenSecretRef": SECRET, "trustRemoteCode": True},
            ]
        )
    )
    parts: Json = {
        "gpu": {"products": draw(st.lists(st.sampled_from(list(NODES)), min_size=1, max_size=2))},
        "runtime": draw(RUNTIME),
        "parallelism": {"tensor": draw(st.sampled_from(["auto", "auto", 1, 2, 3, 4, 8]))},
        "quantization": draw(
            optional(
                {
                    "method": st.sampled_from(["auto"] * 12 + METHODS),
                    "kvCacheDtype": st.sampled_from(["fp8_e4m3fn", "fp8_e5m2"]),
                }
            )
        ),
        "limits": draw(
            optional(
                {
                    "maxInputTokens": st.sampled_from([100, 1024, 3072]),
                    "maxTotalTokens": st.sampled_from([2048, 4096, 16384]),
                    "maxConcurrentRequests": st.sampled_from([1, 8, 64]),
                }
            )
        ),
        "rollout": draw(optional({"drainSeconds": st.integers(1, 3600)})),
    }
    return LLMDeploymentSpec.model_validate({"model": model, **parts})


def accepted(spec: LLMDeploymentSpec) -> tuple[Resolved, Json] | None:
    """What the operator would run for a spec, and its pod template; None if it refuses."""
    image = TGI.image(spec.runtime)
    if isinstance(image, Refusal) or TGI.refuse_options(spec, image.version):
        return None
    model = model_of(spec.model.id, spec.model.config or {})
    if not isinstance(model, Model):
        return None
    offers = [
        Offer(gpu, gpus_per_node=count)
        for product, count in NODES.items()
        if (gpu := gpu_of(product)) is not None
    ]
    wish = wish_from(spec, image.version)
    made = plan(wish, model, offers_for(wish, offers), TGI)
    if not made.fits:
        return None
    user = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    resolved = revision.resolve(spec, made, COMMIT, revision.Defaults())
    return resolved, revision.render("chat", "bcdfghjklm", user, resolved)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(spec=specs())
def test_whatever_is_accepted_serves(spec: LLMDeploymentSpec) -> None:
    found = accepted(spec)
    assume(found is not None)
    assert found is not None
    resolved, template = found
    assert list(broken_rules(template["spec"], resolved)) == []
    for product in resolved.plan.products:
        start(spec, template["spec"], product)


def start(spec: LLMDeploymentSpec, pod: Json, product: str) -> None:
    """Start the pod's container on GPUs of a product, as the kubelet would; raises as TGI ends."""
    (container,) = pod["containers"]
    gpu = gpu_of(product)
    assert gpu is not None
    assert gpu.compute_capability is not None
    major, minor = gpu.compute_capability
    card = kubelet.Gpu(product, gpu.memory_mib, major + minor / 10)
    given_to_it = kubelet.ContainerSpec(
        image=container["image"],
        args=tuple(container["args"]),
        env={item["name"]: item.get("value", "secret") for item in container["env"]},
        ip="10.0.0.1",
        pod_name="chat-bcdfghjklm-00000",
        gpus=(card,) * int(container["resources"]["limits"]["nvidia.com/gpu"]),
        shm_bytes=shm_bytes(pod),
    )
    config = spec.model.config or {}
    size = weights.file_bytes(config, shape.shape_of(config))
    found = hub.Found(hub.Checkpoint("org/model", config, size), local=True, download_bytes=0)
    with mock.patch.object(startup, "find", return_value=found):
        prepared = startup.prepare(given_to_it)
        startup.settle(given_to_it, prepared, startup.load(given_to_it, prepared))


def shm_bytes(pod: Json) -> int:
    """/dev/shm as the pod has it: the container runtime's 64 MiB, or the volume mounted there."""
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        if mount["mountPath"] == "/dev/shm":
            directory = volumes[mount["name"]]["emptyDir"]
            assert directory["medium"] == "Memory"
            return int(parse_quantity(directory["sizeLimit"]))
    return 64 << 20


def broken_rules(pod: Json, resolved: Resolved) -> Iterator[str]:
    """Rules that hold between arguments, environment and pod, whatever the engine says."""
    (container,) = pod["containers"]
    args: list[str] = container["args"]
    env = {item["name"]: item.get("value") for item in container["env"]}
    resources = container["resources"]
    flags = [word for word in args if word.startswith("-")]
    gpus = resources["limits"]["nvidia.com/gpu"]
    if len(flags) != len(set(flags)):
        yield "an option is given twice"
    if any(re.search(r"[\s*?\[\]{}~$`'\"\\]", word) for word in args):
        yield "an argument that the entrypoint's shell would change"
    if "" in env.values() or "" in args:
        yield "an empty value"
    if any(value and re.search(r"(?<!\$)\$\(", value) for value in env.values()):
        yield "a value that the kubelet would expand"
    if value(args, "--num-shard") != gpus or resources["requests"]["nvidia.com/gpu"] != gpus:
        yield "shards and GPUs differ"
    if set(env) & {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "PORT", "HOSTNAME"}:
        yield "a variable that is not ours to set"
    quantize = value(args, "--quantize") or ""
    if "--dtype" in args and quantize and not quantize.startswith("bitsandbytes"):
        yield "dtype with quantization"
    if value(args, "--port") != str(container["ports"][0]["containerPort"]):
        yield "the port is not the container's"
    if int(value(args, "--port") or 0) < 1024:
        yield "a privileged port without the capability to bind it"
    limits = (
        "--hostname",
        "--max-input-tokens",
        "--max-total-tokens",
        "--max-batch-prefill-tokens",
    )
    if not set(limits) <= set(args):
        yield "a limit left to each replica's own GPU"
    if value(args, "--usage-stats") != "off":
        yield "usage statistics leave the cluster"
    if resolved.commit is None and ("--revision" in args or env.get("HF_HUB_OFFLINE") != "1"):
        yield "a local path with a revision or a network"
    if resolved.commit is not None and value(args, "--revision") != resolved.commit:
        yield "the commit is not pinned"
    grace, before = resolved.drain.graceful, container["lifecycle"]["preStop"]["sleep"]["seconds"]
    if pod["terminationGracePeriodSeconds"] < before + grace + 15:
        yield "the kubelet kills before the drain ends"
    told = value(args, "--graceful-termination-timeout")
    if told != (str(grace) if resolved.engine_version >= (3, 2, 2) else None):
        yield "the engine drains for another time"
    if pod["enableServiceLinks"] or pod["automountServiceAccountToken"]:
        yield "other services or a token in the pod"
    if show_version(resolved.engine_version) not in container["image"]:
        yield "rules of another version than the image's"


def value(args: list[str], flag: str) -> str | None:
    """The value that an option has on the command line, None if it is not there."""
    return args[args.index(flag) + 1] if flag in args else None
