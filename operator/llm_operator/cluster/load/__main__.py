"""The traffic itself: so many clients, each asking again and again, until told to stop.

Prints each request's record as a line of JSON. Bounded in time and in number whatever happens;
SIGTERM ends it early, after the requests that are under way.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from dataclasses import dataclass

from .client import Ask, Client, ask_again
from .records import CHAT

LAST_REQUESTS_SECONDS = 120.0


@dataclass
class Budget:
    """How long and how many requests it may be."""

    stop: asyncio.Event
    requests: int

    def take(self) -> bool:
        """Whether one more request may be sent."""
        self.requests -= 1
        return self.requests >= 0 and not self.stop.is_set()


async def behave(url: str, ask: Ask, *, kept: bool, pause: float, budget: Budget) -> None:
    """One user: asks, reads, thinks for `pause` seconds on average, and asks again."""
    async with Client(url, kept) as client:
        while budget.take():
            for record in await ask_again(client, ask):
                print(record.to_json(), flush=True)
            wait = pause * random.uniform(0.5, 1.5)
            try:
                async with asyncio.timeout(wait):
                    await budget.stop.wait()
            except TimeoutError:
                continue


def users(options: argparse.Namespace) -> list[tuple[Ask, bool]]:
    """Who asks for what: every second user of each kind keeps its connection alive."""
    asks = [Ask(CHAT, options.tokens)] * options.chats
    asks += [Ask("stream", options.tokens)] * (options.streams - options.long_streams)
    asks += [Ask("long stream", options.long_tokens)] * options.long_streams
    return [(ask, number % 2 == 0) for number, ask in enumerate(asks)]


async def run(options: argparse.Namespace) -> None:
    """All users at once, until the time is over."""
    budget = Budget(asyncio.Event(), options.requests)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, budget.stop.set)
    loop.call_later(options.seconds, budget.stop.set)
    async with asyncio.timeout(options.seconds + LAST_REQUESTS_SECONDS):
        async with asyncio.TaskGroup() as group:
            for ask, kept in users(options):
                work = behave(options.url, ask, kept=kept, pause=options.pause, budget=budget)
                group.create_task(work)


def parser() -> argparse.ArgumentParser:
    """The options; all have a bound."""
    made = argparse.ArgumentParser(prog="python -m llm_operator.cluster.load")
    made.add_argument("url", help="http://ADDRESS[:PORT] of the Service")
    made.add_argument("--chats", type=int, default=8, help="clients that want answers whole")
    made.add_argument("--streams", type=int, default=24, help="clients that stream")
    made.add_argument("--long-streams", type=int, default=6, help="how many of them stream long")
    made.add_argument("--tokens", type=int, default=32)
    made.add_argument("--long-tokens", type=int, default=256)
    made.add_argument("--pause", type=float, default=0.1, help="seconds between two requests")
    made.add_argument("--seconds", type=float, default=900.0, help="stop after so long")
    made.add_argument("--requests", type=int, default=200_000, help="stop after so many")
    return made


if __name__ == "__main__":
    asyncio.run(run(parser().parse_args(sys.argv[1:])))
