"""What a rollout command writes into a user's object, as JSON patches (RFC 6902).

Pure. Decides the fields that are touched, and no others. Refuses to know how a patch gets to the
API server. JSON patches and not merge patches, because a merge patch cannot set null, which a
model's config may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_operator.api import names
from llm_operator.api.spec import NOT_IN_POD

Object = Mapping[str, Any]
Patch = list[dict[str, Any]]

_MARKS = {
    "Flux": ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"),
    "Argo CD": ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"),
}


def spec_of(user: Object, now: Object) -> dict[str, Any]:
    """The spec that asks for a revision: what its user set then, the rest as it is `now`."""
    spec = {field: now[field] for field in NOT_IN_POD if field in now} | dict(user)
    kept = {key: value for key, value in now.get("rollout", {}).items() if key != "drainSeconds"}
    if rollout := kept | dict(user.get("rollout", {})):
        spec["rollout"] = rollout
    return spec


def to_spec(now: Object, wanted: Object) -> Patch:
    """The patch that makes the one spec the other."""
    return _between(now, wanted, "/spec")


def paused(now: Object, pause: bool) -> Patch:
    """Set `rollout.paused`, or take it away."""
    rollout = {key: value for key, value in now.get("rollout", {}).items() if key != "paused"}
    wanted = {**now, "rollout": rollout | ({"paused": True} if pause else {})}
    if "rollout" not in now and not pause:
        return []
    return to_spec(now, wanted)


def annotated(metadata: Object, annotation: str, value: str) -> Patch:
    """Set an annotation."""
    there = metadata.get("annotations")
    if there is None:
        return [{"op": "add", "path": "/metadata/annotations", "value": {annotation: value}}]
    return _between(there, {**there, annotation: value}, "/metadata/annotations")


def guarded(patch: Patch, version: str) -> Patch:
    """The patch, refused as a conflict if the object is not the one that was read any more."""
    return [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}, *patch]


def git_tool(metadata: Object) -> str | None:
    """Who would write the object back as it is in Git; None if nobody is known to."""
    there = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return next((tool for tool, marks in _MARKS.items() if any(m in there for m in marks)), None)


def retry(metadata: Object, moment: str) -> Patch:
    """Have a failed revision tried again; `moment` is any value that was not used before."""
    return annotated(metadata, names.ANNOTATION_RETRY, moment)


def promoted(metadata: Object, revision: str, steps: int | None) -> Patch:
    """Let the canary of that revision go past its first `steps` steps, past all if None."""
    value = revision if steps is None else f"{revision}/{steps}"
    return annotated(metadata, names.ANNOTATION_PROMOTE, value)


def _between(now: Object, wanted: Object, path: str) -> Patch:
    found: Patch = []
    for key in sorted({*now, *wanted}):
        place = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in wanted:
            found.append({"op": "remove", "path": place})
        elif key not in now:
            found.append({"op": "add", "path": place, "value": wanted[key]})
        elif isinstance(now[key], dict) and isinstance(wanted[key], dict):
            found += _between(now[key], wanted[key], place)
        elif now[key] != wanted[key]:
            found.append({"op": "replace", "path": place, "value": wanted[key]})
    return found
