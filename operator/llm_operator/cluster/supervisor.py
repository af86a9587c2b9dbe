"""The process that owns a cluster: makes its namespace, starts its programs, ends them all.

`python -m llm_operator.cluster.supervisor PLAN.json` detaches, takes the directory's lock, binds
the host's sockets, enters a namespace of its own and brings the programs up in order. A program
that ends is started again. When the supervisor ends, by signal, with the process it was told to
die with, or killed, nothing of the cluster is left. Takes no other orders: whoever wants a
program restarted or paused sends a signal to its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from . import controlplane, forward, network, state
from .controlplane import API_URL, Component, Files
from .errors import ClusterError

_READY_TIMEOUT_S = 60.0
_POLL_S = 0.05
_RESTART_PAUSE_S = 0.2
_HEARTBEAT_S = 10.0
_STRAY_GRACE_S = 2.0
_LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass(frozen=True)
class Plan:
    """What to run: paths of programs by name, the fleet's command line (none: no fleet), ports
    wanted on the host (0: any), and the process to die with, if any."""

    id: str
    root: str
    programs: Mapping[str, str]
    fleet: tuple[str, ...] = ()
    nodes: int = 0
    api_port: int = 0
    proxy_port: int = 0
    die_with: int | None = None


@dataclass
class _Running:
    component: Component
    process: subprocess.Popen[bytes]
    starts: int = 1


@dataclass
class Supervisor:
    """One cluster's processes. `run` returns when the cluster has ended."""

    plan: Plan
    files: Files
    current: state.State
    running: dict[str, _Running] = field(default_factory=dict)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, api_socket: Any, proxy_socket: Any) -> None:
        """Bring everything up, keep it up, and return when told to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.closing.set)
        if self.plan.die_with is not None:
            self._die_with(self.plan.die_with)
        bring_up = asyncio.create_task(self._bring_up(api_socket, proxy_socket))
        ended = asyncio.create_task(self.closing.wait())
        await asyncio.wait({bring_up, ended}, return_when=asyncio.FIRST_COMPLETED)
        if bring_up.done() and (error := bring_up.exception()):
            self._tell(phase=state.FAILED, message=str(error) or repr(error))
            return
        await ended

    async def _bring_up(self, api_socket: Any, proxy_socket: Any) -> None:
        files, programs = self.files, {name: Path(p) for name, p in self.plan.programs.items()}
        controlplane.write_credentials(files)
        self._start(controlplane.etcd(files, programs["etcd"]))
        api = controlplane.apiserver(files, programs["kube-apiserver"])
        self._start(api)
        async with aiohttp.ClientSession(**self._session_options()) as http:
            await self._until_ready(http, api)
            controlplane.write_kubeconfigs(files, self.current.ports["api"])
            await forward.serve_forwarder(api_socket, "127.0.0.1", controlplane.API_PORT)
            await forward.serve_proxy(proxy_socket, _Resolver(http).resolve)
            await _register_node(http)
            rest = [
                controlplane.controller_manager(files, programs["kube-controller-manager"]),
                controlplane.scheduler(files, programs["kube-scheduler"]),
                controlplane.proxy(files, programs["kube-proxy"]),
            ]
            if self.plan.fleet:
                rest.append(Component(controlplane.FLEET, self.plan.fleet))
            for component in rest:
                self._start(component)
            for component in rest:
                await self._until_ready(http, component)
            await self._until(http, "the default service account", _has_default_service_account)
            if self.plan.nodes:
                await self._until(http, f"{self.plan.nodes} simulated nodes", self._fleet_is_ready)
            self._tell(phase=state.READY, message="")
            await _keep_node_alive(http)

    def _session_options(self) -> dict[str, Any]:
        token = controlplane.token_of(self.files, controlplane.ADMIN)
        # The certificates of this namespace's own loopback are made moments before.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return {
            "connector": aiohttp.TCPConnector(ssl=context),
            "headers": {"Authorization": f"Bearer {token}", "User-Agent": "supervisor"},
            "timeout": aiohttp.ClientTimeout(total=5),
        }

    def _start(self, component: Component) -> None:
        """Start a program; when it ends, it is started again."""
        with (self.files.logs / f"{component.name}.log").open("ab") as log:
            process = subprocess.Popen(
                component.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=self.files.root,
                preexec_fn=network.die_with_parent(os.getpid()),
            )
        before = self.running.get(component.name)
        starts = before.starts + 1 if before else 1
        self.running[component.name] = _Running(component, process, starts)
        self._tell(message=f"starting {component.name}")
        pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(pidfd, self._ended, component, process, pidfd)

    def _ended(self, component: Component, process: subprocess.Popen[bytes], pidfd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process.wait()
        if not self.closing.is_set():
            loop.call_later(_RESTART_PAUSE_S, self._start, component)

    def _environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        tools = {str(Path(program).parent) for program in self.plan.programs.values()}
        env["PATH"] = os.pathsep.join([*sorted(tools), env.get("PATH", os.defpath)])
        return env

    async def _until_ready(self, http: aiohttp.ClientSession, component: Component) -> None:
        url = component.ready_url
        if url is None:
            return

        async def answers(session: aiohttp.ClientSession) -> bool:
            async with session.get(url) as response:
                return response.status == 200

        await self._until(http, component.name, answers)

    async def _until(self, http: aiohttp.ClientSession, what: str, condition: Any) -> None:
        """Poll `condition(http)` until it holds. ClusterError, with the end of a log, if not."""
        self._tell(message=f"waiting for {what}")
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                if await condition(http):
                    return
            flapping = [n for n, r in self.running.items() if r.starts > 5]
            if flapping or time.monotonic() > deadline:
                raise ClusterError(f"{what} did not get ready: {self._last_words(flapping, what)}")
            await asyncio.sleep(_POLL_S)

    def _last_words(self, flapping: list[str], what: str) -> str:
        name = flapping[0] if flapping else what
        log = self.files.logs / f"{name}.log"
        if not log.exists():
            return f"see {self.files.logs}"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{name} says (all of it: {log}):\n" + "\n".join(lines[-5:])

    async def _fleet_is_ready(self, http: aiohttp.ClientSession) -> bool:
        async with http.get(f"{API_URL}/api/v1/nodes") as response:
            nodes = (await response.json())["items"]
        ready = [
            node
            for node in nodes
            if node["metadata"]["name"] != controlplane.NODE_NAME
            and any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in node.get("status", {}).get("conditions", ())
            )
        ]
        return len(ready) >= self.plan.nodes

    def _die_with(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.closing.set()
        else:
            asyncio.get_running_loop().add_reader(pidfd, self.closing.set)

    def _tell(self, **changes: Any) -> None:
        pids = {name: r.process.pid for name, r in self.running.items()}
        starts = {name: r.starts for name, r in self.running.items()}
        self.current = replace(self.current, pids=pids, starts=starts, **changes)
        state.write(self.files.root, self.current)

    def end(self) -> None:
        """End every process of the cluster, those started by `run_inside` included."""
        self.closing.set()
        for running in self.running.values():
            running.process.kill()
        for running in self.running.values():
            running.process.wait()
        end_members(self.plan.id)


def end_members(cluster_id: str) -> None:
    """Ask the marked processes to end, and kill those that have not after a short grace."""
    deadline = time.monotonic() + _STRAY_GRACE_S
    number = signal.SIGTERM
    while pids := [pid for pid in state.members(cluster_id) if _alive(pid)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)
        number = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        time.sleep(_POLL_S)


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class _Resolver:
    """Names of Services (`name.namespace`, with or without `.svc.cluster.local`) to addresses."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def resolve(self, host: str) -> str | None:
        """The Service's cluster address, asked of the API server; None if there is none."""
        name, _, rest = host.partition(".")
        namespace = rest.split(".")[0] or "default"
        url = f"{API_URL}/api/v1/namespaces/{namespace}/services/{name}"
        try:
            async with self._http.get(url) as response:
                service = await response.json() if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError):
            return None
        address: str | None = service.get("spec", {}).get("clusterIP")
        return address


async def _register_node(http: aiohttp.ClientSession) -> None:
    node, status = controlplane.control_plane_node()
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": controlplane.NODE_NAME, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": controlplane.NODE_NAME,
            "leaseDurationSeconds": 40,
            "renewTime": _now(),
        },
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}}
    patch = f"{API_URL}/api/v1/nodes/{controlplane.NODE_NAME}/status"
    for method, url, body in (
        ("POST", f"{API_URL}/api/v1/nodes", node),
        ("PATCH", patch, {"status": status}),
        ("POST", f"{API_URL}/api/v1/namespaces", namespace),
        ("POST", f"{API_URL}{_LEASE}", lease),
    ):
        kind = "merge-patch+json" if method == "PATCH" else "json"
        headers = {"Content-Type": f"application/{kind}"}
        async with http.request(method, url, data=json.dumps(body), headers=headers) as response:
            if response.status not in (200, 201, 409):
                raise ClusterError(f"{method} {url}: {response.status} {await response.text()}")


async def _keep_node_alive(http: aiohttp.ClientSession) -> None:
    url = f"{API_URL}{_LEASE}/{controlplane.NODE_NAME}"
    headers = {"Content-Type": "application/merge-patch+json"}
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            body = json.dumps({"spec": {"renewTime": _now()}})
            async with http.patch(url, data=body, headers=headers):
                pass
        await asyncio.sleep(_HEARTBEAT_S)


async def _has_default_service_account(http: aiohttp.ClientSession) -> bool:
    url = f"{API_URL}/api/v1/namespaces/default/serviceaccounts/default"
    async with http.get(url) as response:
        return response.status == 200


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def supervise(plan: Plan) -> None:
    """Be the supervisor of `plan` until the cluster ends. Call it in a process of its own."""
    files = Files(Path(plan.root))
    current = state.State(id=plan.id, pid=os.getpid())
    supervisor: Supervisor | None = None
    try:
        api, proxy = forward.host_socket(plan.api_port), forward.host_socket(plan.proxy_port)
        ports = {"api": api.getsockname()[1], "proxy": proxy.getsockname()[1]}
        current = replace(current, ports=ports, user_namespace=network.unshare())
        network.lay_out(Path(plan.programs["ip"]))
        supervisor = Supervisor(plan, files, current)
        asyncio.run(supervisor.run(api, proxy))
    except (ClusterError, OSError) as error:
        state.write(files.root, replace(current, phase=state.FAILED, message=str(error)))
    finally:
        if supervisor is not None:
            supervisor.end()


def main(plan_file: str) -> None:
    """Take the directory's lock, detach from whoever started this, then supervise."""
    values = json.loads(Path(plan_file).read_text())
    plan = Plan(**{**values, "fleet": tuple(values["fleet"])})
    root = Path(plan.root)
    with state.lock(root):  # both processes hold it until the second one ends
        if os.fork():
            os._exit(0)
        os.setsid()
        log = os.open(root / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        supervise(plan)


def launch(plan: Plan, environment: Mapping[str, str]) -> None:
    """Start a detached supervisor; its progress is in the state file of `plan.root`."""
    path = Path(plan.root) / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    argv = [sys.executable, "-m", "llm_operator.cluster.supervisor", str(path)]
    subprocess.run(argv, check=True, env={**environment, state.MARK: plan.id})


if __name__ == "__main__":
    main(sys.argv[1])
