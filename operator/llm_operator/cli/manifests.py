"""LLMDeployments from YAML files, checked as far as it goes without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llm_operator.api import names
from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cli.console import CommandError


@dataclass(frozen=True)
class Deployment:
    """One LLMDeployment of a file."""

    name: str
    spec: LLMDeploymentSpec


def deployments(paths: Iterable[Path]) -> list[Deployment]:
    """The LLMDeployments of these files (`-` is standard input, a directory its YAML files).

    Other kinds are passed over. Raises CommandError with the field at fault.
    """
    found = [
        _deployment(document, path)
        for path in _files(paths)
        for document in _documents(path)
        if document.get("kind") == names.KIND
    ]
    if not found:
        raise CommandError(f"no {names.KIND} in {', '.join(map(str, paths))}")
    return found


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
        else:
            yield path


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    """Every object of a file, those of a List one by one."""
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise CommandError(f"{path}{line}: not YAML") from None
    for document in documents:
        if isinstance(document, dict):
            items = document.get("items") if document.get("kind") == "List" else None
            yield from (item for item in items or [document] if isinstance(item, dict))


def _deployment(document: dict[str, Any], path: Path) -> Deployment:
    name = str((document.get("metadata") or {}).get("name") or "unnamed")
    if document.get("apiVersion") != names.API_VERSION:
        raise CommandError(f"{path}: {name}: apiVersion must be {names.API_VERSION}")
    try:
        spec = LLMDeploymentSpec.model_validate(document.get("spec") or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in ("spec", *first["loc"]))
        raise CommandError(f"{path}: {name}: {field}: {first['msg']}") from None
    return Deployment(name, spec)
