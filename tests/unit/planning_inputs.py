"""Wishes, nodes and models for the planner's tests."""

from __future__ import annotations

from typing import Any

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.planning import Model, Offer, Wish, model_of, offers_for, plan, wish_from
from llm_operator.planning.cards import gpu_of
from llm_operator.planning.catalogue import catalogued
from llm_operator.runtimes.base import engine
from llm_operator.runtimes.terms import Plan, Refusal

TGI = engine("tgi")
A100, H100, L4, T4 = (
    "NVIDIA-A100-SXM4-80GB",
    "NVIDIA-H100-80GB-HBM3",
    "NVIDIA-L4",
    "Tesla-T4",
)

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_70B_AWQ = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
LLAMA_405B = "meta-llama/Llama-3.1-405B-Instruct"


def offer(product: str, count: int = 8, *, exists: bool = True, nodes: int = 1) -> Offer:
    """Nodes of a catalogued card."""
    gpu = gpu_of(product)
    assert gpu is not None
    return Offer(gpu, count, nodes, exists)


NODES = (offer(A100), offer(H100), offer(L4, 2), offer(T4, 2))


def model(model_id: str) -> Model:
    """A catalogued model."""
    found = catalogued(model_id)
    assert isinstance(found, Model)
    return found


def spec(model_id: str, **parts: Any) -> LLMDeploymentSpec:
    """A spec of a model with other parts of the spec as keywords."""
    return LLMDeploymentSpec.model_validate({"model": {"id": model_id}, **parts})


def wish(model_id: str, **parts: Any) -> Wish:
    """The wishes of that spec for the engine version that it names."""
    asked = spec(model_id, **parts)
    image = TGI.image(asked.runtime)
    assert not isinstance(image, Refusal)
    return wish_from(asked, image.version)


def planned(
    model_id: str, *seen: Offer, config: dict[str, Any] | None = None, **parts: Any
) -> Plan:
    """The plan of a spec on these nodes (all four kinds where none are given)."""
    asked = wish(model_id, **parts)
    facts = model(model_id) if config is None else model_of(model_id, config)
    assert isinstance(facts, Model)
    return plan(asked, facts, offers_for(asked, seen or NODES), TGI)
