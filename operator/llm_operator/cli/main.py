"""The program `llm-operator` (also `kubectl-llm`): its commands, their options, their exit codes.

0: done. 1: could not be done, or the answer is no. 2: wrong usage. What a command needs is
imported when it runs, so that `--help` is there at once.
"""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llm_operator.cli import plan, rollout, scaling

app = typer.Typer(
    name="llm-operator",
    help="Plan, run, scale and upgrade quantized LLM serving on Kubernetes, and see why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
fault_app = typer.Typer(help="Make simulated pods fail on demand.", no_args_is_help=True)


class Output(StrEnum):
    """For people or for programs."""

    TABLE = "table"
    JSON = "json"


Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Only this namespace.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="Kubeconfig file to use.", show_default=False)
]
Nodes = Annotated[
    str | None,
    typer.Option(help="Simulated nodes, KIND=NODESxGPUS,...: a100, h100, l4, t4.", metavar="LIST"),
]
ClusterName = Annotated[str | None, typer.Option(help="Local cluster, where several run.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show where an error comes from.")] = False,
) -> None:
    if debug:
        os.environ["LLM_OPERATOR_DEBUG"] = "1"


@app.command()
def up(
    nodes: Nodes = None,
    name: Annotated[str, typer.Option(help="Name of the local cluster.")] = "default",
    keep: Annotated[
        bool, typer.Option(help="Leave it running until `down`, or only until Ctrl-C.")
    ] = True,
    download_only: Annotated[
        bool, typer.Option("--download-only", help="Only get the Kubernetes programs.")
    ] = False,
) -> None:
    """Start a real Kubernetes on this machine, with simulated GPU nodes. No Docker."""
    from llm_operator.cli import console, local

    if download_only:
        local.get_programs(console.console(stderr=True), "prometheus")
    else:
        local.up(name, nodes, keep=keep)


@app.command()
def down(
    name: Annotated[str, typer.Argument(help="The local cluster to stop.")] = "default",
) -> None:
    """Stop what `up` or `demo --keep` left running."""
    from llm_operator.cli import local

    local.down(name)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards.")] = False,
    nodes: Nodes = None,
    examples: Annotated[
        Path | None, typer.Option(help="What to apply.", metavar="DIR", show_default=False)
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="The operator's chart.", metavar="DIR", show_default=False)
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds until all must be ready; with --upgrade, for each act.")
    ] = 240,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade", help="Instead: upgrades under steady traffic."),
    ] = False,
    scale: Annotated[
        bool,
        typer.Option("--scale", help="Instead: replicas follow a burst, with a Prometheus."),
    ] = False,
) -> None:
    """Show everything on this machine: cluster, operator, examples, answers."""
    if upgrade and scale:
        raise typer.BadParameter("one at a time: --upgrade or --scale")
    if (upgrade or scale) and examples is not None:
        own = "--upgrade" if upgrade else "--scale"
        raise typer.BadParameter(f"{own} plays with its own model", param_hint="--examples")
    if upgrade:
        from llm_operator.cli.demo_upgrade import demo_upgrade

        code = demo_upgrade(keep=keep, nodes=nodes, chart=chart, timeout=timeout)
    elif scale:
        from llm_operator.cli.demo_scale import demo_scale

        code = demo_scale(keep=keep, nodes=nodes, chart=chart)
    else:
        from llm_operator.cli import demo as command

        code = command.demo(keep=keep, nodes=nodes, examples=examples, chart=chart, timeout=timeout)
    raise typer.Exit(code)


@app.command()
def run(
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    image_repository: Annotated[
        str | None, typer.Option(help="Repository of the engine's image, for new revisions.")
    ] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="Version of the engine, for new revisions.")
    ] = None,
    hub_offline: Annotated[bool, typer.Option(help="Never ask the model hub.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Objects looked at side by side.")] = 8,
    resync_seconds: Annotated[
        float, typer.Option(min=1, help="List everything again this often.")
    ] = 600,
    http_host: Annotated[
        str, typer.Option(help="Where the probes and metrics listen.")
    ] = "0.0.0.0",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Their port.")] = 8080,
    prometheus_url: Annotated[
        str | None,
        typer.Option(
            help="Prometheus that scrapes the pods. Unset: each pod is asked for its load."
        ),
    ] = None,
    prometheus_ca_file: Annotated[
        Path | None, typer.Option(help="Certificates of who vouches for its server.")
    ] = None,
    prometheus_token_file: Annotated[
        Path | None, typer.Option(help="Bearer token for it, read again at each query.")
    ] = None,
    prometheus_namespace_label: Annotated[
        str, typer.Option(help="What it calls a pod's namespace.")
    ] = "namespace",
    prometheus_pod_label: Annotated[str, typer.Option(help="What it calls a pod's name.")] = "pod",
    prometheus_matchers: Annotated[
        str, typer.Option(help='For every query: cluster="a",job=~"b|c".', metavar="LIST")
    ] = "",
    prometheus_timeout_seconds: Annotated[
        float, typer.Option(min=0.1, help="No answer by then is none.")
    ] = 10,
    prometheus_scrape_interval_seconds: Annotated[
        float, typer.Option(min=1, help="How often it scrapes; three times that is too old.")
    ] = 15,
    scaling_interval_seconds: Annotated[
        float, typer.Option(min=0.1, max=30, help="Decide on replicas this often.")
    ] = 15,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_json: Annotated[bool, typer.Option(help="Log lines as JSON.")] = False,
) -> None:
    """Run the operator, in a pod or on this machine."""
    from llm_operator.cli import target
    from llm_operator.handlers import app as operator
    from llm_operator.handlers.settings import Settings
    from llm_operator.observe.prometheus import PrometheusConfig, WrongConfig
    from llm_operator.telemetry import logs

    logs.configure(log_level, as_json=log_json)
    try:
        prometheus = (
            PrometheusConfig(
                prometheus_url,
                prometheus_ca_file,
                prometheus_token_file,
                prometheus_namespace_label,
                prometheus_pod_label,
                prometheus_matchers,
                prometheus_timeout_seconds,
                prometheus_scrape_interval_seconds,
            )
            if prometheus_url
            else None
        )
    except WrongConfig as error:
        raise typer.BadParameter(str(error), param_hint="--prometheus-*") from None
    chosen = target.named(kubeconfig)
    settings = Settings(
        kubeconfig=str(chosen) if chosen else None,
        namespace=namespace,
        image_repository=image_repository,
        engine_version=engine_version,
        hub_offline=hub_offline,
        workers=workers,
        resync_seconds=resync_seconds,
        http_host=http_host,
        http_port=http_port,
        prometheus=prometheus,
        scaling_interval_seconds=scaling_interval_seconds,
    )
    raise typer.Exit(operator.run(settings))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One LLMDeployment, in detail.")] = None,
    namespace: Namespace = None,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what runs: plan, memory, revisions, pods and why they do not serve."""
    from llm_operator.cli import status as command

    command.status(name, namespace, kubeconfig, as_json=output is Output.JSON, watch=watch)


@app.command()
def crd() -> None:
    """Print the custom resource definition."""
    from llm_operator.api.crd import crd_yaml

    sys.stdout.write(crd_yaml())


@app.command()
def version() -> None:
    """Print the version."""
    from importlib import metadata

    print(metadata.version("llm-operator"))


@fault_app.command("set")
def fault_set(
    name: Annotated[str, typer.Argument(help="Any name, by which it is cleared.")],
    fault: Annotated[
        str, typer.Option(help="For example crash-loading, oom, hang, slow-start=30, hub-401.")
    ],
    namespace: Namespace = None,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Pods by label, k=v,k=v.")] = "",
    cluster: ClusterName = None,
) -> None:
    """Have the pods that match fail, those yet to come too."""
    from llm_operator.cli import local

    where = [f"--namespace={namespace}"] if namespace else []
    arguments = ["set", name, f"--fault={fault}", f"--selector={selector}", *where]
    local.change_fault(local.choose(cluster), arguments)


@fault_app.command("clear")
def fault_clear(name: str, cluster: ClusterName = None) -> None:
    """Have them work again."""
    from llm_operator.cli import local

    local.change_fault(local.choose(cluster), ["clear", name])


app.add_typer(fault_app, name="fault")
plan.register(app)
rollout.register(app)
scaling.register(app)


def main() -> None:
    """The entry point: an error is one line on stderr, unless --debug."""
    # Asked to end, what was started is stopped first, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except Exception as error:
        if os.environ.get("LLM_OPERATOR_DEBUG"):
            raise
        from llm_operator.cli.console import console

        kind = "" if _is_told_to_users(error) else f"{type(error).__name__}: "
        to = console(stderr=True)
        to.print("[red]error:[/]", end=" ")
        to.print(f"{kind}{error}", markup=False, soft_wrap=True)
        sys.exit(1)


def _is_told_to_users(error: Exception) -> bool:
    """Whether the message alone says it: our own errors do, and the operating system's."""
    return isinstance(error, OSError) or type(error).__module__.startswith("llm_operator.")


if __name__ == "__main__":
    main()
