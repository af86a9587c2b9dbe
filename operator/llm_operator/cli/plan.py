"""`llm-operator plan`: what the operator would do with a manifest, and why, without a cluster.

Exit code 0 where everything fits, 1 where something does not, 2 for wrong usage.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """For people or for programs."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(name="plan")(command)


def command(
    files: Annotated[
        list[Path],
        typer.Option("--filename", "-f", help="Manifest; - is stdin.", metavar="FILE"),
    ],
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu",
            help="Nodes to plan for, instead of what the manifest names: a card (a100, l4 or a"
            " product label) and the GPUs of a node, 8 unless told.",
            metavar="PRODUCT[:COUNT]",
        ),
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o")] = Format.TABLE,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare the quantizations of each model.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the model hub.")] = False,
) -> None:
    """Plan manifests without a cluster: quantization, GPUs, memory, and what does not fit."""
    from llm_operator.cli import manifests, plan_compare, plan_input, plan_view
    from llm_operator.cli.console import console

    asked = plan_input.questions(manifests.deployments(files), gpus or (), offline=offline)
    if compare:
        tables = [plan_compare.compare(question) for question in asked]
        if output is Format.TABLE:
            console().print(*(plan_view.comparison(table) for table in tables), sep="\n")
        else:
            _write([plan_compare.as_json(table) for table in tables], output)
        return
    planned = plan_input.answers(asked)
    if output is Format.TABLE:
        console().print(*(plan_view.page(one) for one in planned), sep="\n")
    else:
        _write([plan_view.as_json(one) for one in planned], output)
    if not all(one.fits for one in planned):
        raise typer.Exit(1)


def _write(objects: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        json.dump(objects, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    import yaml

    yaml.safe_dump(objects, sys.stdout, sort_keys=False)
