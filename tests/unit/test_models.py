"""What is known of a model, without ever waiting, and the commit that it is pinned to."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llm_operator.api.spec import Model as ModelSpec
from llm_operator.api.status import Reason
from llm_operator.kube.store import Key
from llm_operator.observe.models import Models, NotYet, Unknown, floating
from llm_operator.planning import Model
from llm_operator.planning.catalogue import catalogued, catalogued_config

pytestmark = pytest.mark.looptime

KEY = Key("ns", "llama")
LISTED = "meta-llama/Llama-3.1-8B-Instruct"
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Answers after a second, with one commit or not at all."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.asked: list[tuple[str, str | None]] = []

    async def look_up(self, model_id: str, revision: str | None) -> Model | Unknown:
        self.asked.append((model_id, revision))
        await asyncio.sleep(1)
        if self.fails:
            return Unknown(Reason.HUB_UNREACHABLE, "no answer", 60.0)
        known = catalogued(LISTED, None)
        assert isinstance(known, Model)
        return replace(known, id=model_id, source="Hub", commit=SHA)

    def close(self) -> None: ...


async def test_a_new_object_with_a_known_model_waits_for_nobody() -> None:
    hub = Hub()
    models = Models(hub, found=lambda _: None)
    facts = models.facts(KEY, ModelSpec(id=LISTED))
    assert isinstance(facts, Model)
    assert facts.commit is None


async def test_what_was_asked_for_one_is_there_for_the_next() -> None:
    hub, found = Hub(), list[Key]()
    models = Models(hub, found.append)
    for _ in range(2):
        models.facts(KEY, ModelSpec(id=LISTED))
    await asyncio.sleep(2)
    facts = models.facts(Key("ns", "another"), ModelSpec(id=LISTED))
    assert isinstance(facts, Model)
    assert facts.commit == SHA
    assert (hub.asked, found) == ([(LISTED, None)], []), "asked once, and nobody is woken"


async def test_where_something_serves_the_commit_is_looked_up_once() -> None:
    hub, found = Hub(), list[Key]()
    models = Models(hub, found.append)
    spec = ModelSpec(id=LISTED)
    assert isinstance(models.facts(KEY, spec, can_wait=True), NotYet)
    assert isinstance(models.facts(KEY, spec, can_wait=True), NotYet)
    await asyncio.sleep(2)
    assert found == [KEY]
    for can_wait in (True, False):
        facts = models.facts(KEY, spec, can_wait=can_wait)
        assert isinstance(facts, Model)
        assert facts.commit == SHA
    assert hub.asked == [(LISTED, None)]


async def test_the_users_own_config_gets_the_commit_and_stays_what_it_is() -> None:
    models = Models(Hub(), found=lambda _: None)
    spec = ModelSpec(id="me/mine", revision="v1", config=catalogued_config(LISTED))
    models.facts(KEY, spec, can_wait=True)
    await asyncio.sleep(2)
    facts = models.facts(KEY, spec, can_wait=True)
    assert isinstance(facts, Model)
    assert (facts.commit, facts.source) == (SHA, "model.config")


async def test_a_hub_without_an_answer_stops_nothing() -> None:
    models = Models(Hub(fails=True), found=lambda _: None)
    spec = ModelSpec(id=LISTED)
    models.facts(KEY, spec, can_wait=True)
    await asyncio.sleep(2)
    facts = models.facts(KEY, spec, can_wait=True)
    assert isinstance(facts, Model)
    assert facts.commit is None


@pytest.mark.parametrize(
    "spec",
    [ModelSpec(id=LISTED, revision=SHA), ModelSpec(id=LISTED, path="mine")],
    ids=["a commit already", "files of one's own"],
)
async def test_what_cannot_float_is_not_looked_up(spec: ModelSpec) -> None:
    hub = Hub()
    models = Models(hub, found=lambda _: None)
    models.facts(KEY, spec, can_wait=True)
    await asyncio.sleep(2)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("model", "commit", "floats"),
    [
        ({"id": LISTED}, None, "main"),
        ({"id": LISTED, "revision": "v2"}, None, "v2"),
        ({"id": LISTED, "revision": SHA}, None, None),
        ({"id": LISTED, "revision": "v2"}, SHA, None),
        ({"id": LISTED, "path": "mine"}, None, None),
    ],
)
def test_what_pods_resolve_for_themselves(
    model: dict[str, str], commit: str | None, floats: str | None
) -> None:
    assert floating(model, commit) == floats


async def test_an_unknown_model_is_asked_for_in_any_case() -> None:
    hub = Hub()
    models = Models(hub, found=lambda _: None)
    spec = ModelSpec(id="some/thing")
    assert isinstance(models.facts(KEY, spec), NotYet)
    await asyncio.sleep(2)
    assert isinstance(models.facts(KEY, spec), Model)
    offline = Models(None, found=lambda _: None).facts(KEY, spec, can_wait=True)
    assert isinstance(offline, Unknown)
    assert isinstance(Models(None, lambda _: None).facts(KEY, ModelSpec(id=LISTED)), Model)
