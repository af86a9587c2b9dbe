"""What `scaling` shows of `status.scaling`: a table, a page, a picture, JSON."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from llm_operator.api.spec import LLMDeploymentSpec
from llm_operator.cli import (
    plan_input,
    plan_scaling,
    plan_view,
    replicas,
    scaling_seen,
    scaling_view,
    view,
)
from llm_operator.cli.manifests import Deployment
from llm_operator.kube.client import ApiError

NOW = datetime(2026, 1, 1, 12, 10, tzinfo=UTC)


def decision(minute: int, previous: int, wanted: int, reason: str, **more: Any) -> dict[str, Any]:
    return {
        "time": f"2026-01-01T12:{minute:02}:00Z",
        "previous": previous,
        "replicas": wanted,
        "reason": reason,
        "metrics": "Complete",
        "message": f"{previous} to {wanted} as there is reason to",
    } | more


PAST = [
    decision(8, 2, 3, "ScaledUp"),
    decision(4, 2, 2, "MetricsMissing", metrics="Missing"),
    decision(0, 1, 2, "ScaledUp"),
]
TERMS = [
    {"name": "waiting", "value": "12", "note": "in 2 replicas"},
    {"name": "one replica holds", "value": "16"},
]
OBJECT: dict[str, Any] = {
    "metadata": {"name": "llama", "namespace": "default", "generation": 1},
    "spec": {
        "model": {"id": "org/Llama"},
        "replicas": 7,
        "autoscaling": {"minReplicas": 1, "maxReplicas": 4},
    },
    "status": {
        "observedGeneration": 1,
        "readyReplicas": 2,
        "plan": {"message": "fits", "tensorParallel": 2},
        "conditions": [
            {
                "type": "ScalingActive",
                "status": "True",
                "reason": "MetricsComplete",
                "message": "the load is known; spec.replicas is ignored",
                "lastTransitionTime": "2026-01-01T12:00:00Z",
            }
        ],
        "scaling": {
            "mode": "Auto",
            "minReplicas": 1,
            "maxReplicas": 4,
            "desiredReplicas": 3,
            "lastDecision": {
                **PAST[0],
                "whyNotMore": "3 hold 48 requests",
                "whyNotLess": "2 hold 32, 40 are there",
                "terms": TERMS,
            },
            "decisions": PAST,
        },
    },
}


def seen(**scaling: Any) -> view.Seen:
    made = copy.deepcopy(OBJECT)
    made["status"]["scaling"] |= scaling
    return view.Seen(made, ())


def unseen() -> view.Seen:
    """Autoscaled, and the operator has said nothing of it."""
    made = copy.deepcopy(OBJECT)
    made["status"] = {"observedGeneration": -1}
    return view.Seen(made, ())


def lines(renderable: RenderableType, width: int = 160) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def words(renderable: RenderableType, width: int = 160) -> list[str]:
    return [" ".join(line.split()) for line in lines(renderable, width) if line.strip()]


def test_a_line_tells_where_it_is_and_where_it_goes() -> None:
    titles, _, first = words(scaling_view.table([seen()], NOW))
    assert titles == "NAME MODE REPLICAS BOUNDS METRICS DECISION AGE MESSAGE"
    assert first == "llama Auto 2 -> 3 1..4 Complete ScaledUp 2m 2 to 3 as there is reason to"


def test_a_narrow_terminal_has_no_sentences() -> None:
    titles, _, first = words(scaling_view.table([seen()], NOW, 80), 80)
    assert titles.endswith("DECISION AGE")
    assert first.endswith("ScaledUp 2m")


def test_several_namespaces_are_named() -> None:
    other = copy.deepcopy(OBJECT)
    other["metadata"]["namespace"] = "team"
    titles, _, *rows = words(scaling_view.table([view.Seen(other, ()), seen()], NOW))
    assert titles.startswith("NAMESPACE NAME")
    assert [row.split()[0] for row in rows] == ["default", "team"]


@pytest.mark.parametrize(
    ("ready", "scaling", "said"),
    [
        (3, {}, "3"),
        (0, {}, "0 -> 3"),
        (7, {"mode": "Advise"}, "7, advised 3"),
        (5, {"mode": "Advise"}, "5 -> 7, advised 3"),
        (7, {"mode": "Aside", "desiredReplicas": 7}, "7"),
    ],
)
def test_replicas_are_the_scalers_only_where_its_word_counts(
    ready: int, scaling: dict[str, Any], said: str
) -> None:
    one = seen(**scaling)
    one.status["readyReplicas"] = ready  # type: ignore[index]
    assert scaling_view.replicas(one) == said


def test_what_the_operator_has_not_seen_is_shown_as_it_is_written() -> None:
    (_, _, row) = words(scaling_view.table([unseen()], NOW))
    assert row == "llama NotSeenYet 0 -> 7 1..4 - - -"
    assert "nothing is decided yet" in words(scaling_view.page(unseen(), NOW))


def test_a_page_has_the_decision_with_its_arithmetic() -> None:
    page = words(scaling_view.page(seen(), NOW))
    for line in (
        "default/llama Auto 2 -> 3 replicas 1..4 org/Llama",
        "● MetricsComplete: the load is known; spec.replicas is ignored",
        "2m ago 2 -> 3 ScaledUp, metrics complete",
        "2 to 3 as there is reason to",
        "why not more 3 hold 48 requests",
        "why not less 2 hold 32, 40 are there",
        "waiting 12 in 2 replicas",
        "one replica holds 16",
        "6m 2 MetricsMissing Missing 2 to 2 as there is reason to",
        "10m 1 -> 2 ScaledUp Complete 1 to 2 as there is reason to",
    ):
        assert line in page, line


def test_the_picture_of_a_page_goes_from_the_oldest_decision_until_now() -> None:
    shown = lines(scaling_view.page(seen(), NOW, 109), 109)
    title = shown.index("Replicas wanted")
    assert shown[title + 1] == "    3 ┤" + " " * 80 + "█" * 20
    assert shown[title + 2] == "    2 ┤" + "█" * 100
    assert shown[title + 4].split() == ["12:00:00", "12:10:00", "UTC"]
    advised = lines(scaling_view.page(seen(mode="Advise"), NOW))
    assert "Replicas advised" in advised


def test_the_page_of_a_deployment_tells_the_decision_and_where_to_look() -> None:
    page = words(view.page(seen(), NOW))
    assert "Auto: 3 of 1..4 replicas wanted" in page
    assert "2m ago, ScaledUp: 2 to 3 as there is reason to" in page
    assert "why, with the arithmetic: llm-operator scaling llama -n default" in page
    assert any(line.startswith("● ScalingActive") for line in page)


def test_gpus_are_those_of_the_replicas_that_are_wanted() -> None:
    assert " 3 x 2 GPU " in " ".join(words(view.table([seen()], NOW)))
    assert " 7 x 2 GPU " in " ".join(words(view.table([seen(mode="Advise")], NOW)))


def test_scaling_that_was_taken_out_of_the_spec_counts_for_nothing() -> None:
    made = copy.deepcopy(OBJECT)
    del made["spec"]["autoscaling"]
    assert view.Seen(made, ()).replicas == 7


def test_json_is_what_status_says() -> None:
    expected = {"namespace": "default", "name": "llama", **OBJECT["status"]["scaling"]}
    assert scaling_view.as_json(seen()) == expected


def test_the_picture_is_as_high_as_there_were_replicas() -> None:
    drawn = lines(replicas.picture([(0.0, 1), (50.0, 3), (75.0, 2)], 100.0, 45))
    assert [line[5:] for line in drawn[:3]] == [
        " " * 20 + "█" * 11,  # the column of the change shows the peak
        " " * 20 + "█" * 20,
        "█" * 40,
    ]
    assert [line[:5] for line in drawn[:3]] == ["  3 ┤", "  2 ┤", "  1 ┤"]
    assert drawn[3].split() == ["00:00:00", "00:01:40", "UTC"]


def test_watching_shows_what_changes_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Client:
        closed = False

        async def close(self) -> None:
            self.closed = True

    client, looks = Client(), [seen(), seen(desiredReplicas=4)]

    async def connect(_: Any) -> Client:
        return client

    async def fetch(*_: Any) -> list[view.Seen]:
        if not looks:
            raise ApiError(503, "over", "over")
        return [looks.pop(0)]

    monkeypatch.setattr(scaling_seen, "find", lambda kubeconfig: None)
    monkeypatch.setattr(scaling_seen, "connect", connect)
    monkeypatch.setattr(scaling_seen, "_fetch", fetch)
    monkeypatch.setattr(scaling_seen, "_EVERY_S", 0.0)
    with pytest.raises(ApiError):
        scaling_seen.show(None, None, None, as_json=False, watch=True)
    assert "2 -> 4" in capsys.readouterr().out
    assert client.closed


def test_many_replicas_take_no_more_lines() -> None:
    drawn = lines(replicas.picture([(0.0, 1), (50.0, 600)], 100.0, 25))
    assert len(drawn) == 7
    assert drawn[0] == "600 ┤" + " " * 10 + "█" * 10
    assert drawn[5] == "100 ┤" + "▁" * 10 + "█" * 10


@pytest.mark.parametrize("count", [1, 7, 40])
def test_a_peak_is_seen_however_short_it_was(count: int) -> None:
    steps = [(0.0, 1), (1000.0, 9), (1001.0, 2), (5000.0, 3)]
    heights = replicas.columns(steps, 5000.0, count)
    assert len(heights) == count
    assert max(heights) == 9
    assert heights[-1] == (9 if count == 1 else 3)


def test_a_clock_behind_the_servers_draws_all_the_same() -> None:
    assert replicas.columns([(100.0, 1), (101.0, 2)], 50.0, 10)[-1] == 2


def planned(**autoscaling: Any) -> plan_input.Planned:
    raw = {
        "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
        "gpu": {"products": ["NVIDIA-H100-80GB-HBM3"]},
        "parallelism": {"tensor": 2},
        "limits": {"maxTotalTokens": 4096, "maxConcurrentRequests": 32},
    }
    if autoscaling:
        raw["autoscaling"] = autoscaling
    deployment = Deployment("qwen", LLMDeploymentSpec.model_validate(raw))
    (one,) = plan_input.answers(plan_input.questions([deployment], [], offline=True))
    return one


def test_a_plan_says_what_autoscaling_comes_to() -> None:
    one = planned(minReplicas=2, maxReplicas=5, metric={"runningShare": 50})
    assert (
        "autoscaling: 2..5 replicas (4..10 GPUs), another one above 16 requests in hand per replica"
    ) in words(plan_view.page(one))
    assert plan_view.as_json(one)["autoscaling"] == {
        "mode": "Auto",
        "minReplicas": 2,
        "maxReplicas": 5,
        "requestsPerReplica": 16,
        "queueSeconds": None,
    }


def test_a_plan_says_what_is_only_advised_and_how_long_requests_may_wait() -> None:
    scaled = plan_scaling.targets(
        planned(maxReplicas=2, mode="Advise", metric={"queueSeconds": 1.5})
    )
    assert scaled is not None
    said = scaled.sentence()
    assert said.startswith("autoscaling: 1..2 replicas (2..4 GPUs), only advised, another one ")
    assert said.endswith(" requests in hand per replica, or a wait of 1.5 s")


def test_a_plan_without_autoscaling_says_nothing_of_it() -> None:
    assert plan_scaling.targets(planned()) is None
    assert "autoscaling" not in plan_view.as_json(planned())
