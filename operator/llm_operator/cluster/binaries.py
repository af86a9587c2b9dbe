"""Where the programs of the local cluster come from.

For each program, in this order: the cache; KUBEBUILDER_ASSETS; the official release, where it can
be reached; a build from its Go modules (gobuild.py). `nft` and `ip` come from PATH, else from the
distribution's packages, unpacked into the cache (debian.py); `prometheus` from its release, else
from these packages. Nothing is installed on the machine.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import debian, gobuild, release
from .errors import ClusterError

Progress = Callable[[str], None]
"""Told, in a short line, what is being done now."""


@dataclass(frozen=True)
class Source:
    """Programs that are released and built together. `packages` is by program name; what has no
    `module` is not built here."""

    name: str
    version: str
    module: str
    packages: Mapping[str, str]


KUBERNETES = Source(
    "kubernetes",
    "v1.36.3",
    "kubernetes",
    {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubectl",
        )
    },
)
ETCD = Source("etcd", "v3.6.8", "kubernetes", {"etcd": "go.etcd.io/etcd/server/v3"})
HELM = Source("helm", "v4.3.1", "helm", {"helm": "helm.sh/helm/v4/cmd/helm"})
PROMETHEUS = Source("prometheus", "v3.5.0", "", {"prometheus": ""})
_SOURCES = (ETCD, KUBERNETES, HELM, PROMETHEUS)

SYSTEM_PROGRAMS = ("nft", "ip")
CLUSTER_PROGRAMS = ("etcd", *KUBERNETES.packages, *SYSTEM_PROGRAMS)


def cache_root() -> Path:
    """`$LLM_OPERATOR_CACHE`, else a directory of ours in the user's cache."""
    if chosen := os.environ.get("LLM_OPERATOR_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llm-operator"


def need(*names: str, progress: Progress = lambda _: None) -> dict[str, Path]:
    """Find the programs, or get them, which can take minutes the first time.

    Raises ClusterError with what to do where one cannot be had.
    """
    found = {name: path for name in names if (path := find(name))}
    missing = [name for name in names if name not in found]
    if missing:
        with _one_at_a_time(progress):
            for name in missing:  # perhaps another process got it while we waited
                found[name] = find(name) or _get(name, progress)
    return found


def find(name: str) -> Path | None:
    """The program, if it is on this machine already."""
    if name in SYSTEM_PROGRAMS:
        return debian.find(name, cache_root())
    source = _source_of(name)
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for directory in (_home(source), *([Path(assets)] if assets else [])):
        if os.access(directory / name, os.X_OK):
            return directory / name
    return None if source.module else debian.find(name, cache_root())


def _get(name: str, progress: Progress) -> Path:
    if name in SYSTEM_PROGRAMS:
        return debian.get(name, cache_root(), progress)
    source = _source_of(name)
    target = _home(source) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{name}.{os.getpid()}"
    work.mkdir()
    try:
        fresh = release.fetch(source.name, source.version, name, work, progress)
        if fresh is None and not source.module:
            return debian.get(name, cache_root(), progress)
        if fresh is None:
            package = source.packages[name]
            fresh = gobuild.build(
                source.module, package, name, source.version, work, cache_root(), progress
            )
        fresh.chmod(0o755)
        fresh.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _home(source: Source) -> Path:
    return cache_root() / f"{source.name}-{source.version}-{platform.machine()}"


def _source_of(name: str) -> Source:
    for source in _SOURCES:
        if name in source.packages:
            return source
    raise ClusterError(f"no such program: {name}")


@contextmanager
def _one_at_a_time(progress: Progress) -> Iterator[None]:
    """Hold the cache's lock, so that two processes never build the same thing side by side."""
    cache_root().mkdir(parents=True, exist_ok=True)
    with (cache_root() / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is getting the programs: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
