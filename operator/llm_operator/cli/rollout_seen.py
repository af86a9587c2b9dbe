"""Revisions of one LLMDeployment as the command line sees them, and what differs between two.

Pure. Decides which revision is meant by a name, which is the one before, and what a revision says
in the user's words and in the operator's. Refuses to know how any of it is shown or written.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from pydantic import ValidationError

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.cli.console import CommandError
from llm_operator.cli.view import Seen
from llm_operator.desired.revision import Record, record_from_json
from llm_operator.facts.cluster import PodFact
from llm_operator.rollout.policy import policy_from, promoted_steps

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Revision:
    """One revision: its ReplicaSet, its pods, and what `status` tells of it ({} if nothing)."""

    name: str
    replica_set: Object
    pods: tuple[PodFact, ...]
    told: Object
    wanted: bool

    @property
    def created(self) -> str:
        return str(self.replica_set["metadata"].get("creationTimestamp", ""))

    @property
    def replicas(self) -> int:
        """Pods that its ReplicaSet is asked for."""
        return int(self.replica_set["spec"].get("replicas", 0))

    @property
    def ready(self) -> int:
        return sum(pod.ready and not pod.deleting for pod in self.pods)

    @property
    def coming(self) -> int:
        """Pods that exist and do not serve yet."""
        return sum(not pod.ready and not pod.deleting for pod in self.pods)

    @property
    def draining(self) -> int:
        """Pods on their way out, which still finish what they have begun."""
        return sum(pod.deleting for pod in self.pods)

    @cached_property
    def record(self) -> Record | None:
        return record_from_json(self._annotation(names.ANNOTATION_RECORD) or "")

    @cached_property
    def failed(self) -> Object | None:
        """Why it was given up; None if it was not."""
        text = self._annotation(names.ANNOTATION_FAILED)
        try:
            found = json.loads(text) if text else None
        except ValueError:
            found = {}
        return found if found is None or isinstance(found, dict) else {}

    @property
    def completed(self) -> str:
        """When it last was all that served, RFC 3339; empty if it never was, as far as is known."""
        return self._annotation(names.ANNOTATION_COMPLETED) or ""

    @property
    def text(self) -> str:
        """What it is, as YAML: what the user set, and what the operator made of it."""
        return described(self.record.user, self.record) if self.record else ""

    def _annotation(self, key: str) -> str | None:
        annotations = self.replica_set["metadata"].get("annotations") or {}
        return annotations.get(key)


@dataclass(frozen=True)
class Rollout:
    """One LLMDeployment and its revisions, the newest first."""

    seen: Seen
    revisions: tuple[Revision, ...]

    @property
    def spec(self) -> Object:
        return self.seen.spec

    @property
    def wanted(self) -> Revision | None:
        """The revision of the spec as it is now; None while there is none."""
        return next((revision for revision in self.revisions if revision.wanted), None)

    @property
    def older(self) -> tuple[Revision, ...]:
        return tuple(revision for revision in self.revisions if not revision.wanted)

    @property
    def previous(self) -> Revision | None:
        """Where `undo` goes: the one that serves most, else the last that was all that served,
        else the newest that has not failed."""
        good = [r for r in self.older if r.record and (r.ready or r.failed is None)]
        return max(good, key=lambda r: (r.ready, r.completed, r.created), default=None)

    @property
    def retrying(self) -> bool:
        """Whether the user has asked to try the failed revision again, since it failed."""
        failed = self.wanted.failed if self.wanted else None
        annotations = self.seen.deployment["metadata"].get("annotations") or {}
        return failed is not None and annotations.get(names.ANNOTATION_RETRY) != failed.get("retry")

    @property
    def ended(self) -> bool:
        """Whether all is done, or nothing more is done without the user."""
        return self.seen.ready or (self.seen.stalled and not self.retrying)

    def find(self, name: str | None) -> Revision:
        """The revision of that name or beginning; without a name the previous one.

        Raises CommandError if there is none, or several begin like that.
        """
        if name is None:
            if self.previous is None:
                failed = ", ".join(revision.name for revision in self.older)
                but = f" but what has failed: name one of {failed}" if failed else ""
                raise CommandError(f"{self.seen.name} has no older revision{but}")
            return self.previous
        bare = name.removeprefix(f"{self.seen.name}-")
        exact = [revision for revision in self.revisions if revision.name == bare]
        found = exact or [r for r in self.revisions if r.name.startswith(bare)]
        if len(found) != 1:
            some = ", ".join(revision.name for revision in found or self.revisions) or "none"
            which = "begin" if found else "there are"
            raise CommandError(f"which revision is {name!r}? {which}: {some}")
        return found[0]


def rollout(seen: Seen, replica_sets: Sequence[Object]) -> Rollout:
    """From the object with its pods, and all ReplicaSets that may be its own."""
    uid = seen.deployment["metadata"]["uid"]
    told = {one["name"]: one for one in seen.status.get("revisions", ())}
    current = seen.status.get("currentRevision") if seen.observed else None
    found = []
    for replica_set in replica_sets:
        metadata = replica_set["metadata"]
        owners = metadata.get("ownerReferences") or ()
        if not any(owner.get("uid") == uid for owner in owners):
            continue
        name = metadata["name"].removeprefix(f"{seen.name}-")
        pods = tuple(pod for pod in seen.pods if pod.revision == name)
        found.append(Revision(name, replica_set, pods, told.get(name, {}), name == current))
    return Rollout(seen, tuple(sorted(found, key=lambda r: (r.created, r.wanted), reverse=True)))


def described(user: Object, record: Record | None) -> str:
    """What was set and, where there is a record, what was resolved, as YAML."""
    parts: dict[str, Any] = {"spec": user}
    if record is not None:
        made, plan = record.resolved, record.resolved.plan
        resolved = {
            "image": made.image,
            "commit": made.commit,
            "gpu": plan.gpu.product if plan.gpu else None,
            "tensorParallel": plan.tensor_parallel,
            "quantization": f"{plan.quantization.method} {plan.quantization.bits:g} bit",
            "maxInputTokens": plan.max_input_tokens,
            "maxTotalTokens": plan.max_total_tokens,
            "maxConcurrentRequests": plan.max_concurrent_requests,
            "drainSeconds": made.drain.graceful,
            "startupSeconds": made.startup_seconds,
        }
        parts["resolved"] = {key: value for key, value in resolved.items() if value is not None}
    return yaml.safe_dump(parts, sort_keys=False, allow_unicode=True)


def as_asked_now(of: Rollout) -> str:
    """The same for the spec as it is: with what was resolved, once it has a revision."""
    if of.wanted is not None and of.wanted.record is not None:
        return of.wanted.text
    return described(inputs(of.spec), None)


def next_release(of: Rollout) -> int:
    """How many canary steps are released once the user has promoted the one that waits.

    Raises CommandError if none waits.
    """
    name, wanted = of.seen.name, of.wanted
    try:
        spec = LLMDeploymentSpec.model_validate(of.spec)
    except ValidationError as error:
        raise CommandError(f"the spec cannot be read: {error.errors()[0]['msg']}") from None
    steps = policy_from(spec.rollout, of.seen.replicas, 0).steps
    if not steps:
        raise CommandError(f"{name} has no canary: rollout.strategy is not Canary")
    if wanted is None or of.seen.ready:
        raise CommandError(f"{name} has no upgrade under way that could be promoted")
    annotations = of.seen.deployment["metadata"].get("annotations") or {}
    released = promoted_steps(annotations.get(names.ANNOTATION_PROMOTE), wanted.name)
    reached = sum(step.replicas < wanted.replicas for step in steps)
    at = max(released, reached)
    if at >= len(steps):
        raise CommandError(f"{name} is past its last canary step")
    if steps[at].replicas > wanted.replicas:
        raise CommandError(f"{name} is still on its way to step {at + 1} of {len(steps)}")
    return at + 1


def inputs(spec: Object) -> Object:
    """What of a spec identifies a revision. Raises CommandError for one that cannot be read."""
    try:
        return user_inputs(LLMDeploymentSpec.model_validate(spec))
    except ValidationError as error:
        raise CommandError(f"the spec cannot be read: {error.errors()[0]['msg']}") from None


def difference(before: str, after: str, names: tuple[str, str]) -> list[str]:
    """A unified diff, line by line; empty if both are the same."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
    return list(lines)


def changed(before: Object, after: Object, path: str = "") -> Iterator[str]:
    """Paths of the fields in which two specs differ, e.g. `model.revision`."""
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        place = f"{path}.{key}" if path else key
        if isinstance(old, dict) and isinstance(new, dict):
            yield from changed(old, new, place)
        elif old != new:
            yield place
