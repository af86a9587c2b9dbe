"""An operator that is newer than the CRD: it works on, and leaves out what nobody could keep."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.world import World

from llm_operator.kube.client import ApiError
from llm_operator.reconcile.outdated import TRY_AGAIN_SECONDS, Outdated, undeclared

pytestmark = pytest.mark.looptime

NEW: dict[str, Any] = {"limits": {"maxConcurrentRequests": 7}}


@pytest.fixture
def world() -> World:
    world = World()
    world.api.undeclared = ["plan.warnings", "revisions[0].draining", "revisions[1].draining"]
    return world


async def test_status_is_written_without_what_the_crd_lacks(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.operator():
        world.want(replicas=2)
        await world.serve()
        assert world.condition() == ("True", "Ready")
        world.want(replicas=2, **NEW)
        await world.serve()
        status = world.status()
    assert (world.condition(), status["ready"]) == (("True", "Ready"), "2/2")
    assert "warnings" not in status["plan"]
    assert "message" in status["plan"]
    assert [("draining" in one, "pods" in one) for one in status["revisions"]] == [
        (False, True)
    ] * 2
    (told,) = [record.message for record in caplog.records]
    assert "it lacks plan.warnings, revisions.draining of the status" in told
    assert "crds/llmdeployments.yaml" in told


async def test_at_rest_nothing_is_written_though_the_status_never_fits(world: World) -> None:
    async with world.operator():
        world.want()
        world.want("other")
        await world.serve()
        world.writes()
        await world.settle(TRY_AGAIN_SECONDS / 2)
        assert world.writes() == []


async def test_now_and_then_it_is_tried_whole_and_a_renewed_crd_gets_all(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.operator():
        for number in range(10):
            world.want(f"model-{number}")
        await world.serve()
        world.writes()
        await world.settle(3 * TRY_AGAIN_SECONDS)
        tries = 2 * (1 + len(world.api.undeclared))  # by two workers at once
        assert 0 < len(world.writes()) <= 3 * tries, "no storm"
        world.api.undeclared.clear()
        await world.settle(3 * TRY_AGAIN_SECONDS)
        for number in range(10):
            assert "draining" in world.status(f"model-{number}")["revisions"][0]
        world.writes()
        await world.settle(3 * TRY_AGAIN_SECONDS)
        assert world.writes() == []
    assert len(caplog.records) == 1


def test_which_fields_a_refusal_names() -> None:
    message = (
        "failed to create typed patch object (ns/n; llm-operator.dev/v1alpha1,"
        " Kind=LLMDeployment): errors:\n  .status.scaling: field not declared in schema\n"
        '  .status.conditions[type="Ready"].severity: field not declared in schema\n'
        "  .status.revisions[12].canary.share: field not declared in schema"
    )
    assert list(undeclared(message)) == [
        ("scaling",),
        ("conditions", "severity"),
        ("revisions", "canary", "share"),
    ]


def test_other_refusals_teach_nothing() -> None:
    outdated = Outdated(lambda: 0.0)
    assert not outdated.learn(ApiError(500, "InternalError", "etcdserver: request timed out"))
    assert not outdated.learn(ApiError(500, "", ".spec.model: field not declared in schema"))
    unknown = ApiError(500, "", "x: .status.plan.new: field not declared in schema")
    assert outdated.learn(unknown)
    assert not outdated.learn(unknown), "the same again is another trouble"
    assert outdated.fitting({"plan": {"new": 1, "old": 2}}) == {"plan": {"old": 2}}
    assert outdated.fitting({"plan": None, "ready": "1/1"}) == {"plan": None, "ready": "1/1"}
