"""An operator killed at each of its writes of an upgrade: the same end, and no extra pod."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.operator_kit import Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

REPLICAS = 2
MOST_CRASHES = 40
QUIET_SECONDS = 3.0
"""Once it is Ready, the last writes come within this time."""
CREATOR = "system:serviceaccount:kube-system:replicaset-controller"


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    log = tmp_path_factory.mktemp("crashes") / "operator.log"
    with room(cluster, log) as opened:
        yield opened


def pods_made(scene: Room, since: int) -> int:
    return sum(
        event.namespace == scene.namespace
        and (event.resource, event.verb, event.code) == ("pods", "create", 201)
        for event in scene.cluster.audit_log.writes(since, user=CREATOR)
    )


def crash_at_its_first_write(scene: Room) -> bool:
    """Let the operator run until it writes, and kill it; False if it had nothing to write."""
    mark = scene.cluster.audit_log.mark()
    scene.operator.start()
    ready_since: float | None = None
    while ready_since is None or time.monotonic() < ready_since + QUIET_SECONDS:
        for _ in range(40):
            if scene.writes(mark):
                scene.operator.kill()
                return True
            time.sleep(0.005)
        if ready_since is None and scene.is_ready("model"):
            ready_since = time.monotonic()
    return False


def test_killed_at_every_write_an_upgrade_ends_as_it_would_have(scene: Room) -> None:
    scene.want("model", replicas=REPLICAS)
    scene.until_ready("model")
    scene.operator.kill()
    before = scene.cluster.audit_log.mark()
    scene.change("model", limits={"maxConcurrentRequests": 7})
    crashes = 0
    while crash_at_its_first_write(scene):
        crashes += 1
        assert crashes < MOST_CRASHES, scene.story("model")
    scene.until_ready("model")
    assert crashes >= 5, "create, two scale-ups, two scale-downs at least"
    assert pods_made(scene, before) == REPLICAS
    until(lambda: len(scene.all("Pod", "model")) == REPLICAS)
    status = scene.status("model")
    new = next(r for r in status["revisions"] if r["wanted"])
    old = next(r for r in status["revisions"] if not r["wanted"])
    assert (new["state"], new["ready"], new["replicas"]) == ("Serving", REPLICAS, REPLICAS)
    assert (old["state"], old["pods"], old["replicas"]) == ("Retired", 0, 0)
