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

MAX_NAME_LENGTH: Final = 50
"""A Service takes the object's name (DNS-1035); a ReplicaSet appends a hash to it."""
