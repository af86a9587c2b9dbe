"""Credentials, kubeconfigs, the state file and the audit reader: what is written reads back."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from llm_operator.cluster import binaries, files, local, network, state
from llm_operator.cluster.audit import AuditLog
from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.files import Files
from llm_operator.cluster.local import LocalCluster


@pytest.fixture
def paths(tmp_path: Path) -> Files:
    paths = Files(tmp_path)
    files.write_credentials(paths)
    paths.certificates.mkdir()
    paths.ca.write_text("the CA")
    return paths


def test_kubeconfigs_carry_their_users_token_and_trust_the_ca(paths: Files) -> None:
    files.write_kubeconfigs(paths, 12345)
    host = yaml.safe_load(paths.kubeconfig.read_text())
    assert host["clusters"][0]["cluster"] == {
        "server": "https://127.0.0.1:12345",
        "certificate-authority-data": "dGhlIENB",
    }
    inside = yaml.safe_load(paths.kubeconfig_inside.read_text())
    assert inside["clusters"][0]["cluster"]["server"] == files.INSIDE_URL
    fleet = yaml.safe_load(paths.component_kubeconfig(files.FLEET).read_text())
    tokens = [config["users"][0]["user"]["token"] for config in (host, inside, fleet)]
    assert tokens[0] == tokens[1] == files.token_of(paths, files.ADMIN) != tokens[2]


def test_secrets_are_readable_by_their_owner_only(paths: Files) -> None:
    files.write_kubeconfigs(paths, 1)
    for path in (paths.kubeconfig, paths.tokens, paths.service_account_key):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is the judge here")
def test_the_service_account_key_is_a_valid_p256_key(paths: Files) -> None:
    command = ["openssl", "ec", "-in", str(paths.service_account_key), "-noout", "-text"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "P-256" in done.stdout


def test_one_supervisor_per_directory(tmp_path: Path) -> None:
    assert not state.is_running(tmp_path)
    with state.lock(tmp_path):
        assert state.is_running(tmp_path)
        with pytest.raises(ClusterError, match="already running"):
            state.lock(tmp_path)
    assert not state.is_running(tmp_path)


def test_state_reads_back(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None
    told = state.State(id="x", pid=7, ports={"api": 1}, pids={"etcd": 8}, starts={"etcd": 2})
    state.write(tmp_path, told)
    assert state.read(tmp_path) == told


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.244.3.4", True),
        ("10.96.0.1", True),
        ("10.97.0.1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_what_lies_inside(address: str, inside: bool) -> None:
    assert network.contains(address) is inside


def test_a_directory_of_somebody_else_is_never_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "need", lambda *_, **__: {})
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    with pytest.raises(ClusterError, match="not touched"):
        LocalCluster.start(state_dir=tmp_path)
    LocalCluster("default", tmp_path).stop()
    assert precious.exists()


@pytest.mark.parametrize("name", ["../up", "", "Big", "-a", "a/b"])
def test_names_that_would_be_other_directories(name: str) -> None:
    with pytest.raises(ClusterError, match="small letters"):
        local.default_state_dir(name)


@pytest.mark.parametrize(("nodes", "count"), [("a100=4x8,l4=2x1", 6), ("t4=1x4", 1)])
def test_nodes_are_counted(nodes: str, count: int) -> None:
    assert local._count(nodes) == count


@pytest.mark.parametrize("nodes", ["a100", "a100=x8", "a100=4x8,", "many"])
def test_nodes_that_cannot_be_read(nodes: str) -> None:
    with pytest.raises(ClusterError, match="a100=4x8,l4=2x1"):
        local._count(nodes)


def record(verb: str, agent: str, stage: str = "ResponseComplete", user: str = "admin") -> str:
    return json.dumps(
        {
            "stage": stage,
            "verb": verb,
            "user": {"username": user},
            "userAgent": agent,
            "objectRef": {
                "resource": "pods",
                "namespace": "a",
                "name": "b",
                "subresource": "status",
            },
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.000006Z",
            "stageTimestamp": "2026-01-02T03:04:05.500006Z",
        }
    )


def test_audit_log_counts_writes_since_a_mark_by_client(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    assert (log.mark(), list(log.events())) == (0, [])
    log.path.write_text(record("create", "ours/1") + "\n")
    mark = log.mark()
    lines = [
        record("patch", "ours/1"),
        record("get", "ours/1"),
        record("watch", "ours/1", stage="ResponseStarted"),
        record("patch", "theirs/1", user="system:x"),
    ]
    with log.path.open("a") as file:
        file.write("\n".join(lines) + "\n" + record("delete", "ours/1")[:20])
    assert [event.verb for event in log.events(mark)] == ["patch", "get", "patch"]
    [event] = log.writes(mark, user_agent="ours")
    assert (event.verb, event.resource, event.subresource, event.code) == (
        "patch",
        "pods",
        "status",
        200,
    )
    assert (event.answered - event.received).total_seconds() == 0.5
    assert [e.user for e in log.writes(mark, user="system:")] == ["system:x"]
