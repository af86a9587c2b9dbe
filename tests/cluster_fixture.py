"""One local cluster for a whole test run, and a namespace of its own for each test.

Under pytest-xdist the workers share the cluster: the first one that needs it starts it, and it ends
with the process that runs them all.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_operator.api.names import KIND
from llm_operator.cluster import binaries
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

NODES = "a100=2x8,h100=1x8,l4=2x1,t4=2x4"
LONGEST_FIRST = (
    "cli_rollout",
    "scaling_faults",
    "operator_no_restart",
    "rollout_canary",
    "rollout_room",
    "rollout_crashes",
    "demo",
    "rollout_failures",
    "operator_acceptance",
    "fleet_nodes",
    "chart_install",
    "fleet_pods",
    "cluster_lifecycle",
    "cluster_prometheus",
)
"""Files that take a minute and more, mostly of waiting; roughly is good enough."""
CRDS = Path(__file__).parent.parent / "crds"


def has_fleet() -> bool:
    """Whether the simulated nodes can be started."""
    return importlib.util.find_spec("llm_operator.cluster.fleet.__main__") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the cluster, and get its programs before any test's clock runs.

    The longest files go first, so that no worker is left with one when the others have ended.
    """
    needy = [item for item in items if "cluster" in getattr(item, "fixturenames", ())]
    for item in needy:
        item.add_marker(pytest.mark.cluster)
    if needy:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        progress = reporter.write_line if reporter else lambda _: None
        binaries.need(*binaries.CLUSTER_PROGRAMS, progress=progress)
        if any("prometheus" in getattr(item, "fixturenames", ()) for item in needy):
            binaries.need("prometheus", progress=progress)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """The place of a test's file in the order; the order within a file stays."""
    name = item.path.stem.removeprefix("test_")
    if name in LONGEST_FIRST:
        return LONGEST_FIRST.index(name)
    return len(LONGEST_FIRST) + (item.get_closest_marker("cluster") is None)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The run's cluster: ready, with the simulated nodes of NODES and the CRDs of this checkout."""
    own = tmp_path_factory.getbasetemp()
    shared = "PYTEST_XDIST_WORKER" in os.environ
    root = (own.parent if shared else own) / "cluster"
    with (root.parent / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            running = LocalCluster.connect("test", state_dir=root)
        except ClusterError:
            running = LocalCluster.start(
                "test",
                state_dir=root,
                nodes=NODES if has_fleet() else None,
                die_with=os.getppid() if shared else os.getpid(),
            )
            install_crds(running)
    yield running
    if not shared:
        running.stop(keep_files=True)


def install_crds(cluster: LocalCluster) -> None:
    """Install this checkout's CRDs and wait until the API server serves them."""
    for file in sorted(CRDS.glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", f"--filename={file}")
        # Names come with the first conditions; kubectl gives up on an object that has none yet.
        for sign in (f"jsonpath={{.status.acceptedNames.kind}}={KIND}", "condition=Established"):
            cluster.kubectl("wait", f"--for={sign}", f"--filename={file}")


@pytest.fixture(scope="session")
def prometheus(cluster: LocalCluster) -> str:
    """The URL, inside, of a Prometheus that scrapes the run's cluster. Not to be disturbed."""
    return cluster.start_prometheus()


@pytest.fixture
def namespace(cluster: LocalCluster) -> Iterator[str]:
    """A namespace of this test alone, in which pods can be made."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
