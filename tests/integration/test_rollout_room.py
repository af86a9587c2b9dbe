"""Upgrades where every GPU is taken: room is made down to the floor, or it is said why not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.kstatus import kstatus
from tests.operator_kit import Object, Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

CARDS = {"tight": 2, "full": 2, "lonely": 1, "patient": 1}
"""Deployments by the cards of their own kind, all of which they take."""
ROLLOUT: dict[str, Object] = {
    "tight": {},
    "full": {"minAvailable": 2},
    "lonely": {"onNoSpareGPU": "Recreate"},
    "patient": {},
}


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """All serve, all are changed at once, and none has a card to spare."""
    log = tmp_path_factory.mktemp("room") / "operator.log"
    with room(cluster, log) as opened:
        for name, cards in CARDS.items():
            add_cards(opened, name, cards)
            opened.want(
                name,
                gpu={"products": [product(opened, name)]},
                replicas=cards,
                rollout={"drainSeconds": 1, **ROLLOUT[name]},
            )
        opened.until_ready(*CARDS, seconds=60)
        for name in CARDS:
            opened.change(name, limits={"maxConcurrentRequests": 7})
        yield opened


def product(scene: Room, name: str) -> str:
    return f"{scene.product}-{name}"


def add_cards(scene: Room, name: str, cards: int, node: str = "node") -> None:
    labels = {
        "nvidia.com/gpu.product": product(scene, name),
        "nvidia.com/gpu.memory": "81920",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "0",
    }
    scene.add_node(f"{name}-{node}", cards, **labels)


def serving(scene: Room, name: str) -> int:
    return sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for pod in scene.pods(name)
        for condition in pod["status"].get("conditions", ())
    )


def revisions(scene: Room, name: str) -> set[str]:
    return {pod["metadata"]["labels"]["llm-operator.dev/revision"] for pod in scene.pods(name)}


def test_room_is_made_one_by_one_down_to_the_floor(scene: Room) -> None:
    fewest, said = 2, set[str]()

    def is_over() -> bool:
        nonlocal fewest
        fewest = min(fewest, serving(scene, "tight"))
        said.add(scene.condition("tight", "Reconciling").get("message", ""))
        return scene.is_ready("tight")

    until(is_over, 150, lambda: scene.story("tight"))
    assert fewest == 1
    assert any("room" in message for message in said), said
    assert len(revisions(scene, "tight")) == 1


def test_a_floor_that_leaves_no_room_stalls_nothing_and_says_what_would_help(scene: Room) -> None:
    condition = scene.until_reason("full", "NoSpareGPU", 60)
    assert "minAvailable" in condition["message"]
    thing = scene.deployment("full")
    assert kstatus(thing) == "InProgress"
    assert serving(scene, "full") == 2
    assert scene.condition("full", "Available")["status"] == "True"

    add_cards(scene, "full", 1, "more")  # the way out
    scene.until_ready("full", seconds=120)
    assert len(revisions(scene, "full")) == 1


def test_the_only_replica_waits_for_a_card(scene: Room) -> None:
    condition = scene.until_reason("patient", "NoSpareGPU", 60)
    assert "onNoSpareGPU" in condition["message"]
    assert serving(scene, "patient") == 1


def test_the_only_replica_goes_first_where_the_user_has_said_so(scene: Room) -> None:
    scene.until_ready("lonely", seconds=120)
    assert len(revisions(scene, "lonely")) == 1
