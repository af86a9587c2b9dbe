"""text-generation-inference 2.4 to 3.3: how a plan becomes its container.

Decides arguments, environment, probes and drain of the engine's container. The rules of what can
run are in `tgi_rules`, the user's options in `tgi_options`, memory and disk in `tgi_resources`.
Knows nothing of labels, nodes, owners or revisions.

Security: the stock images from 3.1.1 on start only as root (their Python lives under /root), so
`runAsNonRoot` cannot be. The container therefore keeps root, drops every capability but
DAC_OVERRIDE (without it root cannot write a claim that another user owns), cannot gain privileges,
and listens above 1024. The root filesystem stays writable: the entrypoint runs ldconfig and the
router writes ./out into the image's own working directory. That directory must not be changed: in
some versions the entrypoint finds its virtual environment relative to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from llm_operator.api.spec import LLMDeploymentSpec, Runtime
from llm_operator.runtimes import tgi_options, tgi_resources, tgi_rules
from llm_operator.runtimes.base import (
    Drain,
    EnginePod,
    Image,
    Json,
    MetricNames,
    Resolved,
    Version,
    parse_version,
    show_version,
)
from llm_operator.runtimes.quantities import GIB
from llm_operator.runtimes.terms import Launch, Refusal

PORT: Final = 8080
PROMETHEUS_PORT: Final = 9000
"""Nothing is served there, but the router binds it while it starts."""
PROMETHEUS_PORT_SINCE: Final[Version] = (3, 3, 0)

PRE_STOP_SECONDS: Final = 10
SHARD_EXIT_SECONDS: Final = 15

STARTUP_BASE_SECONDS: Final = 15 * 60
STARTUP_SECONDS_PER_GIB: Final = 18
STARTUP_MAX_SECONDS: Final = 180 * 60
PROBE_PERIOD_SECONDS: Final = 5

OTHER_HARDWARE: Final = ("trtllm", "rocm", "intel", "neuron", "gaudi")
_TAG: Final = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-_+.](?P<variant>\w+).*)?")
_SAFE_ARGUMENT: Final = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9./:_,=@+-]*")


class Tgi:
    """text-generation-inference, the CUDA image."""

    name = "tgi"
    default_version = show_version(tgi_rules.NEWEST)
    default_repository = "ghcr.io/huggingface/text-generation-inference"
    port = PORT
    health_path = "/health"
    on_the_fly = tgi_rules.ON_THE_FLY
    windowed_kv_cache = False  # its paged cache has blocks of all layers for every token
    metrics = MetricNames(
        path="/metrics",
        queued_requests="tgi_queue_size",
        running_requests="tgi_batch_current_size",
        succeeded_requests="tgi_request_success",
        failed_requests="tgi_request_failure",
        queue_seconds="tgi_request_queue_duration",
        request_seconds="tgi_request_duration",
        generated_tokens="tgi_request_generated_tokens",
        token_seconds="tgi_request_mean_time_per_token_duration",
        failure_label="err",
        refused="overloaded",
        client_failures=("validation", "dropped"),
    )

    def image(
        self, runtime: Runtime | None, repository: str | None = None, version: str | None = None
    ) -> Image | Refusal:
        """What the user named, else the default. A tag that hides its version is refused."""
        named = runtime.version if runtime else None
        if runtime is None or runtime.image is None:
            chosen = named or version or self.default_version
            return Image(f"{repository or self.default_repository}:{chosen}", parse_version(chosen))
        reference = runtime.image
        tag = reference.split("@")[0].rpartition("/")[2].partition(":")[2]
        match = _TAG.fullmatch(tag)
        if match is not None and (match["variant"] or "").startswith(OTHER_HARDWARE):
            return Refusal(
                "version",
                f"{reference} is built for other hardware; only TGI's CUDA image is supported:"
                f" use the tag without -{match['variant']}.",
            )
        if match is not None:
            return Image(reference, (int(match[1]), int(match[2]), int(match[3] or 0)))
        if named is not None:
            return Image(reference, parse_version(named))
        return Refusal(
            "version",
            f"the tag of {reference} does not say which TGI it is: set runtime.version, too.",
        )

    def refuse(self, launch: Launch) -> Refusal | None:
        return tgi_rules.refuse(launch)

    def refuse_options(self, spec: LLMDeploymentSpec, version: Version) -> Refusal | None:
        return tgi_options.refuse_options(spec, version)

    def warnings(self, launch: Launch) -> tuple[str, ...]:
        return tgi_rules.warnings(launch)

    def drain(self, version: Version, seconds: int) -> Drain:
        """Before 3.2.2 the engine's own limit is fixed at 90 s; the kubelet's follows `seconds`."""
        return Drain(PRE_STOP_SECONDS, seconds, PRE_STOP_SECONDS + seconds + SHARD_EXIT_SECONDS)

    def startup_seconds(self, checkpoint_bytes: int) -> int:
        """15 min and 18 s per GiB to load, at most 3 h (KAITO's rule)."""
        loading = -(-checkpoint_bytes * STARTUP_SECONDS_PER_GIB // GIB)
        return min(STARTUP_BASE_SECONDS + loading, STARTUP_MAX_SECONDS)

    def pod(self, spec: LLMDeploymentSpec, resolved: Resolved) -> EnginePod:
        """Container, volumes and scrape annotations. ValueError if the plan does not fit."""
        plan = resolved.plan
        if not plan.fits or plan.tensor_parallel is None:
            raise ValueError(f"a plan that does not fit has no pod: {plan.message}")
        directories, mounts = tgi_resources.volumes(spec, plan, plan.tensor_parallel)
        args, spilled = _shell_safe(_arguments(spec, resolved))
        container = {
            "name": self.name,
            "image": resolved.image,
            "imagePullPolicy": "IfNotPresent",
            "args": args,
            "env": [*_environment(spec), *spilled],
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "resources": tgi_resources.resources(spec, resolved, plan.tensor_parallel),
            "volumeMounts": mounts,
            "startupProbe": _probe(
                period=PROBE_PERIOD_SECONDS,
                timeout=10,
                failures=-(-resolved.startup_seconds // PROBE_PERIOD_SECONDS),
            ),
            # A long prefill blocks /health for ten seconds and more; a closed port fails at once.
            "readinessProbe": _probe(period=5, timeout=10, failures=3),
            "livenessProbe": _probe(period=30, timeout=30, failures=10),
            "lifecycle": {"preStop": {"sleep": {"seconds": resolved.drain.pre_stop}}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        scrape = {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(PORT),
            "prometheus.io/path": self.metrics.path,
        }
        return EnginePod(container, tuple(directories), scrape)


ENGINE: Final = Tgi()


def _arguments(spec: LLMDeploymentSpec, resolved: Resolved) -> Iterator[tuple[str, ...]]:
    """Launcher options in a fixed order, each as (flag,) or (flag, value)."""
    plan, model = resolved.plan, spec.model
    if model.path is not None:
        yield "--model-id", f"{tgi_resources.MODELS}/{model.path.strip('/')}"
    else:
        yield "--model-id", model.id
        if revision := resolved.commit or model.revision:
            yield "--revision", revision
    if model.trust_remote_code:
        yield ("--trust-remote-code",)
    yield "--num-shard", str(plan.tensor_parallel)
    if plan.quantization.method != "none":
        yield "--quantize", plan.quantization.method
    if plan.kv_cache_dtype is not None:
        yield "--kv-cache-dtype", plan.kv_cache_dtype
    yield "--max-input-tokens", str(plan.max_input_tokens)
    yield "--max-total-tokens", str(plan.max_total_tokens)
    yield "--max-batch-prefill-tokens", str(plan.max_batch_prefill_tokens)
    yield "--max-concurrent-requests", str(plan.max_concurrent_requests)
    yield from tgi_options.option_arguments(spec.runtime or Runtime())
    yield "--hostname", "0.0.0.0"
    yield "--port", str(PORT)
    if resolved.engine_version >= PROMETHEUS_PORT_SINCE:
        yield "--prometheus-port", str(PROMETHEUS_PORT)
    if resolved.engine_version >= tgi_options.GRACEFUL_SINCE:
        yield "--graceful-termination-timeout", str(resolved.drain.graceful)
    yield "--usage-stats", "off"


def _shell_safe(options: Iterator[tuple[str, ...]]) -> tuple[list[str], list[Json]]:
    """Arguments, and as environment those whose value the image's shell would split or expand."""
    args: list[str] = []
    env: list[Json] = []
    for flag, *value in options:
        if value and not _SAFE_ARGUMENT.fullmatch(value[0]):
            env.append(tgi_options.plain(flag[2:].replace("-", "_").upper(), value[0]))
        else:
            args += [flag, *value]
    return args, env


def _environment(spec: LLMDeploymentSpec) -> Iterator[Json]:
    yield tgi_options.plain("HF_HOME", tgi_resources.HF_HOME)
    if spec.model.path is not None:
        yield tgi_options.plain("HF_HUB_OFFLINE", "1")
    if spec.model.token_secret_ref is not None:
        yield tgi_options.from_secret("HF_TOKEN", spec.model.token_secret_ref)
    yield from tgi_options.option_environment(spec.runtime or Runtime())


def _probe(period: int, timeout: int, failures: int) -> Json:
    return {
        "httpGet": {"path": Tgi.health_path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
        "successThreshold": 1,
    }
