"""What `spec.autoscaling` comes to with a plan: bounds in GPUs, and the load at which it acts.

Pure. The figures are those that the scaler begins with; what it learns from the load later cannot
be told beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_operator.cli.plan_input import Planned
from llm_operator.runtimes.terms import Plan
from llm_operator.scaling.capacity import holds
from llm_operator.scaling.policy import Capacity, policy_from


@dataclass(frozen=True)
class Scaled:
    """Bounds, and what one replica is to hold: `requests` running or waiting in it, `seconds` of
    waiting (95th percentile, None where it is not looked at). `gpus` is of one replica."""

    mode: str
    minimum: int
    maximum: int
    gpus: int
    requests: float
    seconds: float | None

    def sentence(self) -> str:
        """In words."""
        gpus = f"{self.minimum * self.gpus}..{self.maximum * self.gpus} GPUs"
        advised = ", only advised" if self.mode == "Advise" else ""
        wait = f", or a wait of {self.seconds:g} s" if self.seconds is not None else ""
        return (
            f"autoscaling: {self.minimum}..{self.maximum} replicas ({gpus}){advised}, another one"
            f" above {self.requests:g} requests in hand per replica{wait}"
        )

    def as_json(self) -> dict[str, Any]:
        """For programs, by the names of the spec where there are such."""
        return {
            "mode": self.mode,
            "minReplicas": self.minimum,
            "maxReplicas": self.maximum,
            "requestsPerReplica": self.requests,
            "queueSeconds": self.seconds,
        }


def targets(planned: Planned) -> Scaled | None:
    """None where nothing is to be scaled: no wish, or no plan that fits."""
    wish, plan = planned.question.autoscaling, planned.plan
    if wish is None or not isinstance(plan, Plan) or not plan.fits:
        return None
    capacity = _capacity(planned, plan)
    policy = policy_from(wish, capacity)
    return Scaled(
        mode=wish.mode or "Auto",
        minimum=policy.minimum,
        maximum=policy.maximum,
        gpus=plan.tensor_parallel or 0,
        requests=round(holds(capacity, policy.targets, None).requests, 1),
        seconds=policy.targets.queue_seconds,
    )


def _capacity(planned: Planned, plan: Plan) -> Capacity:
    loaded = max(plan.checkpoint_bytes, plan.weight_bytes)
    return Capacity(
        sequences=plan.max_concurrent_sequences,
        concurrent_requests=plan.max_concurrent_requests,
        startup_seconds=planned.question.rules.startup_seconds(loaded),
    )
