"""The pod template: the engine's container in a pod that lands on the right nodes.

Decides labels, placement and what every pod of ours has. Refuses to know the engine's own
container and who owns the pod.
"""

from __future__ import annotations

from typing import Any, Final

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec, Scheduling
from llm_operator.runtimes.base import Resolved, engine

Json = dict[str, Any]

PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
GPU_TAINT: Final = "nvidia.com/gpu"
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"


def deployment_labels(name: str) -> dict[str, str]:
    """Labels of everything that belongs to the deployment `name`."""
    return {
        names.LABEL_NAME: names.APP_NAME,
        names.LABEL_MANAGED_BY: names.APP_NAME,
        names.LABEL_DEPLOYMENT: name,
    }


def pod_template(name: str, revision: str, spec: LLMDeploymentSpec, resolved: Resolved) -> Json:
    """The template of a ReplicaSet. ValueError if the plan does not fit, KeyError for an engine
    that is not there."""
    serving = engine(resolved.engine).pod(spec, resolved)
    pull_secrets = (spec.runtime.image_pull_secrets if spec.runtime else None) or []
    pod: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": resolved.drain.grace,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "imagePullSecrets": [{"name": secret} for secret in pull_secrets],
        **_placement(name, spec.scheduling or Scheduling(), resolved),
        "containers": [serving.container],
        "volumes": list(serving.volumes),
    }
    return {
        "metadata": {
            "labels": {**deployment_labels(name), names.LABEL_REVISION: revision},
            "annotations": dict(serving.annotations),
        },
        "spec": {key: value for key, value in pod.items() if value not in ([], {}, None)},
    }


def gate() -> list[Json]:
    """`readinessGates` of pods whose revision is not accepted yet: ready only once it is.

    Neither in the revision's hash nor in its rendering: it goes while the pods stay the same.
    """
    return [{"conditionType": names.GATE_ACCEPTED}]


def gated(template: Json) -> Json:
    """The template with the gate of `gate`."""
    return {**template, "spec": {**template["spec"], "readinessGates": gate()}}


def _placement(name: str, wish: Scheduling, resolved: Resolved) -> Json:
    tolerations = [{"key": GPU_TAINT, "operator": "Exists"}]
    for toleration in wish.tolerations or ():
        tolerations.append(toleration.model_dump(by_alias=True, exclude_none=True))
    spread = [
        {
            **constraint.model_dump(by_alias=True, exclude_none=True),
            "labelSelector": {"matchLabels": {names.LABEL_DEPLOYMENT: name}},
            "matchLabelKeys": [names.LABEL_REVISION],
        }
        for constraint in wish.topology_spread or ()
    ]
    return {
        "nodeSelector": dict(wish.node_selector or {}),
        "tolerations": tolerations,
        "affinity": _affinity(wish.affinity or {}, resolved.plan.products),
        "topologySpreadConstraints": spread,
        "priorityClassName": wish.priority_class_name,
    }


def _affinity(wish: Json, products: tuple[str, ...]) -> Json:
    """The user's affinity, of which every alternative must also have one of the products."""
    if not products:
        return wish
    card = {"key": PRODUCT_LABEL, "operator": "In", "values": list(products)}
    node = dict(wish.get("nodeAffinity") or {})
    alternatives = (node.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    terms = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), card]}
        for term in alternatives
    ]
    return {**wish, "nodeAffinity": {**node, _REQUIRED: {"nodeSelectorTerms": terms}}}
