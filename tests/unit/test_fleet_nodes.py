"""Nodes: the notation, the objects, the bookkeeping, and one node's heartbeat."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from tests.unit.fleet_fakes import FakeApi, merge, node, pod, world

from llm_operator.cluster.fleet.api import Api, ApiError, Object
from llm_operator.cluster.fleet.catalogue import CARDS, NodeGroup, card_for, parse_nodes
from llm_operator.cluster.fleet.devices import Addresses, AdmissionError, Cards
from llm_operator.cluster.fleet.kubelets import Kubelet
from llm_operator.cluster.fleet.nodes import (
    build_capacity,
    build_node,
    build_status,
    gpu_count,
    is_ready,
    missing_labels,
    pod_cidr,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_notation() -> None:
    assert parse_nodes("a100=4x8, l4=2x1") == [NodeGroup("a100", 4, 8), NodeGroup("l4", 2, 1)]
    assert parse_nodes("") == []
    assert NodeGroup("t4", 2, 4).names() == ["t4-0", "t4-1"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a100", "KIND=COUNTxGPUS"),
        ("b300=1x8", "there are t4, l4"),
        ("t4=1x0", "1 to 16"),
        ("t4=1x1,t4=1x2", "named twice"),
        ("t4=200x1,l4=56x1", "at most 255"),
    ],
)
def test_notation_is_refused_with_the_way_out(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_nodes(text)


def test_a_node_of_the_catalogue_says_what_gpu_discovery_says() -> None:
    item = build_node("a100-0", "a100", 8, 7)
    labels = item["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    assert labels["nvidia.com/gpu.memory"] == "81920"
    assert (labels["nvidia.com/gpu.count"], labels["nvidia.com/gpu.family"]) == ("8", "ampere")
    assert labels["nvidia.com/gpu.compute.major"] + labels["nvidia.com/gpu.compute.minor"] == "80"
    assert item["spec"]["podCIDR"] == "10.244.7.0/24"
    capacity, allocatable = build_capacity(item)
    assert (capacity["nvidia.com/gpu"], capacity["memory"], capacity["cpu"]) == (
        "8",
        "1152Gi",
        "96",
    )
    assert (allocatable["memory"], allocatable["cpu"]) == ("1129Gi", "95800m")


def test_a_product_of_the_catalogue_is_what_it_is_whatever_labels_claim() -> None:
    labels = {"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "999999"}
    assert card_for(labels) is CARDS["t4"]
    unknown = {
        "nvidia.com/gpu.product": "Card-X",
        "nvidia.com/gpu.memory": "1024",
        "nvidia.com/gpu.compute.major": "12",
        "nvidia.com/gpu.compute.minor": "0",
    }
    card = card_for(unknown)
    assert card is not None
    assert (card.gpu().memory_mib, card.gpu().compute_capability) == (1024, 12.0)
    assert card_for({"nvidia.com/gpu.product": "Card-X"}) is None


def test_a_node_made_by_hand_is_completed_and_not_overruled() -> None:
    hand = node(gpus=4)
    hand["metadata"]["labels"]["nvidia.com/gpu.family"] = "own"
    added = missing_labels(hand)
    assert added["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    assert "nvidia.com/gpu.family" not in added
    hand["status"] = {"capacity": {"nvidia.com/gpu": "2", "cpu": "4"}}
    assert gpu_count(hand) == 2
    status = build_status(hand, "v1.36.3", NOW)
    assert status["capacity"]["cpu"] == status["allocatable"]["cpu"] == "4"
    assert status["allocatable"]["nvidia.com/gpu"] == "2"


def test_the_same_status_is_built_twice_and_recovers_a_node() -> None:
    item: dict[str, Any] = build_node("n", "t4", 4, 0)
    item["status"] = build_status(item, "v1", NOW)
    assert is_ready(item)
    later = datetime(2027, 1, 1, tzinfo=UTC)
    assert build_status(item, "v1", later) == item["status"]
    ready = item["status"]["conditions"][-1]
    ready |= {"status": "Unknown", "reason": "NodeStatusUnknown"}
    assert not is_ready(item)
    again = build_status(item, "v1", later)["conditions"][-1]
    assert (again["status"], again["lastTransitionTime"][:4]) == ("True", "2027")


def test_there_is_room_for_255_nodes() -> None:
    assert pod_cidr(254) == "10.244.254.0/24"
    with pytest.raises(ValueError, match="255"):
        pod_cidr(255)


def test_cards_are_given_all_or_none() -> None:
    cards = Cards(4)
    assert cards.allocate("a", 3) == (0, 1, 2)
    with pytest.raises(AdmissionError, match="Requested: 2, Available: 1"):
        cards.allocate("b", 2)
    assert cards.holders() == {0: "a", 1: "a", 2: "a"}
    cards.release("a")
    assert cards.allocate("b", 4) == (0, 1, 2, 3)


def test_a_released_address_rests() -> None:
    addresses = Addresses("10.244.9.0/24")
    assert addresses.host == "10.244.9.1"
    first = addresses.allocate()
    assert first == "10.244.9.2"
    addresses.release(first)
    assert addresses.allocate() == "10.244.9.3"
    assert addresses.allocate(preferred=first) == first
    assert addresses.allocate(preferred=first) == "10.244.9.4"
    for _ in range(250):
        addresses.allocate()
    with pytest.raises(AdmissionError, match="no free pod address"):
        addresses.allocate()


class NodeApi(FakeApi):
    """Also creates, and tells the kubelet of each change of its node as a watch would."""

    kubelet: Kubelet | None = None

    async def create(self, path: str, body: Object) -> Object:
        self.writes.append(("POST", path))
        return self.put(f"{path}/{body['metadata']['name']}", copy.deepcopy(body))

    async def patch(self, path: str, body: Object, kind: str = "strategic") -> Object:
        if "/pods/" in path:
            return await super().patch(path, body, kind)
        self.writes.append(("PATCH", path))
        if self.failures:
            raise self.failures.pop(0)
        target = path.removesuffix("/status")
        answer = self.put(target, merge(self._find(target), body))
        if self.kubelet and "/nodes/" in path:
            self.kubelet.update(answer)
        return answer

    def leases(self) -> int:
        return sum("leases" in path for _, path in self.writes)


@pytest.mark.looptime
async def test_a_node_registers_beats_falls_silent_and_comes_back() -> None:
    api = NodeApi()
    async with world() as it:
        it.api = api
        hand = node()
        del hand["spec"]["podCIDR"], hand["status"]
        path = "/api/v1/nodes/a100-0"
        kubelet = Kubelet(
            api.put(path, hand),
            cast(Api, api),
            it.runtime,
            it.statuses,
            "v1.36.3",
            lambda _: "10.244.5.0/24",
        )
        api.kubelet = kubelet
        kubelet.see_pod(pod())
        kubelet.update(hand)
        task = asyncio.create_task(kubelet.run())
        await asyncio.sleep(1)
        assert is_ready(api.objects[path])
        assert api.objects[path]["spec"]["podCIDR"] == "10.244.5.0/24"
        assert it.program.alive == 1
        await asyncio.sleep(100)
        assert 10 <= api.leases() <= 13
        assert sum(target.startswith(path) for _, target in api.writes) == 2

        lost = copy.deepcopy(api.objects[path])
        lost["metadata"]["annotations"] = {"fleet.llm-operator.dev/fault": "lost"}
        beats = api.leases()
        kubelet.update(lost)
        await asyncio.sleep(100)
        assert (it.program.alive, api.leases()) == (0, beats)

        lost["metadata"]["annotations"] = {}
        kubelet.update(lost)
        await asyncio.sleep(1)
        assert (it.program.alive, api.leases()) == (1, beats + 1)

        api.failures = [ApiError(500, "", "etcd is away")]
        await asyncio.sleep(20)
        assert api.leases() >= beats + 3

        task.cancel()
        await asyncio.sleep(1)
        assert it.program.alive == 0
