"""What the operator answers in `status`: for people, kubectl, Argo CD, Flux and Helm.

`observedGeneration` is -1 from birth (a schema default on the whole status), so an object that the
operator has not seen yet never counts as healthy.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from llm_operator.api.spec import Part

Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Text = Annotated[str, Field(max_length=4096)]


class ConditionType(StrEnum):
    """Ready and Available are normal-true; Reconciling, Stalled, Drifted are there only if True.

    ScalingActive is there where `spec.autoscaling` is, False if no decision of ours has any effect.
    """

    READY = "Ready"
    AVAILABLE = "Available"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    DRIFTED = "Drifted"
    SCALING_ACTIVE = "ScalingActive"


class Reason(StrEnum):
    """Every reason that a condition, a failure or an Event of ours can carry."""

    READY = "Ready"
    SCALED_TO_ZERO = "ScaledToZero"
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"
    # on the way
    CREATING = "Creating"
    LOADING = "Loading"
    UPDATING = "Updating"
    SCALING = "Scaling"
    PAUSED = "Paused"
    NO_SPARE_GPU = "NoSpareGPU"
    ROLLED_BACK = "RolledBack"
    ACCEPTED = "Accepted"
    ACCEPTANCE_FAILED = "AcceptanceFailed"
    ANALYSING = "Analysing"
    ANALYSIS_FAILED = "AnalysisFailed"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    WAITING_FOR_GPU = "WaitingForGPU"
    UNSCHEDULABLE = "Unschedulable"
    CLAIM_PENDING = "ClaimPending"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_REFUSED = "AdmissionRefused"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONFIG_MISSING = "ConfigMissing"
    NODE_LOST = "NodeLost"
    EVICTED = "Evicted"
    PROBE_FAILED = "ProbeFailed"
    CRASHED = "Crashed"
    GPU_OUT_OF_MEMORY = "GPUOutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    SHARD_FAILED = "ShardFailed"
    ARGUMENTS_REFUSED = "ArgumentsRefused"
    DOWNLOAD_FAILED = "DownloadFailed"
    HUB_UNAUTHORIZED = "HubUnauthorized"
    HUB_NOT_FOUND = "HubNotFound"
    HUB_RATE_LIMITED = "HubRateLimited"
    HUB_UNREACHABLE = "HubUnreachable"
    # no retry will help
    INVALID_SPEC = "InvalidSpec"
    PLAN_REFUSED = "PlanRefused"
    MODEL_SHAPE_UNKNOWN = "ModelShapeUnknown"
    NAME_CONFLICT = "NameConflict"
    TEMPLATE_EDITED = "TemplateEdited"
    # of scaling
    METRICS_COMPLETE = "MetricsComplete"
    METRICS_PARTIAL = "MetricsPartial"
    METRICS_MISSING = "MetricsMissing"
    ADVISE_ONLY = "AdviseOnly"
    SCALED_BY_OTHERS = "ScaledByOthers"


class Condition(Part):
    """As `metav1.Condition`; lastTransitionTime moves only when `status` does."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32768)]
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    observed_generation: Int64 | None = None


class QuantizationStatus(Part):
    """How the weights are stored."""

    method: str
    bits: float
    group_size: int | None = None


class RejectedStatus(Part):
    """A tensor-parallel degree that cannot be, and why."""

    tensor_parallel: int
    reason: Text


class PlanStatus(Part):
    """The plan of the wanted revision with its arithmetic; bytes are bytes."""

    fits: bool
    message: Text
    gpu: str | None = Field(None, description="GPU product that the plan was made for.")
    products: list[str] = Field(default_factory=list, max_length=32)
    quantization: QuantizationStatus | None = None
    kv_cache_dtype: str | None = None
    tensor_parallel: int | None = None
    minimum_tensor_parallel: int | None = None
    recommended_tensor_parallel: int | None = None
    rejected: list[RejectedStatus] = Field(default_factory=list, max_length=64)
    weight_bytes: Int64 | None = None
    weight_source: str | None = None
    weight_bytes_per_gpu: Int64 | None = Field(None, alias="weightBytesPerGPU")
    kv_bytes_per_token: Int64 | None = None
    kv_cache_tokens: Int64 | None = None
    overhead_bytes_per_gpu: Int64 | None = Field(None, alias="overheadBytesPerGPU")
    budget_bytes_per_gpu: Int64 | None = Field(None, alias="budgetBytesPerGPU")
    max_input_tokens: Int64 | None = None
    max_total_tokens: Int64 | None = None
    max_concurrent_requests: Int64 | None = None
    max_concurrent_sequences: Int64 | None = None
    ways_out: list[Text] = Field(default_factory=list, max_length=8)
    warnings: list[Text] = Field(default_factory=list, max_length=8)


class AcceptanceStatus(Part):
    """How one prompt of `rollout.acceptance` was answered; neither question nor answer is kept."""

    tokens: Int64
    seconds: float
    fault: Text | None = Field(None, description="What was not as expected.")


class RevisionState(StrEnum):
    """What a revision is about."""

    LOADING = "Loading"
    ASKED = "Asked"
    SERVING = "Serving"
    DRAINING = "Draining"
    FAILED = "Failed"
    RETIRED = "Retired"


class RevisionStatus(Part):
    """One revision of the pods: how many are wanted, exist and serve."""

    name: str
    wanted: bool = Field(description="True for the revision that the current spec asks for.")
    state: str | None = Field(
        None,
        description="Loading, Asked (acceptance), Serving, Draining, Failed, or Retired: kept with"
        " no pods, to go back to.",
    )
    reason: str | None = Field(None, description="Why it has failed.")
    message: Text | None = None
    created: str | None = Field(None, json_schema_extra={"format": "date-time"})
    replicas: int = Field(description="Pods that it should have now.")
    pods: int = Field(description="Pods that it has, those on their way out left out.")
    ready: int = Field(description="Pods whose engine is up.")
    serving: int | None = Field(None, description="Pods that get requests.")
    draining: int | None = Field(
        None, description="Pods on their way out, which finish the requests that they have."
    )
    image: str | None = None
    model: str | None = None
    commit: str | None = Field(None, description="Commit of the model that its pods load.")
    acceptance: list[AcceptanceStatus] = Field(default_factory=list, max_length=16)


class FailureStatus(Part):
    """Why a pod is not serving. The engine's own message is never copied: it may hold a key."""

    pod: str | None = None
    reason: str
    message: Text
    restarts: int = 0


class TermStatus(Part):
    """One line of a decision's arithmetic."""

    name: Annotated[str, Field(max_length=128)]
    value: Annotated[str, Field(max_length=128)]
    note: Annotated[str, Field(max_length=512)] | None = None


class PastDecisionStatus(Part):
    """A decision of the scaler, in short."""

    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    previous: int = Field(description="Replicas wanted before.")
    replicas: int = Field(description="Replicas wanted from then on.")
    reason: Annotated[str, Field(max_length=64)]
    metrics: Annotated[str, Field(max_length=64)] = Field(
        description="How much of the load was known: Complete, Partial or Missing."
    )
    message: Annotated[str, Field(max_length=1024)]


class DecisionStatus(PastDecisionStatus):
    """A decision of the scaler with its arithmetic."""

    why_not_more: Annotated[str, Field(max_length=1024)] | None = None
    why_not_less: Annotated[str, Field(max_length=1024)] | None = None
    terms: list[TermStatus] = Field(default_factory=list, max_length=24)


class ScalingStatus(Part):
    """What the scaler has decided. Written when a decision differs, not when numbers do."""

    mode: Annotated[str, Field(max_length=64)] = Field(
        description="Auto, Advise, or Aside: something else writes the scale subresource."
    )
    min_replicas: int
    max_replicas: int
    desired_replicas: int = Field(description="Replicas that the scaler wants.")
    observed_sequences: float | None = Field(
        None,
        description="Requests that a replica was seen to decode at once, where not as planned.",
    )
    last_decision: DecisionStatus | None = None
    decisions: list[PastDecisionStatus] = Field(
        default_factory=list, max_length=20, description="The last ones, newest first."
    )


class LLMDeploymentStatus(Part):
    """The state of the world as the operator last saw it."""

    observed_generation: Int64 = -1
    conditions: list[Condition] = Field(default_factory=list, max_length=16)
    replicas: int | None = Field(None, description="Pods that exist; read by /scale.")
    ready_replicas: int | None = None
    selector: str | None = Field(None, description="Label selector of the pods; read by /scale.")
    ready: str | None = Field(None, description="Ready of wanted, e.g. 2/3.")
    reason: str | None = Field(
        None, description="Reason of the Ready condition, with progress, e.g. Updating 1/3."
    )
    gpus: int | None = Field(None, description="GPUs asked for by all wanted replicas.")
    current_revision: str | None = None
    image: str | None = None
    endpoint: str | None = Field(None, description="URL inside the cluster (OpenAI-compatible).")
    plan: PlanStatus | None = None
    scaling: ScalingStatus | None = None
    revisions: list[RevisionStatus] = Field(default_factory=list, max_length=32)
    failures: list[FailureStatus] = Field(default_factory=list, max_length=32)
