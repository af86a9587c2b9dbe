"""`up`, `down` and `fault`: the test drive's cluster on this machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from llm_operator.api.crd import crd_yaml
from llm_operator.api.names import KIND
from llm_operator.cli.console import CommandError, console, step
from llm_operator.cluster import binaries, state
from llm_operator.cluster.local import LocalCluster, default_state_dir

NODES = "a100=1x8,h100=1x8,l4=2x2,t4=2x2"
"""The simulated nodes that carry all of `examples/` at once."""

DEFAULT_NAME = "default"


def running() -> list[LocalCluster]:
    """The local clusters of this user, by name."""
    home = default_state_dir(DEFAULT_NAME).parent
    found = sorted(home.iterdir()) if home.is_dir() else []
    return [LocalCluster(path.name, path) for path in found if state.is_running(path)]


def choose(name: str | None) -> LocalCluster:
    """The cluster of this name; without a name the only one. Raises CommandError if unclear."""
    if name is not None:
        return LocalCluster.connect(name)
    clusters = running()
    if not clusters:
        raise CommandError("no local cluster is running: `llm-operator up` starts one")
    if len(clusters) > 1:
        names = ", ".join(cluster.name for cluster in clusters)
        raise CommandError(f"several local clusters are running: name one of {names}")
    return clusters[0]


def get_programs(to: Console, *more: str) -> None:
    """Have the cluster's programs and `more` on this machine: minutes, the first time."""
    names = (*binaries.CLUSTER_PROGRAMS, "helm", *more)
    if not all(map(binaries.find, names)):
        with step("getting the Kubernetes programs", to) as tell:
            binaries.need(*names, progress=tell)


def start(
    name: str,
    nodes: str,
    to: Console,
    *,
    die_with: int | None = None,
    fleet_args: Sequence[str] = (),
) -> LocalCluster:
    """Start a cluster with its simulated nodes and the custom resource, showing progress."""
    with step(f"starting Kubernetes with simulated nodes {nodes}", to) as tell:
        cluster = LocalCluster.start(
            name, nodes=nodes, die_with=die_with, fleet_args=fleet_args, progress=tell
        )
    try:
        install_crd(cluster)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def install_crd(cluster: LocalCluster) -> None:
    """Apply the custom resource of this version, and wait until it is served."""
    text = crd_yaml()
    cluster.kubectl("apply", "--server-side", "--filename=-", input=text)
    # Names come with the first conditions; kubectl gives up on an object that has none yet.
    for sign in (f"jsonpath={{.status.acceptedNames.kind}}={KIND}", "condition=Established"):
        cluster.kubectl("wait", f"--for={sign}", "--filename=-", input=text)


def up(name: str, nodes: str | None, *, keep: bool) -> None:
    """Start a cluster and say how to use it; with `keep` false, stay until interrupted."""
    to = console(stderr=True)
    if state.is_running(default_state_dir(name)):
        if nodes is not None or not keep:
            raise CommandError(
                f"local cluster {name!r} is running: `llm-operator down {name}` first"
            )
        to.print(f"local cluster {name!r} is already running")
        _say_what_next(LocalCluster.connect(name), to)
        return
    get_programs(to)
    cluster = start(name, nodes or NODES, to)
    _say_what_next(cluster, to)
    if not keep:
        _wait_for_interrupt(lambda: stop(cluster, to), to)


def down(name: str) -> None:
    """Stop the cluster of this name and no other; it is no error if it does not run."""
    to = console(stderr=True)
    if state.is_running(default_state_dir(name)):
        stop(LocalCluster.connect(name), to)
        return
    others = ", ".join(cluster.name for cluster in running())
    to.print(f"no local cluster {name!r} is running" + (f"; there are: {others}" if others else ""))


def stop(cluster: LocalCluster, to: Console) -> None:
    """End every process of the cluster and remove what it kept."""
    with step(f"stopping local cluster {cluster.name!r}", to):
        cluster.stop()


def change_fault(cluster: LocalCluster, arguments: list[str]) -> None:
    """Hand a fault over to the fleet. Raises CommandError for one that it does not know."""
    from llm_operator.cluster.fleet import __main__ as fleet

    try:
        fleet.main(["fault", f"--kubeconfig={cluster.kubeconfig}", *arguments])
    except ValueError as error:
        raise CommandError(str(error)) from error


def shown(path: Path) -> str:
    """A path as a user would write it: with ~ for the home directory."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _say_what_next(cluster: LocalCluster, to: Console) -> None:
    to.print(
        f"\n  export KUBECONFIG={shown(cluster.kubeconfig)}\n"
        "  kubectl get nodes -L nvidia.com/gpu.product\n"
        "  llm-operator run                       [dim]# the operator, in another terminal[/]\n"
        "  kubectl apply -f examples/\n"
        "  llm-operator status\n"
        f"  curl -x {cluster.proxy_url} http://NAME.default/info   "
        "[dim]# any Service, from this machine[/]\n"
        f"  llm-operator down {cluster.name}\n"
    )


def _wait_for_interrupt(end: Callable[[], None], to: Console) -> None:
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    to.print("running until interrupted (Ctrl-C)")
    interrupted.wait()
    end()
