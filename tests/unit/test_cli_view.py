"""What `status` shows of an object: words, bars, numbers."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from llm_operator.cli import view
from llm_operator.facts.cluster import ContainerFact, PodFact

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
GB = 10**9
CARD = 81920 << 20

OBJECT: dict[str, Any] = {
    "metadata": {
        "name": "llama",
        "namespace": "default",
        "generation": 2,
        "creationTimestamp": "2026-01-01T11:57:00Z",
    },
    "spec": {"model": {"id": "org/Llama-70B-AWQ"}, "replicas": 2},
    "status": {
        "observedGeneration": 2,
        "ready": "1/2",
        "endpoint": "http://llama.default.svc/v1",
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": "2026-01-01T11:59:00Z",
            }
            for kind, status, reason, message in (
                ("Ready", "False", "HubUnauthorized", "1/2 replicas ready; 1 pod: no access"),
                ("Available", "True", "Available", "1 replica serving"),
                ("Stalled", "True", "HubUnauthorized", "1/2 replicas ready; 1 pod: no access"),
            )
        ],
        "plan": {
            "fits": True,
            "message": "AWQ 4-bit on 2x NVIDIA-A100-SXM4-80GB",
            "gpu": "NVIDIA-A100-SXM4-80GB",
            "quantization": {"method": "awq", "bits": 4, "groupSize": 128},
            "tensorParallel": 2,
            "weightBytes": 40 * GB,
            "weightSource": "published files",
            "weightBytesPerGPU": 20 * GB,
            "overheadBytesPerGPU": 3 * GB,
            "budgetBytesPerGPU": 77 * GB,
            "kvCacheTokens": 330_000,
            "maxConcurrentSequences": 40,
            "maxTotalTokens": 8192,
            "rejected": [
                {"tensorParallel": 3, "reason": "3 shards do not divide 64 attention heads"},
                {"tensorParallel": 5, "reason": "5 shards do not divide 64 attention heads"},
                {"tensorParallel": 1, "reason": "needs 90 GB, a GPU has 77 GB"},
            ],
        },
        "revisions": [
            {
                "name": "abc",
                "wanted": True,
                "state": "Loading",
                "created": "2026-01-01T11:58:00Z",
                "replicas": 2,
                "pods": 2,
                "ready": 2,
                "serving": 1,
                "image": "tgi:3",
            },
            {
                "name": "bad",
                "wanted": False,
                "state": "Failed",
                "reason": "AcceptanceFailed",
                "message": "too slow",
                "replicas": 0,
                "pods": 0,
                "ready": 0,
            },
        ],
        "failures": [
            {"pod": "llama-abc-2", "reason": "HubUnauthorized", "message": "set a token"},
            {"reason": "QuotaExceeded", "message": "no more GPUs"},
        ],
    },
}


def pod(name: str, **changes: Any) -> PodFact:
    facts: dict[str, Any] = {
        "revision": "abc",
        "created": "2026-01-01T11:58:00Z",
        "phase": "Running",
        "reason": "",
        "message": "",
        "ready": False,
        "deleting": False,
        "node": "a100-0",
        "scheduled": True,
        "unschedulable": "",
        "container": None,
    }
    return PodFact(name=name, **(facts | changes))


SEEN = view.Seen(OBJECT, (pod("llama-abc-1", ready=True), pod("llama-abc-2")))


def unseen() -> view.Seen:
    """An object that the operator has not looked at."""
    fresh = copy.deepcopy(OBJECT)
    fresh["status"] = {"observedGeneration": -1}
    return view.Seen(fresh, ())


def text(renderable: RenderableType, width: int = 160) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def row(seen: list[view.Seen], width: int) -> list[str]:
    """Titles and the line of the first object."""
    lines = text(view.table(seen, NOW, width), width).splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def test_table_has_all_on_a_wide_terminal() -> None:
    titles, _, first = row([SEEN], 160)
    assert titles == "NAME MODEL QUANT GPUS EACH GPU READY REASON AGE"
    bar = "████▒▒▒▒▒▒▒▒▒▒··"
    assert first == f"llama Llama-70B-AWQ awq 4b 2 x 2 A100-80GB {bar} 1/2 HubUnauthorized 3m"


@pytest.mark.parametrize(("width", "missing"), [(100, ["MODEL"]), (80, ["MODEL", "EACH GPU"])])
def test_table_leaves_out_what_a_narrow_terminal_cannot_hold(
    width: int, missing: list[str]
) -> None:
    titles, _, first = row([SEEN], width)
    assert not any(title in titles for title in missing)
    assert first.endswith("1/2 HubUnauthorized 3m")
    assert "…" not in first


def test_table_names_the_namespace_where_there_are_several() -> None:
    other = copy.deepcopy(OBJECT)
    other["metadata"]["namespace"] = "team"
    titles, _, first, second = row([view.Seen(other, ()), SEEN], 160)
    assert titles.startswith("NAMESPACE NAME")
    assert [first.split()[0], second.split()[0]] == ["default", "team"]


def test_an_object_that_nobody_has_looked_at_is_not_ready() -> None:
    seen = unseen()
    assert (seen.ready, seen.stalled, seen.reason) == (False, False, "NotSeenYet")
    assert "has not looked at this spec yet" in text(view.page(seen, NOW))


def test_ready_of_an_older_spec_does_not_count() -> None:
    old = copy.deepcopy(OBJECT)
    old["status"]["conditions"] = [{**OBJECT["status"]["conditions"][0], "status": "True"}]
    assert view.Seen(old, ()).ready
    old["metadata"]["generation"] = 3
    assert not view.Seen(old, ()).ready


def test_page_has_the_arithmetic() -> None:
    shown = text(view.page(SEEN, NOW))
    for line in (
        "default/llama  HubUnauthorized  1/2 ready  org/Llama-70B-AWQ",
        "each GPU  ███████████▓▓▒",
        "█  weights    20.0 GB  of 40.0 GB, published files",
        "▓  overhead    3.0 GB",
        "▒  KV cache   54.0 GB  330,000 tokens: 40 requests of 8,192 at once",
        "·  kept free   8.9 GB",
        "not on 3, 5 GPUs: 3 shards do not divide 64 attention heads",
        "not on 1 GPU: needs 90 GB, a GPU has 77 GB",
        "●  abc  1/2  Loading                    2m  tgi:3",
        "○  bad  0/0  Failed (AcceptanceFailed)   -  too slow",
        "http://llama.default.svc/v1",
    ):
        assert line in shown, line


def test_page_names_the_cause_beside_its_pod_and_those_without_a_pod() -> None:
    lines = [" ".join(line.split()) for line in text(view.page(SEEN, NOW)).splitlines()]
    assert "● llama-abc-1 ready a100-0 2m" in lines
    assert "○ llama-abc-2 HubUnauthorized a100-0 2m set a token" in lines
    assert "○ - QuotaExceeded no more GPUs" in lines


def test_bar_fills_the_card_and_no_more() -> None:
    for width in range(4, 60):
        bar = view.memory_bar(OBJECT["status"]["plan"], width)
        assert bar is not None
        assert len(bar.plain) == width


@pytest.mark.parametrize("missing", ["weightBytesPerGPU", "budgetBytesPerGPU"])
def test_no_bar_without_figures(missing: str) -> None:
    plan = {k: v for k, v in OBJECT["status"]["plan"].items() if k != missing}
    assert view.memory_bar(plan, 10) is None


def test_a_card_that_no_catalogue_has_is_measured_by_its_budget() -> None:
    total, amounts = view.memory_shares({**OBJECT["status"]["plan"], "gpu": "Unheard-Of"}) or (
        0,
        (),
    )
    assert (total, sum(amounts)) == (77 * GB, 77 * GB)
    known = view.memory_shares(OBJECT["status"]["plan"])
    assert known is not None
    assert known[0] == CARD


def container(state: str, **changes: Any) -> ContainerFact:
    facts: dict[str, Any] = {
        "reason": "",
        "message": "",
        "exit_code": None,
        "ended_reason": "",
        "restarts": 0,
        "started": False,
    }
    return ContainerFact(state=state, **(facts | changes))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ready": True}, "ready"),
        ({"ready": True, "deleting": True}, "terminating"),
        ({"phase": "Pending", "node": ""}, "pending"),
        ({"container": container("waiting", reason="CrashLoopBackOff")}, "CrashLoopBackOff"),
        ({"container": container("running")}, "loading"),
        ({"container": container("running", started=True)}, "not ready"),
    ],
)
def test_a_pod_is_told_by_one_word(changes: dict[str, Any], word: str) -> None:
    quiet = copy.deepcopy(OBJECT)
    quiet["status"]["failures"] = []
    shown = text(view.page(view.Seen(quiet, (pod("one", **changes),)), NOW))
    assert f"one  {word}" in shown


def test_json_is_the_status_with_the_pods() -> None:
    told = json.loads(json.dumps(view.as_json(SEEN)))
    assert told["name"] == "llama"
    assert (told["isReady"], told["isStalled"], told["reason"]) == (False, True, "HubUnauthorized")
    assert told["plan"] == OBJECT["status"]["plan"]
    assert [pod["name"] for pod in told["pods"]] == ["llama-abc-1", "llama-abc-2"]


@pytest.mark.parametrize(
    ("created", "words"),
    [
        (None, "-"),
        ("2026-01-01T11:59:59Z", "1s"),
        ("2026-01-01T11:58:01Z", "119s"),
        ("2026-01-01T11:58:00Z", "2m"),
        ("2026-01-01T10:00:00Z", "2h"),
        ("2025-12-30T12:00:00Z", "2d"),
        ("2026-01-01T12:00:05Z", "0s"),
    ],
)
def test_age(created: str | None, words: str) -> None:
    assert view.age(created, NOW) == words
