"""Questions to one pod, by the published client against the simulated server."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web
from tests.simtgi import demo, serving, until

from llm_operator.api.rollout import Acceptance
from llm_operator.facts.acceptance import Answer, Proof
from llm_operator.kube.store import Key
from llm_operator.observe.acceptance import Candidate, Examiner, ask, examine
from llm_operator.rollout.acceptance import judge

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PROMPT = "what is deep learning"
KEY = Key("ns", "llama")


def questions(*expect: dict[str, Any], timeout: int | None = None) -> Acceptance:
    prompts = [{"prompt": PROMPT, "maxTokens": 9, "expect": each} for each in expect]
    return Acceptance.model_validate({"prompts": prompts, "timeoutSeconds": timeout})


async def proof(*expect: dict[str, Any], timeout: int | None = None, **faults: str) -> Proof:
    async with serving(demo(env=None, **faults)) as up:
        return await examine(up.url, questions(*expect, timeout=timeout))


async def test_a_model_that_answers_as_expected_is_accepted() -> None:
    found = await proof(
        {"contains": "deep learning"},
        {"notEmpty": True, "maxLatencySeconds": 30, "minTokensPerSecond": 0.1},
    )
    assert found.accepted
    assert [result.tokens for result in found.results] == [9, 9]
    assert found.message.startswith("2 of 2 prompts answered as expected, the slowest in ")


async def test_the_first_fault_ends_it_and_is_told_with_numbers() -> None:
    found = await proof({}, {"contains": "Paris"}, {})
    assert not found.accepted
    assert len(found.results) == 2
    assert found.message == "prompt 2 of 3: the answer does not contain 'Paris'"


async def test_garbage_is_not_accepted() -> None:
    assert not (await proof({"contains": "deep learning"}, garbage="")).accepted


async def test_an_engine_that_fails_or_hangs_is_not_accepted() -> None:
    failing = await proof({}, generation_error="")
    assert failing.message == "prompt 1 of 1: the engine gave no answer (GenerationError)"
    hanging = await proof({}, timeout=1, hang="")
    assert hanging.message == "prompt 1 of 1: no answer within 1 s"


async def test_a_closed_port_is_waited_for_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_operator.observe.acceptance.CONNECT_PATIENCE_SECONDS", 0.0)
    answer = await ask("http://127.9.9.9:9", questions({}).prompts[0], 5)
    assert answer.error == "the pod cannot be reached (ClientConnectorError)"


async def test_what_is_no_answer_at_all_is_one_more_fault() -> None:
    """A server that is something else."""
    app = web.Application()
    app.add_routes([web.post("/", lambda _: _text("hello"))])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        found = await examine(f"http://127.0.0.1:{port}", questions({}))
    finally:
        await runner.cleanup()
    assert "the engine gave no answer (ContentTypeError)" in found.message


async def _text(text: str) -> web.Response:
    return web.Response(text=text)


def test_expectations_one_by_one() -> None:
    answer = Answer("Paris, of course", tokens=30, seconds=2.0)

    def fault(given: Answer = answer, **expect: Any) -> str:
        return judge(given, questions(expect).prompts[0].expect).fault

    assert fault() == ""
    assert fault(maxLatencySeconds=2.0, minTokensPerSecond=15.0, contains="Paris") == ""
    assert fault(contains="paris") == "the answer does not contain 'paris'"
    assert fault(maxLatencySeconds=1.5) == "the answer took 2.00 s, at most 1.5 s wanted"
    assert fault(minTokensPerSecond=16) == "15.0 tokens/s, at least 16 wanted"
    assert fault(Answer(" \n", 3, 0.1)) == "the answer is empty"
    assert fault(Answer(" \n", 3, 0.1), notEmpty=False) == ""
    assert fault(Answer(error="no answer within 1 s"), notEmpty=False) == "no answer within 1 s"
    assert judge(Answer("", 0, 0.0), None).fault == "the answer is empty"


async def test_asked_in_the_background_once_until_forgotten() -> None:
    found: list[Key] = []
    examiner = Examiner(found.append)
    async with serving(demo()) as up:
        candidate, wish = Candidate("r1", "p1", up.url), questions({})
        for _ in range(2):
            examiner.ask(KEY, candidate, wish)
            assert examiner.result(KEY, wish) is None
        await until(lambda: bool(found))
        first = examiner.result(KEY, wish)
        assert first is not None
        assert first[0] is candidate
        assert first[1].accepted
        examiner.ask(KEY, candidate, wish)
        assert examiner.result(KEY, wish) == first
        assert found == [KEY]
        # Other questions, or another pod, are another examination.
        others = questions({"contains": "no"})
        assert examiner.result(KEY, others) is None
        examiner.ask(KEY, candidate, others)
        assert examiner.result(KEY, wish) is None
        await until(lambda: len(found) == 2)
        examiner.ask(KEY, Candidate("r1", "p2", up.url), wish)
        assert examiner.result(KEY, wish) is None
        examiner.forget(KEY)
        examiner.ask(KEY, candidate, wish)
        assert examiner.result(KEY, wish) is None
        await examiner.close()
        assert len(found) == 2


async def test_neither_question_nor_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await proof({"contains": "Paris"})
    await proof({}, generation_error="")
    await asyncio.sleep(0)
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("llm_operator.cluster")]
    assert not [line for line in ours if PROMPT in line]
