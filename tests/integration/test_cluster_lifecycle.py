"""Clusters of these tests' own: start, stop, side by side, and what is left when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from llm_operator.cluster import binaries, state
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

COMPONENTS = {
    "supervisor",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
}


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster that the test may end."""
    cluster = LocalCluster.start("own", state_dir=tmp_path / "own", die_with=os.getpid())
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster that tests may disturb, if they wait until it works again."""
    root = tmp_path_factory.mktemp("other")
    cluster = LocalCluster.start("other", state_dir=root, die_with=os.getpid())
    yield cluster
    cluster.stop()


def answers(cluster: LocalCluster) -> bool:
    try:
        return cluster.kubectl("get", "--raw", "/readyz", "--request-timeout=2s") == "ok"
    except ClusterError:
        return False


def sleeper(cluster: LocalCluster) -> subprocess.Popen[bytes]:
    """A program that runs inside, and has got there."""
    command = ["sh", "-c", "echo inside; exec sleep 600"]
    program = cluster.run_inside(command, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"inside\n"
    return program


def test_a_cluster_tells_of_itself(other: LocalCluster) -> None:
    status = other.status()
    assert (status.phase, {process.name for process in status.processes}) == ("Ready", COMPONENTS)
    assert all(process.resident_bytes > 1 << 20 for process in status.processes)
    assert LocalCluster.connect("other", state_dir=other.state_dir) == other
    with pytest.raises(ClusterError, match="already running"):
        LocalCluster.start("other", state_dir=other.state_dir)
    assert answers(other)
    assert "kube-proxy" in other.logs("kube-proxy")
    with pytest.raises(ClusterError, match=r"there are: .*kube-proxy"):
        other.logs("kubelet")


def test_a_component_that_crashes_is_started_again(other: LocalCluster) -> None:
    other.restart("kube-scheduler")
    other.restart("kube-apiserver")
    until(lambda: answers(other))
    starts = {name: process.starts for name, process in other.processes().items()}
    assert (starts["kube-scheduler"], starts["kube-apiserver"], starts["etcd"]) == (2, 2, 1)


def test_a_paused_component_answers_nothing_until_it_is_resumed(other: LocalCluster) -> None:
    with other.paused("kube-apiserver"), pytest.raises(ClusterError):
        other.kubectl("get", "--raw", "/readyz", "--request-timeout=1s")
    until(lambda: answers(other))


def test_stopping_leaves_nothing_and_waits_for_nobody(own: LocalCluster) -> None:
    current = state.read(own.state_dir)
    assert current is not None
    own.pause("etcd")
    with sleeper(own) as program:
        started = time.monotonic()
        own.stop()
        assert time.monotonic() - started < 10
        assert program.wait(5) == -signal.SIGTERM
    assert state.members(current.id) == []
    assert own.status().phase == "Stopped"
    assert not own.state_dir.exists()
    with pytest.raises(ClusterError, match="llm-operator up"):
        LocalCluster.connect("own", state_dir=own.state_dir)


def test_nothing_is_left_when_the_supervisor_is_killed(own: LocalCluster) -> None:
    current = state.read(own.state_dir)
    assert current is not None
    with sleeper(own) as program:
        os.kill(current.pid, signal.SIGKILL)
        until(lambda: set(state.members(current.id)) <= {program.pid})
        until(lambda: not state.is_running(own.state_dir))
        own.stop()  # a program that was started inside ends at the latest here
        assert program.wait(5) == -signal.SIGTERM
    assert state.members(current.id) == []


def test_a_cluster_beside_another_ends_with_the_process_it_was_told_to_die_with(
    other: LocalCluster, tmp_path: Path
) -> None:
    with subprocess.Popen(["sleep", "600"]) as companion:
        cluster = LocalCluster.start("dies", state_dir=tmp_path / "dies", die_with=companion.pid)
        current = state.read(cluster.state_dir)
        assert current is not None
        cluster.kubectl("create", "namespace", "only-here")
        assert "only-here" in cluster.kubectl("get", "namespaces", "-o=name")
        assert "only-here" not in other.kubectl("get", "namespaces", "-o=name")
        assert not set(cluster.ports.values()) & set(other.ports.values())
        companion.kill()
    until(lambda: state.members(current.id) == [])
    assert not state.is_running(cluster.state_dir)
    assert answers(other)


def test_start_says_why_it_failed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "kube-apiserver"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho the disk is on fire\nexit 1\n")
    broken.chmod(0o755)
    programs = {**binaries.need(*binaries.CLUSTER_PROGRAMS), "kube-apiserver": broken}
    monkeypatch.setattr(binaries, "need", lambda *_, **__: programs)
    with pytest.raises(ClusterError, match=r"kube-apiserver ends again(?s:.*)the disk is on fire"):
        LocalCluster.start("broken", state_dir=tmp_path / "broken", die_with=os.getpid())
    current = state.read(tmp_path / "broken")
    assert current is not None
    assert state.members(current.id) == []
    assert not state.is_running(tmp_path / "broken")


def test_a_user_without_root_gets_a_cluster_too(tmp_path: Path) -> None:
    """Root without its capabilities is a user like others, but one who can read this checkout.

    (The one that is left lets its uid 0 be mapped, which other uids need no leave for.)
    """
    program = (
        "import os, sys; from pathlib import Path\n"
        "from llm_operator.cluster import state\n"
        "from llm_operator.cluster.local import LocalCluster\n"
        "root = Path(sys.argv[1])\n"
        "cluster = LocalCluster.start('plain', state_dir=root, die_with=os.getpid())\n"
        "inside = cluster.run_inside(['curl', '-sk', 'https://127.0.0.1:6443/version'])\n"
        "assert inside.wait() == 0\n"
        "assert state.read(root).user_namespace\n"
        "print(cluster.kubectl('get', '--raw', '/readyz'), cluster.status().phase)\n"
        "cluster.stop()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "plain")]
    env = {**os.environ, "PYTHONPATH": str(Path(state.__file__).parents[2])}
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all,+setfcap", "--", *command],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert "ok Ready" in done.stdout


def test_kubeconfig_of_a_service_account_has_its_rights_only(cluster: LocalCluster) -> None:
    path = cluster.service_account_kubeconfig("kube-system", "default", inside=False)
    config = yaml.safe_load(path.read_text())
    assert "insecure-skip-tls-verify" not in config["clusters"][0]["cluster"]
    assert path.stat().st_mode & 0o077 == 0
    me = cluster.kubectl("auth", "whoami", f"--kubeconfig={path}", "-o=json")
    assert "system:serviceaccount:kube-system:default" in me
    with pytest.raises(ClusterError, match="forbidden"):
        cluster.kubectl("get", "secrets", f"--kubeconfig={path}")
