"""Which floors of `spec.autoscaling.schedule` hold at a moment.

A floor holds from each start to the next end, by the wall clock of its time zone; both are cron
expressions, read as Debian's cron does: what falls into the hour that spring leaves out begins
right after it, and in autumn the first of two equal hours counts. Refuses to know any load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from llm_operator.api.autoscaling import Floor


def floor_at(floors: Sequence[Floor], now: float) -> Floor | None:
    """The highest floor that holds at `now` (seconds since the epoch), None if none does."""
    minute = math.floor(now / 60) * 60
    holding = [f for f in floors if _holds(f.start, f.end, f.time_zone or "UTC", minute)]
    return max(holding, key=lambda floor: floor.min_replicas, default=None)


@lru_cache(maxsize=4096)
def _holds(start: str, end: str, time_zone: str, minute: int) -> bool:
    """Cron knows whole minutes, so the answer is the same within one, and for all who ask."""
    began = _last(start, time_zone, minute)
    ended = _last(end, time_zone, minute)
    return began is not None and (ended is None or began >= ended)


def _last(cron: str, time_zone: str, minute: int) -> float | None:
    """The last moment of `cron` until `minute`, None if there is none within fifty years."""
    local = datetime.fromtimestamp(minute, UTC if time_zone == "UTC" else ZoneInfo(time_zone))
    # The search goes by the wall clock: from the second of two equal hours it would miss the first.
    ahead = timedelta(hours=2) if local.fold else timedelta(seconds=1)
    for moment in CronSim(cron, local.replace(fold=0) + ahead, reverse=True):
        if moment.timestamp() <= minute:
            return moment.timestamp()
    return None
