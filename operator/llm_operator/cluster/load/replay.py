"""Open-loop traffic: each request is sent at its time, on a connection of its own.

`python -m llm_operator.cluster.load.replay URL` reads arrivals from its input, a line of JSON each
(`[seconds, input tokens, output tokens]`), and prints the record of each request when it has ended.
SIGTERM: no more are sent, those under way end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

from .arrivals import Arrival
from .client import Ask, Client
from .records import Record

KIND = "stream"
PATIENCE_SECONDS = 180.0
"""How long a user waits for a sign of life: longer than a queue can last."""

_TEMPLATE_TOKENS = 8
"""What a chat template adds to a prompt, about."""


async def replay(url: str, arrivals: Sequence[Arrival]) -> None:
    """Send them all, and wait for all answers."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started = loop.time()
    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            try:
                async with asyncio.timeout_at(started + arrival.at):
                    await stop.wait()
                return
            except TimeoutError:
                group.create_task(_send(url, arrival, loop.time() - started - arrival.at))


async def _send(url: str, arrival: Arrival, late: float) -> None:
    words = max(1, arrival.input_tokens - _TEMPLATE_TOKENS)
    ask = Ask(KIND, arrival.output_tokens, " ".join(["word"] * words))
    async with Client(url, kept=False, silence=PATIENCE_SECONDS) as client:
        record = await client.ask(ask)
    _tell(replace(record, late=late, input_tokens=arrival.input_tokens))


def _tell(record: Record) -> None:
    print(record.to_json(), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llm_operator.cluster.load.replay")
    parser.add_argument("url", help="http://ADDRESS[:PORT] of the Service")
    options = parser.parse_args()
    arrivals = [Arrival(*json.loads(line)) for line in sys.stdin]
    asyncio.run(replay(options.url, arrivals))


if __name__ == "__main__":
    main()
