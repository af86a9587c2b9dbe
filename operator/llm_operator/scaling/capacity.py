"""How much one replica holds, and so how many replicas a demand needs.

The plan says how many requests a replica decodes at once, for the longest requests there may be;
what is observed corrects it. What a look teaches counts from the next decision on, so that within
one decision more load never asks for fewer replicas. Refuses to know time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llm_operator.scaling.demand import Seen
from llm_operator.scaling.policy import Capacity, Targets
from llm_operator.scaling.terms import Sample, State

LEAST_OF_PLAN: Final = 0.25
"""Share of the plan's sequences below which no observation goes."""
MOST_OF_PLAN: Final = 2.0
"""Times the plan's sequences above which no observation goes. Short requests fit in great numbers,
but each of them is then answered more slowly, which no target sees."""
LEARNED: Final = 0.5
"""How far one look moves the observed sequences towards what it shows."""
STILL_FILLING: Final = 1.1
"""Growth of what runs, from look to look, at which a batch is not full but still fills up."""
REACHED: Final = 0.9
"""Share of the limit of concurrent requests at which a replica counts as full at the latest."""


@dataclass(frozen=True, slots=True)
class Holds:
    """What one replica holds at its targets: requests in hand, and requests decoded at once.

    The former is the least of what the targets allow. `observed`: seen, not as planned.
    """

    requests: float
    sequences: float
    observed: bool


def holds(capacity: Capacity, targets: Targets, observed: float | None) -> Holds:
    """`sequences` x running share, or `sequences` + waiting requests, whichever is less.

    The engine refuses what is above its limit of concurrent requests, so no more is in hand; a
    target above that would never be passed.
    """
    limit = max(capacity.concurrent_requests, 1)
    sequences = min(max(capacity.sequences, 1) if observed is None else observed, limit)
    requests = min(sequences + targets.waiting_requests, REACHED * limit)
    if targets.running_share is not None:
        requests = min(requests, sequences * targets.running_share)
    return Holds(requests, sequences, observed is not None)


def learn(
    seen: Seen,
    before: Sample | None,
    observed: float | None,
    capacity: Capacity,
    targets: Targets,
) -> float | None:
    """What is believed of a replica's sequences from the next decision on; None: what is planned.

    Replicas where more wait than should, although nothing is filling up any more, decode about as
    many at once as they do now. A replica that runs more than was believed can do so at least.
    """
    planned = max(min(capacity.sequences, capacity.concurrent_requests), 1)
    believed = planned if observed is None else observed
    full = [load.running for load in seen.loads if load.queued > max(targets.waiting_requests, 1.0)]
    if full:
        settled = before is not None and seen.running <= before.running * STILL_FILLING
        if not settled or seen.state is not State.COMPLETE:
            return observed
        shown = max(sum(full) / len(full), planned * LEAST_OF_PLAN)
        believed += LEARNED * (shown - believed)
    else:
        believed = max([believed, *(load.running for load in seen.loads)])
    if observed is None and believed == planned:
        return None
    return min(believed, planned * MOST_OF_PLAN, float(max(capacity.concurrent_requests, 1)))
