"""Phases and conditions from container states; and what counts as written already."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_operator.cluster.fleet.backoff import Backoff
from llm_operator.cluster.fleet.containers import log_tail
from llm_operator.cluster.fleet.status import (
    ContainerView,
    PodView,
    Running,
    State,
    Terminated,
    Waiting,
    build_pod_status,
    covers,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ended(code: int) -> Terminated:
    return Terminated(code, "Error" if code else "Completed", "", NOW, NOW, "fleet://1")


ALIVE, CREATING, BACKOFF = Running(NOW), Waiting("ContainerCreating"), Waiting("CrashLoopBackOff")


def view(*states: State, init: tuple[State, ...] = (), **changes: Any) -> PodView:
    pod: dict[str, Any] = {"metadata": {"generation": 3}, "spec": {"restartPolicy": "Always"}}
    pod["spec"] |= changes.pop("spec", {})
    pod["status"] = {"conditions": changes.pop("conditions", [])}

    def container(name: str, state: State) -> ContainerView:
        last = ended(1) if state is BACKOFF else None
        alive = isinstance(state, Running)
        return ContainerView(name, "i", state, last, started=alive, ready=alive)

    return PodView(
        pod,
        "10.0.0.1",
        "10.0.0.2",
        NOW,
        [container(f"init{number}", state) for number, state in enumerate(init)],
        [container(f"main{number}", state) for number, state in enumerate(states)],
        **changes,
    )


@pytest.mark.parametrize(
    ("states", "policy", "terminal", "phase"),
    [
        ((CREATING,), "Always", False, "Pending"),
        ((ALIVE, CREATING), "Always", False, "Pending"),
        ((ALIVE, ALIVE), "Always", False, "Running"),
        ((ALIVE, BACKOFF), "Always", False, "Running"),
        ((BACKOFF,), "Always", False, "Running"),
        ((ended(1),), "Always", False, "Running"),
        ((ended(0),), "OnFailure", False, "Succeeded"),
        ((ended(1),), "OnFailure", False, "Running"),
        ((ended(0), ended(1)), "Never", False, "Failed"),
        ((ended(0), ended(0)), "Always", True, "Succeeded"),
        ((ended(0), ended(137)), "Always", True, "Failed"),
        ((CREATING,), "Always", True, "Failed"),
        ((BACKOFF,), "Always", True, "Failed"),
    ],
)
def test_phase(states: tuple[State, ...], policy: str, terminal: bool, phase: str) -> None:
    status = build_pod_status(view(*states, spec={"restartPolicy": policy}, terminal=terminal), NOW)
    assert status["phase"] == phase


@pytest.mark.parametrize(
    ("init", "policy", "phase"),
    [
        ((ended(0), ALIVE), "Always", "Pending"),
        ((ended(1),), "Always", "Pending"),
        ((ended(1),), "Never", "Failed"),
    ],
)
def test_phase_while_initializing(init: tuple[State, ...], policy: str, phase: str) -> None:
    status = build_pod_status(view(CREATING, init=init, spec={"restartPolicy": policy}), NOW)
    assert status["phase"] == phase
    assert conditions(status)["Initialized"][0] == "False"


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None, str | None]]:
    return {
        each["type"]: (each["status"], each["reason"], each["message"])
        for each in status["conditions"]
    }


def test_ready_names_what_is_not() -> None:
    found = conditions(build_pod_status(view(ALIVE, BACKOFF), NOW))
    message = "containers with unready status: [main1]"
    assert found["Ready"] == found["ContainersReady"] == ("False", "ContainersNotReady", message)
    assert found["Initialized"] == ("True", None, None)
    over = conditions(build_pod_status(view(ended(0), terminal=True), NOW))
    assert over["Ready"][:2] == ("False", "PodCompleted")


@pytest.mark.parametrize(
    ("gate", "ready", "message"),
    [
        ([], "False", 'corresponding condition of pod readiness gate "g" does not exist.'),
        (
            [{"type": "g", "status": "False"}],
            "False",
            'the status of pod readiness gate "g" is not "True", but False',
        ),
        ([{"type": "g", "status": "True"}], "True", None),
    ],
)
def test_readiness_gates(gate: list[dict[str, str]], ready: str, message: str | None) -> None:
    spec = {"readinessGates": [{"conditionType": "g"}]}
    found = conditions(build_pod_status(view(ALIVE, spec=spec, conditions=gate), NOW))
    assert found["ContainersReady"][0] == "True"
    assert found["Ready"] == (ready, None if ready == "True" else "ReadinessGatesNotReady", message)


def test_transition_times_move_only_when_the_status_does() -> None:
    first = build_pod_status(view(ALIVE), NOW)["conditions"]
    later = NOW + timedelta(hours=1)
    assert build_pod_status(view(ALIVE, conditions=first), later)["conditions"] == first
    changed = build_pod_status(view(BACKOFF, conditions=first), later)["conditions"]
    moved = {
        each["type"] for each in changed if each["lastTransitionTime"].startswith("2026-01-02T04")
    }
    assert moved == {"ContainersReady", "Ready"}


def test_a_rejected_pod_has_failed() -> None:
    status = build_pod_status(view(rejection="no cards"), NOW)
    assert (status["phase"], status["reason"]) == ("Failed", "UnexpectedAdmissionError")
    assert status["message"] == "Pod was rejected: no cards"


@pytest.mark.parametrize(
    ("observed", "wanted", "enough"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": None}, True),
        ({"a": 1}, {"a": None}, False),
        (None, {"a": 1}, False),
        ([{"type": "X", "s": 1}, {"type": "Y"}], [{"type": "Y"}], True),
        ([{"type": "X", "s": 1}], [{"type": "X", "s": 2}], False),
        ([{"type": "X", "m": "old"}], [{"type": "X", "m": None}], False),
        ([{"n": 1}, {"n": 2}], [{"n": 1}], False),
        ({"state": {"waiting": {}}}, {"state": {"running": {}}}, False),
    ],
)
def test_covers(observed: Any, wanted: Any, enough: bool) -> None:
    assert covers(observed, wanted) is enough


def test_backoff_doubles_to_its_ceiling_and_forgives() -> None:
    backoff = Backoff(initial=10, ceiling=300)
    assert [backoff.after(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.after(601) == 0
    assert backoff.after(1) == 10


def test_a_termination_message_is_the_end_of_the_log() -> None:
    assert log_tail("\n".join(map(str, range(100)))).splitlines()[0] == "20"
    assert len(log_tail("é" * 5000).encode()) <= 2048
    assert log_tail("a" * 5000 + "end").endswith("end")
