"""From a wish to pods on the right cards, or to a refusal that leaves alone what runs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kstatus import argo_health, kstatus, kubectl_wait
from tests.operator_kit import Refused, Room, room, until

from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

A100 = "NVIDIA-A100-SXM4-80GB"
AWQ_70B = "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
LLAMA_8B = "NousResearch/Meta-Llama-3.1-8B-Instruct"
LLAMA_8B_AWQ = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
LLAMA_7B_GPTQ = "TheBloke/Llama-2-7b-Chat-GPTQ"
EXL2 = "turboderp/Llama-3.1-8B-Instruct-exl2"


@pytest.fixture(scope="module")
def scene(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Everything is wished for at once, so that the tests wait for all of it together."""
    log = tmp_path_factory.mktemp("plans") / "operator.log"
    with room(cluster, log) as opened:
        opened.want(
            "awq-70b",
            AWQ_70B,
            gpu={"products": [A100]},
            limits={"maxInputTokens": 6144, "maxTotalTokens": 8192, "maxConcurrentRequests": 32},
        )
        opened.want("one-card", LLAMA_8B, gpu={"products": [_scarce(opened)]}, replicas=2)
        opened.want("to-come", gpu={"products": ["NVIDIA-H200"]})
        opened.want("steady")
        opened.want(
            "hopeless", "meta-llama/Llama-3.1-405B-Instruct", gpu={"products": ["Tesla-T4"]}
        )
        yield opened


def _scarce(opened: Room) -> str:
    """A product of which there is one card in all."""
    product = f"Scarce-{opened.namespace}"
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": "40960",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "0",
    }
    opened.add_node("scarce", 1, **labels)
    return product


def template(scene: Room, name: str) -> dict[str, Any]:
    (replica_set,) = scene.all("ReplicaSet", name)
    found: dict[str, Any] = replica_set["spec"]["template"]["spec"]
    return found


def required_products(pod: dict[str, Any]) -> list[str]:
    rule = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = rule["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("nvidia.com/gpu.product", "In")
    products: list[str] = expression["values"]
    return products


def test_plan_arguments_limits_and_affinity_say_the_same_and_the_pod_gets_ready(
    scene: Room,
) -> None:
    scene.until_ready("awq-70b")
    status = scene.status("awq-70b")
    plan, degree = status["plan"], status["plan"]["tensorParallel"]
    assert plan["fits"]
    assert plan["quantization"] == {"method": "awq", "bits": 4, "groupSize": 128}
    # Published size of that checkpoint: 39.8 GB.
    assert plan["weightBytes"] == pytest.approx(39.8e9, rel=0.01)
    assert degree * plan["budgetBytesPerGPU"] >= plan["weightBytes"] + (
        32 * 8192 * plan["kvBytesPerToken"]
    )
    pod = template(scene, "awq-70b")
    (container,) = pod["containers"]
    arguments = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert arguments["--num-shard"] == str(degree)
    assert arguments["--quantize"] == "awq"
    assert arguments["--max-total-tokens"] == "8192"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == str(degree)
    assert required_products(pod) == plan["products"] == [A100]
    assert status["gpus"] == degree
    (running,) = scene.pods("awq-70b")
    node = scene.api.request("GET", f"/api/v1/nodes/{running['spec']['nodeName']}")
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == A100


def test_the_service_leads_to_an_answer(scene: Room, cluster: LocalCluster) -> None:
    scene.until_ready("steady")
    url = f"http://steady.{scene.namespace}/info"
    asked = subprocess.run(
        ["curl", "-sS", "--max-time", "5", "-x", cluster.proxy_url, url],
        capture_output=True,
        text=True,
    )
    assert '"model_id":"TinyLlama/TinyLlama-1.1B-Chat-v1.0"' in asked.stdout, asked


def test_kubectl_wait_and_every_other_judge(scene: Room, cluster: LocalCluster) -> None:
    where = (f"--namespace={scene.namespace}", "--timeout=45s")
    cluster.kubectl("wait", "--for=condition=Ready", "llmd/steady", *where)
    thing = scene.deployment("steady")
    assert kubectl_wait(thing)
    assert kstatus(thing) == "Current"
    assert argo_health(thing)[0] == "Healthy"
    cluster.kubectl("wait", "--for=condition=Stalled", "llmd/hopeless", *where)
    assert kstatus(scene.deployment("hopeless")) == "Failed"
    assert argo_health(scene.deployment("hopeless"))[0] == "Degraded"
    assert kstatus(scene.deployment("to-come")) in ("InProgress", "Current")


def test_planned_for_one_card_it_never_lands_on_another(scene: Room) -> None:
    """T4s are idle while the second replica waits for a card that is taken."""
    scene.until_reason("one-card", "WaitingForGPU")
    assert "1/2 replicas ready" in until(
        lambda: (
            scene.condition("one-card")["message"].startswith("1/2")
            and scene.condition("one-card")["message"]
        ),
        45,
    )
    product = scene.deployment("one-card")["spec"]["gpu"]["products"][0]
    assert scene.condition("one-card")["reason"] == "WaitingForGPU"
    assert f"1 x {product}" in scene.condition("one-card")["message"]
    assert required_products(template(scene, "one-card")) == [product]
    placed = [pod["spec"].get("nodeName") for pod in scene.pods("one-card")]
    assert sorted(filter(None, placed)) == [f"{scene.namespace}-scarce"]


def test_a_product_without_a_node_waits_and_starts_when_the_node_comes(scene: Room) -> None:
    condition = scene.until_reason("to-come", "WaitingForGPU")
    assert "1 x NVIDIA-H200" in condition["message"]
    assert scene.condition("to-come", "Reconciling")["status"] == "True"
    assert scene.condition("to-come", "Stalled") == {}
    (pod,) = scene.pods("to-come")
    node = scene.add_node("h200", 8, **{"fleet.llm-operator.dev/kind": "h200"})
    scene.until_ready("to-come")
    (same,) = scene.pods("to-come")
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    assert same["spec"]["nodeName"] == node


def test_without_node_and_product_it_is_held_with_the_way_out(scene: Room) -> None:
    scene.want("nowhere", gpu={"resourceName": "nvidia.com/mig-1g.5gb"})
    condition = scene.until_reason("nowhere", "WaitingForGPU")
    assert "gpu.products" in condition["message"]
    assert scene.condition("nowhere", "Stalled") == {}
    assert scene.all("ReplicaSet", "nowhere") == []


# A wish that cannot be, and what its refusal must say.
IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "three shards for 32 heads": (
        {"model": {"id": LLAMA_8B}, "parallelism": {"tensor": 3}},
        r"3 shards.* 32 attention heads",
    ),
    "405B on a T4": (
        {"model": {"id": "meta-llama/Llama-3.1-405B"}, "gpu": {"products": ["Tesla-T4"]}},
        r"4x Tesla-T4.* needs [\d.]+ GB per GPU",
    ),
    "exl2 on two cards": (
        {"model": {"id": EXL2}, "parallelism": {"tensor": 2}},
        r"exl2 weights cannot be sharded, so 2 GPUs",
    ),
    "fp8 cache on an old image": (
        {
            "quantization": {"kvCacheDtype": "fp8_e4m3fn"},
            "runtime": {"image": "registry.example/mirror/tgi:2.2.0"},
        },
        r"fp8.* 2\.2\.0",
    ),
    "groups that four shards break": (
        {"model": {"id": LLAMA_7B_GPTQ}, "parallelism": {"tensor": 4}},
        r"group size 128 .*2752 inputs .*4 shards",
    ),
    "Qwen3 in AWQ": ({"model": {"id": "Qwen/Qwen3-8B-AWQ"}}, r"qwen3 .*awq"),
    "a model that nobody knows": (
        {"model": {"id": "nobody/knows-this-one"}},
        r"model\.config",
    ),
}


def test_an_impossible_wish_is_refused_with_numbers_and_what_ran_goes_on(scene: Room) -> None:
    """One deployment that serves is asked for one impossible thing after the other."""
    scene.until_ready("steady")
    before, pods = scene.versions("steady"), _uids(scene)
    good = scene.deployment("steady")["spec"]
    for name, (wish, said) in IMPOSSIBLE.items():
        bare = {"parallelism": None, "quantization": None, "runtime": None}
        scene.change("steady", **{**bare, **good, **wish})
        until(lambda: scene.condition("steady", "Stalled"), 30)
        stalled = scene.condition("steady", "Stalled")
        assert stalled["status"] == "True", name
        assert stalled["reason"] in ("PlanRefused", "InvalidSpec", "ModelShapeUnknown"), name
        assert re.search(said, stalled["message"]), (name, stalled["message"])
        assert "what ran before goes on: 1 replica serving" in stalled["message"], name
        assert scene.condition("steady", "Available")["status"] == "True", name
        assert kstatus(scene.deployment("steady")) == "Failed", name
    assert scene.versions("steady") == before
    assert _uids(scene) == pods
    scene.change("steady", **{**bare, **good})
    scene.until_ready("steady", seconds=30)
    assert scene.versions("steady") == before
    assert _uids(scene) == pods


def test_what_the_schema_can_tell_is_refused_at_the_door(scene: Room) -> None:
    with pytest.raises(Refused, match="exl2 weights cannot be sharded"):
        scene.want("exl2", EXL2, quantization={"method": "exl2"}, parallelism={"tensor": 2})


def test_the_refusal_of_a_first_wish_names_three_ways_out(scene: Room) -> None:
    condition = scene.until_reason("hopeless", "PlanRefused")
    assert re.search(r"needs [\d.]+ GB per GPU \(weights [\d.]+ GB", condition["message"])
    plan = scene.status("hopeless")["plan"]
    assert not plan["fits"]
    assert len(plan["waysOut"]) == 3
    assert scene.all("ReplicaSet", "hopeless") == []
    assert scene.find("Service", "hopeless") is not None
    assert scene.status("hopeless")["plan"]["weightBytes"] == pytest.approx(811.7e9, rel=0.01)


def _uids(scene: Room) -> set[str]:
    return {pod["metadata"]["uid"] for pod in scene.pods("steady")}
