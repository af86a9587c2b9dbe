"""What the client puts on the wire, and how it takes every way in which an API server says no."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.contract.scripted_api import Answer, ScriptedApi, refuses, says

from llm_operator.api import names
from llm_operator.kube import events
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.resources import (
    LLM_DEPLOYMENT,
    NODE,
    POD,
    REPLICA_SET,
    SERVICE,
    Resource,
)
from llm_operator.kube.store import Key


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi().running() as running:
        yield running


@pytest.fixture
async def client(api: ScriptedApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": "t0k3n"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    client = await KubeClient.connect(str(path), user_agent="llm-operator/test")
    yield client
    await client.close()


def service(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "llama", "namespace": "ns", **metadata},
        "spec": {"type": "ClusterIP"},
    }


async def test_create(api: ScriptedApi, client: KubeClient) -> None:
    api.script.append(says({"metadata": {"uid": "u"}}, 201))
    assert await client.create(SERVICE, service()) == {"metadata": {"uid": "u"}}
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/namespaces/ns/services")
    assert asked.query == {"fieldManager": names.FIELD_MANAGER}
    assert asked.body == service()
    assert asked.headers["user-agent"] == "llm-operator/test"
    assert asked.headers["authorization"] == "Bearer t0k3n"
    assert asked.headers["content-type"] == "application/json"


async def test_apply_owns_our_fields_and_guards_against_a_namesake(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.script.append(says({}))
    await client.apply(SERVICE, service(uid="u"))
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("PATCH", "/api/v1/namespaces/ns/services/llama")
    assert asked.query == {"fieldManager": names.FIELD_MANAGER, "force": "true"}
    assert asked.headers["content-type"] == "application/apply-patch+yaml"
    assert asked.body["metadata"]["uid"] == "u"


async def test_apply_of_status_goes_to_the_subresource(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.script.append(says({}))
    body = {"metadata": {"namespace": "ns", "name": "llama"}, "status": {}}
    await client.apply(LLM_DEPLOYMENT, body, sub="/status")
    assert api.asked[0].path == (
        "/apis/llm-operator.dev/v1alpha1/namespaces/ns/llmdeployments/llama/status"
    )


async def test_json_patch(api: ScriptedApi, client: KubeClient) -> None:
    api.script.append(says({}))
    operations = [{"op": "test", "path": "/metadata/uid", "value": "u"}]
    await client.json_patch(REPLICA_SET, "ns", "llama-abc", operations)
    (asked,) = api.asked
    assert (asked.method, asked.path) == (
        "PATCH",
        "/apis/apps/v1/namespaces/ns/replicasets/llama-abc",
    )
    assert asked.headers["content-type"] == "application/json-patch+json"
    assert asked.body == operations


async def test_delete_only_that_object_and_its_dependents_in_background(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.script.append(says({}))
    await client.delete(REPLICA_SET, "ns", "llama-abc", "u")
    (asked,) = api.asked
    assert asked.method == "DELETE"
    assert asked.body == {"preconditions": {"uid": "u"}, "propagationPolicy": "Background"}


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "path"),
    [
        (NODE, None, "n1", "/api/v1/nodes/n1"),
        (NODE, "ns", "n1", "/api/v1/nodes/n1"),
        (POD, None, None, "/api/v1/pods"),
        (REPLICA_SET, "ns", None, "/apis/apps/v1/namespaces/ns/replicasets"),
    ],
)
def test_places_of_kinds(
    resource: Resource, namespace: str | None, name: str | None, path: str
) -> None:
    assert resource.path(namespace, name) == path


NO = {
    # answer -> code, reason, final, Retry-After
    "exists": (refuses(409, "AlreadyExists"), 409, "AlreadyExists", False, None),
    "conflict": (refuses(409, "Conflict"), 409, "Conflict", False, None),
    "gone": (refuses(404, "NotFound"), 404, "NotFound", False, None),
    "invalid": (refuses(422, "Invalid"), 422, "Invalid", True, None),
    "forbidden": (refuses(403, "Forbidden"), 403, "Forbidden", True, None),
    "bad": (refuses(400, "BadRequest"), 400, "BadRequest", True, None),
    "token expired": (refuses(401, "Unauthorized"), 401, "Unauthorized", False, None),
    "listing expired": (refuses(410, "Expired"), 410, "Expired", False, None),
    "busy": (
        refuses(429, "TooManyRequests", Retry_After="7"),
        429,
        "TooManyRequests",
        False,
        7.0,
    ),
    "busy until a date": (
        refuses(429, "TooManyRequests", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
        429,
        "TooManyRequests",
        False,
        None,
    ),
    "broken": (refuses(500, "InternalError"), 500, "InternalError", False, None),
    "a proxy's page": (Answer(503, b"<html>down</html>"), 503, "", False, None),
    "not even JSON's type": (Answer(502, b"[]"), 502, "", False, None),
    "reset": (Answer(reset=True), 0, "Unreachable", False, None),
    "closed without a word": (Answer(cut=0), 0, "Unreachable", False, None),
    "cut short": (Answer(body=b'{"metadata": {}}', cut=50), 0, "Unreachable", False, None),
    "garbage": (Answer(body=b"{oops"), 0, "Unreachable", False, None),
    "silent": (Answer(silent=True), 0, "Unreachable", False, None),
}


@pytest.mark.parametrize("name", NO)
async def test_every_no_is_an_api_error_and_is_not_asked_again(
    api: ScriptedApi, client: KubeClient, name: str
) -> None:
    """Whether to ask again is decided by the work queue alone."""
    answer, code, reason, final, retry_after = NO[name]
    api.script.append(answer)
    with pytest.raises(ApiError) as caught:
        await client.request("PATCH", "/x", body={}, timeout=0.2 if answer.silent else 5)
    error = caught.value
    assert (error.code, error.reason, error.retry_after) == (code, reason, retry_after)
    assert error.is_final == final
    assert error.not_found == (code == 404)
    assert error.already_exists == (reason == "AlreadyExists")
    assert str(error)
    assert len(api.asked) == 1
    # The connection pool is fit for the next request.
    api.script.append(says({"kind": "Node"}))
    assert await client.get(NODE, None, "n1") == {"kind": "Node"}


async def test_reads_are_not_asked_again_either(api: ScriptedApi, client: KubeClient) -> None:
    api.script.append(refuses(503, "ServiceUnavailable"))
    with pytest.raises(ApiError):
        await client.get(NODE, None, "n1")
    assert len(api.asked) == 1


async def test_an_empty_answer_is_an_empty_object(api: ScriptedApi, client: KubeClient) -> None:
    api.script.append(Answer(200, b""))
    assert await client.request("GET", "/x") == {}


async def test_nobody_listens(tmp_path: Path) -> None:
    async with ScriptedApi().running() as api:
        url = api.url
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    client = await KubeClient.connect(str(path))
    with pytest.raises(ApiError, match="Unreachable"):
        await client.get(NODE, None, "n1")
    await client.close()


async def test_pages_follow_the_token_with_the_kinds_selector(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.script += [
        says({"metadata": {"resourceVersion": "7", "continue": "t/1"}, "items": [{"n": 1}]}),
        says({"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]}),
    ]
    pages = [page async for page in client.pages(POD, None, limit=1)]
    assert [page["items"] for page in pages] == [[{"n": 1}], [{"n": 2}]]
    selector = f"{names.LABEL_MANAGED_BY}=llm-operator"
    assert [asked.query for asked in api.asked] == [
        {"limit": "1", "labelSelector": selector},
        {"limit": "1", "labelSelector": selector, "continue": "t/1"},
    ]


async def test_a_listing_that_expires_halfway_is_an_error_and_no_short_listing(
    api: ScriptedApi, client: KubeClient
) -> None:
    api.script += [
        says({"metadata": {"resourceVersion": "7", "continue": "t"}, "items": [{"n": 1}]}),
        refuses(410, "Expired"),
    ]
    with pytest.raises(ApiError, match="410"):
        _ = [page async for page in client.pages(LLM_DEPLOYMENT, "ns")]
    assert api.asked[0].query == {"limit": "250"}


async def test_an_event_on_the_users_object(api: ScriptedApi, client: KubeClient) -> None:
    api.script.append(says({}, 201))
    done = await events.publish(
        client, Key("ns", "llama"), "u", warning=True, reason="Crashed", note="x" * 5000
    )
    assert done
    (asked,) = api.asked
    assert asked.path == "/apis/events.k8s.io/v1/namespaces/ns/events"
    assert asked.body["regarding"]["uid"] == "u"
    assert asked.body["type"] == "Warning"
    assert len(asked.body["note"]) == 1024


@pytest.mark.parametrize("answer", [refuses(403, "Forbidden"), Answer(reset=True)])
async def test_an_event_that_is_refused_stops_nothing(
    api: ScriptedApi, client: KubeClient, answer: Answer
) -> None:
    api.script.append(answer)
    key = Key("ns", "llama")
    assert not await events.publish(client, key, "u", warning=False, reason="Ready", note="n")
