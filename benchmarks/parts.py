"""The parts of a run. Each makes its objects, gives its figures as it takes them, and tidies up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks import objects
from benchmarks.api import Api, Object, watching
from benchmarks.process import Operator, summed
from benchmarks.report import Figure, percentile
from llm_operator.cluster.audit import AuditLog, Event

_CLIENTS = 32
_BURST = 200
_ONE_BY_ONE = 200
_REST_S = 30.0
_SETTLE_S = 5.0
_QUIET_S = 3.0
_BETWEEN_S = 0.05
_TICKS_S = 90.0
_KNOWN = r'llm_operator_scaling_deployments\{metrics="Complete"\}'


@dataclass(frozen=True)
class Bench:
    """What a part works with. `user` is the operator's, as the audit log has it; `many` is how
    many objects the parts `scale` and `scaling` make. `prometheus` is its URL, or ""."""

    api: Api
    http: aiohttp.ClientSession
    operator: Operator
    audit: AuditLog
    user: str
    many: int
    tell: Callable[[str], None]
    prometheus: str = ""

    def writes(self, mark: int) -> list[Event]:
        """What the operator has asked for since."""
        return self.audit.writes(mark, user=self.user)

    async def quiet(self) -> int:
        """Wait until the operator has written nothing for a while; a mark at that moment."""
        while True:
            mark = self.audit.mark()
            await asyncio.sleep(_QUIET_S)
            if not self.writes(mark):
                return mark


@dataclass(frozen=True)
class Kind:
    """A kind whose ReplicaSets are waited for."""

    title: str
    path: str
    make: Callable[[str, int, int], Object]


OURS = Kind("LLMDeployment", objects.LLM, objects.llm_deployment)
PLAIN = Kind("Deployment", objects.DEPLOYMENTS, objects.deployment)
AUTOSCALED = Kind("autoscaled LLMDeployment", objects.LLM, objects.autoscaled)


async def latency(bench: Bench) -> AsyncIterator[Figure]:
    """One at a time, nothing else going on (no pods): created -> its ReplicaSet is seen."""
    for kind in (PLAIN, OURS):
        bench.tell(f"{_ONE_BY_ONE} times one {kind.title}")
        taken = []
        async with watching(bench.api, objects.REPLICA_SETS) as seen:
            for number in range(_ONE_BY_ONE):
                name = f"one-{number}"
                started = time.monotonic()
                await bench.api.request("POST", kind.path, kind.make(name, number, 0))
                await seen.until(lambda at, n=name: _count(at, n) > 0, 10)  # type: ignore[misc]
                taken.append(1000 * (max(seen.at.values()) - started))
                await bench.api.request("DELETE", f"{kind.path}/{name}")
                await seen.until(lambda at: not at, 30)
                await asyncio.sleep(_BETWEEN_S)
        for share, target in ((0.5, 19.0), (0.99, 50.0)):
            value = percentile(taken, share)
            promised = target if kind is OURS else None
            what = f"{kind.title} -> ReplicaSet, p{100 * share:g}"
            yield Figure("latency", what, value, "ms", promised, note="idle, one by one")


async def burst(bench: Bench) -> AsyncIterator[Figure]:
    """Many at once, without pods: how many ReplicaSets a second."""
    for kind in (PLAIN, OURS):
        bench.tell(f"{_BURST} {kind.title}s at once")
        async with watching(bench.api, objects.REPLICA_SETS) as seen:
            started = time.monotonic()
            await _create(bench, kind, "burst", _BURST, 0)
            created = time.monotonic() - started
            await seen.until(lambda at: len(at) >= _BURST, 300)
            taken = max(seen.at.values()) - started
        target = 50.0 if kind is OURS else None
        note = f"all there after {taken:.1f} s; creating them took {created:.1f} s"
        what = f"{_BURST} {kind.title}s at once"
        yield Figure("burst", what, _BURST / taken, "/s", target, True, note)
        await _remove_all(bench, kind)


async def writes(bench: Bench) -> AsyncIterator[Figure]:
    """What one creation to Ready costs the API server, by its own audit log."""
    bench.tell("one LLMDeployment to Ready, counting writes")
    mark = await bench.quiet()
    async with watching(bench.api, objects.LLM, is_ready, "application/json") as seen:
        await bench.api.request("POST", objects.LLM, OURS.make("counted", 0, 1))
        await seen.until(bool, 120)
        await asyncio.sleep(_SETTLE_S)
    made = Counter(f"{event.verb} {_resource(event)}" for event in bench.writes(mark))
    events = made["create events"]
    children = sum(count for what, count in made.items() if what.startswith("create ")) - events
    note = ", ".join(f"{count} {what}" for what, count in sorted(made.items()))
    value = made.total() - events
    yield Figure("writes", "creation to Ready", value, "writes", children + 3, note=note)
    await _remove_all(bench, OURS)


async def scale(bench: Bench) -> AsyncIterator[Figure]:
    """Many at once with a pod each; then memory, rest, and a restart. Promised for a thousand."""

    def figure(kind: Kind, what: str, value: float, target: float | None = None) -> Figure:
        return Figure("scale", f"{bench.many} {kind.title}s: {what}", value, "s", target)

    plain = await _at_once(bench, PLAIN)
    yield figure(PLAIN, "ReplicaSets", plain["ReplicaSets"])
    yield figure(PLAIN, "status complete", plain["complete"])
    yield figure(PLAIN, "all available", plain["Ready"])
    await _remove_all(bench, PLAIN)
    cpu = bench.operator.cpu_seconds()
    ours = await _at_once(bench, OURS)
    yield figure(OURS, "ReplicaSets", ours["ReplicaSets"], 20)
    yield figure(OURS, "children and status complete", ours["complete"], 75)
    ratio = ours["complete"] / plain["complete"]
    yield Figure("scale", "children and status, ratio to Deployments", ratio, "x")
    yield figure(OURS, "all Ready", ours["Ready"])
    await bench.quiet()
    used = bench.operator.cpu_seconds() - cpu
    yield figure(OURS, "CPU of the operator until at rest", used)
    yield _memory(bench, "all Ready")
    yield await _at_rest(bench)
    async for found in _restarted(bench):
        yield found


async def scaling(bench: Bench) -> AsyncIterator[Figure]:
    """Many autoscaled, with a pod and a steady load of none each, and a Prometheus: what it costs
    to decide again and again. Promised for a thousand."""

    def figure(what: str, value: float, unit: str, target: float | None = None) -> Figure:
        return Figure("scaling", what, value, unit, target)

    await _at_once(bench, AUTOSCALED)
    bench.tell("waiting until the load of all is known")
    await bench.operator.until_series(bench.http, _KNOWN, bench.many)
    mark = await bench.quiet()
    bench.tell(f"{_TICKS_S:.0f} s of decisions")
    cpu, before = bench.operator.cpu_seconds(), await _ticks(bench)
    await asyncio.sleep(_TICKS_S)
    used = (bench.operator.cpu_seconds() - cpu) / _TICKS_S
    count, seconds, queries = (
        now - then for now, then in zip(await _ticks(bench), before, strict=True)
    )
    many = f"{bench.many} autoscaled"
    yield figure(f"{many}: one tick, queries included", seconds / count, "s", 1)
    yield figure(f"{many}: queries of a tick", queries / count, "queries")
    yield figure(f"{many}: CPU", 100 * used, "% of a core")
    yield figure(f"{many}: writes in {count:.0f} ticks", len(bench.writes(mark)), "writes", 0)
    resident = bench.operator.resident_bytes() / 1e6
    yield figure(f"{many}: memory", resident, "MB", 220)
    await _remove_all(bench, AUTOSCALED)


PARTS: Mapping[str, Callable[[Bench], AsyncIterator[Figure]]] = {
    "latency": latency,
    "burst": burst,
    "writes": writes,
    "scale": scale,
    "scaling": scaling,
}


def is_ready(found: Object) -> bool:
    """Whether the status is about this spec, and says that it serves."""
    return is_reported(found) and _condition(found, "Ready") == "True"


def is_reported(found: Object) -> bool:
    """Whether the controller has written a status for this spec."""
    status = found.get("status") or {}
    return bool(status.get("observedGeneration") == found["metadata"]["generation"])


async def _at_once(bench: Bench, kind: Kind) -> dict[str, float]:
    """Seconds from the first create until all are so far."""
    bench.tell(f"{bench.many} {kind.title}s at once, with a pod each")
    done = _is_available if kind is PLAIN else is_ready
    services = 0 if kind is PLAIN else bench.many
    async with (
        watching(bench.api, objects.REPLICA_SETS) as replica_sets,
        watching(bench.api, objects.SERVICES) as others,
        watching(bench.api, kind.path, is_reported, "application/json") as reported,
        watching(bench.api, kind.path, done, "application/json") as ready,
    ):
        started = time.monotonic()
        await _create(bench, kind, "scale", bench.many, 1)
        taken = {"created": time.monotonic() - started}
        for what, seen, count in (
            ("ReplicaSets", replica_sets, bench.many),
            ("status", reported, bench.many),
            ("Services", others, services),
            ("Ready", ready, bench.many),
        ):
            await seen.until(lambda at, n=count: len(at) >= n, 900)  # type: ignore[misc]
            taken[what] = max(seen.at.values(), default=started) - started
            bench.tell(f"  {what}: {taken[what]:.1f} s")
        return {**taken, "complete": max(taken["status"], taken["Services"])}


def _memory(bench: Bench, when: str) -> Figure:
    note = f"peak {bench.operator.peak_bytes() / 1e6:.0f} MB"
    resident = bench.operator.resident_bytes() / 1e6
    return Figure("scale", f"memory, {when}", resident, "MB", 220, note=note)


async def _at_rest(bench: Bench) -> Figure:
    bench.tell(f"{_REST_S:.0f} s at rest")
    mark, cpu = bench.audit.mark(), bench.operator.cpu_seconds()
    await asyncio.sleep(_REST_S)
    used = (bench.operator.cpu_seconds() - cpu) / _REST_S
    made = bench.writes(mark)
    return Figure("scale", "writes at rest", len(made), "writes", 0, note=f"{used:.1%} of a core")


async def _restarted(bench: Bench) -> AsyncIterator[Figure]:
    bench.tell("restarting the operator")
    bench.operator.stop()
    mark = bench.audit.mark()
    started = bench.operator.start()
    ready = await bench.operator.ready(bench.http) - started
    looked = await bench.operator.passes(bench.http, bench.many) - started
    note = f"everything listed after {ready:.1f} s"
    yield Figure("scale", "restart: all looked at", looked, "s", 15, note=note)
    await asyncio.sleep(_SETTLE_S)
    yield Figure("scale", "writes after a restart", len(bench.writes(mark)), "writes", 0)
    yield _memory(bench, "after a restart")


async def _ticks(bench: Bench) -> tuple[float, float, float]:
    """Ticks so far, the seconds that they took, and queries that Prometheus has answered."""
    tick = "llm_operator_scaling_tick_seconds"
    async with bench.http.get(f"{bench.prometheus}/metrics") as response:
        page = await response.text()
    asked = r'prometheus_http_requests_total\{[^}]*handler="/api/v1/query"[^}]*\}'
    return (
        await bench.operator.series(bench.http, f"{tick}_count"),
        await bench.operator.series(bench.http, f"{tick}_sum"),
        summed(page, asked),
    )


async def _create(bench: Bench, kind: Kind, name: str, count: int, replicas: int) -> None:
    """So many creates, as fast as a number of connections can send them."""

    async def one(number: int) -> None:
        body = kind.make(f"{name}-{number}", number, replicas)
        await bench.api.request("POST", kind.path, body)

    await _side_by_side(one(number) for number in range(count))


async def _remove_all(bench: Bench, kind: Kind) -> None:
    """Delete what was made and wait until nothing of it is left, pods included."""
    bench.tell(f"removing the {kind.title}s")
    found = await bench.api.names(kind.path)
    await _side_by_side(bench.api.request("DELETE", f"{kind.path}/{name}") for name in found)
    deadline = time.monotonic() + 900
    for path in (kind.path, objects.REPLICA_SETS, objects.PODS):
        while await bench.api.names(path):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} is not empty")
            await asyncio.sleep(0.5)
    await asyncio.sleep(2)


async def _side_by_side(requests: Iterable[Coroutine[Any, Any, Any]]) -> None:
    clients = asyncio.Semaphore(_CLIENTS)

    async def one(request: Coroutine[Any, Any, Any]) -> None:
        async with clients:
            await request

    await asyncio.gather(*map(one, requests))


def _count(at: Mapping[str, float], name: str) -> int:
    return sum(objects.prefix(replica_set) == name for replica_set in at)


def _condition(found: Object, kind: str) -> Any:
    conditions = found["status"].get("conditions") or ()
    return next((c["status"] for c in conditions if c["type"] == kind), None)


def _is_available(found: Object) -> bool:
    return is_reported(found) and _condition(found, "Available") == "True"


def _resource(event: Event) -> str:
    return event.resource + (f"/{event.subresource}" if event.subresource else "")
