"""The `text-generation` client, as published, against the simulated server."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the client was written for an older pydantic
    from text_generation import AsyncClient, Client
    from text_generation.errors import GenerationError, OverloadedError, ValidationError
    from text_generation.types import Message

from tests.simtgi import demo, serving

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
QUESTION = "what is deep learning"


async def _ask(call: Callable[[Client], Any], *args: str, fault: str | None = None) -> Any:
    container = replace(demo(*args), faults={fault: ""} if fault else {})
    async with serving(container) as up:
        return await asyncio.to_thread(lambda: call(Client(up.url)))


async def test_generate() -> None:
    response = await _ask(lambda client: client.generate(QUESTION, max_new_tokens=7))
    assert response.details.generated_tokens == 7
    assert response.details.finish_reason == "length"
    assert response.generated_text == "".join(token.text for token in response.details.tokens)
    assert QUESTION in response.generated_text


async def test_generate_stream() -> None:
    tokens = await _ask(lambda client: list(client.generate_stream(QUESTION, max_new_tokens=5)))
    assert [response.generated_text for response in tokens[:-1]] == [None] * 4
    assert tokens[-1].generated_text == "".join(response.token.text for response in tokens)
    assert tokens[-1].details.generated_tokens == 5


async def test_chat() -> None:
    answer = await _ask(
        lambda client: client.chat([Message(role="user", content=QUESTION)], max_tokens=6)
    )
    assert answer.usage["completion_tokens"] == 6
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content.startswith("demo was asked:")


async def test_chat_stream_fails_in_the_client_as_it_does_with_the_real_server() -> None:
    async with serving(demo()) as up:
        client = AsyncClient(up.url)
        stream = await client.chat([Message(role="user", content="hi")], max_tokens=3, stream=True)
        with pytest.raises(KeyError, match="error"):
            _ = [chunk async for chunk in stream]


async def test_errors_have_the_clients_types() -> None:
    with pytest.raises(ValidationError, match="must have less than 8 tokens"):
        await _ask(lambda client: client.generate("w " * 9), "--max-input-tokens", "8")
    with pytest.raises(OverloadedError):
        await _ask(lambda client: client.generate("w"), "--max-concurrent-requests", "0")
    with pytest.raises(GenerationError, match="CUDA out of memory"):
        await _ask(lambda client: client.generate("w"), fault="generation-error")


async def test_async_client_stops_at_a_sequence() -> None:
    async with serving(demo()) as up:
        client = AsyncClient(up.url)
        response = await client.generate(QUESTION, max_new_tokens=50, stop_sequences=["deep"])
    assert response.details.finish_reason == "stop_sequence"
    assert response.generated_text.endswith("deep")


async def test_same_question_same_answer_from_every_replica() -> None:
    def ask(client: Client) -> str:
        return str(client.generate(QUESTION, max_new_tokens=30).generated_text)

    assert await _ask(ask) == await _ask(ask)
    other = await _ask(lambda client: client.generate("else", max_new_tokens=30).generated_text)
    assert other != await _ask(ask)
