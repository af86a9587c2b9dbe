"""Ask running models something, through their Services, with the `text-generation` client.

A program of its own, `python -m llm_operator.cli.chat NAME=URL ...`, because it runs where the
Services are: inside the local cluster. Prints a JSON object per model as its answer is complete.
The client is imported when it is needed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import TypeVar

T = TypeVar("T")

QUESTION = "Say in one sentence what a tensor-parallel shard is."
_ANSWER_TOKENS = 48
_TIMEOUT_S = 60
_PATIENCE_S = 10.0
_PAUSE_S = 0.2


@dataclass(frozen=True)
class Answer:
    """What a model said, and how fast (wall time of a streamed request); `error` if it did not."""

    name: str
    text: str = ""
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0
    error: str = ""


def ask(name: str, url: str) -> Answer:
    """One chat request for the text, then one streamed request for the speed."""
    from text_generation import Client
    from text_generation.types import Message

    client = Client(url, timeout=_TIMEOUT_S)
    try:
        chat = _patiently(
            lambda: client.chat([Message(role="user", content=QUESTION)], max_tokens=_ANSWER_TOKENS)
        )
        text = chat.choices[0].message.content or ""
        started = time.monotonic()
        # The client's own streamed chat is broken in its last release, so this is /generate_stream.
        arrivals = [
            time.monotonic() - started
            for _ in client.generate_stream(QUESTION, max_new_tokens=_ANSWER_TOKENS)
        ]
    except Exception as error:  # whatever it is, it is the answer for this model
        return Answer(name, error=f"{type(error).__name__}: {error}")
    first, last = arrivals[0], arrivals[-1]
    speed = (len(arrivals) - 1) / (last - first) if last > first else 0.0
    return Answer(name, " ".join(text.split()), first, speed)


def _patiently(request: Callable[[], T]) -> T:
    """Try again while nothing listens: a new Service takes a moment to reach every node."""
    import requests

    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return request()
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)


def main() -> None:
    """Ask all at once."""
    targets = [argument.split("=", 1) for argument in sys.argv[1:]]
    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        for answer in as_completed(pool.submit(ask, name, url) for name, url in targets):
            print(json.dumps(asdict(answer.result())), flush=True)


if __name__ == "__main__":
    main()
