"""Why a pod does not serve: one cause from what Kubernetes and the engine said.

Causes are found by patterns in the engine's last words. Those words are never copied (an engine
may print its API key); only numbers that a pattern names are.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from llm_operator.api.status import Reason
from llm_operator.facts.cluster import ContainerFact, PodFact

PATIENCE = 3
"""Restarts after which a cause that may pass by itself counts as one that does not."""


@dataclass(frozen=True)
class Failure:
    """Why one pod (or, without a pod, the whole revision) does not serve.

    `stuck`: no retry of the same thing will help. `room`: it would run if other pods went, which
    is not so for want of a claim, of rights, or of any such node.
    """

    pod: str | None
    reason: Reason
    message: str
    restarts: int = 0
    stuck: bool = False
    room: bool = False


@dataclass(frozen=True)
class Pattern:
    """Engine output that gives a cause away. `text` may use the groups of `regex`."""

    regex: re.Pattern[str]
    reason: Reason
    text: str
    stuck: bool = False


def _pattern(regex: str, reason: Reason, text: str, stuck: bool = False) -> Pattern:
    return Pattern(re.compile(regex, re.IGNORECASE), reason, text, stuck)


PATTERNS = (
    _pattern(
        r"Not enough memory to handle (?P<n>\d+) prefill tokens",
        Reason.GPU_OUT_OF_MEMORY,
        "the GPU ran out of memory while warming up with {n} prefill tokens;"
        " lower limits.maxInputTokens or give it more GPUs",
    ),
    _pattern(
        r"Not enough memory to handle `?max_total_tokens`?\D{0,4}(?P<n>\d+)",
        Reason.GPU_OUT_OF_MEMORY,
        "what is left of the GPU's memory cannot hold {n} tokens;"
        " lower limits.maxTotalTokens or give it more GPUs",
    ),
    _pattern(
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory",
        Reason.GPU_OUT_OF_MEMORY,
        "the GPU ran out of memory",
    ),
    _pattern(
        r"40[13] (Client Error|Unauthorized|Forbidden)|status:? 40[13]\b|GatedRepo|gated repo",
        Reason.HUB_UNAUTHORIZED,
        "the Hub refused access to the model (401/403): check model.id, or set"
        " model.tokenSecretRef to a token that has been granted access",
        stuck=True,
    ),
    _pattern(
        r"RepositoryNotFound|RevisionNotFound|(?<!Local)EntryNotFound|404 (Client Error|Not Found)"
        r"|status:? 404\b",
        Reason.HUB_NOT_FOUND,
        "the Hub has no such model or revision (404): check model.id and model.revision",
        stuck=True,
    ),
    _pattern(
        r"429 Client Error|status:? 429\b|Too Many Requests",
        Reason.HUB_RATE_LIMITED,
        "the Hub limits the rate of downloads (429): use model.cache.claimName to download once",
    ),
    _pattern(
        r"unexpected argument|invalid value|cannot be used multiple times|ArgumentValidation",
        Reason.ARGUMENTS_REFUSED,
        "the engine refused its arguments; its log says which one",
        stuck=True,
    ),
    _pattern(
        r"signaled to shutdown with signal 9\b",
        Reason.HOST_OUT_OF_MEMORY,
        "a shard was killed (signal 9), as it is where the container exceeds its memory limit (host"
        " RAM): raise resources.limits.memory",
    ),
    _pattern(
        r"signal:? ?7\b|SIGBUS|Bus error",
        Reason.SHARD_FAILED,
        "a shard died of signal 7: /dev/shm is too small for its peers",
    ),
    _pattern(
        r"NotEnoughCUDADevices|Each process is one gpu",
        Reason.SHARD_FAILED,
        "the pod sees fewer GPUs than it was given shards",
    ),
    _pattern(
        r"No space left on device",
        Reason.DOWNLOAD_FAILED,
        "the volume for the model's files is full: give model.cache.claimName a larger claim",
    ),
    _pattern(
        r"DownloadError|LocalEntryNotFound|ConnectionError|ConnectTimeout"
        r"|Name or service not known",
        Reason.DOWNLOAD_FAILED,
        "the model's files could not be downloaded; is the Hub reachable from the pod?",
    ),
    _pattern(
        r"ShardCannotStart|ShardFailed|ShardDisconnected",
        Reason.SHARD_FAILED,
        "a shard of the engine failed; its log says why",
    ),
)


def failure(pod: PodFact, lost_nodes: Collection[str] = ()) -> Failure | None:
    """The cause that keeps this pod from serving; None if it serves or is merely on its way."""
    if pod.ready or pod.deleting:
        return None
    if pod.phase == "Failed":
        return _ended(pod)
    if pod.node and pod.node in lost_nodes:
        return Failure(pod.name, Reason.NODE_LOST, f"node {pod.node} does not answer")
    if pod.unschedulable:
        return unschedulable(pod.name, pod.unschedulable)
    if pod.container is not None:
        return _container(pod.name, pod.container)
    return None


def unschedulable(pod: str | None, message: str) -> Failure:
    """What the scheduler's message means for a model's pod."""
    short = re.split(r" preemption:| no new claims to deallocate", message)[0].strip().rstrip(".,")
    if "persistentvolumeclaim" in message.lower():
        return Failure(pod, Reason.CLAIM_PENDING, f"the volume claim is not ready: {short}")
    lacking = re.findall(r"Insufficient (\S+?)[,.]?(?:\s|$)", message)
    if any("/" in resource for resource in lacking):
        return Failure(
            pod, Reason.WAITING_FOR_GPU, f"no node has the GPUs free: {short}", room=True
        )
    if "node affinity" in message and not lacking:
        return Failure(pod, Reason.WAITING_FOR_GPU, f"no node has the wanted GPU: {short}")
    text = f"no node can take it: {short}"
    return Failure(pod, Reason.UNSCHEDULABLE, text, room=bool(lacking))


def creation_refused(message: str) -> Failure:
    """Why the API server refuses new pods of a revision (a ReplicaSet's ReplicaFailure)."""
    if "exceeded quota" in message:
        text = message[message.index("exceeded quota") :][:512]
        return Failure(None, Reason.QUOTA_EXCEEDED, text, room=True)
    refusal = message.split("is forbidden: ", 1)[-1].split("denied the request: ", 1)[-1]
    return Failure(None, Reason.ADMISSION_REFUSED, f"the API server refuses pods: {refusal[:512]}")


def _ended(pod: PodFact) -> Failure | None:
    if pod.reason == "Evicted":
        return Failure(pod.name, Reason.EVICTED, "evicted by its node")
    if pod.reason:
        return Failure(pod.name, Reason.ADMISSION_REFUSED, f"its node refused it ({pod.reason})")
    return None


def _container(pod: str, fact: ContainerFact) -> Failure | None:
    if fact.state == "waiting" and fact.reason in ("ErrImagePull", "ImagePullBackOff"):
        return Failure(
            pod,
            Reason.IMAGE_PULL_FAILED,
            "the image cannot be pulled: check runtime.image, runtime.version and"
            " runtime.imagePullSecrets",
            stuck=fact.reason == "ImagePullBackOff",
        )
    if fact.state == "waiting" and fact.reason == "InvalidImageName":
        return Failure(pod, Reason.IMAGE_PULL_FAILED, "runtime.image is not an image", stuck=True)
    if fact.state == "waiting" and fact.reason == "CreateContainerConfigError":
        return Failure(
            pod,
            Reason.CONFIG_MISSING,
            "a Secret that the spec refers to, or a key of it, does not exist",
        )
    if fact.state == "running" and fact.started:
        text = "the engine does not answer /health any more"
        return Failure(pod, Reason.PROBE_FAILED, text) if fact.served else None
    if fact.exit_code not in (None, 0) or fact.ended_reason == "OOMKilled":
        return _crash(pod, fact)
    if fact.restarts:
        return Failure(
            pod,
            Reason.PROBE_FAILED,
            "the engine did not answer /health in time and was restarted",
            fact.restarts,
            stuck=fact.restarts >= PATIENCE,
        )
    return None


def _crash(pod: str, fact: ContainerFact) -> Failure:
    lasting = fact.restarts >= PATIENCE
    if fact.ended_reason == "OOMKilled":
        text = "the container exceeded its memory limit (host RAM): raise resources.limits.memory"
        return Failure(pod, Reason.HOST_OUT_OF_MEMORY, text, fact.restarts, lasting)
    for pattern in PATTERNS:
        if found := pattern.regex.search(fact.message):
            text = pattern.text.format(**found.groupdict())
            return Failure(pod, pattern.reason, text, fact.restarts, stuck=pattern.stuck or lasting)
    if fact.exit_code == 2:
        text = "the engine refused its arguments (exit code 2)"
        return Failure(pod, Reason.ARGUMENTS_REFUSED, text, fact.restarts, stuck=True)
    text = f"the engine ended with exit code {fact.exit_code}"
    return Failure(pod, Reason.CRASHED, text, fact.restarts, lasting)
