"""Prometheus series of the operator, in a registry of their own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY: Final = CollectorRegistry()

RECONCILES: Final = Counter(
    "llm_operator_reconciles",
    "Passes over one LLMDeployment, by result (ok, error).",
    ["result"],
    registry=REGISTRY,
)
RECONCILE_SECONDS: Final = Histogram(
    "llm_operator_reconcile_seconds",
    "Duration of one pass.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
API_WRITES: Final = Counter(
    "llm_operator_api_writes",
    "Writes to the API server, by kind and verb (create, apply, delete, status, event).",
    ["kind", "verb"],
    registry=REGISTRY,
)
QUEUE_LENGTH: Final = Gauge(
    "llm_operator_queue_length", "Objects waiting for a pass or in one.", registry=REGISTRY
)
LLM_DEPLOYMENTS: Final = Gauge(
    "llm_operator_deployments",
    "LLMDeployments by the reason of their Ready condition.",
    ["ready", "reason"],
    registry=REGISTRY,
)
ACCEPTANCES: Final = Counter(
    "llm_operator_acceptances",
    "Revisions asked before they may serve, by result (accepted, refused).",
    ["result"],
    registry=REGISTRY,
)
FAILED_REVISIONS: Final = Counter(
    "llm_operator_failed_revisions",
    "Revisions given up, by cause.",
    ["reason"],
    registry=REGISTRY,
)
DRAINED_PODS: Final = Counter(
    "llm_operator_drained_pods",
    "Pods that have gone, by end: finished all requests, killed with some in hand, or lost from"
    " sight.",
    ["end"],
    registry=REGISTRY,
)

SCALING_TICK_SECONDS: Final = Histogram(
    "llm_operator_scaling_tick_seconds",
    "Duration of reading the load of all deployments and deciding for each.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
SCALING_DESIRED: Final = Gauge(
    "llm_operator_scaling_desired_replicas",
    "Replicas that the scaler wants, also where it only advises.",
    ["namespace", "name"],
    registry=REGISTRY,
)
SCALING_DECISIONS: Final = Counter(
    "llm_operator_scaling_decisions",
    "Decisions that differ from the one before, by reason.",
    ["reason"],
    registry=REGISTRY,
)
SCALING_METRICS: Final = Gauge(
    "llm_operator_scaling_deployments",
    "Autoscaled deployments by how much of their load is known (Complete, Partial, Missing).",
    ["metrics"],
    registry=REGISTRY,
)


def set_scaling_states(counts: Mapping[str, int]) -> None:
    """How many deployments are in which state; those not named are in none."""
    SCALING_METRICS.clear()
    for state, count in counts.items():
        SCALING_METRICS.labels(state).set(count)


def forget_scaling(namespace: str, name: str) -> None:
    """A deployment is gone, or no longer autoscaled."""
    with suppress(KeyError):
        SCALING_DESIRED.remove(namespace, name)


def exposition() -> bytes:
    """All series in the text format."""
    return generate_latest(REGISTRY)
