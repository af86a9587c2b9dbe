"""`status`: what the API server is asked, and when again.

Reads with the rights of whoever runs it, and writes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llm_operator.api import names
from llm_operator.cli import view
from llm_operator.cli.console import CommandError, console
from llm_operator.cli.target import Target, find
from llm_operator.cluster.local import Status
from llm_operator.kube.client import KubeClient
from llm_operator.kube.resources import LLM_DEPLOYMENT, POD, Resource
from llm_operator.observe import slim

_EVERY_S = 1.0


async def fetch(
    client: KubeClient, namespace: str | None, name: str | None = None
) -> list[view.Seen]:
    """LLMDeployments with their pods, in all namespaces if None. Raises ApiError."""
    deployments = await list_all(client, LLM_DEPLOYMENT, namespace)
    if name is not None:
        deployments = [found for found in deployments if found["metadata"]["name"] == name]
    pods: dict[tuple[str, str], list[Any]] = {}
    for pod in await list_all(client, POD, namespace) if deployments else ():
        owner = pod["metadata"].get("labels", {}).get(names.LABEL_DEPLOYMENT, "")
        pods.setdefault((pod["metadata"]["namespace"], owner), []).append(slim.pod(pod))
    return [
        view.Seen(found, tuple(pods.get((metadata["namespace"], metadata["name"]), ())))
        for found in deployments
        for metadata in [found["metadata"]]
    ]


def status(
    name: str | None,
    namespace: str | None,
    kubeconfig: Path | None,
    *,
    as_json: bool,
    watch: bool,
) -> None:
    """Print it once, or again and again until interrupted."""
    asked = find(kubeconfig)
    if as_json:
        found = asyncio.run(_ask_once(asked, namespace, name))
        listed = [view.as_json(seen) for seen in found]
        print(json.dumps(only(listed, name) if name else listed, indent=2, default=str))
    elif watch:
        asyncio.run(_watch(asked, namespace, name))
    else:
        found = asyncio.run(_ask_once(asked, namespace, name))
        out = console()
        out.print(_render(asked, found, name, out.width))


async def _ask_once(asked: Target, namespace: str | None, name: str | None) -> list[view.Seen]:
    client = await connect(asked)
    try:
        return await fetch(client, namespace, name)
    finally:
        await client.close()


async def _watch(asked: Target, namespace: str | None, name: str | None) -> None:
    client = await connect(asked)
    try:
        out = console()
        with Live(console=out, auto_refresh=False) as live:
            while True:
                found = await fetch(client, namespace, name)
                live.update(_render(asked, found, name, out.width), refresh=True)
                await asyncio.sleep(_EVERY_S)
    finally:
        await client.close()


async def connect(asked: Target) -> KubeClient:
    """A client with the rights of whoever runs this. Close it."""
    kubeconfig = str(asked.kubeconfig) if asked.kubeconfig else None
    return await KubeClient.connect(kubeconfig, user_agent="llm-operator-cli")


async def list_all(client: KubeClient, resource: Resource, namespace: str | None) -> list[Any]:
    """All objects of a kind, in all namespaces if None. Raises ApiError."""
    return [item async for page in client.pages(resource, namespace) for item in page["items"]]


def _render(
    asked: Target, found: Sequence[view.Seen], name: str | None, width: int
) -> RenderableType:
    now = datetime.now(UTC)
    if name is not None:
        return view.page(only(found, name), now)
    parts: list[RenderableType] = [
        view.table(found, now, width) if found else Text("no LLMDeployment", "dim")
    ]
    if asked.cluster is not None:
        parts.append(_processes(asked.cluster.status()))
    return Group(*parts)


def only(found: Sequence[Any], name: str) -> Any:
    """The one of that name. Raises CommandError if there is none, or one in several namespaces."""
    if len(found) == 1:
        return found[0]
    many = "there is no" if not found else "several namespaces have an"
    way = "" if not found else ": name one with -n"
    raise CommandError(f"{many} LLMDeployment {name!r}{way}")


def _processes(status: Status) -> RenderableType:
    """What the local cluster runs and uses."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    for _ in ("memory", "CPU", "starts"):
        grid.add_column(justify="right")
    for process in status.processes:
        again = f"started {process.starts} times" if process.starts > 1 else ""
        memory = f"{process.resident_bytes / 1e6:,.0f} MB"
        grid.add_row(f"  {process.name}", memory, f"{process.cpu_seconds:.1f} s CPU", again)
    return Group(Text(f"local cluster {status.name!r}: {status.phase}", "bold"), grid)
