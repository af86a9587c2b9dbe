"""Prometheus series of the operator, in a registry of their own."""

from __future__ import annotations

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


def exposition() -> bytes:
    """All series in the text format."""
    return generate_latest(REGISTRY)
