"""Asks a pod the questions of `rollout.acceptance`, in the background, before it gets any request.

Decides nothing: what comes back is judged by `rollout.acceptance`. Nothing that was asked or
answered is logged or kept; an answer lives until the pass that reads its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp

from llm_operator.api.rollout import Acceptance, AcceptancePrompt
from llm_operator.facts.acceptance import Answer, Proof
from llm_operator.kube.store import Key
from llm_operator.rollout.acceptance import judge

TIMEOUT_SECONDS = 60
MAX_TOKENS = 64
CONNECT_PATIENCE_SECONDS = 10.0
"""How long a pod that says it is ready may refuse connections."""
CONNECT_PAUSE_SECONDS = 0.5


Examine = Callable[[str, Acceptance], Coroutine[Any, Any, Proof]]
"""Asks the engine at a URL; never raises."""


@dataclass(frozen=True)
class Candidate:
    """The pod to be asked, and where."""

    revision: str
    pod: str
    url: str


async def examine(url: str, questions: Acceptance) -> Proof:
    """Ask one question after the other until one is not answered as expected. Never raises."""
    timeout = questions.timeout_seconds or TIMEOUT_SECONDS
    results = []
    for question in questions.prompts:
        result = judge(await ask(url, question, timeout), question.expect)
        results.append(result)
        if result.fault:
            break
    return Proof(tuple(results), len(questions.prompts))


async def ask(url: str, question: AcceptancePrompt, timeout: int) -> Answer:
    """One question to the engine at `url`; `timeout` in seconds for the whole answer.

    A connection that breaks is tried again for a while: if its pod has gone, that is soon known,
    and nobody waits for this answer any more.
    """
    clock = asyncio.get_running_loop().time
    patience: float | None = None
    while True:
        started = clock()
        try:
            async with asyncio.timeout(timeout):
                text, tokens = await _generate(url, question, timeout)
            return Answer(text, tokens, clock() - started)
        except TimeoutError:
            return Answer(seconds=clock() - started, error=f"no answer within {timeout} s")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            patience = patience or clock() + CONNECT_PATIENCE_SECONDS
            if clock() < patience:
                await asyncio.sleep(CONNECT_PAUSE_SECONDS)
                continue
            return Answer(error=f"the pod cannot be reached ({type(error).__name__})")
        except Exception as error:  # a refusal, or whatever the client makes of no answer
            # Never with the engine's own words: they may hold the question, or a key.
            return Answer(error=f"the engine gave no answer ({type(error).__name__})")


async def _generate(url: str, question: AcceptancePrompt, timeout: int) -> tuple[str, int]:
    """The answer's text and its number of tokens, by the published client.

    Greedy decoding, so that the same model gives the same answer.
    """
    from text_generation import AsyncClient

    client = AsyncClient(url, timeout=timeout)
    response = await client.generate(
        question.prompt, max_new_tokens=question.max_tokens or MAX_TOKENS
    )
    return response.generated_text, response.details.generated_tokens


class Examiner:
    """One examination per LLMDeployment at a time; `found(key)` is called when it has ended."""

    def __init__(self, found: Callable[[Key], None], examine: Examine = examine) -> None:
        self._found = found
        self._examine = examine
        self._asking: dict[Key, tuple[Candidate, Acceptance, asyncio.Task[Proof]]] = {}

    def ask(self, key: Key, candidate: Candidate, questions: Acceptance) -> None:
        """See to it that this pod is being asked, or has been; another one is asked no more."""
        known = self._asking.get(key)
        if known is not None and known[:2] == (candidate, questions):
            return
        self.forget(key)
        task = asyncio.create_task(self._examine(candidate.url, questions))
        task.add_done_callback(lambda done: None if done.cancelled() else self._found(key))
        self._asking[key] = (candidate, questions, task)

    def result(self, key: Key, questions: Acceptance) -> tuple[Candidate, Proof] | None:
        """Who was asked these questions, and how it went; None while there is no result.

        It stays until `forget`: the pass that reads it may fail to write it down.
        """
        known = self._asking.get(key)
        if known is None or known[1] != questions or not known[2].done():
            return None
        return known[0], known[2].result()

    def forget(self, key: Key) -> None:
        """Ask no more on behalf of this object."""
        known = self._asking.pop(key, None)
        if known is not None:
            known[2].cancel()

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for _, _, task in self._asking.values()]
        self._asking.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
