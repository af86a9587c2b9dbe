"""The user's options: how they are spelled for TGI's launcher, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.desired_inputs import spec

from llm_operator.runtimes import tgi_options

NEWEST = (3, 3, 7)


def arguments(**runtime: Any) -> list[tuple[str, ...]]:
    wanted = spec(runtime=runtime).runtime
    assert wanted is not None
    return list(tgi_options.option_arguments(wanted))


def environment(**runtime: Any) -> dict[str, Any]:
    wanted = spec(runtime=runtime).runtime
    assert wanted is not None
    return {
        item["name"]: item.get("value", item.get("valueFrom"))
        for item in tgi_options.option_environment(wanted)
    }


def test_an_unset_option_says_nothing() -> None:
    assert arguments() == []
    assert environment() == {}


@pytest.mark.parametrize(
    ("field", "value", "spelled"),
    [
        ("dtype", "bfloat16", [("--dtype", "bfloat16")]),
        ("speculate", 2, [("--speculate", "2")]),
        ("cudaGraphs", [1, 2, 4], [("--cuda-graphs", "1,2,4")]),
        ("cudaGraphs", [], [("--cuda-graphs", "0")]),
        ("cudaMemoryFraction", 0.8, [("--cuda-memory-fraction", "0.8")]),
        ("maxBatchSize", 32, [("--max-batch-size", "32")]),
        ("maxWaitingTokens", 20, [("--max-waiting-tokens", "20")]),
        ("waitingServedRatio", 0, [("--waiting-served-ratio", "0.0")]),
        ("maxBestOf", 4, [("--max-best-of", "4")]),
        ("maxStopSequences", 8, [("--max-stop-sequences", "8")]),
        ("maxTopNTokens", 5, [("--max-top-n-tokens", "5")]),
        ("maxClientBatchSize", 8, [("--max-client-batch-size", "8")]),
        ("payloadLimit", 4000000, [("--payload-limit", "4000000")]),
        ("validationWorkers", 4, [("--validation-workers", "4")]),
        ("disableGrammarSupport", True, [("--disable-grammar-support",)]),
        ("disableGrammarSupport", False, []),
        ("enablePrefillLogprobs", True, [("--enable-prefill-logprobs",)]),
        ("disableCustomKernels", True, [("--disable-custom-kernels",)]),
        (
            "ropeScaling",
            {"type": "dynamic", "factor": 2},
            [("--rope-scaling", "dynamic"), ("--rope-factor", "2.0")],
        ),
        (
            "loraAdapters",
            [{"id": "org/a"}, {"id": "org/b", "revision": "main"}],
            [("--lora-adapters", "org/a,org/b@main")],
        ),
    ],
)
def test_arguments(field: str, value: object, spelled: list[tuple[str, ...]]) -> None:
    assert arguments(**{field: value}) == spelled


@pytest.mark.parametrize(
    ("field", "value", "variables"),
    [
        ("prefixCaching", True, {"PREFIX_CACHING": "1"}),
        ("prefixCaching", False, {"PREFIX_CACHING": "0"}),
        ("prefillChunking", False, {"PREFILL_CHUNKING": "0"}),
        ("attention", "paged", {"ATTENTION": "paged"}),
        (
            "apiKeySecretRef",
            {"name": "keys", "key": "llm"},
            {"API_KEY": {"secretKeyRef": {"name": "keys", "key": "llm"}}},
        ),
        ("env", [{"name": "NCCL_DEBUG", "value": "INFO"}], {"NCCL_DEBUG": "INFO"}),
        ("env", [{"name": "NCCL_DEBUG", "value": "$(HF_TOKEN)"}], {"NCCL_DEBUG": "$$(HF_TOKEN)"}),
    ],
)
def test_environment(field: str, value: object, variables: dict[str, Any]) -> None:
    assert environment(**{field: value}) == variables


@pytest.mark.parametrize(
    ("parts", "version"),
    [
        ({}, (2, 4, 0)),
        ({"runtime": {"payloadLimit": 1000}}, (2, 4, 1)),
        ({"runtime": {"env": [{"name": "NCCL_P2P_DISABLE", "value": "1"}]}}, NEWEST),
        ({"runtime": {"env": [{"name": "MAX_IMAGE_FETCH_SIZE", "value": "1"}]}}, NEWEST),
        ({"runtime": {"env": [{"name": "TGI_WIGGLE_ROOM", "value": "0.95"}]}}, NEWEST),
        ({"model": {"id": "a/b", "path": "a/b", "cache": {"claimName": "models"}}}, NEWEST),
        ({"rollout": {"drainSeconds": 90}}, (3, 2, 1)),
        ({"rollout": {"drainSeconds": 600}}, (3, 2, 2)),
        ({"resources": {"limits": {"memory": "16Gi"}}}, NEWEST),
    ],
)
def test_accepted(parts: dict[str, Any], version: tuple[int, int, int]) -> None:
    assert tgi_options.refuse_options(spec(**parts), version) is None


LOCAL = {"id": "a/b", "path": "a/b", "cache": {"claimName": "models"}}


@pytest.mark.parametrize(
    ("parts", "version", "mentioned"),
    [
        ({"runtime": {"payloadLimit": 1000}}, (2, 4, 0), ("runtime.payloadLimit", "2.4.1")),
        ({"runtime": {"enablePrefillLogprobs": True}}, (2, 4, 1), ("3.0.0", "2.4.1")),
        ({"runtime": {"prefillChunking": True}}, (2, 4, 1), ("runtime.prefillChunking", "3.0.0")),
        ({"runtime": {"env": [{"name": "LD_PRELOAD", "value": "x"}]}}, NEWEST, ("LD_PRELOAD",)),
        ({"runtime": {"env": [{"name": "NUM_SHARD", "value": "2"}]}}, NEWEST, ("typed field",)),
        (
            {"runtime": {"env": [{"name": "MAX_IMAGE_FETCH_SIZE", "value": "1"}]}},
            (3, 3, 6),
            ("3.3.7", "3.3.6"),
        ),
        (
            {"runtime": {"env": [{"name": "NCCL_DEBUG", "value": v} for v in "ab"]}},
            NEWEST,
            ("NCCL_DEBUG", "more than once"),
        ),
        (
            {"runtime": {"env": [{"name": "TGI_WIGGLE_ROOM", "value": "0.8"}]}},
            NEWEST,
            ("0.8", "0.9", "runtime.cudaMemoryFraction"),
        ),
        ({"runtime": {"env": [{"name": "TGI_WIGGLE_ROOM", "value": "x"}]}}, NEWEST, ("x",)),
        ({"model": {"id": "a/b", "path": "a/b"}}, NEWEST, ("model.cache.claimName",)),
        ({"model": {**LOCAL, "path": "a/../../etc"}}, NEWEST, ("'..'",)),
        ({"model": {**LOCAL, "revision": "main"}}, NEWEST, ("model.revision",)),
        (
            {"model": LOCAL, "runtime": {"loraAdapters": [{"id": "x/y"}]}},
            NEWEST,
            ("loraAdapters", "model.path"),
        ),
        ({"limits": {"maxInputTokens": 10, "maxTotalTokens": 10}}, NEWEST, ("10",)),
        ({"resources": {"limits": {"memory": "1024Mi"}}}, NEWEST, ("1024Mi", "/dev/shm")),
        ({"rollout": {"drainSeconds": 91}}, (3, 2, 1), ("91", "3.2.2", "3.2.1", "90 s")),
    ],
)
def test_refused(
    parts: dict[str, Any], version: tuple[int, int, int], mentioned: tuple[str, ...]
) -> None:
    refusal = tgi_options.refuse_options(spec(**parts), version)
    assert refusal is not None
    for text in mentioned:
        assert text in refusal.reason
