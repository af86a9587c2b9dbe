"""Upgrades where every GPU is taken: room is made down to the floor, or it is said why not.

All are played at once and looked at all the time; each test reads what was seen of one of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from tests.kstatus import KStatus, argo_health, kstatus
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
REVISION = "llm-operator.dev/revision"


@dataclass(frozen=True)
class Look:
    """One look at a deployment. `column` is the reason as `kubectl get llmd` shows it.

    `old` and `new`: pods of each revision, those on their way out included. `waited`: `kubectl
    wait` for Ready, begun with the change, has returned.
    """

    column: str
    message: str
    kstatus: KStatus
    argo: str
    available: bool
    serving: int
    old: int
    new: int
    waited: bool


Story = Mapping[str, list[Look]]


@pytest.fixture(scope="module")
def story(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """All serve, all are changed at once, and none has a card to spare; one gets one later."""
    log = tmp_path_factory.mktemp("room") / "operator.log"
    with room(cluster, log) as scene, ExitStack() as ending:
        for name, cards in CARDS.items():
            add_cards(scene, name, cards)
            scene.want(
                name,
                gpu={"products": [product(scene, name)]},
                replicas=cards,
                rollout={"drainSeconds": 1, **ROLLOUT[name]},
            )
        scene.until_ready(*CARDS, seconds=60)
        seen: dict[str, list[Look]] = {name: [] for name in CARDS}
        waiting: dict[str, subprocess.Popen[bytes]] = {}
        helped: list[str] = []
        before = {name: scene.status(name)["currentRevision"] for name in CARDS}
        for name in CARDS:
            scene.change(name, limits={"maxConcurrentRequests": 7})
            waiting[name] = kubectl_wait(scene, name)
            ending.callback(end, waiting[name])

        def is_over() -> bool:
            for name in CARDS:
                seen[name].append(look(scene, name, before[name], waiting[name]))
            now = {name: looks[-1] for name, looks in seen.items()}
            if now["full"].column.startswith("NoSpareGPU") and not helped:
                add_cards(scene, "full", 1, "more")  # the way out
                helped.append("full")
            ended = (now[name].waited for name in ("tight", "full", "lonely"))
            return all(ended) and now["patient"].column.startswith("NoSpareGPU")

        until(is_over, 180, lambda: [scene.story(name) for name in CARDS])
        yield seen


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


def kubectl_wait(scene: Room, name: str) -> subprocess.Popen[bytes]:
    """The real one, as a user runs it after a change."""
    cluster = scene.cluster
    command = [str(cluster.program("kubectl")), f"--kubeconfig={cluster.kubeconfig}"]
    command += ["wait", f"llmd/{name}", f"--namespace={scene.namespace}"]
    return subprocess.Popen(
        [*command, "--for=condition=Ready", "--timeout=170s"], stdout=subprocess.DEVNULL
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def look(scene: Room, name: str, before: str, waiting: subprocess.Popen[bytes]) -> Look:
    waited = waiting.poll() == 0
    thing = scene.deployment(name)
    conditions = {c["type"]: c for c in thing["status"]["conditions"]}
    pods = scene.all("Pod", name)
    old = sum(pod["metadata"]["labels"][REVISION] == before for pod in pods)
    serving = 0
    for pod in pods:
        ready = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
        leaving = "deletionTimestamp" in pod["metadata"]
        serving += ready.get("Ready") == "True" and not leaving
    return Look(
        column=thing["status"]["reason"],
        message=conditions["Ready"]["message"],
        kstatus=kstatus(thing),
        argo=argo_health(thing)[0],
        available=conditions["Available"]["status"] == "True",
        serving=serving,
        old=old,
        new=len(pods) - old,
        waited=waited,
    )


@pytest.mark.parametrize("name", CARDS)
def test_nobody_calls_it_done_before_it_is(story: Story, name: str) -> None:
    for seen in story[name]:
        if seen.waited or seen.kstatus == "Current" or seen.argo == "Healthy":
            assert (seen.old, seen.new, seen.serving) == (0, CARDS[name], CARDS[name]), seen
        assert seen.kstatus != "Failed", seen


def test_room_is_made_one_by_one_down_to_the_floor(story: Story) -> None:
    looks = story["tight"]
    assert min(seen.serving for seen in looks) == 1
    assert all(seen.available for seen in looks)
    assert looks[-1].old == 0


def test_that_it_is_for_want_of_a_gpu_is_said_all_the_time(story: Story) -> None:
    looks = story["tight"]
    first = next(n for n, seen in enumerate(looks) if seen.column.startswith("NoSpareGPU"))
    during = [seen for seen in looks[first:] if seen.old]
    assert {seen.column for seen in during} == {"NoSpareGPU 0/2", "NoSpareGPU 1/2"}
    for seen in during:
        assert "replicas are exchanged one at a time, at least 1 of 2 must serve" in seen.message


def test_a_floor_that_leaves_no_room_stalls_nothing_and_says_what_would_help(story: Story) -> None:
    looks = story["full"]
    assert min(seen.serving for seen in looks) == 2
    said = [seen.message for seen in looks if "none can be made" in seen.message]
    way_out = "2 serve, at least 2 of 2 must serve. Free 1 GPU, or lower rollout.minAvailable"
    assert said
    assert all(message.endswith(way_out) for message in said)
    assert looks[-1].old == 0, "a card came"


def test_the_only_replica_waits_for_a_card(story: Story) -> None:
    last = story["patient"][-1]
    assert last.column == "NoSpareGPU 0/1"
    assert "onNoSpareGPU" in last.message
    assert {seen.serving for seen in story["patient"]} == {1}


def test_the_only_replica_goes_first_where_the_user_has_said_so(story: Story) -> None:
    looks = story["lonely"]
    assert min(seen.serving for seen in looks) == 0
    assert looks[-1].old == 0
