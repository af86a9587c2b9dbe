"""The names by which the operator is known to a cluster: group, kind, labels, annotations."""

from __future__ import annotations

from typing import Final

GROUP: Final = "llm-operator.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "LLMDeployment"
PLURAL: Final = "llmdeployments"
SINGULAR: Final = "llmdeployment"
SHORT_NAME: Final = "llmd"
CATEGORY: Final = "llm"

FIELD_MANAGER: Final = "llm-operator"
APP_NAME: Final = "llm-operator"

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
LABEL_REVISION: Final = f"{GROUP}/revision"

ANNOTATION_RECORD: Final = f"{GROUP}/record"
"""On a ReplicaSet: what the user set, what was resolved and the sha of the rendering (JSON)."""

ANNOTATION_FAILED: Final = f"{GROUP}/failed"
"""On a ReplicaSet: why its revision was given up (JSON). It is not tried again by itself."""
ANNOTATION_ACCEPTED: Final = f"{GROUP}/accepted"
"""On a ReplicaSet: what its revision answered when it was accepted (JSON)."""
ANNOTATION_COMPLETED: Final = f"{GROUP}/completed"
"""On a ReplicaSet: when its revision last was all that served (RFC 3339)."""
GATE_ACCEPTED: Final = f"{GROUP}/accepted"
"""Condition type of the readiness gate that pods have until their revision is accepted."""

ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""On a pod: of two that serve, the ReplicaSet controller takes the one with less."""

ANNOTATION_RETRY: Final = f"{GROUP}/retry"
"""On an LLMDeployment, by its user: try a failed revision again when the value is another."""
ANNOTATION_PROMOTE: Final = f"{GROUP}/promote"
"""On an LLMDeployment, by its user: the revision that may go on past a canary's pause."""

MAX_NAME_LENGTH: Final = 50
"""A Service takes the object's name (DNS-1035); a ReplicaSet appends a hash to it."""
