"""What the operator would plan for a manifest, found without a cluster.

Decides where the GPUs come from (--gpu, else the manifest's products, else the common cards) and
the model's facts (the manifest, the catalogue, the Hub). The planning itself is `planning`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import typer

from llm_operator.api.spec import Autoscaling, LLMDeploymentSpec
from llm_operator.api.spec import Model as ModelSpec
from llm_operator.cli.manifests import Deployment
from llm_operator.observe.models import WAYS, Unknown
from llm_operator.planning import Model, Offer, Wish, model_of, offers_for, plan, wish_from
from llm_operator.planning.cards import (
    CARDS,
    GPUS_PER_NODE,
    common_cards,
    gpu_of,
    product_named,
)
from llm_operator.planning.catalogue import catalogued
from llm_operator.planning.model import SizeUnknown
from llm_operator.runtimes.base import Engine, engine, parse_version
from llm_operator.runtimes.terms import Gpu, Plan, Refusal


@dataclass(frozen=True)
class Question:
    """One deployment with all that its plan depends on.

    `model` is a sentence where it is not known, `refusal` one where the engine takes no plan at all
    of this spec. `note` says where the GPUs come from. `autoscaling` is what the user wishes of it.
    """

    name: str
    model_id: str
    model: Model | str
    wish: Wish
    offers: tuple[Offer, ...]
    rules: Engine
    refusal: str = ""
    note: str = ""
    autoscaling: Autoscaling | None = None


@dataclass(frozen=True)
class Planned:
    """The answer: a plan, or why there is none."""

    question: Question
    plan: Plan | str

    @property
    def fits(self) -> bool:
        """Whether it can run."""
        return isinstance(self.plan, Plan) and self.plan.fits


def answers(questions: Iterable[Question]) -> list[Planned]:
    """Each planned; what the engine refuses whatever the plan is a plan that does not fit."""
    return [Planned(one, _answer(one)) for one in questions]


def _answer(question: Question) -> Plan | str:
    if isinstance(question.model, str):
        return question.model
    made = plan(question.wish, question.model, question.offers, question.rules)
    if not question.refusal:
        return made
    return replace(
        made, fits=False, tensor_parallel=None, products=(), message=question.refusal, ways_out=()
    )


def questions(found: Sequence[Deployment], gpus: Sequence[str], *, offline: bool) -> list[Question]:
    """Everything that planning these deployments needs; the Hub is asked unless `offline`."""
    nodes = [_node(gpu) for gpu in gpus]
    models = asyncio.run(_models([one.spec.model for one in found], offline=offline))
    return [_question(one, model, nodes) for one, model in zip(found, models, strict=True)]


def _question(one: Deployment, model: Model | str, nodes: list[Offer]) -> Question:
    spec = one.spec
    rules = engine(spec.runtime.name if spec.runtime else None)
    image = rules.image(spec.runtime)
    if isinstance(image, Refusal):
        version, refused = parse_version(rules.default_version), image.reason
    else:
        version = image.version
        options = rules.refuse_options(spec, version)
        refused = "" if options is None else options.reason
    wish = wish_from(spec, version)
    seen, note = _nodes(spec, wish, nodes)
    if nodes:
        wish = replace(wish, products=(), gpu_memory_mib=None)
    offers = offers_for(wish, seen)
    return Question(
        one.name, spec.model.id, model, wish, offers, rules, refused, note, spec.autoscaling
    )


def _nodes(spec: LLMDeploymentSpec, wish: Wish, nodes: list[Offer]) -> tuple[list[Offer], str]:
    """The nodes to plan on, and a word on where they come from."""
    if nodes:
        aside = spec.gpu is not None and bool(spec.gpu.products or spec.gpu.memory)
        return [
            replace(node, gpu=replace(node.gpu, resource=wish.resource)) for node in nodes
        ], "--gpu, instead of what the manifest names" if aside else "--gpu"
    assumed = f"nodes of {GPUS_PER_NODE} GPUs assumed"
    if wish.gpu_memory_mib is not None:
        unknown = Gpu("", 0, None, resource=wish.resource)
        return [Offer(unknown, GPUS_PER_NODE)], f"gpu.memory of the manifest, {assumed}"
    if wish.products:
        known = (gpu_of(product, resource=wish.resource) for product in wish.products)
        named = [Offer(gpu, GPUS_PER_NODE) for gpu in known if gpu is not None]
        return named, f"gpu.products of the manifest, {assumed}"
    cards = [replace(gpu, resource=wish.resource) for gpu in common_cards()]
    return [Offer(gpu, GPUS_PER_NODE) for gpu in cards], f"the common cards, {assumed}"


def _node(text: str) -> Offer:
    """`a100:4`, `NVIDIA-L4`: a card by short name or label, and how many a node has."""
    name, _, count = text.partition(":")
    product = product_named(name)
    gpu = gpu_of(product or name)
    if gpu is None:
        known = ", ".join(card.names[0] for card in CARDS)
        raise typer.BadParameter(f"{text}: no card is called {name}; known are {known}.")
    if count and not (count.isdigit() and 1 <= int(count) <= 64):
        raise typer.BadParameter(f"{text}: the number of GPUs of a node must be 1 to 64.")
    return Offer(gpu, int(count) if count else GPUS_PER_NODE)


async def _models(specs: Sequence[ModelSpec], *, offline: bool) -> list[Model | str]:
    """What is known of each model: the manifest, then the catalogue, then the Hub."""
    known = [_without_hub(spec) for spec in specs]
    if offline or all(known):
        return [
            one or f"{spec.id} is not in the catalogue and the Hub was not asked: {WAYS}"
            for one, spec in zip(known, specs, strict=True)
        ]
    from llm_operator.observe.hub import HubModels  # slow to import, and seldom needed

    hub = HubModels(os.environ.get("HF_TOKEN"))
    asked = {
        (spec.id, spec.revision) for one, spec in zip(known, specs, strict=True) if one is None
    }
    ordered = sorted(asked, key=str)
    found = dict(
        zip(ordered, await asyncio.gather(*(hub.look_up(*one) for one in ordered)), strict=True)
    )
    hub.close()
    return [
        one or _told(found[spec.id, spec.revision]) for one, spec in zip(known, specs, strict=True)
    ]


def _told(found: Model | Unknown) -> Model | str:
    return found if isinstance(found, Model) else found.message


def _without_hub(spec: ModelSpec) -> Model | str | None:
    found: Model | SizeUnknown | None
    if spec.config is not None:
        found = model_of(spec.id, spec.config, source="model.config")
    else:
        found = catalogued(spec.id, spec.revision)
    return f"{spec.id}: {found.reason}" if isinstance(found, SizeUnknown) else found
