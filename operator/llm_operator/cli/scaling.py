"""`llm-operator scaling`: how many replicas, why, and what was decided before.

Exit code 0, or 1 where there is nothing to show, 2 for wrong usage.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """For people or for programs."""

    TABLE = "table"
    JSON = "json"


def register(to: typer.Typer) -> None:
    """Add the command to the program."""
    to.command(name="scaling")(command)


def command(
    name: Annotated[str | None, typer.Argument(help="One LLMDeployment, in detail.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.")
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o")] = Format.TABLE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Kubeconfig file to use.", show_default=False)
    ] = None,
) -> None:
    """Show what the autoscaler decides, with its arithmetic, and why not more or less."""
    from llm_operator.cli import scaling_seen

    as_json = output is Format.JSON
    scaling_seen.show(name, namespace, kubeconfig, as_json=as_json, watch=watch)
