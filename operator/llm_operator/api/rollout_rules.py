"""Validation rules of `spec.rollout`, in CEL: see `rules.py` for what such rules are.

Decides combinations that mean nothing or cannot end. Refuses to compare with `spec.replicas`: a
later scaling would then be refused for what was said about updates.
"""

from __future__ import annotations

from typing import Final

from llm_operator.api.cel import Rule, is_set, not_both, value
from llm_operator.api.rollout import PERCENTAGE

_STRATEGY = value("strategy", "'RollingUpdate'")
_NOTHING = "[dyn(0), dyn('0%')]"


def _share(path: str, more: str = "") -> tuple[Rule]:
    """A field that is a number of replicas or a percentage. An int-or-string has no type to CEL."""
    or_word = f" || string(self) == '{more}'" if more else ""
    return (
        Rule(
            "type(self) == int ? int(self) >= 0 && int(self) <= 1000"
            f" : string(self).matches(r'{PERCENTAGE}'){or_word}",
            f"{path} must be a number of replicas without quotes, at most 1000, or a percentage"
            f" such as 25%{', or ' + more if more else ''}",
        ),
    )


def _only_rolling(field: str) -> Rule:
    return Rule(
        f"{_STRATEGY} != 'Recreate' || !{is_set(field)}",
        f"rollout.{field} has no effect with strategy Recreate, which stops all old pods first:"
        f" leave out rollout.{field} or choose strategy RollingUpdate",
        f".{field}",
    )


_KEY = not_both(
    "rollout.acceptance",
    "runtime.apiKeySecretRef",
    "rollout.acceptance cannot be asked of an engine with runtime.apiKeySecretRef, because the"
    " operator reads no Secret: leave out one of the two",
)

RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "spec": (_KEY,),
    "spec.rollout": (
        *map(_only_rolling, ("maxSurge", "maxUnavailable", "minAvailable", "onNoSpareGPU")),
        Rule(
            f"{_STRATEGY} == 'Canary' || !{is_set('canary')}",
            "rollout.canary has no effect without strategy Canary: set rollout.strategy to Canary"
            " or leave out rollout.canary",
            ".canary",
        ),
        Rule(
            f"{_STRATEGY} != 'Canary' || {is_set('canary')}",
            "rollout.strategy Canary needs steps: add rollout.canary.steps or choose strategy"
            " RollingUpdate",
            ".strategy",
        ),
        Rule(
            "!has(self.maxSurge) || !has(self.maxUnavailable)"
            f" || !(self.maxSurge in {_NOTHING} && self.maxUnavailable in {_NOTHING})",
            "rollout.maxSurge and rollout.maxUnavailable are both 0, so no pod could come and none"
            " could go: raise one of the two or leave it out",
            ".maxUnavailable",
        ),
    ),
    "spec.rollout.maxSurge": _share("rollout.maxSurge", "auto"),
    "spec.rollout.maxUnavailable": _share("rollout.maxUnavailable"),
    "spec.rollout.minAvailable": _share("rollout.minAvailable"),
    "spec.rollout.acceptance": (
        Rule(
            "self.prompts.all(p, p.?expect.?maxLatencySeconds.orValue(0.0)"
            f" <= double({value('timeoutSeconds', '60')}))",
            "rollout.acceptance: an answer cannot take longer than timeoutSeconds (60 if unset):"
            " lower maxLatencySeconds or raise timeoutSeconds",
            ".timeoutSeconds",
        ),
    ),
    "spec.rollout.acceptance.prompts[]": (
        Rule(
            f"!{is_set('expect.minTokensPerSecond')} || {value('maxTokens', '64')} >= 16",
            "rollout.acceptance.prompts: the speed of a short answer says nothing: raise maxTokens"
            " to 16 or more, or leave out minTokensPerSecond",
            ".maxTokens",
        ),
    ),
    "spec.rollout.canary.steps[].replicas": (
        *_share("rollout.canary.steps.replicas"),
        Rule(
            f"!(self in {_NOTHING})",
            "rollout.canary.steps.replicas is 0, a step at which nothing is to be seen: raise it or"
            " leave out the step",
        ),
    ),
}
