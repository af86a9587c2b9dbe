"""The spec as the operator reads it: examples, quantities, what identifies a revision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from llm_operator.api.env import ALLOWED_ENV, env_allowed
from llm_operator.api.names import API_VERSION, KIND
from llm_operator.api.spec import NOT_IN_POD, LLMDeploymentSpec, Resources, user_inputs

ROOT = Path(__file__).parents[2]
MODEL = {"model": {"id": "acme/llama"}}


def _examples() -> list[Any]:
    return [
        pytest.param(document, id=file.stem)
        for file in sorted((ROOT / "examples").glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document["kind"] == KIND
    ]


@pytest.mark.parametrize("manifest", _examples())
def test_examples_are_read_without_loss(manifest: dict[str, Any]) -> None:
    assert manifest["apiVersion"] == API_VERSION
    spec = LLMDeploymentSpec.model_validate(manifest["spec"])
    said = {key: value for key, value in manifest["spec"].items() if key not in NOT_IN_POD}
    if "rollout" in said:
        said["rollout"] = {k: v for k, v in said["rollout"].items() if k == "drainSeconds"}
    assert user_inputs(spec) == {key: value for key, value in said.items() if value != {}}


def test_there_is_an_example_for_every_kind_of_card() -> None:
    cards = {card for p in _examples() for card in p.values[0]["spec"]["gpu"]["products"]}
    assert cards == {
        "NVIDIA-A100-SXM4-80GB",
        "NVIDIA-H100-80GB-HBM3",
        "NVIDIA-L4",
        "Tesla-T4",
    }


def test_an_integer_and_its_text_are_one_quantity() -> None:
    as_number = Resources.model_validate({"limits": {"cpu": 4}})
    assert as_number == Resources.model_validate({"limits": {"cpu": "4"}})


@pytest.mark.parametrize("value", [True, 1.5, "4 cpus", "-1"])
def test_other_things_are_no_quantity(value: object) -> None:
    with pytest.raises(ValidationError):
        Resources.model_validate({"limits": {"cpu": value}})


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """This model and every one inside it."""
    yield model
    for field in model.model_fields.values():
        for inner in _leaves(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _models(inner)


def _leaves(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _leaves(argument)


def test_a_field_that_reaches_a_pod_is_unset_unless_the_user_sets_it() -> None:
    """A default here would enter what identifies a revision, and restart every model."""
    defaults = {
        (model.__name__, name)
        for model in _models(LLMDeploymentSpec)
        for name, field in model.model_fields.items()
        if not field.is_required() and field.get_default(call_default_factory=True) is not None
    }
    assert defaults == {("LLMDeploymentSpec", "replicas")}
    assert "replicas" in NOT_IN_POD


def test_replicas_do_not_identify_a_revision() -> None:
    one = LLMDeploymentSpec.model_validate(MODEL | {"replicas": 1})
    three = LLMDeploymentSpec.model_validate(MODEL | {"replicas": 3})
    assert user_inputs(one) == user_inputs(three) == MODEL


def test_autoscaling_does_not_identify_a_revision() -> None:
    """Nor does switching it on restart a model that runs."""
    plain = LLMDeploymentSpec.model_validate(MODEL)
    scaled = LLMDeploymentSpec.model_validate(MODEL | {"autoscaling": {"maxReplicas": 3}})
    assert user_inputs(plain) == user_inputs(scaled) == MODEL


def test_an_empty_part_is_the_same_as_none() -> None:
    spec = LLMDeploymentSpec.model_validate(MODEL | {"runtime": {}, "rollout": {}})
    assert user_inputs(spec) == MODEL


def test_cuda_graphs_turned_off_are_not_unset() -> None:
    spec = LLMDeploymentSpec.model_validate(MODEL | {"runtime": {"cudaGraphs": []}})
    assert user_inputs(spec)["runtime"] == {"cudaGraphs": []}


@pytest.mark.parametrize("name", [*ALLOWED_ENV, "NCCL_DEBUG", "NCCL_P2P_DISABLE"])
def test_allowed_environment(name: str) -> None:
    assert env_allowed(name)


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "PYTHONPATH", "HF_TOKEN", "NUM_SHARD", "NCCL_NET_PLUGIN", "log_level"]
)
def test_refused_environment(name: str) -> None:
    assert not env_allowed(name)
