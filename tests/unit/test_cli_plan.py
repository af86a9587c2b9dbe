"""The command `plan`: what it reads, what it prints for programs, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from llm_operator.api.status import Reason
from llm_operator.cli.main import app
from llm_operator.observe import hub
from llm_operator.observe.models import Unknown
from llm_operator.planning import Model
from llm_operator.planning.catalogue import catalogued

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISED = [
    "name", "gpu", "quantization", "tensorParallel", "minimumTensorParallel", "rejected",
    "weightBytes", "weightBytesPerGPU", "kvBytesPerToken", "kvCacheTokens",
    "maxConcurrentSequences", "overheadBytesPerGPU", "fits", "message",
]  # fmt: skip


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llm-operator.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


def run(*arguments: str, stdin: object = None) -> Result:
    """The command offline, with manifests on standard input if there are any."""
    text = yaml.safe_dump_all(stdin) if isinstance(stdin, list) else None
    return CliRunner().invoke(app, ["plan", "--offline", *arguments], input=text)


def as_json(*manifests: dict[str, Any], arguments: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    result = run("-f", "-", "-o", "json", *arguments, stdin=list(manifests))
    assert result.exit_code in (0, 1), result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


LLAMA_8B = {"model": {"id": "meta-llama/Llama-3.1-8B-Instruct"}}


def test_json_has_what_is_promised_first_and_in_order() -> None:
    (fits, refused, unknown) = as_json(
        manifest("a", **LLAMA_8B),
        manifest("b", **LLAMA_8B, parallelism={"tensor": 3}),
        manifest("c", model={"id": "somebody/something"}),
    )
    for found in (fits, refused, unknown):
        assert list(found)[: len(PROMISED)] == PROMISED
    assert fits["quantization"] == {"method": "none", "bits": 16, "groupSize": None}
    assert (fits["fits"], fits["tensorParallel"], fits["minimumTensorParallel"]) == (True, 1, 1)
    assert (refused["fits"], refused["tensorParallel"]) == (False, None)
    assert {"tensorParallel", "reason"} == set(refused["rejected"][0])
    assert refused["weightBytes"] == fits["weightBytes"] == 16_060_522_496
    assert "would need" in refused["message"]
    assert (unknown["fits"], unknown["weightBytes"]) == (False, None)
    assert "not in the catalogue" in unknown["message"]


def test_every_example_fits_the_nodes_of_the_demo() -> None:
    gpus = [word for gpu in ("a100:8", "h100:8", "l4:2", "t4:2") for word in ("--gpu", gpu)]
    result = run("-f", str(EXAMPLES), "-o", "json", *gpus)
    assert result.exit_code == 0, result.output
    assert all(one["fits"] for one in json.loads(result.stdout))


def test_gpus_come_from_the_option_then_the_manifest_then_the_common_cards() -> None:
    named = manifest("a", **LLAMA_8B, gpu={"products": ["NVIDIA-H200"]})
    assert as_json(named)[0]["gpu"] == "NVIDIA-H200"
    assert as_json(named, arguments=("--gpu", "l4"))[0]["gpu"] == "NVIDIA-L4"
    by_hand = manifest("a", **LLAMA_8B, gpu={"memory": "40Gi"})
    assert as_json(by_hand)[0]["products"] == []
    assert as_json(manifest("a", **LLAMA_8B))[0]["gpu"] == "NVIDIA-A10G"
    assert "common cards" in run("-f", "-", stdin=[manifest("a", **LLAMA_8B)]).stdout


def test_a_node_has_eight_gpus_unless_told() -> None:
    big = manifest("a", model={"id": "meta-llama/Llama-3.1-405B-Instruct"})
    assert as_json(big, arguments=("--gpu", "h100"))[0]["tensorParallel"] == 8
    assert as_json(big, arguments=("--gpu", "h100:4"))[0]["quantization"]["bits"] == 4
    assert as_json(big, arguments=("--gpu", "NVIDIA-L4:2"))[0]["fits"] is False


def test_what_the_engine_refuses_in_any_case_is_sized_all_the_same() -> None:
    (found,) = as_json(manifest("a", **LLAMA_8B, runtime={"image": "registry.local/tgi:custom"}))
    assert (found["fits"], found["weightBytes"]) == (False, 16_060_522_496)
    assert "runtime.version" in found["message"]


def test_yaml_says_the_same_as_json() -> None:
    document = manifest("a", **LLAMA_8B)
    result = run("-f", "-", "-o", "yaml", stdin=[document])
    assert yaml.safe_load(result.stdout) == as_json(document)


def test_other_kinds_are_passed_over_and_lists_are_opened(tmp_path: Path) -> None:
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [other, manifest("b", **LLAMA_8B)]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all([other, manifest("a", **LLAMA_8B)]))
    (tmp_path / "b.yml").write_text(yaml.safe_dump(listed))
    result = run("-f", str(tmp_path), "-o", "json")
    assert [one["name"] for one in json.loads(result.stdout)] == ["a", "b"]


def test_exit_codes() -> None:
    fitting = [manifest("a", **LLAMA_8B)]
    assert run("-f", "-", stdin=fitting).exit_code == 0
    assert run("-f", "-", "--gpu", "t4:1", stdin=[manifest("a", **LLAMA_8B)]).exit_code == 0
    too_big = [manifest("a", model={"id": "meta-llama/Llama-3.1-405B-Instruct"})]
    assert run("-f", "-", "--gpu", "t4:1", stdin=too_big).exit_code == 1
    assert run("-f", "-", "--gpu", "nothing", stdin=fitting).exit_code == 2
    assert run("-f", "-", "--gpu", "l4:0", stdin=fitting).exit_code == 2
    assert run().exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: [", "not YAML"),
        ("kind: Pod", "no LLMDeployment"),
        (yaml.safe_dump(manifest("a", model={"id": "no spaces please"})), "a: spec.model.id"),
        (yaml.safe_dump({**manifest("a"), "apiVersion": "v2"}), "llm-operator.dev/v1alpha1"),
    ],
)
def test_what_is_no_manifest_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    result = run("-f", str(tmp_path / "a.yaml"))
    assert result.exit_code == 1
    assert said in str(result.exception)


def test_comparison_for_programs() -> None:
    result = run("-f", "-", "-o", "json", "--compare", "--gpu", "l4:1",
                 stdin=[manifest("a", model={"id": "huggyllama/llama-7b"})])  # fmt: skip
    assert result.exit_code == 0, result.output
    (table,) = json.loads(result.stdout)
    sizes = {one["quantization"]: one["weightBytes"] for one in table["quantizations"]}
    assert round(sizes["FP32"] / 1e9, 2) == 26.95
    assert round(sizes["EETQ 8-bit"] / 1e9, 2) == 7.0
    assert round(sizes["GPTQ 4-bit g128"] / 1e9, 2) == 3.89
    quoted = {one["row"]: one["distance"] for one in table["published"]}
    assert quoted == {"FP32": 0.0367, "INT8": 0.0775, "4-bit GPTQ": 0.0247}
    (other,) = json.loads(
        run("-f", "-", "-o", "json", "--compare", stdin=[manifest("a", **LLAMA_8B)]).stdout
    )
    assert other["published"] == []


def test_comparison_names_what_the_catalogue_has() -> None:
    quantized = manifest("a", model={"id": "TheBloke/Llama-2-7B-AWQ"})
    result = run("-f", "-", "-o", "json", "--compare", "--gpu", "l4:1", stdin=[quantized])
    (table,) = json.loads(result.stdout)
    how = {one["quantization"]: one["message"] for one in table["quantizations"]}
    assert how["AWQ 4-bit g128"] == "model.id TheBloke/Llama-2-7B-AWQ"
    assert how["16 bit"] == "model.id meta-llama/Llama-2-7b-hf"
    assert how["EETQ 8-bit"] == "model.id meta-llama/Llama-2-7b-hf, quantization.method eetq"


def test_the_hub_is_asked_once_for_each_model_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str | None]] = []

    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token == "hf_own"

        async def look_up(self, model_id: str, revision: str | None) -> Model | Unknown:
            asked.append((model_id, revision))
            if model_id == "some/gated":
                return Unknown(Reason.MODEL_SHAPE_UNKNOWN, "it is gated")
            found = catalogued("meta-llama/Llama-3.2-1B")
            assert isinstance(found, Model)
            return found

        def close(self) -> None:
            asked.append(("closed", None))

    monkeypatch.setattr(hub, "HubModels", Hub)
    monkeypatch.setenv("HF_TOKEN", "hf_own")
    documents = [
        manifest("a", model={"id": "some/model"}),
        manifest("b", model={"id": "some/model"}),
        manifest("c", model={"id": "some/gated", "revision": "v1"}),
        manifest("d", **LLAMA_8B),
    ]
    result = CliRunner().invoke(
        app, ["plan", "-f", "-", "-o", "json"], input=yaml.safe_dump_all(documents)
    )
    found = json.loads(result.stdout)
    assert [one["fits"] for one in found] == [True, True, False, True]
    assert found[2]["message"] == "it is gated"
    assert sorted(asked) == [("closed", None), ("some/gated", "v1"), ("some/model", None)]
