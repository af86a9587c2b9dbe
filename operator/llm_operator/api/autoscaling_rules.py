"""Validation rules of `spec.autoscaling`, in CEL: see `rules.py` for what such rules are.

Decides combinations that mean nothing. Refuses to compare with `spec.replicas`, which is not looked
at beside autoscaling, and to judge calendars: CEL knows no time zones, so the operator reads them.
"""

from __future__ import annotations

from typing import Final

from llm_operator.api.cel import Rule
from llm_operator.api.rollout import PERCENTAGE

_CRON = (
    "must be five fields of cron with one space in between, minute hour day month weekday: write"
    " for example 0 8 * * 1-5"
)


def _change(path: str) -> tuple[Rule]:
    """A number of replicas or a percentage of them, above 0; an int-or-string has no CEL type."""
    return (
        Rule(
            "type(self) == int ? int(self) >= 1 && int(self) <= 1000"
            f" : string(self).matches(r'{PERCENTAGE}') && string(self) != '0%'",
            f"{path} must be a number of replicas without quotes, from 1 to 1000, or a percentage"
            " from 1% to 100%; to have nothing changed at all set autoscaling.mode to Advise",
        ),
    )


RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "spec.autoscaling": (
        Rule(
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "autoscaling.minReplicas is above autoscaling.maxReplicas: lower minReplicas or raise"
            " maxReplicas",
            ".minReplicas",
        ),
        Rule(
            "!has(self.schedule) || self.schedule.all(f, f.minReplicas <= self.maxReplicas)",
            "autoscaling.schedule has a minReplicas above autoscaling.maxReplicas, which it could"
            " never reach: lower it or raise maxReplicas",
            ".schedule",
        ),
    ),
    "spec.autoscaling.schedule[]": (
        Rule(
            "self.start != self.end",
            "autoscaling.schedule: end is the same as start, so it would end when it begins: set"
            " end to a later time",
            ".end",
        ),
    ),
    "spec.autoscaling.behavior.scaleUp.maxChange": _change(
        "autoscaling.behavior.scaleUp.maxChange"
    ),
    "spec.autoscaling.behavior.scaleDown.maxChange": _change(
        "autoscaling.behavior.scaleDown.maxChange"
    ),
}

PATTERN_MESSAGES: Final[dict[str, str]] = {
    "spec.autoscaling.schedule[].start": f"autoscaling.schedule.start {_CRON}",
    "spec.autoscaling.schedule[].end": f"autoscaling.schedule.end {_CRON}",
    "spec.autoscaling.schedule[].timeZone": "autoscaling.schedule.timeZone must be the name of a"
    " time zone, for example Europe/Berlin, or leave it out for UTC",
}
