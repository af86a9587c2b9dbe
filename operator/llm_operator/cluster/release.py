"""Official release downloads: one program, verified against the checksum published beside it.

A release that cannot be reached is no error: the caller has another way. A release that does not
match its checksum is.
"""

from __future__ import annotations

import hashlib
import http.client
import platform
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from .errors import ClusterError

_CONNECT_TIMEOUT_S = 4.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# The file with the program, and the file with its checksum, of each source.
URLS = {
    "kubernetes": (
        "https://dl.k8s.io/release/{version}/bin/linux/{arch}/{program}",
        "https://dl.k8s.io/release/{version}/bin/linux/{arch}/{program}.sha256",
    ),
    "etcd": (
        "https://github.com/etcd-io/etcd/releases/download/{version}/etcd-{version}-linux-{arch}.tar.gz",
        "https://github.com/etcd-io/etcd/releases/download/{version}/SHA256SUMS",
    ),
    "helm": (
        "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz",
        "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz.sha256sum",
    ),
    "prometheus": (
        "https://github.com/prometheus/prometheus/releases/download/{version}/prometheus-{number}.linux-{arch}.tar.gz",
        "https://github.com/prometheus/prometheus/releases/download/{version}/sha256sums.txt",
    ),
}


def fetch(
    source: str, version: str, program: str, work: Path, progress: Callable[[str], None]
) -> Path | None:
    """Download `program` into the directory `work`; None where the release is out of reach.

    Raises ClusterError if what came does not match the published checksum.
    """
    values = {
        "version": version,
        "number": version.removeprefix("v"),
        "program": program,
        "arch": architecture(),
    }
    url, checksum_url = (template.format(**values) for template in URLS[source])
    parts = urlsplit(url)
    if not _reachable(f"{parts.scheme}://{parts.netloc}"):
        return None
    file = work / Path(parts.path).name
    try:
        with urllib.request.urlopen(checksum_url, timeout=_CONNECT_TIMEOUT_S) as answer:
            published = _checksum(answer.read().decode(), file.name)
        progress(f"downloading {program} {version}")
        with urllib.request.urlopen(url, timeout=60) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out)
            announced = int(answer.headers.get("Content-Length", out.tell()))
            if out.tell() != announced:
                return None  # broken off
    except (OSError, http.client.HTTPException):  # URLError and time-outs are OSErrors
        return None
    with file.open("rb") as content:
        actual = hashlib.file_digest(content, "sha256").hexdigest()
    if actual != published:
        raise ClusterError(f"{url}: sha256 is {actual}, published is {published}: not used")
    return _unpack(file, program, work) if file.name.endswith(".tar.gz") else file


def architecture() -> str:
    """This machine's architecture, as releases spell it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


@cache
def _reachable(origin: str) -> bool:
    """Whether anything answers there at all; asked once, as a time-out for each program adds up."""
    try:
        with urllib.request.urlopen(f"{origin}/", timeout=_CONNECT_TIMEOUT_S):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def _checksum(text: str, name: str) -> str:
    """The sum for file `name`, from "<sum>" alone or from lines of "<sum>  <name>"."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 1 or (words and words[-1].lstrip("*") == name):
            return words[0]
    return "nothing"


def _unpack(archive: Path, program: str, work: Path) -> Path:
    target = work / f"{program}.program"
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if Path(member.name).name == program else None
            if content:
                with content, target.open("wb") as out:
                    shutil.copyfileobj(content, out)
                return target
    raise ClusterError(f"{archive.name}: no {program} in it")
