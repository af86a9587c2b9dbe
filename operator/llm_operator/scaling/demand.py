"""What one look shows: how much load there is, and for how many of the replicas it is known.

Decides what counts as known. Refuses to know what has been before, and what follows from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from llm_operator.facts.signals import Fresh, Idle, Load, Reading
from llm_operator.scaling.terms import Look, State

REFUSED_MOST: Final = 3.0
"""Refused requests for each served one that are believed: clients try again, and count twice."""
REFUSED_UNPROVEN: Final = 1.0
"""The same while nothing has been served, as in the first minute of long answers."""

IDLE: Final = Load(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """The load at one look, in requests over all replicas whose load is known.

    `unrefused`: how many would run had the engine sent none away, 0 if it has not. `loads`: of
    serving replicas, where known. `coming`: replicas asked for that do not serve.
    `queue_seconds`: 95th percentile of the wait, of the average request; None if none has waited.
    """

    state: State
    running: float
    queued: float
    unrefused: float
    loads: tuple[Load, ...]
    serving: int
    coming: int
    queue_seconds: float | None

    @property
    def demand(self) -> float:
        """Requests in hand, or as many as would run if none were refused, whichever is more.

        Never both: those that wait and those that are refused are the same want, seen twice.
        """
        return max(self.running + self.queued, self.unrefused)

    @property
    def known(self) -> bool:
        """Whether anything is known of a serving replica: only then is there a demand."""
        return bool(self.loads)


def seen(look: Look, ran: float) -> Seen:
    """The load, over the replicas that serve. `ran`: the fewest that ran within the last minutes.

    Rates look back as far, so it is what ran then that refusals are held against: replicas that
    came since are not asked for again. A replica whose load is unknown adds nothing:
    that is right for going up, and whoever wants to go down has to ask `state`.
    """
    serving = [replica for replica in look.replicas if replica.serving]
    readings = (_load(look.signals.of(replica.name)) for replica in serving)
    loads = tuple(load for load in readings if load is not None)
    running = math.fsum(load.running for load in loads)
    share = _refused_share(loads)
    return Seen(
        state=_state(bool(look.signals.outage), len(serving), len(loads)),
        running=running,
        queued=math.fsum(load.queued for load in loads),
        unrefused=min(running, ran) * (1 + share) if share else 0.0,
        loads=() if look.signals.outage else loads,
        serving=len(serving),
        coming=max(len(look.replicas) - len(serving), look.current - len(serving), 0),
        queue_seconds=_queue_seconds(loads),
    )


def _load(reading: Reading) -> Load | None:
    """None if unknown. Numbers that no load can have are unknown as well."""
    if isinstance(reading, Idle):
        return IDLE
    if not isinstance(reading, Fresh):
        return None
    load = reading.load
    numbers = (load.queued, load.running, load.served_rate, load.refused_rate)
    return load if all(0 <= number < math.inf for number in numbers) else None


def _state(outage: bool, serving: int, known: int) -> State:
    """A replica that still loads has no load; where none serves, nothing is missing."""
    if outage or (serving and not known):
        return State.MISSING
    return State.PARTIAL if known < serving else State.COMPLETE


def _refused_share(loads: tuple[Load, ...]) -> float:
    """Refused requests for each served one.

    By Little's law requests in progress = rate x time, and those refused would take the same time
    as those served; so what runs, times this, would run as well.
    """
    refused = math.fsum(load.refused_rate for load in loads)
    served = math.fsum(load.served_rate for load in loads)
    if refused == 0:
        return 0.0
    return min(refused / served, REFUSED_MOST) if served > 0 else REFUSED_UNPROVEN


def _queue_seconds(loads: tuple[Load, ...]) -> float | None:
    """The replicas' percentiles, each with the weight of the requests that it served."""
    waits = [
        (load.queue_seconds, load.served_rate or 1e-9)
        for load in loads
        if load.queue_seconds is not None and math.isfinite(load.queue_seconds)
    ]
    if not waits:
        return None
    return math.fsum(wait * weight for wait, weight in waits) / math.fsum(w for _, w in waits)
