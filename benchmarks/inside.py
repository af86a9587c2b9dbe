"""The measuring process, inside the cluster's network: no forwarder between it and the API server.

`python -m benchmarks.inside JSON`, started by `python -m benchmarks`. Prints a figure a line, as
JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import aiohttp

from benchmarks.api import connect
from benchmarks.parts import PARTS, Bench
from benchmarks.process import Operator
from llm_operator.cluster.local import LocalCluster


async def measure(
    state_dir: Path,
    program: list[str],
    user: str,
    many: int,
    parts: list[str],
    prometheus: str,
) -> None:
    """Run these parts, one after another, with one operator."""
    cluster = LocalCluster.connect(state_dir.name, state_dir=state_dir)
    operator = Operator(program, cluster.files.log("operator"))
    async with connect(cluster.kubeconfig_inside) as api, aiohttp.ClientSession() as http:
        operator.start()
        try:
            await operator.ready(http)
            bench = Bench(api, http, operator, cluster.audit_log, user, many, _tell, prometheus)
            for part in parts:
                async for figure in PARTS[part](bench):
                    print(json.dumps(asdict(figure)), flush=True)
        finally:
            operator.stop()


def _tell(word: str) -> None:
    print(word, file=sys.stderr, flush=True)


def main() -> None:
    asked = json.loads(sys.argv[1])
    state_dir = Path(asked["state_dir"])
    asyncio.run(measure(**{**asked, "state_dir": state_dir}))


if __name__ == "__main__":
    main()
