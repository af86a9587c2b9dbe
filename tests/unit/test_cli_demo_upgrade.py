"""What the upgrade demo says of what happened; the play itself is an end-to-end test."""

from __future__ import annotations

import pytest

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cli.demo_upgrade import ACCEPTANCE, FIRST, Scene, manifest, verdict
from llm_operator.cluster.load.records import Report

PLAYED = [Scene(1, "another model", 0.0, 9.0, over=True)]
WELL = Report(requests=100, ok=99, stale=1, details={"stale: connection closed": 1})


def test_the_play_begins_with_a_manifest_that_is_valid() -> None:
    spec = LLMDeploymentSpec.model_validate(manifest()["spec"])
    assert spec.model.id == FIRST


def test_the_questions_of_the_play_are_valid() -> None:
    spec = manifest()["spec"]
    spec["rollout"]["acceptance"] = ACCEPTANCE
    LLMDeploymentSpec.model_validate(spec)


def test_requests_sent_again_are_explained_and_no_loss() -> None:
    good, words = verdict(PLAYED, WELL)
    assert good
    assert "100 requests, 0 failed, 0 cut" in words
    assert "1 sent again: the server was closing" in words


@pytest.mark.parametrize(
    ("scenes", "report"),
    [
        (PLAYED, Report(requests=2, ok=1, failed=1, details={"failed: no connection": 1})),
        (PLAYED, Report(requests=2, ok=1, cut=1, details={"cut: ended early": 1})),
        ([Scene(1, "another model", 0.0, 9.0, over=False)], WELL),
    ],
    ids=["failed", "cut", "an act without an end"],
)
def test_a_loss_or_an_act_without_an_end_is_no_success(scenes: list[Scene], report: Report) -> None:
    good, words = verdict(scenes, report)
    assert not good
    assert all(detail in words for detail in report.details)
