"""The user's options for text-generation-inference: as arguments and environment, or refused.

Decides how each typed field of the spec is spelled for the launcher, since which version it
exists. Refuses to know the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from llm_operator.api.env import ALLOWED_ENV, ALLOWED_ENV_PREFIX, env_allowed
from llm_operator.api.spec import LLMDeploymentSpec, Runtime, SecretKeyRef
from llm_operator.runtimes.base import Version, show_version
from llm_operator.runtimes.quantities import GIB, parse_quantity
from llm_operator.runtimes.terms import Refusal
from llm_operator.runtimes.tgi_rules import CHUNKING_SINCE

Json = dict[str, Any]

GRACEFUL_SINCE: Final[Version] = (3, 2, 2)
FIXED_GRACEFUL_SECONDS: Final = 90
ENV_SINCE: Final[dict[str, Version]] = {"MAX_IMAGE_FETCH_SIZE": (3, 3, 7)}
FIELD_SINCE: Final[dict[str, Version]] = {
    "payload_limit": (2, 4, 1),
    "enable_prefill_logprobs": (3, 0, 0),
    "prefill_chunking": CHUNKING_SINCE,
}

PLANNED_ROOM: Final = 0.9
"""Share of a GPU that TGI takes unless TGI_WIGGLE_ROOM says otherwise; plans rest on it."""

SHM_BYTES: Final = GIB
"""/dev/shm of a sharded pod, what TGI's README asks for; memory of the container."""

_VALUES: Final = {
    "dtype": "--dtype",
    "speculate": "--speculate",
    "cuda_memory_fraction": "--cuda-memory-fraction",
    "max_batch_size": "--max-batch-size",
    "max_waiting_tokens": "--max-waiting-tokens",
    "waiting_served_ratio": "--waiting-served-ratio",
    "max_best_of": "--max-best-of",
    "max_stop_sequences": "--max-stop-sequences",
    "max_top_n_tokens": "--max-top-n-tokens",
    "max_client_batch_size": "--max-client-batch-size",
    "payload_limit": "--payload-limit",
    "validation_workers": "--validation-workers",
}
_FLAGS: Final = {
    "disable_grammar_support": "--disable-grammar-support",
    "enable_prefill_logprobs": "--enable-prefill-logprobs",
    "disable_custom_kernels": "--disable-custom-kernels",
}
_SWITCHES: Final = {"prefix_caching": "PREFIX_CACHING", "prefill_chunking": "PREFILL_CHUNKING"}
"""No launcher argument exists for these."""


def option_arguments(runtime: Runtime) -> Iterator[tuple[str, ...]]:
    """The user's own options, each as (flag,) or (flag, value); unset keeps TGI's default."""
    for field, flag in _VALUES.items():
        if (value := getattr(runtime, field)) is not None:
            yield flag, str(value)
    for field, flag in _FLAGS.items():
        if getattr(runtime, field):
            yield (flag,)
    if runtime.cuda_graphs is not None:
        # On the command line "0" turns graphs off; by environment the shards misread it.
        yield "--cuda-graphs", ",".join(map(str, runtime.cuda_graphs)) or "0"
    if runtime.rope_scaling is not None:
        yield "--rope-scaling", runtime.rope_scaling.type
        yield "--rope-factor", str(runtime.rope_scaling.factor)
    if runtime.lora_adapters:
        adapters = (f"{a.id}@{a.revision}" if a.revision else a.id for a in runtime.lora_adapters)
        yield "--lora-adapters", ",".join(adapters)


def option_environment(runtime: Runtime) -> Iterator[Json]:
    """The user's options that exist only as environment variables, and `runtime.env`."""
    for field, name in _SWITCHES.items():
        if (value := getattr(runtime, field)) is not None:
            yield plain(name, "1" if value else "0")
    if runtime.attention is not None:
        yield plain("ATTENTION", runtime.attention)
    if runtime.api_key_secret_ref is not None:
        yield from_secret("API_KEY", runtime.api_key_secret_ref)
    for variable in runtime.env or ():
        yield plain(variable.name, variable.value)


def plain(name: str, value: str) -> Json:
    """An environment variable with this very value: `$(X)` in it is not expanded."""
    return {"name": name, "value": literal(value)}


def from_secret(name: str, ref: SecretKeyRef) -> Json:
    """An environment variable that the kubelet reads; the operator never sees the value."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}


def literal(value: str) -> str:
    """The value, safe from the kubelet's expansion of `$(NAME)`."""
    return value.replace("$(", "$$(")


def refuse_options(spec: LLMDeploymentSpec, version: Version) -> Refusal | None:
    """The first of the user's own words that this version cannot take, whatever the plan."""
    runtime = spec.runtime or Runtime()
    checks = (_too_new(runtime, version), _env(runtime, version), _model(spec), _limits(spec))
    found = [reason for reasons in checks for reason in reasons]
    found += _drain(spec, version)
    return found[0] if found else None


def _too_new(runtime: Runtime, version: Version) -> Iterator[Refusal]:
    for field, since in FIELD_SINCE.items():
        if getattr(runtime, field) is not None and version < since:
            name = re.sub(r"_([a-z])", lambda match: match[1].upper(), field)
            yield Refusal(
                "version",
                f"runtime.{name} needs TGI {show_version(since)} or newer, this is"
                f" {show_version(version)}: raise runtime.version or leave it unset.",
            )


def _env(runtime: Runtime, version: Version) -> Iterator[Refusal]:
    names = [variable.name for variable in runtime.env or ()]
    for name in names:
        if not env_allowed(name):
            yield Refusal(
                "runtime",
                f"runtime.env may not set {name}: use the typed field for it if there is one;"
                f" allowed are {ALLOWED_ENV_PREFIX}*, {', '.join(ALLOWED_ENV)}.",
            )
        if version < ENV_SINCE.get(name, version):
            yield Refusal(
                "version",
                f"{name} is read from TGI {show_version(ENV_SINCE[name])} on, this is"
                f" {show_version(version)}: raise runtime.version or leave it out.",
            )
        if names.count(name) > 1:
            yield Refusal("runtime", f"runtime.env sets {name} more than once: keep one.")
    for variable in runtime.env or ():
        if variable.name == "TGI_WIGGLE_ROOM" and not _keeps_the_plan(variable.value):
            yield Refusal(
                "runtime",
                f"TGI_WIGGLE_ROOM {variable.value} is not between {PLANNED_ROOM} and 1, but the"
                f" plan counts on {PLANNED_ROOM} of each GPU: to use less, set"
                " runtime.cudaMemoryFraction, which is planned with.",
            )


def _keeps_the_plan(room: str) -> bool:
    try:
        return PLANNED_ROOM <= float(room) <= 1
    except ValueError:
        return False


def _model(spec: LLMDeploymentSpec) -> Iterator[Refusal]:
    model = spec.model
    if model.path is None:
        return
    if model.cache is None:
        yield Refusal("model", "model.path is inside a claim: name it in model.cache.claimName.")
    if ".." in model.path.split("/"):
        yield Refusal("model", f"model.path {model.path} leaves the claim: remove the '..'.")
    if model.revision is not None:
        yield Refusal(
            "model",
            "model.revision has no meaning for the files in model.path: remove one of the two.",
        )
    if spec.runtime is not None and spec.runtime.lora_adapters:
        yield Refusal(
            "runtime",
            "runtime.loraAdapters come from the Hub, but with model.path nothing is downloaded:"
            " remove one of the two.",
        )


def _limits(spec: LLMDeploymentSpec) -> Iterator[Refusal]:
    most = spec.limits.max_input_tokens if spec.limits else None
    total = spec.limits.max_total_tokens if spec.limits else None
    if most is not None and total is not None and most >= total:
        yield Refusal(
            "runtime",
            f"limits.maxInputTokens {most} must be below limits.maxTotalTokens {total}: at least"
            " one token is generated.",
        )
    memory = (spec.resources.limits or {}).get("memory") if spec.resources else None
    if memory is not None and parse_quantity(memory) <= SHM_BYTES:
        yield Refusal(
            "runtime",
            f"resources.limits.memory {memory} would be used up by the 1Gi of /dev/shm: give the"
            " engine 8Gi or more.",
        )


def _drain(spec: LLMDeploymentSpec, version: Version) -> Iterator[Refusal]:
    seconds = spec.rollout.drain_seconds if spec.rollout else None
    if seconds is not None and seconds > FIXED_GRACEFUL_SECONDS and version < GRACEFUL_SINCE:
        yield Refusal(
            "version",
            f"rollout.drainSeconds {seconds} needs TGI {show_version(GRACEFUL_SINCE)} or newer;"
            f" {show_version(version)} cuts requests after {FIXED_GRACEFUL_SECONDS} s: raise"
            " runtime.version or lower drainSeconds.",
        )
