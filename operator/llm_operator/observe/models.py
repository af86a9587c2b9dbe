"""What is known of a model: from the spec's own config, the catalogue, or (in background) the Hub.

Never waits: a look-up at the Hub runs on its own and has its askers looked at when it ends. So
nothing stands between a new object with a known model and its pods.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from llm_operator.api.spec import Model as ModelSpec
from llm_operator.api.status import Reason
from llm_operator.kube.store import Key
from llm_operator.planning import Model, SizeUnknown, model_of
from llm_operator.planning.catalogue import catalogued

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A revision that is a commit already stands for itself."""

DEFAULT_BRANCH = "main"
"""What the Hub gives where no revision is named."""

FRESH_SECONDS = 3600.0
"""How long an answer of the Hub is good for new revisions."""

WAYS = (
    "give the fields of its config.json in model.config, let the operator see it (HF_TOKEN of the"
    " operator), or use a model of the catalogue"
)
"""The three ways out where a model's shape is not known."""


@dataclass(frozen=True)
class NotYet:
    """The Hub is being asked."""

    message: str


@dataclass(frozen=True)
class Unknown:
    """The model's shape cannot be told; `retry_after` in seconds where time may help."""

    reason: Reason
    message: str
    retry_after: float | None = None


class Hub(Protocol):
    """Who is asked for models that neither the spec nor the catalogue describes."""

    async def look_up(self, model_id: str, revision: str | None) -> Model | Unknown:
        """The model at a branch, tag or commit, or why it is not known."""
        ...

    def close(self) -> None:
        """Ask no more."""
        ...


Facts = Model | NotYet | Unknown


class Models:
    """Facts about models, with the Hub's answers cached in this process."""

    def __init__(self, hub: Hub | None, found: Callable[[Key], None]) -> None:
        self._hub = hub
        self._found = found
        self._known: dict[tuple[str, str | None], tuple[float, Model | Unknown]] = {}
        self._asking: dict[tuple[str, str | None], asyncio.Task[None]] = {}
        self._askers: dict[tuple[str, str | None], set[Key]] = {}

    def facts(self, key: Key, spec: ModelSpec, *, can_wait: bool = False) -> Facts:
        """What is known now; if it is NotYet, `found(key)` is called when there is more.

        A model of known shape is looked up as well, for the commit that its branch or tag stands
        for. Only where something serves already (`can_wait`) the answer is waited for; without one
        it goes without, and the answer is there for whoever comes next.
        """
        known, asked = _without_hub(spec), self._cached(spec)
        if isinstance(known, Unknown):
            return known
        if known is not None and isinstance(asked, Model):
            return replace(known, commit=asked.commit) if spec.config is not None else asked
        floats = spec.path is None and not COMMIT.fullmatch(spec.revision or "")
        if known is not None:
            if not (floats and asked is None and self._hub):
                return known
            if can_wait:
                return self._ask(key, spec, self._hub)
            self._start(spec, self._hub)
            return known
        if asked is not None:
            return asked
        if self._hub is None:
            return Unknown(
                Reason.MODEL_SHAPE_UNKNOWN,
                f"{spec.id} is not in the catalogue and the Hub is not asked (offline): {WAYS}",
            )
        return self._ask(key, spec, self._hub)

    async def close(self) -> None:
        """Stop asking."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        if self._hub is not None:
            self._hub.close()

    def _cached(self, spec: ModelSpec) -> Model | Unknown | None:
        asked_at, answer = self._known.get((spec.id, spec.revision), (0.0, None))
        age = asyncio.get_running_loop().time() - asked_at
        limit = FRESH_SECONDS
        if isinstance(answer, Unknown) and answer.retry_after is not None:
            limit = answer.retry_after
        return answer if age < limit else None

    def _ask(self, key: Key, spec: ModelSpec, hub: Hub) -> NotYet:
        self._askers.setdefault(self._start(spec, hub), set()).add(key)
        return NotYet(f"asking the Hub for {spec.id}")

    def _start(self, spec: ModelSpec, hub: Hub) -> tuple[str, str | None]:
        """Have the Hub asked, unless it is being asked already; the question."""
        question = (spec.id, spec.revision)
        if question not in self._asking:
            self._asking[question] = asyncio.create_task(self._look_up(question, hub))
        return question

    async def _look_up(self, question: tuple[str, str | None], hub: Hub) -> None:
        model_id, revision = question
        try:
            answer = await hub.look_up(model_id, revision)
        except Exception as error:
            log.warning("looking up %s: %s", model_id, error, exc_info=error)
            answer = Unknown(
                Reason.HUB_UNREACHABLE, f"the Hub could not be asked for {model_id}", 60.0
            )
        self._known[question] = (asyncio.get_running_loop().time(), answer)
        del self._asking[question]
        for key in self._askers.pop(question, ()):
            self._found(key)


def floating(model: Mapping[str, Any], commit: str | None) -> str | None:
    """The branch or tag that each pod resolves for itself; None if all load the same files.

    `model` is `spec.model` as its user set it, `commit` what was resolved for it.
    """
    named = str(model.get("revision") or "")
    if commit or model.get("path") or COMMIT.fullmatch(named):
        return None
    return named or DEFAULT_BRANCH


def _without_hub(spec: ModelSpec) -> Model | Unknown | None:
    """From the spec's own config, else from the catalogue; None if neither has it."""
    if spec.config is not None:
        return _judge(model_of(spec.id, spec.config, source="model.config"), spec.id)
    listed = catalogued(spec.id, spec.revision)
    return None if listed is None else _judge(listed, spec.id)


def _judge(found: Model | SizeUnknown, model_id: str) -> Model | Unknown:
    if isinstance(found, Model):
        return found
    return Unknown(Reason.MODEL_SHAPE_UNKNOWN, f"{model_id}: {found.reason}: {WAYS}")
