"""Which cluster a command is about."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from llm_operator.cli import target
from llm_operator.cli.console import CommandError
from llm_operator.cluster import state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any kubeconfig; local clusters would be below this directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(target, "_OWN", tmp_path / "config")
    return tmp_path / "llm-operator"


def cluster(home: Path, name: str, running: ExitStack) -> Path:
    """A local cluster, as far as anybody can see; its kubeconfig."""
    root = home / name
    root.mkdir(parents=True)
    running.enter_context(state.lock(root))
    (root / "kubeconfig").touch()
    return root / "kubeconfig"


def test_without_any_cluster_it_says_how_to_name_one(home: Path) -> None:
    with pytest.raises(CommandError, match="KUBECONFIG"):
        target.find(None)


def test_the_only_local_cluster_is_meant(home: Path) -> None:
    with ExitStack() as running:
        kubeconfig = cluster(home, "demo", running)
        asked = target.find(None)
        assert asked.kubeconfig == kubeconfig
        assert asked.cluster is not None
        assert asked.cluster.name == "demo"


def test_of_several_local_clusters_none_is_guessed(home: Path) -> None:
    with ExitStack() as running:
        cluster(home, "one", running)
        cluster(home, "two", running)
        with pytest.raises(CommandError, match="KUBECONFIG"):
            target.find(None)


def test_the_users_own_wins_over_a_local_cluster(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as running:
        local = cluster(home, "demo", running)
        mine = tmp_path / "mine"
        mine.touch()
        monkeypatch.setenv("KUBECONFIG", str(mine))
        assert target.find(None) == target.Target(mine)
        named = target.find(local)
        assert named.kubeconfig == local
        assert named.cluster is not None


def test_a_file_that_does_not_exist_is_named(home: Path) -> None:
    with pytest.raises(CommandError, match="/nowhere does not exist"):
        target.find(Path("/nowhere"))


def test_a_list_of_files_is_left_to_the_client(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/a:/b")
    assert target.find(None) == target.Target(None)


def test_the_operator_writes_to_no_cluster_that_was_not_named(home: Path) -> None:
    with ExitStack() as running:
        cluster(home, "demo", running)
        with pytest.raises(CommandError, match="KUBECONFIG"):
            target.named(None)


def test_in_a_pod_the_client_knows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert target.named(None) is None
