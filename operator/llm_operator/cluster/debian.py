"""`nft`, `ip`, `prometheus`: from PATH, else Debian's packages, unpacked into the cache, no root.

Decides nothing about what they are used for. Where neither way is open it says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from .errors import ClusterError

_PATH = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/bin"))

# Program -> the package it is installed with, then that package's libraries.
_PACKAGES = {
    "nft": (
        "nftables",
        "libnftables1",
        "libnftnl11",
        "libxtables12",
        "libmnl0",
        "libjansson4",
        "libedit2",
        "libbsd0",
        "libmd0",
        "libgmp10",
    ),
    "ip": ("iproute2", "libbpf1", "libelf1", "libmnl0", "libbsd0", "libmd0", "libcap2"),
    "prometheus": ("prometheus",),
}


def find(name: str, cache: Path) -> Path | None:
    """The program, from PATH, the system's own directories or the cache."""
    for path in (None, _PATH, str(cache / "system")):
        if found := shutil.which(name, path=path):
            return Path(found)
    return None


def get(name: str, cache: Path, progress: Callable[[str], None]) -> Path:
    """Unpack the program's packages into the cache. ClusterError where that cannot be done."""
    progress(f"unpacking {name} into the cache")
    home = cache / "system"
    downloads, root = home / "downloads", home / "root"
    for directory in (downloads / "lists" / "partial", downloads / "archives" / "partial", root):
        directory.mkdir(parents=True, exist_ok=True)
    # Lists of our own: the machine's may be missing, or not ours to write.
    apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={downloads}/lists"]
    apt += ["-o", f"Dir::Cache={downloads}"]
    try:
        _run([*apt, "update"], downloads)
        available = [package for package in _PACKAGES[name] if _is_known(package, apt)]
        _run([*apt, "download", *available], downloads)
        for archive in downloads.glob("*.deb"):
            _run(["dpkg", "-x", str(archive), str(root)], downloads)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise ClusterError(
            f"the local cluster needs `{name}`: install the package {_PACKAGES[name][0]} ({said})"
        ) from None
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    return _wrapper(name, home, root)


def _is_known(package: str, apt: list[str]) -> bool:
    """Library packages are named by version; one that this release lacks is not needed here."""
    argv = ["apt-cache", *apt[2:], "show", "--no-all-versions", package]
    return subprocess.run(argv, capture_output=True).returncode == 0


def _run(argv: list[str], directory: Path) -> None:
    subprocess.run(argv, cwd=directory, check=True, capture_output=True, text=True)


def _wrapper(name: str, home: Path, root: Path) -> Path:
    """A script that runs the unpacked program with its own libraries, and only it."""
    program = next(
        (
            path
            for place in ("usr/sbin", "sbin", "usr/bin", "bin")
            if (path := root / place / name).exists()
        ),
        None,
    )
    if program is None:
        raise ClusterError(f"the package {_PACKAGES[name][0]} has no {name} in it")
    libraries = sorted({file.parent.relative_to(home) for file in root.rglob("*.so*")})
    library_path = ":".join(f"$here/{directory}" for directory in libraries)
    script = home / name
    script.write_text(
        "#!/bin/sh\n"
        "here=${0%/*}\n"  # so that the cache can be moved
        f'LD_LIBRARY_PATH="{library_path}" exec "$here/{program.relative_to(home)}" "$@"\n'
    )
    script.chmod(0o755)
    return script
