"""The examples: each has a plan that fits, and all of them fit at once on the nodes they name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.names import KIND
from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cli.local import NODES
from llm_operator.planning import Model, offers_for, plan, wish_from
from llm_operator.planning.cards import CARDS
from llm_operator.planning.catalogue import catalogued
from llm_operator.planning.model import model_of
from llm_operator.runtimes.base import engine
from llm_operator.runtimes.terms import Plan

EXAMPLES = Path(__file__).parents[2] / "examples"
README = (EXAMPLES / "README.md").read_text()
DOCUMENTS = [
    (file, document)
    for file in sorted(EXAMPLES.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
MANIFESTS = {
    file.name: document["spec"] for file, document in DOCUMENTS if document["kind"] == KIND
}
VERSION = (3, 3, 7)


def planned(spec: LLMDeploymentSpec) -> Plan:
    """As the operator plans it where it cannot reach the Hub."""
    of = spec.model
    model = model_of(of.id, of.config) if of.config else catalogued(of.id, of.revision)
    assert isinstance(model, Model)
    wish = wish_from(spec, VERSION)
    return plan(wish, model, offers_for(wish, ()), engine("tgi"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_example_has_a_plan_that_carries_what_it_asks_for(name: str) -> None:
    spec = LLMDeploymentSpec.model_validate(MANIFESTS[name])
    made = planned(spec)
    assert made.fits, made.message
    assert spec.limits is not None
    assert made.max_concurrent_sequences >= (spec.limits.max_concurrent_requests or 0)


def test_all_examples_fit_at_once_on_the_nodes_that_the_readme_names() -> None:
    assert NODES in README
    free: Counter[str] = Counter()
    for kind, nodes, gpus in re.findall(r"([a-z0-9-]+)=(\d+)x(\d+)", NODES):
        product = next(card.gpu.product for card in CARDS if kind in card.names)
        free[product] += int(nodes) * int(gpus)
    for manifest in MANIFESTS.values():
        spec = LLMDeploymentSpec.model_validate(manifest)
        made = planned(spec)
        assert made.gpu is not None
        most = spec.autoscaling.max_replicas if spec.autoscaling else spec.replicas
        free[made.gpu.product] -= most * (made.tensor_parallel or 0)
    assert all(count >= 0 for count in free.values()), free


def test_the_readme_lists_every_example() -> None:
    assert set(re.findall(r"^\| `([\w.-]+)`", README, re.MULTILINE)) == set(MANIFESTS)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: str(file.name))
def test_every_example_says_why(file: Path) -> None:
    assert file.read_text().startswith("# ")


def test_claims_and_secrets_of_the_examples_are_there() -> None:
    have = {(d["kind"], d["metadata"]["name"]) for _, d in DOCUMENTS}
    wanted: set[Any] = set()
    for manifest in MANIFESTS.values():
        model = manifest["model"]
        if "cache" in model:
            wanted.add(("PersistentVolumeClaim", model["cache"]["claimName"]))
        if "tokenSecretRef" in model:
            wanted.add(("Secret", model["tokenSecretRef"]["name"]))
    assert wanted
    assert wanted <= have
