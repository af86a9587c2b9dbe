"""`llm-operator scaling` on the real control plane, and who decides on replicas, as it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.operator_kit import Room, room, until
from typer.testing import CliRunner

from llm_operator.cli.console import CommandError
from llm_operator.cli.main import app
from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    log = tmp_path_factory.mktemp("cli-scaling") / "operator.log"
    with room(cluster, log, "--scaling-interval-seconds=0.5", gpus=8) as opened:
        opened.want("scaled", replicas=5, autoscaling={"minReplicas": 1, "maxReplicas": 4})
        opened.want("advised", autoscaling={"maxReplicas": 4, "mode": "Advise"})
        opened.want("fixed")
        opened.want("shared", autoscaling={"maxReplicas": 4})
        opened.cluster.kubectl("apply", "--filename=-", input=hpa(opened.namespace))
        yield opened


def hpa(namespace: str) -> str:
    """Kubernetes' own autoscaler on `shared`. It has no metrics, but a minimum."""
    target = {"apiVersion": "llm-operator.dev/v1alpha1", "kind": "LLMDeployment", "name": "shared"}
    body = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "shared", "namespace": namespace},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3},
    }
    return json.dumps(body)


def call(scene: Room, *arguments: str) -> str:
    """What a command prints, with all white space as one space."""
    where = [f"--namespace={scene.namespace}", f"--kubeconfig={scene.cluster.kubeconfig}"]
    done = CliRunner().invoke(app, [*arguments, *where], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def told(scene: Room, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(scene, "scaling", name, "--output=json"))
    return found


def until_decided(scene: Room, name: str) -> None:
    scene.until_ready(name)
    until(lambda: "lastDecision" in told(scene, name), tell=lambda: scene.story(name))


def test_a_decision_is_shown_with_its_arithmetic(scene: Room) -> None:
    until_decided(scene, "scaled")
    until_decided(scene, "advised")

    listed = call(scene, "scaling")
    assert "advised Advise 1 1..4 Complete" in listed
    assert "scaled Auto 1 1..4 Complete" in listed
    assert "fixed" not in listed
    page = call(scene, "scaling", "scaled")
    assert "Auto 1 replica 1..4" in page
    assert "spec.replicas is ignored" in page
    for part in ("Last decision", "why not more", "Arithmetic", "one replica holds", "Decisions"):
        assert part in page, part
    assert "Auto: 1 of 1..4 replicas wanted" in call(scene, "status", "scaled")
    status = scene.status("scaled")["scaling"]
    assert told(scene, "scaled") == {"namespace": scene.namespace, "name": "scaled", **status}


def test_what_is_not_autoscaled_is_said_to_be_so(scene: Room) -> None:
    with pytest.raises(CommandError, match=r"fixed is not autoscaled: add spec\.autoscaling"):
        call(scene, "scaling", "fixed")
    with pytest.raises(CommandError, match="there is no LLMDeployment 'nothing'"):
        call(scene, "scaling", "nothing")


def test_a_calendar_that_is_none_is_named(scene: Room) -> None:
    """CEL knows no time zones, so the operator says it."""
    floor = {"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}
    schedule = [floor | {"timeZone": "Mars/Olympus"}]
    scene.want("nowhere", autoscaling={"maxReplicas": 4, "schedule": schedule})
    refused = scene.until_reason("nowhere", "InvalidSpec")
    assert "autoscaling.schedule" in refused["message"]
    assert "'Mars/Olympus' is no time zone" in refused["message"]
    assert "nothing is decided yet" in call(scene, "scaling", "nowhere")


def test_who_scales_by_hand_is_followed_until_it_is_handed_back(scene: Room) -> None:
    """As the documentation says it: docs/autoscaling.md."""
    until_decided(scene, "scaled")
    scene.cluster.kubectl(
        "scale", "llmd/scaled", "--replicas=3", f"--namespace={scene.namespace}"
    )  # fmt: skip
    until(lambda: told(scene, "scaled")["mode"] == "Aside")
    scene.until_ready("scaled")
    assert scene.status("scaled")["replicas"] == 3
    aside = scene.condition("scaled", "ScalingActive")
    assert (aside["status"], aside["reason"]) == ("False", "ScaledByOthers")
    assert "kubectl" in aside["message"]
    assert "scaled Aside 3 1..4" in call(scene, "scaling")

    scene.change("scaled", replicas=3)  # the same number: who wrote it stays the same, too
    entries = scene.deployment("scaled")["metadata"]["managedFields"]
    assert any(
        entry.get("subresource") == "scale" and "f:replicas" in entry["fieldsV1"]["f:spec"]
        for entry in entries
    )
    scene.change("scaled", replicas=1)
    until(lambda: told(scene, "scaled")["mode"] == "Auto")
    assert told(scene, "scaled")["desiredReplicas"] == 3
    assert scene.condition("scaled", "ScalingActive")["status"] == "True"
    assert len(scene.pods("scaled")) == 3


def test_kubernetes_own_autoscaler_is_followed_and_nobody_fights(scene: Room) -> None:
    until(lambda: told(scene, "shared").get("mode") == "Aside", tell=lambda: scene.story("shared"))
    until(lambda: scene.status("shared")["ready"] == "2/2", tell=lambda: scene.story("shared"))
    aside = scene.condition("shared", "ScalingActive")
    assert "kube-controller-manager" in aside["message"]
    assert scene.deployment("shared")["spec"]["replicas"] == 2

    where = f"--namespace={scene.namespace}"
    scene.cluster.kubectl("delete", "hpa", "shared", where)
    scene.change("shared", replicas=1)
    until(lambda: told(scene, "shared")["mode"] == "Auto")
    assert told(scene, "shared")["desiredReplicas"] == 2


def test_columns_show_the_bounds(scene: Room) -> None:
    where = f"--namespace={scene.namespace}"
    until_decided(scene, "advised")
    wide = scene.cluster.kubectl("get", "llmd", "advised", "--output=wide", where)
    header, row = wide.splitlines()
    at = header.index("MIN")
    assert header[at:].split()[:4] == ["MIN", "MAX", "WANTED", "SCALING"]
    assert row[at:].split()[:3] == ["1", "4", "1"]
