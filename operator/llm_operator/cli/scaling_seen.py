"""What `scaling` asks the API server, and when again. Only LLMDeployments are read: no pods.

Reads with the rights of whoever runs it, and writes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from llm_operator.cli import scaling_view
from llm_operator.cli.console import CommandError, console
from llm_operator.cli.status import connect, list_all, only
from llm_operator.cli.target import Target, find
from llm_operator.cli.view import Seen
from llm_operator.kube.client import KubeClient
from llm_operator.kube.resources import LLM_DEPLOYMENT

_EVERY_S = 1.0


def show(
    name: str | None, namespace: str | None, kubeconfig: Path | None, *, as_json: bool, watch: bool
) -> None:
    """Print it once, or again and again until interrupted. Raises CommandError for a name of
    nothing that is autoscaled."""
    asyncio.run(_show(find(kubeconfig), name, namespace, as_json, watch and not as_json))


async def _show(
    asked: Target, name: str | None, namespace: str | None, as_json: bool, watch: bool
) -> None:
    client = await connect(asked)
    try:
        found = await _fetch(client, name, namespace)
        if as_json:
            told = [scaling_view.as_json(seen) for seen in found]
            print(json.dumps(told[0] if name else told, indent=2))
            return
        out = console()
        if not watch:
            out.print(_render(found, name, out.width))
            return
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(_render(found, name, out.width), refresh=True)
                await asyncio.sleep(_EVERY_S)
                found = await _fetch(client, name, namespace)
    finally:
        await client.close()


async def _fetch(client: KubeClient, name: str | None, namespace: str | None) -> list[Seen]:
    """Those that are autoscaled; with a name that one alone."""
    every = [Seen(one, ()) for one in await list_all(client, LLM_DEPLOYMENT, namespace)]
    if name is None:
        return [seen for seen in every if seen.autoscaled]
    seen: Seen = only([one for one in every if one.name == name], name)
    if not seen.autoscaled:
        raise CommandError(f"{name} is not autoscaled: add spec.autoscaling to have it so")
    return [seen]


def _render(found: Sequence[Seen], name: str | None, width: int) -> RenderableType:
    now = datetime.now(UTC)
    if name is not None:
        return scaling_view.page(found[0], now, width)
    if not found:
        return Text("no LLMDeployment is autoscaled: spec.autoscaling is set in none", "dim")
    return scaling_view.table(found, now, width)
