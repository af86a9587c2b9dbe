"""Each example becomes exactly these children, to the letter.

The record is left out of the files: it holds the plan with its wording. After an intended change
write the files anew with UPDATE_GOLDEN=1 and read the diff: it is what users' pods will look like.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.names import ANNOTATION_RECORD, KIND
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.desired import objects, revision
from llm_operator.planning import Model, Offer, model_of, offers_for, plan, wish_from
from llm_operator.planning.cards import gpu_of
from llm_operator.planning.catalogue import catalogued
from llm_operator.runtimes.base import Image, engine

EXAMPLES = Path(__file__).parents[2] / "examples"
GOLDEN = Path(__file__).parent / "examples"
NODES = {
    "NVIDIA-A100-SXM4-80GB": 8,
    "NVIDIA-H100-80GB-HBM3": 8,
    "NVIDIA-L4": 1,
    "Tesla-T4": 4,
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def deployments() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for file in sorted(EXAMPLES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] == KIND:
                found.append((document["metadata"]["name"], document["spec"]))
    return found


def offers() -> list[Offer]:
    return [
        Offer(gpu, gpus_per_node=count)
        for product, count in NODES.items()
        if (gpu := gpu_of(product)) is not None
    ]


def children(name: str, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """All that the operator would make of a spec on these nodes."""
    spec = LLMDeploymentSpec.model_validate(raw)
    serving = engine(spec.runtime.name if spec.runtime else None)
    image = serving.image(spec.runtime)
    assert isinstance(image, Image)
    assert serving.refuse_options(spec, image.version) is None
    model_id, config = spec.model.id, spec.model.config
    model = model_of(model_id, config) if config else catalogued(model_id, spec.model.revision)
    assert isinstance(model, Model)
    wish = wish_from(spec, image.version)
    made = plan(wish, model, offers_for(wish, offers()), serving)
    assert made.fits, made.message
    user = user_inputs(spec)
    resolved = revision.resolve(spec, made, COMMIT, revision.Defaults())
    record = revision.make_record(name, user, resolved)
    template = revision.render(name, record.revision, user, resolved)
    owner = objects.Owner(name, "default", "00000000-0000-0000-0000-000000000000")
    replicas = (spec.autoscaling.min_replicas or 1) if spec.autoscaling else spec.replicas
    replica_set = objects.replica_set(owner, record, template, replicas)
    text = replica_set["metadata"].pop("annotations")[ANNOTATION_RECORD]
    assert revision.record_from_json(text) == record
    made_of_it = [replica_set, objects.service(owner)]
    if replicas >= objects.BUDGET_FROM_REPLICAS:
        made_of_it.append(objects.disruption_budget(owner))
    return made_of_it


@pytest.mark.parametrize(("name", "raw"), deployments(), ids=[name for name, _ in deployments()])
def test_example(name: str, raw: dict[str, Any]) -> None:
    rendered = yaml.safe_dump_all(children(name, raw), sort_keys=False, width=100)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_no_golden_file_without_its_example() -> None:
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == {name for name, _ in deployments()}
