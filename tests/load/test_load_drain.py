"""What users notice of upgrades, drains and accidents: through the Service, under steady load.

And that the same load notices where readiness or the drain is taken away: it can fail.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from tests.load_kit import Stage, stage
from tests.operator_kit import Object, until

from llm_operator.cluster.load.records import Outcome
from llm_operator.cluster.load.running import Load

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(900)]

CONTAINER = "/spec/containers/0"
SETTLE_SECONDS = 1.0
"""From an EndpointSlice's change until kube-proxy has it in its rules: 0.1 s between two syncs."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("load")) as made:
        yield made


@pytest.fixture(autouse=True)
def serving(scene: Stage) -> None:
    """Each test begins with all replicas serving and no pod on its way out."""
    scene.until_ready("chat", seconds=120)
    until(lambda: len(scene.all("Pod", "chat")) == 3, 120)


def remove(*paths: str) -> list[Object]:
    return [{"op": "remove", "path": path} for path in paths]


def delete_a_pod(scene: Stage) -> str:
    name: str = scene.pods("chat")[0]["metadata"]["name"]
    scene.delete("Pod", name)
    return name


def until_replaced(scene: Stage, name: str) -> None:
    """Until a deleted pod is gone, and all replicas serve."""
    until(lambda: scene.find("Pod", name) is None, 90)
    scene.until_ready("chat", seconds=90)


def test_ten_upgrades_a_deletion_and_a_node_drain_lose_nothing(scene: Stage) -> None:
    with scene.load() as load:
        upgrade_times(scene, 5)
        until_replaced(scene, delete_a_pod(scene))
        upgrade_times(scene, 4)
        node = scene.pods("chat")[0]["spec"]["nodeName"]
        scene.cluster.kubectl("drain", node, "--delete-emptydir-data", "--timeout=240s")
        scene.cluster.kubectl("uncordon", node)
        scene.until_ready("chat", seconds=120)
        scene.change("chat", rollout={"maxSurge": None})  # and as it is by default
        upgrade_times(scene, 1)
        report = load.stop()
    assert report.most_streams >= 20
    assert len(report.models) == 2
    assert (report.failed, report.cut) == (0, 0), report


def upgrade_times(scene: Stage, times: int) -> None:
    for _ in range(times):
        scene.upgrade()
        scene.until_ready("chat", seconds=180)


def test_a_drain_outlasts_endpoints_that_are_slow_to_go(scene: Stage) -> None:
    with scene.load() as load:
        delete_while_the_proxy_sleeps(scene)
        report = load.stop()
    assert (report.failed, report.cut) == (0, 0), report


def test_without_a_drain_the_same_is_noticed(scene: Stage) -> None:
    grace = {"op": "replace", "path": "/spec/terminationGracePeriodSeconds", "value": 1}
    with scene.pods_without(*remove(f"{CONTAINER}/lifecycle"), grace):
        scene.upgrade()
        scene.until_ready("chat", seconds=180)
    until(lambda: len(scene.all("Pod", "chat")) == 3, 120)
    with scene.load() as load:
        delete_while_the_proxy_sleeps(scene)
        report = load.stop()
    scene.upgrade()
    assert report.cut > 0, report
    assert report.failed > 0, report


def delete_while_the_proxy_sleeps(scene: Stage) -> None:
    """A pod goes, and for six seconds the rules still lead to it."""
    with scene.cluster.paused("kube-proxy"):
        gone = delete_a_pod(scene)
        time.sleep(6)  # what the drain has to cover; nothing to poll for
    until_replaced(scene, gone)


def test_without_readiness_an_upgrade_is_noticed(scene: Stage) -> None:
    scene.fault("chat", "slow-start=3")
    probes = (f"{CONTAINER}/readinessProbe", f"{CONTAINER}/startupProbe")
    with scene.load() as load:
        with scene.pods_without(*remove(*probes)):
            scene.upgrade()
            scene.until_ready("chat", seconds=180)
        report = load.stop()
    scene.heal(scene.faults[-1])
    scene.upgrade()
    assert report.failed > 0, report


def test_a_killed_pod_cuts_only_what_it_was_answering(scene: Stage) -> None:
    with scene.load() as load:
        victim = scene.pods("chat")[0]
        under_way = requests_on(scene, victim)
        killed = time.time()
        annotate(scene, "Pod", victim["metadata"]["name"], "kill")
        name = victim["metadata"]["name"]
        until(lambda: not scene.endpoints().get(name))
        unreachable = time.time()
        annotate(scene, "Pod", name, None)
        until(lambda: scene.endpoints().get(name), 60)
        report = load.stop()
        check_accident(load, killed, unreachable, under_way)
    assert report.cut > 0, report


def test_a_lost_node_cuts_only_what_it_was_answering(scene: Stage) -> None:
    with scene.load(seconds=300) as load:
        victim = scene.pods("chat")[0]
        name, node = victim["metadata"]["name"], victim["spec"]["nodeName"]
        under_way = requests_on(scene, victim)
        lost = time.time()
        annotate(scene, "Node", node, "lost")
        until(lambda: not scene.endpoints().get(name), 120)
        unreachable = time.time()
        until(lambda: load.report(unreachable + SETTLE_SECONDS).ok > 100, 60)
        annotate(scene, "Node", node, None)
        report = load.stop()
        check_accident(load, lost, unreachable, under_way)
    assert report.cut > 0, report


def requests_on(scene: Stage, pod: Object) -> int:
    """What the engine itself says it is busy with."""
    url = f"http://{pod['status']['podIP']}:8080/metrics"
    with scene.cluster.run_inside(["curl", "-s", url], stdout=subprocess.PIPE, text=True) as asking:
        page = asking.communicate()[0]
    found = re.findall(r"^tgi_(?:batch_current|queue)_size (\S+)", page, re.MULTILINE)
    assert found, page
    return sum(int(float(value)) for value in found)


def annotate(scene: Stage, kind: str, name: str, fault: str | None) -> None:
    body = {"metadata": {"annotations": {"fleet.llm-operator.dev/fault": fault}}}
    path = f"/api/v1/nodes/{name}" if kind == "Node" else scene.path(kind, name)
    scene.api.request("PATCH", path, body, "merge-patch+json")


def check_accident(load: Load, happened: float, unreachable: float, under_way: int) -> None:
    """Cut are those that were being answered; once the endpoint is gone nothing fails."""
    cut = [record for record in load.records if record.outcome is Outcome.CUT]
    assert all(record.began < happened + SETTLE_SECONDS for record in cut)
    assert len(cut) <= under_way + 3, "some requests may have come after we had looked"
    late = [
        record
        for record in load.records
        if record.began > unreachable + SETTLE_SECONDS and record.outcome is not Outcome.OK
    ]
    assert not late
