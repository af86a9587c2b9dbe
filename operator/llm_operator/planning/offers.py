"""The GPUs that a wish may use, out of those that nodes have.

Decides how products named by the user, memory given by hand and nodes go together, and what stands
in for a product that no node has yet. Refuses to know how nodes are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llm_operator.planning.cards import GPUS_PER_NODE, gpu_of
from llm_operator.planning.fit import Offer
from llm_operator.planning.wish import Wish
from llm_operator.runtimes.terms import Gpu


def offers_for(wish: Wish, seen: Iterable[Offer]) -> tuple[Offer, ...]:
    """Offers to plan on, in an order that does not depend on that of `seen`.

    `seen` are the nodes' own, one per product (or several, then the largest node counts); a node
    whose card is not known is an offer with 0 MiB, which only a wish with memory by hand can use.
    A named product that no node has is planned from the card catalogue, on nodes of 8 GPUs; one
    that the catalogue lacks too is left out.
    """
    usable = [offer for offer in seen if offer.gpu.resource == wish.resource]
    if wish.gpu_memory_mib is not None:
        largest = max((offer.gpus_per_node for offer in usable), default=0)
        gpu = Gpu("", wish.gpu_memory_mib, None, resource=wish.resource)
        return (
            Offer(
                gpu,
                gpus_per_node=largest or GPUS_PER_NODE,
                nodes=sum(offer.nodes for offer in usable),
                exists=largest > 0,
            ),
        )
    merged: dict[str, Offer] = {}
    for offer in usable:
        product = offer.gpu.product
        if offer.gpu.memory_mib and product and (not wish.products or product in wish.products):
            merged[product] = _merge(merged.get(product), offer)
    for product in wish.products:
        gpu_not_seen = None if product in merged else gpu_of(product, resource=wish.resource)
        if gpu_not_seen is not None:
            merged[product] = Offer(gpu_not_seen, GPUS_PER_NODE, nodes=0, exists=False)
    return tuple(merged[product] for product in sorted(merged))


def _merge(one: Offer | None, other: Offer) -> Offer:
    """Nodes of one product together: the largest node, the least memory that any reports."""
    if one is None:
        return other
    gpu = min(one.gpu, other.gpu, key=lambda g: (g.memory_mib, g.compute_capability or (0, 0)))
    return replace(
        one,
        gpu=gpu,
        gpus_per_node=max(one.gpus_per_node, other.gpus_per_node),
        nodes=one.nodes + other.nodes,
        exists=one.exists or other.exists,
    )
