"""Which API server `status` asks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from llm_operator.cli import status
from llm_operator.cli.console import CommandError
from llm_operator.cluster import state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any kubeconfig; local clusters would be below this directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(status, "_OWN", tmp_path / "config")
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
        status.target(None)


def test_the_only_local_cluster_is_meant(home: Path) -> None:
    with ExitStack() as running:
        kubeconfig = cluster(home, "demo", running)
        asked = status.target(None)
        assert asked.kubeconfig == kubeconfig
        assert asked.cluster is not None
        assert asked.cluster.name == "demo"


def test_of_several_local_clusters_none_is_guessed(home: Path) -> None:
    with ExitStack() as running:
        cluster(home, "one", running)
        cluster(home, "two", running)
        with pytest.raises(CommandError, match="KUBECONFIG"):
            status.target(None)


def test_the_users_own_wins_over_a_local_cluster(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as running:
        local = cluster(home, "demo", running)
        mine = tmp_path / "mine"
        mine.touch()
        monkeypatch.setenv("KUBECONFIG", str(mine))
        assert status.target(None) == status.Target(mine)
        named = status.target(local)
        assert named.kubeconfig == local
        assert named.cluster is not None


def test_a_file_that_does_not_exist_is_named(home: Path) -> None:
    with pytest.raises(CommandError, match="/nowhere does not exist"):
        status.target(Path("/nowhere"))


def test_a_list_of_files_is_left_to_the_client(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/a:/b")
    assert status.target(None) == status.Target(None)
