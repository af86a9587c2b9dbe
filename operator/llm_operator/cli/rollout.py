"""`llm-operator rollout`: how an upgrade goes, what was before, and to stop, go on, go back.

Exit code 0 where it is done, 1 where it cannot be or the rollout has failed, 2 for wrong usage.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llm_operator.cli.rollout_do import Which

app = typer.Typer(
    help="Follow an upgrade, look at its revisions, stop it, go on, go back.", no_args_is_help=True
)


class Format(StrEnum):
    """For people or for programs."""

    TABLE = "table"
    JSON = "json"


Name = Annotated[str, typer.Argument(help="The LLMDeployment.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="Kubeconfig file to use.", show_default=False)
]
Older = Annotated[
    str | None,
    typer.Argument(help="A revision, or how it begins; else the previous one."),
]
PrintPatch = Annotated[
    bool,
    typer.Option("--print-patch", help="Write nothing, print the change as a JSON patch."),
]


def register(to: typer.Typer) -> None:
    """Add the commands to the program."""
    to.add_typer(app, name="rollout")


@app.command()
def status(
    name: Name,
    namespace: Namespace = None,
    watch: Annotated[bool, typer.Option(help="Follow it until it has ended.")] = True,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Give up after so many seconds.")
    ] = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show how the rollout goes; exit code 1 if it fails."""
    from llm_operator.cli import rollout_do

    if not rollout_do.show(_which(name, namespace, kubeconfig), follow=watch, timeout=timeout):
        raise typer.Exit(1)


@app.command()
def history(
    name: Name,
    namespace: Namespace = None,
    revision: Annotated[str | None, typer.Option(help="Print what this one says, as YAML.")] = None,
    output: Annotated[Format, typer.Option("--output", "-o")] = Format.TABLE,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the revisions that are kept, and what each has changed."""
    from llm_operator.cli import rollout_do

    which = _which(name, namespace, kubeconfig)
    rollout_do.history(which, revision, as_json=output is Format.JSON)


@app.command()
def diff(
    name: Name,
    revision: Older = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Another revision, instead of the spec as it is.")
    ] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what differs between a revision and the spec as it is now, or another revision."""
    from llm_operator.cli import rollout_do

    rollout_do.diff(_which(name, namespace, kubeconfig), revision, to)


@app.command()
def pause(
    name: Name,
    namespace: Namespace = None,
    print_patch: PrintPatch = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Stop the rollout where it is; what serves goes on serving."""
    from llm_operator.cli import rollout_do

    which = _which(name, namespace, kubeconfig)
    rollout_do.pause(which, pause=True, print_patch=print_patch)


@app.command()
def resume(
    name: Name,
    namespace: Namespace = None,
    print_patch: PrintPatch = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Go on with a rollout that was paused."""
    from llm_operator.cli import rollout_do

    which = _which(name, namespace, kubeconfig)
    rollout_do.pause(which, pause=False, print_patch=print_patch)


@app.command()
def promote(
    name: Name,
    namespace: Namespace = None,
    full: Annotated[bool, typer.Option("--full", help="Past all steps that are left.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Let a canary go past the step where it waits."""
    from llm_operator.cli import rollout_do

    rollout_do.promote(_which(name, namespace, kubeconfig), full=full)


@app.command()
def retry(name: Name, namespace: Namespace = None, kubeconfig: Kubeconfig = None) -> None:
    """Try a revision again that has failed."""
    from llm_operator.cli import rollout_do

    rollout_do.retry(_which(name, namespace, kubeconfig))


@app.command()
def undo(
    name: Name,
    revision: Annotated[
        str | None,
        typer.Option("--to-revision", help="Which one, instead of the previous one."),
    ] = None,
    namespace: Namespace = None,
    print_patch: PrintPatch = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write the spec of an older revision; replicas and the like stay as they are."""
    from llm_operator.cli import rollout_do

    which = _which(name, namespace, kubeconfig)
    rollout_do.undo(which, revision, print_patch=print_patch)


def _which(name: str, namespace: str | None, kubeconfig: Path | None) -> Which:
    from llm_operator.cli.rollout_do import Which

    return Which(name, namespace, kubeconfig)
