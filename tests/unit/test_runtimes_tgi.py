"""TGI's container: image and version, arguments, environment, probes, resources, volumes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.desired_inputs import AWQ, COMMIT, EETQ, PLAN_8B, plan, resolved, spec

from llm_operator.api.spec import Runtime
from llm_operator.desired.revision import Defaults
from llm_operator.runtimes.base import EnginePod, Image, engine, parse_version, show_version
from llm_operator.runtimes.terms import Plan, Refusal

TGI = engine("tgi")


def pod(plan: Plan = PLAN_8B, version: str | None = None, **parts: Any) -> EnginePod:
    wanted = spec(**parts)
    return TGI.pod(wanted, resolved(wanted, plan, Defaults(version=version)))


def value(serving: EnginePod, flag: str) -> str | None:
    """The value of an argument; every one must be there at most once."""
    args = serving.container["args"]
    assert args.count(flag) <= 1
    return next((second for first, second in pairwise(args) if first == flag), None)


def environment(serving: EnginePod) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in serving.container["env"]}


@pytest.mark.parametrize(
    ("runtime", "image"),
    [
        (None, Image("ghcr.io/huggingface/text-generation-inference:3.3.7", (3, 3, 7))),
        ({"version": "3.2.0"}, Image("mirror/tgi:3.2.0", (3, 2, 0))),
        ({"image": "mirror:5000/tgi:3.3.5"}, Image("mirror:5000/tgi:3.3.5", (3, 3, 5))),
        ({"image": "tgi:3.3.5-patched", "version": "2.4.0"}, Image("tgi:3.3.5-patched", (3, 3, 5))),
        ({"image": "tgi:3.3"}, Image("tgi:3.3", (3, 3, 0))),
        ({"image": "tgi:latest", "version": "3.3.7"}, Image("tgi:latest", (3, 3, 7))),
        (
            {"image": "h:5000/tgi@sha256:ab", "version": "3.3.7"},
            Image("h:5000/tgi@sha256:ab", (3, 3, 7)),
        ),
        ({"image": "tgi:3.3.7@sha256:ab"}, Image("tgi:3.3.7@sha256:ab", (3, 3, 7))),
    ],
)
def test_image(runtime: dict[str, str] | None, image: Image) -> None:
    wanted = Runtime.model_validate(runtime) if runtime else None
    repository = "mirror/tgi" if runtime else None
    assert TGI.image(wanted, repository) == image


def test_operators_default_version_is_used_where_the_user_names_none() -> None:
    assert TGI.image(None, "tgi", "3.3.5") == Image("tgi:3.3.5", (3, 3, 5))


@pytest.mark.parametrize(
    "image", ["tgi:latest", "tgi:sha-1234567", "host:5000/tgi", "tgi@sha256:ab"]
)
def test_image_of_unknown_version_is_refused(image: str) -> None:
    refusal = TGI.image(Runtime(image=image))
    assert isinstance(refusal, Refusal)
    assert "runtime.version" in refusal.reason


@pytest.mark.parametrize("image", ["tgi:3.3.7-rocm", "tgi:3.3.5-intel-xpu", "tgi:3.3.7-gaudi"])
def test_image_for_other_hardware_is_refused(image: str) -> None:
    refusal = TGI.image(Runtime(image=image, version="3.3.7"))
    assert isinstance(refusal, Refusal)
    assert "CUDA" in refusal.reason


def test_versions_as_text_and_numbers() -> None:
    assert parse_version("3.10.2") == (3, 10, 2)
    assert show_version((3, 10, 2)) == "3.10.2"


def test_the_plan_is_in_the_arguments() -> None:
    wanted = plan(
        quantization=AWQ,
        tensor_parallel=4,
        kv_cache_dtype="fp8_e5m2",
        max_input_tokens=7000,
        max_total_tokens=8000,
        max_batch_prefill_tokens=7500,
        max_concurrent_requests=64,
    )
    serving = pod(wanted)
    assert value(serving, "--num-shard") == "4"
    assert value(serving, "--quantize") == "awq"
    assert value(serving, "--kv-cache-dtype") == "fp8_e5m2"
    assert value(serving, "--max-input-tokens") == "7000"
    assert value(serving, "--max-total-tokens") == "8000"
    assert value(serving, "--max-batch-prefill-tokens") == "7500"
    assert value(serving, "--max-concurrent-requests") == "64"
    assert serving.container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert serving.container["resources"]["requests"]["nvidia.com/gpu"] == "4"


def test_16_bit_names_no_quantization() -> None:
    args = pod().container["args"]
    assert not {"--quantize", "--dtype", "--kv-cache-dtype"} & set(args)


def test_a_plan_that_does_not_fit_has_no_pod() -> None:
    misfit = plan(fits=False, tensor_parallel=None, message="needs 4 GPUs")
    decided = replace(resolved(spec()), plan=misfit)
    with pytest.raises(ValueError, match="needs 4 GPUs"):
        TGI.pod(spec(), decided)


def test_ports_and_host_are_arguments() -> None:
    serving = pod()
    assert value(serving, "--port") == "8080"
    assert value(serving, "--hostname") == "0.0.0.0"
    assert serving.container["ports"] == [
        {"name": "http", "containerPort": 8080, "protocol": "TCP"}
    ]
    assert not {"PORT", "HOSTNAME", "CUDA_VISIBLE_DEVICES"} & set(environment(serving))


@pytest.mark.parametrize(
    ("version", "has"),
    [("2.4.0", set()), ("3.2.2", {"--graceful-termination-timeout"}),
     ("3.3.0", {"--graceful-termination-timeout", "--prometheus-port"})],
)  # fmt: skip
def test_an_argument_is_given_only_to_versions_that_know_it(version: str, has: set[str]) -> None:
    later = {"--graceful-termination-timeout", "--prometheus-port"}
    assert later & set(pod(version=version).container["args"]) == has


def test_one_field_drives_the_whole_drain() -> None:
    wanted = spec(rollout={"drainSeconds": 300})
    decided = resolved(wanted)
    serving = TGI.pod(wanted, decided)
    before = serving.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert value(serving, "--graceful-termination-timeout") == "300"
    assert decided.drain.grace == before + 300 + 15


def test_the_commit_is_pinned() -> None:
    serving = pod(model={"id": "org/model", "revision": "main"})
    assert value(serving, "--model-id") == "org/model"
    assert value(serving, "--revision") == COMMIT


def test_files_on_a_claim_need_no_network() -> None:
    serving = pod(model={"id": "org/model", "path": "org/model", "cache": {"claimName": "models"}})
    assert value(serving, "--model-id") == "/models/org/model"
    assert value(serving, "--revision") is None
    assert environment(serving)["HF_HUB_OFFLINE"] == "1"
    claim = {"claimName": "models", "readOnly": True}
    assert {"name": "models", "persistentVolumeClaim": claim} in serving.volumes
    mount = {"name": "models", "mountPath": "/models", "readOnly": True}
    assert mount in serving.container["volumeMounts"]


def test_a_claim_as_hub_cache() -> None:
    serving = pod(model={"id": "org/model", "cache": {"claimName": "cache"}})
    assert serving.volumes == ({"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}},)
    assert environment(serving)["HF_HOME"] == serving.container["volumeMounts"][0]["mountPath"]
    assert "ephemeral-storage" not in serving.container["resources"]["requests"]


def test_without_a_claim_the_download_fits_the_volume_and_the_request() -> None:
    serving = pod(plan(quantization=EETQ, weight_bytes=9 << 30, checkpoint_bytes=16 << 30))
    assert serving.container["resources"]["requests"]["ephemeral-storage"] == "22Gi"
    assert serving.volumes[0]["emptyDir"]["sizeLimit"] == "43Gi"


def test_shards_share_memory_that_is_counted() -> None:
    alone, sharded = pod(), pod(plan(tensor_parallel=2))
    assert [volume["name"] for volume in alone.volumes] == ["cache"]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    assert shm in sharded.volumes
    assert {"name": "shm", "mountPath": "/dev/shm"} in sharded.container["volumeMounts"]
    assert alone.container["resources"]["requests"]["memory"] == "6Gi"
    assert sharded.container["resources"]["requests"]["memory"] == "9Gi"


def test_quantizing_while_loading_takes_more_host_memory() -> None:
    assert pod(plan(quantization=EETQ)).container["resources"]["requests"]["memory"] == "11Gi"


def test_the_users_resources_win_and_requests_stay_below_limits() -> None:
    wish = {"requests": {"cpu": "500m"}, "limits": {"memory": "4Gi", "cpu": "8"}}
    resources = pod(resources=wish).container["resources"]
    assert resources["limits"] == {"memory": "4Gi", "cpu": "8", "nvidia.com/gpu": "1"}
    assert resources["requests"]["cpu"] == "500m"
    assert resources["requests"]["memory"] == "4Gi"


def test_the_hub_token_is_never_seen() -> None:
    serving = pod(model={"id": "a/b", "tokenSecretRef": {"name": "hub", "key": "token"}})
    assert {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
    } in serving.container["env"]


def test_trust_remote_code_only_when_asked() -> None:
    assert "--trust-remote-code" not in pod().container["args"]
    trusting = pod(model={"id": "a/b", "trustRemoteCode": True})
    assert "--trust-remote-code" in trusting.container["args"]


def test_a_value_that_the_images_shell_would_split_goes_by_environment() -> None:
    wanted = spec(model={"id": "a/b", "cache": {"claimName": "m"}, "path": "x"})
    odd = wanted.model.model_copy(update={"path": "my models/*"})
    wanted = wanted.model_copy(update={"model": odd})
    serving = TGI.pod(wanted, resolved(wanted))
    assert "--model-id" not in serving.container["args"]
    assert environment(serving)["MODEL_ID"] == "/models/my models/*"


def test_no_variable_is_empty() -> None:
    serving = pod(runtime={"prefixCaching": True, "env": [{"name": "NCCL_DEBUG", "value": "WARN"}]})
    assert all(value != "" for value in environment(serving).values())


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 900), (1, 901), (100 << 30, 2700), (10_000 << 30, 10_800)]
)
def test_startup_budget_grows_with_the_bytes_to_load(size: int, seconds: int) -> None:
    assert TGI.startup_seconds(size) == seconds


def test_probes() -> None:
    container = pod().container
    startup, ready, live = (
        container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")
    )
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 900 + 18 * 14
    assert (ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]) == (
        5,
        10,
        3,
    )
    assert live["failureThreshold"] * live["periodSeconds"] >= 300
    for probe in (startup, ready, live):
        assert probe["httpGet"] == {"path": "/health", "port": "http", "scheme": "HTTP"}


def test_security() -> None:
    context = pod().container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_metrics_are_scraped_on_the_serving_port() -> None:
    assert dict(pod().annotations) == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
    }


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        engine("nothing")
