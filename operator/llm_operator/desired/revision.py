"""A revision: what the user set, what the operator made of it once, and the pod both render to.

Decides a revision's identity and keeps its record, so that neither a new operator nor another
default restarts a running model. Refuses to know how many replicas run and in which order
revisions change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.desired.template import pod_template
from llm_operator.runtimes.base import Resolved, engine
from llm_operator.runtimes.terms import Plan, Refusal

Json = dict[str, Any]

HASH_LENGTH: Final = 10
_RAND_SAFE: Final = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' alphabet for generated names: no vowels, nothing that looks like something else."""


@dataclass(frozen=True)
class Defaults:
    """The operator's own configuration, for what the user left open. Read only by `resolve`.

    `version` None is the engine's own default. `drain_seconds` in seconds.
    """

    repository: str | None = None
    version: str | None = None
    drain_seconds: int = 90


@dataclass(frozen=True)
class Record:
    """All that a revision's pods follow from. `rendering` is the sha of the template they had.

    `text` is the annotation it was read from: it is written back as it was, so that an operator
    with more or fewer fields finds nothing to repair.
    """

    revision: str
    user: Json
    resolved: Resolved
    rendering: str
    text: str = field(default="", compare=False, repr=False)


_RECORD: Final = TypeAdapter(Record)


def resolve(
    spec: LLMDeploymentSpec, plan: Plan, commit: str | None, defaults: Defaults
) -> Resolved:
    """Decide, once per revision, all that the user left open.

    `commit` is the Hub's answer for `model.revision`; it is not kept for a local path.
    ValueError if the plan does not fit, or the image's version is not known: ask `engine.image`
    first for the reason.
    """
    if plan.gpu is None or not plan.fits:
        raise ValueError(f"a plan that does not fit makes no revision: {plan.message}")
    runtime = engine(spec.runtime.name if spec.runtime else None)
    image = runtime.image(spec.runtime, defaults.repository, defaults.version)
    if isinstance(image, Refusal):
        raise ValueError(image.reason)
    drain = spec.rollout.drain_seconds if spec.rollout else None
    return Resolved(
        engine=runtime.name,
        image=image.reference,
        engine_version=image.version,
        plan=plan,
        commit=None if spec.model.path is not None else commit,
        gpu_resource=plan.gpu.resource,
        drain=runtime.drain(image.version, drain or defaults.drain_seconds),
        startup_seconds=runtime.startup_seconds(max(plan.checkpoint_bytes, plan.weight_bytes)),
    )


def make_record(name: str, user: Json, resolved: Resolved) -> Record:
    """The record of a new revision of the deployment `name`."""
    template = render(name, "", user, resolved)
    revision = _hash(user, template)
    template["metadata"]["labels"][names.LABEL_REVISION] = revision
    return Record(revision, user, resolved, rendering_sha(template))


def revision_hash(name: str, user: Json, resolved: Resolved) -> str:
    """Ten characters that may end an object's name, from the wish and all that reaches the pod.

    What was resolved counts by its rendering, so the wording of a plan makes no revision.
    """
    return _hash(user, render(name, "", user, resolved))


def _hash(user: Json, template: Json) -> str:
    digest = _digest({"user": user, "template": template})
    return "".join(_RAND_SAFE[byte % len(_RAND_SAFE)] for byte in digest[:HASH_LENGTH])


def render(name: str, revision: str, user: Json, resolved: Resolved) -> Json:
    """The pod template of a revision: a function of these four and of nothing else."""
    return pod_template(name, revision, LLMDeploymentSpec.model_validate(user), resolved)


def restore(name: str, record: Record) -> Json | None:
    """The template that a recorded revision was made with; None if it cannot be told any more.

    That is so when this operator renders the same inputs otherwise than the one that made it.
    """
    try:
        template = render(name, record.revision, record.user, record.resolved)
    except (ValueError, KeyError):
        return None
    return template if rendering_sha(template) == record.rendering else None


def rendering_sha(template: Json) -> str:
    """Hex sha256 of a pod template, whatever the order of its keys."""
    return _digest(template).hex()


def record_to_json(record: Record) -> str:
    """The record as text for an annotation: the very text it was read from, if there is one."""
    if record.text:
        return record.text
    fields = _RECORD.dump_python(record, mode="json", exclude={"text"})
    return json.dumps(fields, separators=(",", ":"))


def record_from_json(text: str) -> Record | None:
    """The record in an annotation; None if it is none.

    Fields that are not known (a newer operator wrote them) are dropped, fields that are missing
    (an older one did not have them) take their default.
    """
    try:
        return replace(_RECORD.validate_json(text), text=text)
    except ValidationError:
        return None


def matching(records: Mapping[str, Record], user: Json) -> str | None:
    """The first recorded revision, in the order given, that the user's wish still means.

    Only what the user set is compared, as this operator reads it: a field that it does not know
    any more, or did not know then, counts as unset.
    """
    wanted = _as_read_now(user)
    return next((name for name, r in records.items() if _as_read_now(r.user) == wanted), None)


def _as_read_now(user: Json) -> Json:
    try:
        return user_inputs(LLMDeploymentSpec.model_validate(user))
    except ValidationError:
        return user


def _digest(value: object) -> bytes:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).digest()
