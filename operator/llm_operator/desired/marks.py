"""Marks on a revision's ReplicaSet of how it fared: it failed, was accepted, was all that served.

Decides the annotations' text, so that they outlive the operator. Refuses to know when one is due. A
mark that cannot be read counts as not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from llm_operator.api import names
from llm_operator.facts.acceptance import Result


@dataclass(frozen=True)
class Failed:
    """The revision was given up. `at` is RFC 3339 in UTC; `retry` the user's annotation then."""

    reason: str
    message: str
    at: str
    retry: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The revision answered as its user expects. `at` is RFC 3339 in UTC."""

    at: str
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Marks:
    """All marks of one revision. `completed`: when it last was all that served, RFC 3339."""

    failed: Failed | None = None
    accepted: Accepted | None = None
    completed: str | None = None


T = TypeVar("T")

_FAILED: Final = TypeAdapter(Failed)
_ACCEPTED: Final = TypeAdapter(Accepted)


def read(annotations: Mapping[str, str]) -> Marks:
    """The marks among a ReplicaSet's annotations."""
    return Marks(
        _parse(_FAILED, annotations.get(names.ANNOTATION_FAILED)),
        _parse(_ACCEPTED, annotations.get(names.ANNOTATION_ACCEPTED)),
        annotations.get(names.ANNOTATION_COMPLETED) or None,
    )


def failed(mark: Failed) -> dict[str, str]:
    """The annotation of a failure."""
    return {names.ANNOTATION_FAILED: _text(_FAILED, mark)}


def accepted(mark: Accepted) -> dict[str, str]:
    """The annotation of an acceptance."""
    return {names.ANNOTATION_ACCEPTED: _text(_ACCEPTED, mark)}


def completed(at: str) -> dict[str, str]:
    """The annotation of a revision that is all that serves."""
    return {names.ANNOTATION_COMPLETED: at}


def _text(adapter: TypeAdapter[Any], mark: object) -> str:
    return json.dumps(adapter.dump_python(mark, mode="json"), separators=(",", ":"))


def _parse(adapter: TypeAdapter[T], text: str | None) -> T | None:
    try:
        return adapter.validate_json(text) if text else None
    except ValidationError:
        return None
