"""The process that owns a cluster: makes its namespace, starts its programs, ends them all.

`python -m llm_operator.cluster.supervisor PLAN.json` takes the directory's lock, detaches, binds
the host's sockets, enters a namespace of its own and brings the programs up in order. A program
that ends is started again. When the supervisor ends, by signal, with the process it was told to
die with, or killed, nothing of the cluster is left. On SIGHUP it looks which programs are wished
for beside the cluster's own (`wish`), starts them and ends those no longer wished for. Takes no
other orders: whoever wants a program restarted or paused sends a signal to its pid.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import controlplane, files, forward, network, state
from .controlplane import Component
from .errors import ClusterError
from .files import Files
from .inside import Inside

PLAN_FILE = "plan.json"
_READY_TIMEOUT_S = 60.0
_POLL_S = 0.05
_RESTART_PAUSE_S = 0.2
_HEARTBEAT_S = 10.0
_MANY_STARTS = 5


@dataclass(frozen=True)
class Plan:
    """What to run: paths of programs by name, the fleet's command line (empty: no fleet) and how
    many nodes it brings, ports wanted on the host (0: any), and the process to die with, if any."""

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
    process: subprocess.Popen[bytes]
    starts: int


@dataclass
class Supervisor:
    """One cluster's processes. `run` returns when the cluster is to end, `end` ends it."""

    plan: Plan
    told: state.State
    running: dict[str, _Running] = field(default_factory=dict)
    wanted: dict[str, Component] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def files(self) -> Files:
        return Files(Path(self.plan.root))

    async def run(self, api: socket.socket, proxy: socket.socket) -> None:
        """Bring everything up, keep it up, and return when told to end.

        `api` and `proxy` listen on the host. ClusterError if the cluster does not come up.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.closing.set)
        loop.add_signal_handler(signal.SIGHUP, self._look_beside)
        if self.plan.die_with is not None:
            self._die_with(self.plan.die_with)
        living = asyncio.create_task(self._live(api, proxy))
        told_to_end = asyncio.create_task(self.closing.wait())
        await asyncio.wait({living, told_to_end}, return_when=asyncio.FIRST_COMPLETED)
        if living.done():
            await living  # it ends by an error only

    def end(self) -> None:
        """End every process of the cluster, those started by `run_inside` included."""
        self.closing.set()
        for running in self.running.values():
            running.process.kill()
        for running in self.running.values():
            running.process.wait()
        state.end_members(self.plan.id)

    async def _live(self, api: socket.socket, proxy: socket.socket) -> None:
        files.write_credentials(self.files)
        controlplane.write_configs(self.files)
        etcd = controlplane.etcd(self.files, self._program("etcd"))
        apiserver = controlplane.apiserver(self.files, self._program("kube-apiserver"))
        self._start(etcd)
        self._start(apiserver)
        async with Inside(files.token_of(self.files, files.ADMIN)) as inside:
            await self._until_ready(inside, apiserver)
            files.write_kubeconfigs(self.files, self.told.ports["api"])
            await forward.serve_forwarder(api, "127.0.0.1", files.API_PORT)
            await forward.serve_proxy(proxy, inside.resolve)
            await inside.register_node()
            await self._start_the_rest(inside)
            self._tell(phase=state.READY, message="")
            while True:
                await inside.renew_lease()
                await asyncio.sleep(_HEARTBEAT_S)

    async def _start_the_rest(self, inside: Inside) -> None:
        components = [
            controlplane.controller_manager(self.files, self._program("kube-controller-manager")),
            controlplane.scheduler(self.files, self._program("kube-scheduler")),
            controlplane.proxy(self.files, self._program("kube-proxy")),
        ]
        if self.plan.fleet:
            components.append(Component(files.FLEET, self.plan.fleet))
        for component in components:
            self._start(component)
        for component in components:
            await self._until_ready(inside, component)
        await self._until("the default service account", inside.has_default_service_account)

        async def has_nodes() -> bool:
            return await inside.ready_nodes() >= self.plan.nodes

        await self._until(f"{files.FLEET}: {self.plan.nodes} nodes", has_nodes)

    def _program(self, name: str) -> Path:
        return Path(self.plan.programs[name])

    def _start(self, component: Component) -> None:
        """Start a program; when it ends, it is started again for as long as it is wanted."""
        self.wanted[component.name] = component
        with self.files.log(component.name).open("ab") as log:
            process = subprocess.Popen(
                component.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=self.plan.root,
                preexec_fn=network.die_with_parent(os.getpid()),
            )
        before = self.running.get(component.name)
        self.running[component.name] = _Running(process, before.starts + 1 if before else 1)
        self._tell(message=f"starting {component.name}")
        ended = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(ended, self._ended, component, process, ended)

    def _ended(self, component: Component, process: subprocess.Popen[bytes], pidfd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process.wait()
        if not self.closing.is_set():
            loop.call_later(_RESTART_PAUSE_S, self._start_again, component)

    def _start_again(self, component: Component) -> None:
        """What is no longer wanted is forgotten instead."""
        if self.closing.is_set():
            return
        if self.wanted.get(component.name) is component:
            self._start(component)
        elif component.name not in self.wanted:
            del self.running[component.name]
            self._tell()

    def _look_beside(self) -> None:
        """Have those programs beside the cluster's own that are wished for, and no others."""
        wishes = {component.name: component for component in read_wishes(self.files)}
        for name in self.beside - wishes.keys():
            del self.wanted[name]
            self.running[name].process.kill()
        for name in wishes.keys() - self.wanted.keys():
            self._start(wishes[name])
        self.beside = set(wishes)

    def _environment(self) -> dict[str, str]:
        """Ours, with the programs on PATH, and without proxies: nothing here is out there."""
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        tools = dict.fromkeys(str(Path(program).parent) for program in self.plan.programs.values())
        env["PATH"] = os.pathsep.join([*tools, env.get("PATH", os.defpath)])
        return env

    async def _until_ready(self, inside: Inside, component: Component) -> None:
        url = component.ready_url
        if url is not None:
            await self._until(component.name, lambda: inside.answers(url))

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """Poll until it holds. ClusterError, with the end of a log, if it never does."""
        self._tell(message=f"waiting for {what}")
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not await holds():
            for name, running in self.running.items():
                if running.starts > _MANY_STARTS:
                    raise ClusterError(f"{name} ends again and again. {self._last_words(name)}")
            if time.monotonic() > deadline:
                name = what.partition(":")[0]
                raise ClusterError(f"{what}: not ready in time. {self._last_words(name)}")
            await asyncio.sleep(_POLL_S)

    def _last_words(self, name: str) -> str:
        log = self.files.log(name)
        if not log.exists():
            return f"The logs are in {self.files.logs}"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"Its log, {log}, ends:\n" + "\n".join(lines[-5:])

    def _die_with(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.closing.set()
        else:
            asyncio.get_running_loop().add_reader(pidfd, self.closing.set)

    def _tell(self, **changes: Any) -> None:
        pids = {name: running.process.pid for name, running in self.running.items()}
        starts = {name: running.starts for name, running in self.running.items()}
        if self.told.phase == state.READY:
            changes.pop("message", None)
        self.told = replace(self.told, pids=pids, starts=starts, **changes)
        state.write(self.files.root, self.told)


def wish(files: Files, component: Component) -> None:
    """Wish for a program beside the cluster's own: it is there after the supervisor's SIGHUP."""
    files.beside.mkdir(exist_ok=True)
    fresh = files.beside / f".{component.name}.{os.getpid()}"  # others may wish for the same
    fresh.write_text(json.dumps(asdict(component)))
    fresh.replace(files.beside / f"{component.name}.json")


def unwish(files: Files, name: str) -> None:
    """No longer wish for it: it ends at the supervisor's next SIGHUP."""
    (files.beside / f"{name}.json").unlink(missing_ok=True)


def read_wishes(files: Files) -> list[Component]:
    """The programs that are wished for beside the cluster's own."""
    found = [json.loads(path.read_text()) for path in sorted(files.beside.glob("*.json"))]
    return [Component(**{**values, "argv": tuple(values["argv"])}) for values in found]


def supervise(plan: Plan) -> None:
    """Be the supervisor of `plan` until the cluster ends, in a process with one thread."""
    _, files_allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_allowed, files_allowed))  # a socket per pod
    supervisor = Supervisor(plan, state.State(id=plan.id, pid=os.getpid()))
    try:
        api, proxy = forward.host_socket(plan.api_port), forward.host_socket(plan.proxy_port)
        ports = {"api": api.getsockname()[1], "proxy": proxy.getsockname()[1]}
        in_user_namespace = network.unshare()
        network.lay_out(Path(plan.programs["ip"]))
        supervisor.told = replace(supervisor.told, ports=ports, user_namespace=in_user_namespace)
        asyncio.run(supervisor.run(api, proxy))
    except (ClusterError, OSError) as error:
        failed = replace(supervisor.told, phase=state.FAILED, message=str(error))
        state.write(supervisor.files.root, failed)
    finally:
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
    """Start a detached supervisor; its progress is in the state file of `plan.root`.

    ClusterError if that directory has one already.
    """
    path = Path(plan.root) / PLAN_FILE
    path.write_text(json.dumps(asdict(plan)))
    argv = [sys.executable, "-m", "llm_operator.cluster.supervisor", str(path)]
    # No pipe: the supervisor would hold it for as long as it lives.
    if subprocess.run(argv, env={**environment, state.MARK: plan.id}).returncode != 0:
        raise ClusterError(f"the supervisor of {plan.root} did not start")


if __name__ == "__main__":
    main(sys.argv[1])
