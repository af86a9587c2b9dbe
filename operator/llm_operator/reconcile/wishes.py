"""From a spec that no recorded revision means to a new one: look the model up, plan, resolve.

Decides why a wish must wait or is refused, and what would end that. Plans are cached by all they
depend on, so that a held wish costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.api.status import Reason
from llm_operator.desired.revision import Defaults, resolve
from llm_operator.facts.cluster import NodeFact
from llm_operator.kube.store import Key
from llm_operator.observe.models import Models, NotYet, Unknown
from llm_operator.planning import Model, Offer, Wish, offers_for, plan, wish_from
from llm_operator.planning.cards import gpu_of
from llm_operator.runtimes.base import Resolved, engine
from llm_operator.runtimes.terms import Gpu, Plan, Refusal
from llm_operator.status.situation import Held


@dataclass(frozen=True)
class Answer:
    """Either `resolved`, or why not. `retry_after` in seconds, where only time will help."""

    resolved: Resolved | None = None
    held: Held | None = None
    plan: Plan | None = None
    depends_on_nodes: bool = False
    retry_after: float | None = None


class Wishes:
    """Resolves wishes with this operator's defaults and what `models` knows of models."""

    def __init__(self, models: Models, defaults: Defaults) -> None:
        self._models = models
        self._defaults = defaults

    def resolve(
        self,
        key: Key,
        spec: LLMDeploymentSpec,
        nodes: Sequence[NodeFact],
        *,
        can_wait: bool = False,
    ) -> Answer:
        """What to run for this spec on the nodes that there are now.

        `can_wait`: another revision serves, so there is time to pin the model's commit.
        """
        serving = engine(spec.runtime.name if spec.runtime else None)
        image = serving.image(spec.runtime, self._defaults.repository, self._defaults.version)
        if isinstance(image, Refusal):
            return Answer(held=Held(Reason.INVALID_SPEC, image.reason))
        if refusal := serving.refuse_options(spec, image.version):
            return Answer(held=Held(Reason.INVALID_SPEC, refusal.reason))
        model = self._models.facts(key, spec.model, can_wait=can_wait)
        if isinstance(model, NotYet):
            return Answer(held=Held(Reason.CREATING, model.message, stuck=False))
        if isinstance(model, Unknown):
            held = Held(model.reason, model.message, stuck=model.retry_after is None)
            return Answer(held=held, retry_after=model.retry_after)
        wish = wish_from(spec, image.version)
        offers = offers_for(wish, offered(nodes, wish.resource))
        if not offers:
            return Answer(held=_no_gpus(wish), depends_on_nodes=True)
        made = _plan(wish, model, offers, serving.name)
        if not made.fits:
            held = Held(Reason.PLAN_REFUSED, _with_ways_out(made))
            return Answer(held=held, plan=made, depends_on_nodes=True)
        return Answer(resolve(spec, made, model.commit, self._defaults), plan=made)


def offered(nodes: Sequence[NodeFact], resource: str) -> list[Offer]:
    """What nodes have of an extended resource, one offer a node.

    A node that is not ready or cordoned is offered too: it is there, and what is planned for it
    waits for it.
    """
    found = []
    for node in nodes:
        count = dict(node.allocatable).get(resource, 0)
        gpu = gpu_of(node.product, node.memory_mib, node.compute_capability, resource)
        if count:
            unknown = Gpu(node.product, 0, None, resource=resource)  # for gpu.memory by hand
            found.append(Offer(gpu or unknown, gpus_per_node=count))
    return found


@lru_cache(maxsize=512)
def _plan(wish: Wish, model: Model, offers: tuple[Offer, ...], serving: str) -> Plan:
    return plan(wish, model, offers, engine(serving))


def _with_ways_out(made: Plan) -> str:
    return " ".join((made.message, *made.ways_out))


def _no_gpus(wish: Wish) -> Held:
    return Held(
        Reason.WAITING_FOR_GPU,
        f"no node offers {wish.resource} with a nvidia.com/gpu.product label: name gpu.products to"
        " plan for cards that are to come, or gpu.memory for nodes without labels",
        stuck=False,
    )
