"""Events on a user's object: few, on transitions only, never in the way of the work."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from llm_operator.api import names
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.resources import EVENT
from llm_operator.kube.store import Key

MAX_NOTE = 1024


async def publish(
    client: KubeClient, key: Key, uid: str, *, warning: bool, reason: str, note: str
) -> bool:
    """Write one Event about an LLMDeployment; False if it was refused (the work goes on)."""
    name = f"{key.name}.{uuid.uuid4().hex[:16]}"
    body = {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": name, "namespace": key.namespace},
        "eventTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "reportingController": names.GROUP,
        "reportingInstance": names.FIELD_MANAGER,
        "action": "Reconcile",
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "note": note[:MAX_NOTE],
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
        },
    }
    try:
        await client.create(EVENT, body)
    except ApiError:
        return False
    return True
