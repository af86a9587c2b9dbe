"""What a user may write in `spec`.

Pydantic models are the source of the CRD's schema. A field that reaches the pod has no default
here: unset stays unset, and the operator resolves it once, when it makes a revision. So neither a
new field nor a changed default can restart a running model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llm_operator.api.autoscaling import Autoscaling as Autoscaling
from llm_operator.api.part import Part as Part
from llm_operator.api.rollout import Rollout as Rollout

QuantizationMethod = Literal[
    "auto",
    "none",
    "gptq",
    "awq",
    "marlin",
    "exl2",
    "compressed-tensors",
    "bitsandbytes",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "eetq",
    "fp8",
]
VERSION_PATTERN = r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$"
KvCacheDtype = Literal["fp8_e4m3fn", "fp8_e5m2"]


def _number_as_text(value: object) -> object:
    """`cpu: 4` and `cpu: "4"` are one quantity."""
    return str(value) if type(value) is int else value


Name = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_number_as_text),
]
HubId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
    ),
]
Revision = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._/-]+$")]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Count = Annotated[int, Field(ge=1, le=65_536)]


class SecretKeyRef(Part):
    """A key of a Secret in the object's own namespace; the operator never reads it."""

    name: Name = Field(description="Name of a Secret in the same namespace.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$")] = Field(
        description="Key within the Secret."
    )


class ModelCache(Part):
    """Where downloaded weights are kept."""

    claim_name: Name = Field(
        description="PersistentVolumeClaim in the same namespace, used as the Hub cache."
    )


class Model(Part):
    """Which model is served and where its files come from."""

    id: HubId = Field(description="Hub id, e.g. meta-llama/Llama-3.1-8B-Instruct.")
    revision: Revision | None = Field(
        None,
        description="Branch, tag or commit of the model repository. Unset: the default branch. The"
        " commit it stands for is kept with each revision.",
    )
    path: (
        Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9._/-]+$")] | None
    ) = Field(
        None,
        description="Directory of the complete model repository inside the claim cache.claimName,"
        " relative to its root; then nothing is downloaded.",
    )
    cache: ModelCache | None = None
    token_secret_ref: SecretKeyRef | None = Field(
        None, description="Hub token for a gated model; mounted into the pod as HF_TOKEN."
    )
    trust_remote_code: bool | None = Field(
        None, description="Let the model repository run its own Python code. Unset means false."
    )
    config: dict[str, Any] | None = Field(
        None,
        description="The fields of the model's config.json (quantization_config included), for"
        " clusters that cannot reach the Hub and for private models.",
    )


class QuantizationSpec(Part):
    """How weights and KV cache are stored on the GPU."""

    method: QuantizationMethod | None = Field(
        None,
        description="Unset or auto: what the checkpoint is, else the best quality that fits.",
    )
    kv_cache_dtype: KvCacheDtype | None = Field(
        None, description="Store the KV cache in 8 bit; unset keeps 16 bit."
    )


class EnvVar(Part):
    """An environment variable of the engine, from an allow-list of names."""

    name: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="One of the allowed names."
    )
    value: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="Its value, never empty: an empty one is no value to the engine."
    )


class RopeScaling(Part):
    """Stretching of the position embeddings."""

    type: Literal["linear", "dynamic"] = Field(description="How positions are stretched.")
    factor: Annotated[float, Field(gt=0, le=1024)] = Field(
        description="Wanted context over trained context."
    )


class LoraAdapter(Part):
    """A LoRA adapter loaded beside the base model."""

    id: HubId = Field(description="Hub id of the adapter.")
    revision: Revision | None = Field(
        None, description="Branch, tag or commit of the adapter's repository."
    )


class Runtime(Part):
    """The engine, its image and its options. Options left unset keep the engine's own default."""

    name: Literal["tgi"] | None = Field(None, description="Engine; unset means tgi.")
    image: (
        Annotated[
            str,
            Field(
                min_length=1, max_length=500, pattern=r"^[^\s@:]+(:[0-9]+/[^\s@:]+)?([:@][^\s]+)?$"
            ),
        ]
        | None
    ) = Field(
        None,
        description="Full image reference; wins over version. Name version too if the tag"
        " does not say it.",
    )
    version: Annotated[str, Field(pattern=VERSION_PATTERN, max_length=16)] | None = Field(
        None, description="Engine version, e.g. 3.3.7."
    )
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] | None = Field(
        None, description="Secrets of the same namespace with which the image is pulled."
    )
    dtype: Literal["float16", "bfloat16"] | None = Field(
        None, description="16-bit type of an unquantized model."
    )
    cuda_graphs: (
        Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=64)] | None
    ) = Field(
        None, description="Batch sizes with a captured CUDA graph; an empty list turns them off."
    )
    speculate: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Tokens to speculate per step (Medusa heads or n-gram)."
    )
    prefix_caching: bool | None = Field(
        None, description="Keep the KV cache of prompts that start alike."
    )
    prefill_chunking: bool | None = Field(
        None, description="Cut long prompts into pieces between decode steps."
    )
    attention: Literal["paged", "flashdecoding", "flashinfer"] | None = Field(
        None,
        description="Attention kernels. Unset: the engine chooses what card and head size can run.",
    )
    cuda_memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Share of a card's memory that the engine may take."
    )
    max_batch_prefill_tokens: Tokens | None = Field(
        None, description="Tokens in one prefill step. Unset: planned."
    )
    max_batch_size: Count | None = Field(
        None, description="Requests decoded at once, for engines that do not chunk prefill."
    )
    max_waiting_tokens: Count | None = Field(
        None, description="Decode steps after which waiting requests are let in."
    )
    waiting_served_ratio: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="Waiting over running requests from which a prefill is forced."
    )
    max_best_of: Count | None = Field(None, description="Largest best_of of a request.")
    max_stop_sequences: Count | None = Field(None, description="Most stop sequences of a request.")
    max_top_n_tokens: Count | None = Field(None, description="Largest top_n_tokens of a request.")
    max_client_batch_size: Count | None = Field(None, description="Most inputs in one request.")
    payload_limit: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None, description="Largest request body, in bytes."
    )
    validation_workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Threads that tokenize and validate requests."
    )
    rope_scaling: RopeScaling | None = Field(
        None, description="Serve a longer context than the model was trained for."
    )
    lora_adapters: Annotated[list[LoraAdapter], Field(max_length=32)] | None = Field(
        None, description="Adapters that a request can choose by their id."
    )
    disable_grammar_support: bool | None = Field(
        None, description="Refuse requests with a grammar or a JSON schema."
    )
    enable_prefill_logprobs: bool | None = Field(
        None, description="Return log-probabilities of the prompt's tokens; costs memory."
    )
    disable_custom_kernels: bool | None = Field(
        None, description="Run without the engine's own CUDA kernels."
    )
    api_key_secret_ref: SecretKeyRef | None = Field(
        None,
        description="Requests must carry this key as a bearer token. TGI prints it in its log.",
    )
    env: Annotated[list[EnvVar], Field(max_length=32)] | None = Field(
        None, description="Environment variables of the engine, from an allow-list of names."
    )


class GpuSpec(Part):
    """Which GPUs may be used."""

    resource_name: (
        Annotated[str, Field(max_length=253, pattern=r"^nvidia\.com/[A-Za-z0-9._-]+$")] | None
    ) = Field(None, description="Extended resource to ask for; unset means nvidia.com/gpu.")
    products: (
        Annotated[
            list[
                Annotated[
                    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
                ]
            ],
            Field(min_length=1, max_length=16),
        ]
        | None
    ) = Field(None, description="Values of the node label nvidia.com/gpu.product that may be used.")
    memory: Quantity | None = Field(
        None, description="Memory of one GPU, for nodes without GPU-feature labels, e.g. 24Gi."
    )


class Parallelism(Part):
    """How one replica is spread over GPUs."""

    tensor: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Tensor-parallel degree = GPUs per replica; unset or auto: planned."
    )


class Limits(Part):
    """What one replica promises to its clients; memory is planned for it."""

    max_input_tokens: Tokens | None = Field(None, description="Longest prompt. Unset: planned.")
    max_total_tokens: Tokens | None = Field(None, description="Input plus generated tokens.")
    max_concurrent_requests: Count | None = Field(
        None, description="Requests running or waiting in one replica; above it they get 429."
    )


class Resources(Part):
    """CPU, memory and ephemeral storage of one replica. GPUs come from the plan."""

    requests: dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity] | None = Field(
        None, description="What the node keeps free for a replica. Unset: from the plan."
    )
    limits: dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity] | None = Field(
        None, description="What a replica may use at most. Unset: none."
    )


class Toleration(Part):
    """As in a pod."""

    key: Annotated[str, Field(max_length=316)] | None = Field(
        None, description="Taint key; empty with operator Exists means every taint."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        None, description="Exists or Equal (if unset)."
    )
    value: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Taint value, with operator Equal."
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect; unset means every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0)] | None = Field(
        None, description="How long a pod stays on a node with a NoExecute taint."
    )


class TopologySpread(Part):
    """As in a pod; the label selector is the operator's."""

    max_skew: Annotated[int, Field(ge=1, le=100)] = Field(
        description="Largest difference in pods between two domains."
    )
    topology_key: Annotated[str, Field(min_length=1, max_length=316)] = Field(
        description="Node label whose values are the domains."
    )
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="Wait, or only prefer."
    )


class Scheduling(Part):
    """Where pods may run, on top of the GPU products of the plan."""

    node_selector: (
        Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None
    ) = Field(None, description="Labels that a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        None, description="Taints that the pods tolerate, beside that of GPU nodes."
    )
    affinity: dict[str, Any] | None = Field(None, description="As in a pod.")
    priority_class_name: Name | None = Field(None, description="PriorityClass of the pods.")
    topology_spread: Annotated[list[TopologySpread], Field(max_length=8)] | None = Field(
        None, description="How replicas spread over zones or nodes."
    )


class LLMDeploymentSpec(Part):
    """A model to serve."""

    model: Model
    quantization: QuantizationSpec | None = None
    runtime: Runtime | None = None
    gpu: GpuSpec | None = None
    parallelism: Parallelism | None = None
    limits: Limits | None = None
    replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        1,
        description="Pods wanted, each with all GPUs of the plan. 0 stops the model. Ignored where"
        " autoscaling is set.",
    )
    autoscaling: Autoscaling | None = None
    resources: Resources | None = None
    scheduling: Scheduling | None = None
    rollout: Rollout | None = None


NOT_IN_POD = ("replicas", "autoscaling")
"""Top-level fields that never reach a pod; of `rollout` only drainSeconds does."""


def user_inputs(spec: LLMDeploymentSpec) -> dict[str, Any]:
    """What the user set of all that reaches the pod, as JSON: the identity of a revision.

    Unset fields and empty objects are left out, so an unset field and a field that did not exist
    when a revision was recorded are the same.
    """
    raw = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(NOT_IN_POD))
    rollout = raw.pop("rollout", {})
    if "drainSeconds" in rollout:
        raw["rollout"] = {"drainSeconds": rollout["drainSeconds"]}
    return {key: value for key, value in raw.items() if value != {}}
