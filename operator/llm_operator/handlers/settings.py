"""The operator's own configuration: set by flags of `llm-operator run`, by nobody else."""

from __future__ import annotations

from dataclasses import dataclass

from llm_operator.observe.prometheus import PrometheusConfig


@dataclass(frozen=True)
class Settings:
    """How this operator runs. No user of the cluster can change any of it through an object.

    `namespace` None watches all. `image_repository` and `engine_version` are defaults for new
    revisions only. `resync_seconds` is how often everything is listed again,
    `scaling_interval_seconds` how often replicas are decided on. Without `prometheus` the pods are
    asked for their load.
    """

    kubeconfig: str | None = None
    namespace: str | None = None
    image_repository: str | None = None
    engine_version: str | None = None
    hub_offline: bool = False
    workers: int = 8
    resync_seconds: float = 600.0
    http_host: str = "0.0.0.0"
    http_port: int = 8080
    prometheus: PrometheusConfig | None = None
    scaling_interval_seconds: float = 15.0
    user_agent: str = "llm-operator"
