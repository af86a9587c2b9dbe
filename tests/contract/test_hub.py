"""The hub's client against a stand-in with the hub's own wire format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llm_operator.api.status import Reason
from llm_operator.observe.hub import HubFailure, HubModels, Repository, weight_file_bytes
from llm_operator.observe.models import Unknown
from llm_operator.planning import Model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.35.0",
}
TINY_BYTES = 2_200_119_664
INDEX = "model.safetensors.index.json"


@dataclass
class StandIn:
    """Answers as the hub does: `files` by name (JSON content, or a size), `refusal` for all."""

    files: dict[str, dict[str, Any] | int] = field(default_factory=dict)
    refusal: tuple[int, dict[str, str]] | None = None
    tells_sizes: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    async def info(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Authorization")))
        if self.refusal is not None:
            status, headers = self.refusal
            return web.json_response({"error": "refused"}, status=status, headers=headers)
        siblings = []
        for name, content in self.files.items():
            size = content if isinstance(content, int) else len(json.dumps(content))
            entry: dict[str, Any] = {"rfilename": name, "blobId": "ab" * 20}
            if self.tells_sizes and "blobs" in request.query:
                entry["size"] = size
            siblings.append(entry)
        return web.json_response(
            {
                "_id": "653a",
                "id": "org/tiny",
                "modelId": "org/tiny",
                "sha": COMMIT,
                "private": False,
                "gated": False,
                "siblings": siblings,
                "tags": ["llama"],
                "downloads": 1,
            }
        )

    async def file(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Authorization")))
        content = self.files.get(request.match_info["name"])
        if content is None or isinstance(content, int):
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        return web.json_response(content)


@pytest.fixture
async def hub() -> AsyncIterator[StandIn]:
    stand_in = StandIn({"config.json": TINY, "model.safetensors": TINY_BYTES, "README.md": 100})
    app = web.Application()
    app.router.add_get("/api/models/{org}/{model}", stand_in.info)
    app.router.add_get("/api/models/{org}/{model}/revision/{revision}", stand_in.info)
    app.router.add_get("/{org}/{model}/resolve/{revision}/{name}", stand_in.file)
    server = TestServer(app)
    await server.start_server()
    stand_in.url = str(server.make_url("")).rstrip("/")
    yield stand_in
    await server.close()


@pytest.fixture
async def client(hub: StandIn) -> AsyncIterator[HubModels]:
    models = HubModels(endpoint=hub.url, offline=False, timeout=5)
    yield models
    models.close()


async def test_a_model_comes_with_its_commit_and_the_size_of_its_files(
    hub: StandIn, client: HubModels
) -> None:
    found = await client.look_up("org/tiny", None)
    assert isinstance(found, Model)
    assert found.file_bytes == TINY_BYTES
    assert found.commit == COMMIT
    assert found.shape.kv_heads == 4
    assert found.source == "Hub"


async def test_the_commit_that_was_listed_is_the_one_that_is_read(
    hub: StandIn, client: HubModels
) -> None:
    await client.look_up("org/tiny", "refs/pr/1")
    paths = [path for path, _ in hub.asked]
    assert paths[0].endswith("/revision/refs%2Fpr%2F1") or paths[0].endswith("refs/pr/1")
    assert paths[1] == f"/org/tiny/resolve/{COMMIT}/config.json"


async def test_the_index_says_which_files_are_the_model(hub: StandIn, client: HubModels) -> None:
    hub.files = {
        "config.json": TINY,
        INDEX: {
            "metadata": {"total_size": 999},
            "weight_map": {
                "a": "model-00001-of-00002.safetensors",
                "b": "model-00002-of-00002.safetensors",
                "c": "model-00002-of-00002.safetensors",
            },
        },
        "model-00001-of-00002.safetensors": 1_500_000_000,
        "model-00002-of-00002.safetensors": 700_119_664,
        "consolidated.safetensors": 2_200_000_000,
        "original/model.safetensors": 2_200_000_000,
        "pytorch_model.bin": 2_200_000_000,
    }
    found = await client.repository("org/tiny", None)
    assert isinstance(found, Repository)
    assert found.file_bytes == 2_200_119_664


async def test_a_hub_that_tells_no_sizes_has_the_index_believed(
    hub: StandIn, client: HubModels
) -> None:
    hub.tells_sizes = False
    hub.files |= {INDEX: {"metadata": {"total_size": 2_200_098_816}, "weight_map": {"a": "x"}}}
    found = await client.repository("org/tiny", None)
    assert isinstance(found, Repository)
    assert found.file_bytes == 2_200_098_816


async def test_old_checkpoints_say_their_quantization_in_a_file_of_its_own(
    hub: StandIn, client: HubModels
) -> None:
    hub.files["quantize_config.json"] = {"bits": 4, "group_size": 64, "desc_act": True}
    hub.files["model.safetensors"] = 768_000_000
    found = await client.look_up("org/tiny", None)
    assert isinstance(found, Model)
    q = found.quantization
    assert (q.method, q.bits, q.group_size, q.desc_act) == ("gptq", 4, 64, True)


async def test_only_the_token_that_was_given_is_sent(
    hub: StandIn, client: HubModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_elses")
    await client.look_up("org/tiny", None)
    assert {authorization for _, authorization in hub.asked} == {None}
    hub.asked.clear()
    own = HubModels("hf_own", endpoint=hub.url, offline=False)
    await own.look_up("org/tiny", None)
    own.close()
    assert {authorization for _, authorization in hub.asked} == {"Bearer hf_own"}


REFUSALS = [
    ((401, {"X-Error-Code": "GatedRepo"}), "gated", Reason.MODEL_SHAPE_UNKNOWN, None),
    ((403, {"X-Error-Code": "GatedRepo"}), "gated", Reason.MODEL_SHAPE_UNKNOWN, None),
    ((401, {"X-Error-Code": "RepoNotFound"}), "not-found", Reason.MODEL_SHAPE_UNKNOWN, None),
    ((404, {"X-Error-Code": "RepoNotFound"}), "not-found", Reason.MODEL_SHAPE_UNKNOWN, None),
    ((404, {"X-Error-Code": "RevisionNotFound"}), "not-found", Reason.MODEL_SHAPE_UNKNOWN, None),
    ((429, {"Retry-After": "17"}), "rate-limited", Reason.HUB_RATE_LIMITED, 17.0),
    ((429, {}), "rate-limited", Reason.HUB_RATE_LIMITED, 300.0),
    ((503, {}), "unreachable", Reason.HUB_UNREACHABLE, 60.0),
]


@pytest.mark.parametrize(("refusal", "kind", "reason", "retry"), REFUSALS)
async def test_refusals_are_classified(
    hub: StandIn,
    client: HubModels,
    refusal: tuple[int, dict[str, str]],
    kind: str,
    reason: Reason,
    retry: float | None,
) -> None:
    hub.refusal = refusal
    failure = await client.repository("org/tiny", None)
    assert isinstance(failure, HubFailure)
    assert failure.kind == kind
    unknown = await client.look_up("org/tiny", None)
    assert isinstance(unknown, Unknown)
    assert (unknown.reason, unknown.retry_after) == (reason, retry)
    if reason is Reason.MODEL_SHAPE_UNKNOWN:
        for way in ("model.config", "HF_TOKEN", "catalogue"):
            assert way in unknown.message


async def test_what_is_no_model_is_said(hub: StandIn, client: HubModels) -> None:
    del hub.files["config.json"]
    failure = await client.repository("org/tiny", None)
    assert isinstance(failure, HubFailure)
    assert failure.kind == "no-model"


async def test_a_type_without_formula_is_unknown_whatever_its_size(
    hub: StandIn, client: HubModels
) -> None:
    hub.files["config.json"] = {**TINY, "model_type": "brand_new"}
    unknown = await client.look_up("org/tiny", None)
    assert isinstance(unknown, Unknown)
    assert "size unknown" in unknown.message


async def test_nobody_there_and_a_hub_that_hangs_are_unreachable() -> None:
    nobody = HubModels(endpoint="http://127.0.0.1:1", offline=False, timeout=1)
    failure = await nobody.repository("org/tiny", None)
    nobody.close()
    assert isinstance(failure, HubFailure)
    assert failure.kind == "unreachable"

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hanging = HubModels(endpoint=f"http://127.0.0.1:{port}", offline=False, timeout=0.2)
    failure = await hanging.repository("org/tiny", None)
    hanging.close()
    server.close()
    assert isinstance(failure, HubFailure)
    assert failure.kind == "unreachable"


async def test_offline_asks_nobody(hub: StandIn) -> None:
    offline = HubModels(endpoint=hub.url, offline=True)
    failure = await offline.repository("org/tiny", None)
    assert isinstance(failure, HubFailure)
    assert failure.kind == "offline"
    assert hub.asked == []


def test_copies_beside_the_model_are_not_counted_twice() -> None:
    sizes = {
        "model.safetensors": 10,
        "consolidated.00.safetensors": 10,
        "adapter_model.safetensors": 1,
        "metal/model.safetensors": 10,
        "model.bin": 10,
    }
    assert weight_file_bytes(sizes, None) == 10
    assert weight_file_bytes({"pytorch_model.bin": 10}, None) is None
