"""The parser's rules beyond the recorded command lines: releases, spellings, limits."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.cluster.tgi.args import PrintAndExit, UsageError, parse
from llm_operator.cluster.tgi.launcher import Refused, launch
from llm_operator.cluster.tgi.versions import NEWEST, Version, forwards_sigterm, of_image

IMAGE = "ghcr.io/huggingface/text-generation-inference"


@pytest.mark.parametrize(
    ("image", "version"),
    [
        (f"{IMAGE}:3.3.7", (3, 3, 7)),
        (f"{IMAGE}:3.3.4-rocm", (3, 3, 4)),
        (f"{IMAGE}:2.4", (2, 4, 1)),
        (f"{IMAGE}:3.3.5@sha256:0123", (3, 3, 5)),
        (f"{IMAGE}:latest", NEWEST),
        (f"{IMAGE}:sha-f6e2f05", NEWEST),
        ("localhost:5000/text-generation-inference", NEWEST),
    ],
)
def test_release_of_an_image(image: str, version: tuple[int, int, int]) -> None:
    assert of_image(image) == version


@pytest.mark.parametrize(
    ("argv", "last_without", "first_with"),
    [
        (["--graceful-termination-timeout", "30"], (3, 2, 1), (3, 2, 2)),
        (["--prometheus-port", "9001"], (3, 2, 3), (3, 3, 0)),
        (["--enable-prefill-logprobs"], (2, 4, 1), (3, 0, 0)),
        (["--kv-cache-dtype", "fp8_e5m2"], (2, 3, 1), (2, 4, 0)),
        (["--payload-limit", "1000"], (2, 4, 0), (2, 4, 1)),
        (["--quantize", "compressed-tensors"], (2, 4, 0), (2, 4, 1)),
        (["--quantize", "exl2"], (2, 0, 4), (2, 1, 0)),
        (["--quantize", "fp8"], (1, 4, 5), (2, 0, 0)),
        (["--quantize", "awq"], (1, 0, 3), (1, 1, 0)),
        (["--usage-stats", "off"], (2, 2, 0), (2, 3, 0)),
        (["--api-key", "x"], (2, 2, 0), (2, 3, 0)),
        (["--max-input-tokens", "10"], (1, 4, 5), (2, 0, 0)),
    ],
)
def test_older_releases_refuse_younger_options(
    argv: list[str], last_without: tuple[int, int, int], first_with: tuple[int, int, int]
) -> None:
    parse(argv, {}, Version(*first_with))
    with pytest.raises(UsageError, match=r"unexpected argument|invalid value"):
        parse(argv, {}, Version(*last_without))


def test_an_option_that_was_taken_away() -> None:
    parse(["--disable-usage-stats"], {}, Version(2, 2, 0))
    with pytest.raises(UsageError, match="unexpected argument '--disable-usage-stats' found"):
        parse(["--disable-usage-stats"], {}, Version(2, 3, 0))


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--port=81"], "port", 81),
        (["-p", "81"], "port", 81),
        (["-p81"], "port", 81),
        (["-g=5"], "graceful-termination-timeout", 5),
        (["--cuda-graphs", "1,2", "--cuda-graphs", "4"], "cuda-graphs", (1, 2, 4)),
        (["--num-shard", "+2"], "num-shard", 2),
        (["--waiting-served-ratio", ".5"], "waiting-served-ratio", 0.5),
        (["--json-output"], "json-output", True),
        (["--api-key", "-"], "api-key", "-"),
        (["--model-id=a=b"], "model-id", "a=b"),
    ],
)
def test_spellings(argv: list[str], name: str, value: object) -> None:
    assert parse(argv, {})[name] == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--json-output=true"], "unexpected value 'true' for '--json-output' found"),
        (["--json-output", "true"], "unexpected argument 'true' found"),
        (["--json-output", "--json-output"], "cannot be used multiple times"),
        (["--port", "--json-output"], "a value is required for '--port <PORT>'"),
        (["--port=-1"], "-1 is not in 0..=65535"),
        (["--num-shard=-1"], "invalid digit found in string"),
        (["--num-shard", "1_0"], "invalid digit found in string"),
        (["--num-shard", str(2**64)], "number too large to fit in target type"),
        (["--max-batch-total-tokens", str(2**32)], "is not in 0..=4294967295"),
        (["--"], "unexpected argument '--' found"),
        (["-x"], "unexpected argument '-x' found"),
    ],
)
def test_refusals(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(argv, {})
    assert message in str(error.value)


@pytest.mark.parametrize("argv", [["-h"], ["-V"], ["--port", "80", "--help"]])
def test_help_and_version_print(argv: list[str]) -> None:
    with pytest.raises(PrintAndExit):
        parse(argv, {})


def test_the_command_line_wins_and_env_has_no_variable() -> None:
    args = parse(["--port", "81"], {"PORT": "82", "ENV": "nonsense", "JSON_OUTPUT": "true"})
    assert (args["port"], args["env"], args["json-output"]) == (81, False, True)


@pytest.mark.parametrize(
    ("release", "seen", "shards"), [((3, 3, 7), 4, 4), ((3, 3, 6), 4, 1), ((3, 3, 7), None, 1)]
)
def test_counting_cards_in_cdi_mode(
    release: tuple[int, int, int], seen: int | None, shards: int
) -> None:
    env = {"NVIDIA_VISIBLE_DEVICES": "void"}
    version = Version(*release)
    assert launch(parse([], env, version), env, {}, version, seen).shards == shards


@pytest.mark.parametrize(
    ("argv", "shards"),
    [
        (["--sharded", "false", "--num-shard", "4"], 4),  # false does not take the number back
        (["--sharded", "true", "--num-shard", "2"], 2),
        (["--sharded", "true"], 4),
        (["--sharded", "false"], 1),
        ([], 4),
    ],
)
def test_number_of_shards(argv: list[str], shards: int) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert launch(parse(argv, env), env, {}, NEWEST).shards == shards


def test_sharded_with_a_single_shard_is_a_contradiction() -> None:
    with pytest.raises(Refused, match="`sharded` is true but `num_shard` <= 1"):
        launch(parse(["--sharded", "true", "--num-shard", "1"], {}), {}, {}, NEWEST)


WORDS = st.sampled_from(
    [
        "--port",
        "--port=",
        "-p",
        "-",
        "--",
        "80",
        "-1",
        "",
        "--quantize",
        "awq",
        "--json-output",
        "é",
    ]
)


@given(st.lists(WORDS | st.text(max_size=5), max_size=6))
def test_every_command_line_is_taken_or_refused(argv: list[str]) -> None:
    with contextlib.suppress(UsageError, PrintAndExit):
        args = parse(argv, {})
        assert isinstance(args["port"], int)


def test_exl2_is_refused_only_on_the_command_line() -> None:
    config = {"quantization_config": {"quant_method": "exl2"}}
    argv = ["--num-shard", "2"]
    assert launch(parse(argv, {}), {}, config, NEWEST).quantize == "exl2"
    with pytest.raises(Refused, match="Sharding is currently not supported with `exl2`"):
        launch(parse([*argv, "--quantize", "exl2"], {}), {}, config, NEWEST)


def test_limits_of_the_first_releases_have_fixed_defaults() -> None:
    old = Version(1, 4, 5)
    with pytest.raises(Refused, match=r"`max_input_length`\(2048\) must be < `max_total_tokens`"):
        launch(parse(["--max-input-length", "2048"], {}, old), {}, {}, old)


def test_who_forwards_sigterm() -> None:
    heard = [
        str(v)
        for v in map(Version._make, [(1, 4, 5), (2, 0, 0), (2, 3, 1), (2, 4, 0)])
        if forwards_sigterm(v)
    ]
    assert heard == ["1.4.5", "2.4.0"]
