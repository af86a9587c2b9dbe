"""`LocalCluster`: a real Kubernetes control plane on this machine, with simulated GPU nodes.

The handle that users, the CLI and tests hold. It starts a supervisor, reads what the supervisor
tells, and sends signals; it owns no process itself, so any number of handles may exist, in any
process. Blocking throughout: call it from a thread where an event loop runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from . import binaries, files, network, prometheus, state, supervisor
from .audit import AuditLog
from .errors import ClusterError
from .files import Files

Progress = Callable[[str], None]

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.05
_FETCH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Process:
    """What one of the cluster's programs uses. Memory is resident bytes, time is CPU seconds."""

    name: str
    pid: int
    resident_bytes: int
    cpu_seconds: float
    starts: int


@dataclass(frozen=True)
class Status:
    """How a cluster is. `phase` is Stopped, Starting, Ready or Failed."""

    name: str
    phase: str
    message: str
    ports: Mapping[str, int]
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class LocalCluster:
    """A cluster by name. Make it with `start` or `connect`."""

    name: str
    state_dir: Path

    @classmethod
    def start(
        cls,
        name: str = "default",
        *,
        nodes: str | None = None,
        state_dir: Path | None = None,
        fleet_args: Sequence[str] = (),
        die_with: int | None = None,
        api_port: int = 0,
        proxy_port: int = 0,
        progress: Progress = lambda _: None,
    ) -> LocalCluster:
        """Start a fresh cluster and return once it is ready.

        `nodes` are the simulated nodes, as "a100=4x8,l4=2x1" (kind = nodes x GPUs); None runs no
        fleet. `fleet_args` go to the fleet as they are. With `die_with`, the cluster ends when
        that process does. Ports are on 127.0.0.1; 0 takes a free one. The first start on a machine
        may download or build programs for minutes, which `progress` is told. Raises ClusterError,
        leaving nothing running.
        """
        programs = binaries.need(*binaries.CLUSTER_PROGRAMS, progress=progress)
        root = (state_dir or default_state_dir(name)).resolve()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(root.iterdir()) and not _is_ours(root):
            raise ClusterError(f"{root} holds something else than a local cluster: not touched")
        with state.lock(root):
            _clear(root)
        cluster = cls(name, root)
        cluster.files.logs.mkdir()
        plan = supervisor.Plan(
            id=secrets.token_hex(8),
            root=str(root),
            programs={program: str(path) for program, path in programs.items()},
            fleet=_fleet_command(cluster.files, nodes, fleet_args) if nodes else (),
            nodes=_count(nodes) if nodes else 0,
            api_port=api_port,
            proxy_port=proxy_port,
            die_with=die_with,
        )
        supervisor.launch(plan, _environment())
        try:
            cluster._wait_until_ready(progress)
        except BaseException:
            cluster.stop(keep_files=True)
            raise
        return cluster

    @classmethod
    def connect(cls, name: str = "default", *, state_dir: Path | None = None) -> LocalCluster:
        """A handle on a cluster that runs. Raises ClusterError if there is none."""
        root = (state_dir or default_state_dir(name)).resolve()
        if not state.is_running(root):
            raise ClusterError(
                f"no local cluster {name!r} is running: `llm-operator up` starts one"
            )
        return cls(name, root)

    @property
    def files(self) -> Files:
        """Where the cluster keeps its things."""
        return Files(self.state_dir)

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig for programs on the host."""
        return self.files.kubeconfig

    @property
    def kubeconfig_inside(self) -> Path:
        """An administrator's kubeconfig for programs started with `run_inside`."""
        return self.files.kubeconfig_inside

    @property
    def audit_log(self) -> AuditLog:
        """Every request that the API server answered."""
        return AuditLog(self.files.audit_log)

    @property
    def ports(self) -> Mapping[str, int]:
        """Ports on the host's 127.0.0.1: `api`, and `proxy` (see proxy_url)."""
        return self._state().ports

    @property
    def proxy_url(self) -> str:
        """An HTTP proxy for the host, e.g. for `curl -x`: it knows Services as `name.namespace`."""
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def stop(self, *, keep_files: bool = False) -> None:
        """End every process of the cluster and remove its directory. Does nothing if it is gone."""
        current = state.read(self.state_dir)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while state.is_running(self.state_dir):
            current = state.read(self.state_dir) or current
            overdue = time.monotonic() > deadline
            if current:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(current.pid, signal.SIGKILL if overdue else signal.SIGTERM)
            time.sleep(_POLL_S)
        if current:  # what a killed supervisor could not end
            state.end_members(current.id)
        if not keep_files and _is_ours(self.state_dir):
            shutil.rmtree(self.state_dir, ignore_errors=True)

    def status(self) -> Status:
        """How the cluster is at this moment."""
        current = state.read(self.state_dir)
        if current is None or not state.is_running(self.state_dir):
            message = current.message if current else ""
            return Status(self.name, "Stopped", message, {}, ())
        return Status(
            self.name,
            current.phase,
            current.message,
            current.ports,
            tuple(self._processes(current)),
        )

    def processes(self) -> dict[str, Process]:
        """The cluster's programs by component name, the supervisor included."""
        return {process.name: process for process in self._processes(self._state())}

    def run_inside(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a program in the cluster's namespace; `popen` goes to subprocess.Popen.

        It sees the present environment, KUBECONFIG, the cluster's programs on PATH, and `env` over
        these. The caller ends it; stopping the cluster ends it too.
        """
        current = self._state()
        command = network.enter_command(current.pid, current.user_namespace)
        return subprocess.Popen(
            [*command, *map(str, argv)], env=self._environment_inside(current, env or {}), **popen
        )

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl on the host as administrator and return what it prints.

        Raises ClusterError with what it complains of where it fails.
        """
        done = subprocess.run(
            [self.program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=input,
            text=True,
            capture_output=True,
            env={**os.environ, "KUBECACHEDIR": str(self.files.config / "kubectl-cache")},
        )
        if done.returncode != 0:
            raise ClusterError(done.stderr.strip())
        return done.stdout

    def program(self, name: str) -> Path:
        """The path of kubectl, helm or another program; helm may have to be built first."""
        return binaries.need(name)[name]

    def service_account_kubeconfig(
        self, namespace: str, name: str, *, inside: bool = True, path: Path | None = None
    ) -> Path:
        """Write a kubeconfig with a day's token of a ServiceAccount, and return its path."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h")
        server = files.INSIDE_URL if inside else f"https://127.0.0.1:{self.ports['api']}"
        where = "inside" if inside else "host"
        target = path or self.state_dir / f"{namespace}-{name}-{where}.kubeconfig"
        text = files.kubeconfig(server, self.files.ca.read_bytes(), name, token.strip())
        files.write_private(target, text)
        return target

    def logs(self, component: str) -> str:
        """What a component has printed since the cluster was started."""
        try:
            return self.files.log(component).read_text(errors="replace")
        except FileNotFoundError:
            known = ", ".join(sorted(path.stem for path in self.files.logs.glob("*.log")))
            raise ClusterError(f"no component {component!r}; there are: {known}") from None

    def restart(self, component: str) -> None:
        """Kill a component, as a crash would, and return once it has been started again."""
        before = self._pid(component)
        os.kill(before, signal.SIGKILL)
        self._until(
            lambda: self._state().pids[component] != before, f"{component} was not started again"
        )

    def pause(self, component: str) -> None:
        """Stop a component's clock (SIGSTOP): its connections stay open and nothing answers."""
        pid = self._pid(component)
        os.kill(pid, signal.SIGSTOP)
        stat = Path(f"/proc/{pid}/stat")
        self._until(
            lambda: stat.read_text().rpartition(")")[2].split()[0] == "T",
            f"{component} does not stop",
        )

    def resume(self, component: str) -> None:
        """Let a paused component go on."""
        os.kill(self._pid(component), signal.SIGCONT)

    @contextmanager
    def paused(self, component: str) -> Iterator[None]:
        """A component is paused within this block."""
        self.pause(component)
        try:
            yield
        finally:
            self.resume(component)

    def start_prometheus(
        self,
        *,
        scrape_seconds: float = prometheus.SCRAPE_SECONDS,
        progress: Progress = lambda _: None,
    ) -> str:
        """Have a Prometheus that scrapes the annotated pods; its URL, once it is ready.

        The URL is good inside, and on the host through `proxy_url`. One that runs is kept, with its
        data; its interval is changed where it was another. It is a component like the others:
        `pause("prometheus")`, `restart("prometheus")`.
        """
        program = binaries.need(files.PROMETHEUS, progress=progress)[files.PROMETHEUS]
        changed = prometheus.write_config(self.files, scrape_seconds)
        for component in prometheus.components(self.files, program):
            supervisor.wish(self.files, component)
        if files.PROMETHEUS not in self._state().pids:
            os.kill(self._state().pid, signal.SIGHUP)
        elif changed:
            os.kill(self._pid(files.PROMETHEUS), signal.SIGHUP)
        self._until(self._prometheus_is_ready, "Prometheus does not get ready")
        return prometheus.URL

    def stop_prometheus(self) -> None:
        """Kill it, and return once it is gone. Its data stay for the next one."""
        for name in (files.PROMETHEUS, prometheus.DISCOVERY):
            supervisor.unwish(self.files, name)
        os.kill(self._state().pid, signal.SIGHUP)
        self._until(lambda: files.PROMETHEUS not in self._state().pids, "Prometheus does not end")

    def ask_prometheus(self, promql: str) -> list[dict[str, Any]]:
        """The elements of an instant vector, as Prometheus gives them, asked from the host.

        Raises ClusterError where there is no answer.
        """
        query = urllib.parse.urlencode({"query": promql})
        answer = json.loads(self._fetch(f"{prometheus.URL}/api/v1/query?{query}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def _prometheus_is_ready(self) -> bool:
        try:
            self._fetch(f"{prometheus.URL}/-/ready")
        except ClusterError:
            return False
        return files.PROMETHEUS in self._state().pids

    def _fetch(self, url: str) -> bytes:
        """GET something inside, from the host. ClusterError for anything but 200."""
        connection = HTTPConnection("127.0.0.1", self.ports["proxy"], timeout=_FETCH_TIMEOUT_S)
        try:
            connection.request("GET", url)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            raise ClusterError(f"{url} does not answer: {error}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise ClusterError(f"{url}: {answer.status} {body[:200].decode(errors='replace')}")
        return body

    def _until(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while not holds():
            if time.monotonic() > deadline:
                raise ClusterError(f"{otherwise}: see {self.files.logs}")
            time.sleep(_POLL_S)

    def _wait_until_ready(self, progress: Progress) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        told = ""
        while True:
            current = state.read(self.state_dir)
            if current and current.phase == state.READY:
                return
            if current and current.phase == state.FAILED:
                raise ClusterError(current.message)
            if not state.is_running(self.state_dir):
                said = (self.state_dir / "supervisor.log").read_text(errors="replace").strip()
                raise ClusterError(f"the supervisor ended: {said or 'it says nothing'}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"not ready after {_START_TIMEOUT_S:.0f} s: see {self.files.logs}"
                )
            if current and current.message != told:
                told = current.message
                progress(told)
            time.sleep(_POLL_S)

    def _state(self) -> state.State:
        current = state.read(self.state_dir)
        if current is None or not state.is_running(self.state_dir):
            raise ClusterError(f"the local cluster {self.name!r} is not running")
        return current

    def _pid(self, component: str) -> int:
        pids = self._state().pids
        if component not in pids:
            raise ClusterError(f"no component {component!r}; there are: {', '.join(pids)}")
        return pids[component]

    def _processes(self, current: state.State) -> Iterator[Process]:
        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        for name, pid in {"supervisor": current.pid, **current.pids}.items():
            try:
                resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                # Fields 14 and 15 (utime, stime) of proc(5); the name before them may have blanks.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            cpu = (int(fields[11]) + int(fields[12])) / tick
            yield Process(name, pid, resident * page, cpu, current.starts.get(name, 1))

    def _environment_inside(self, current: state.State, extra: Mapping[str, str]) -> dict[str, str]:
        env = _environment()
        env |= {"KUBECONFIG": str(self.kubeconfig_inside), state.MARK: current.id}
        tools = dict.fromkeys(
            str(path.parent) for path in binaries.need("etcd", "kubectl").values()
        )
        env["PATH"] = os.pathsep.join([*tools, env.get("PATH", os.defpath)])
        return {**env, **extra}


def default_state_dir(name: str) -> Path:
    """Where the cluster of this name lives unless told otherwise (XDG base directories)."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
        raise ClusterError(f"a cluster is named in small letters, digits and '-', not {name!r}")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "llm-operator" / name


def _environment() -> dict[str, str]:
    """The present environment, able to import this package wherever it was imported from."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _is_ours(root: Path) -> bool:
    """Whether this directory was made by a cluster, so that it may be emptied."""
    return (root / supervisor.PLAN_FILE).exists()


def _clear(root: Path) -> None:
    """Remove what an earlier cluster left, but the lock, which is held, and the sign of ours."""
    for entry in root.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (state.LOCK_FILE, supervisor.PLAN_FILE):
            entry.unlink()


def _fleet_command(paths: Files, nodes: str, arguments: Sequence[str]) -> tuple[str, ...]:
    kubeconfig = paths.component_kubeconfig(files.FLEET)
    module = "llm_operator.cluster.fleet"
    command = (sys.executable, "-m", module, f"--kubeconfig={kubeconfig}", f"--nodes={nodes}")
    # The API server's own pair serves `kubectl logs`: it does not check whose it is.
    pair = (f"--tls-cert={paths.ca}", f"--tls-key={paths.ca.with_suffix('.key')}")
    return (*command, *pair, *arguments)


def _count(nodes: str) -> int:
    """How many nodes "a100=4x8,l4=2x1" asks for. ClusterError if it cannot be read."""
    try:
        return sum(int(part.partition("=")[2].partition("x")[0]) for part in nodes.split(","))
    except ValueError:
        raise ClusterError(f'nodes are written as "a100=4x8,l4=2x1", not {nodes!r}') from None
