"""The planner's own data: cards, catalogue, nodes as offers, plans as records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.planning_inputs import A100, L4, LLAMA_8B, T4, offer, spec, wish

from llm_operator.planning import Offer, SizeUnknown, offers_for
from llm_operator.planning.cards import CARDS, gpu_of, product_named, short_name
from llm_operator.planning.catalogue import catalogued, catalogued_config, relatives
from llm_operator.planning.tensors import parameters
from llm_operator.planning.wish import wish_from
from llm_operator.runtimes.terms import Gpu

DATA = Path(__file__).parent.parent / "data"
PUBLISHED: list[dict[str, Any]] = json.loads((DATA / "gpu_facts.json").read_text())


@pytest.mark.parametrize(
    "fact", [one for one in PUBLISHED if "product_label" in one], ids=lambda one: one["gpu"]
)
def test_cards_agree_with_published_figures(fact: dict[str, Any]) -> None:
    gpu = gpu_of(fact["product_label"])
    assert gpu is not None
    if fact["memory_mib"] is not None:
        assert gpu.memory_mib == fact["memory_mib"]
    else:
        assert gpu.memory_mib <= fact["memory_gib"] * 1024
    assert gpu.compute_capability == tuple(int(part) for part in fact["cc"].split("."))
    assert (gpu.bandwidth_gbs, gpu.fp16_tflops) == (fact["bw_gbs"], fact["fp16_dense_tflops"])
    for key in ("older_label", "seen_variant"):
        if key in fact:
            other = gpu_of(fact[key])
            assert other is not None
            assert (other.product, other.memory_mib) == (fact[key], gpu.memory_mib)


def test_what_a_node_reports_wins_over_the_catalogue() -> None:
    reported = gpu_of(A100, memory_mib=81000, compute_capability=(8, 0))
    assert reported is not None
    assert reported.memory_mib == 81000
    assert gpu_of("NVIDIA-XYZ") is None
    new = gpu_of("NVIDIA-XYZ", memory_mib=1000)
    assert new == Gpu("NVIDIA-XYZ", 1000, None)


def test_slices_and_shared_cards_are_known_by_their_card() -> None:
    part = gpu_of("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb")
    assert part is not None
    assert (part.memory_mib, part.compute_capability) == (5 << 10, (8, 0))
    assert gpu_of("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864) == Gpu(
        part.product, 4864, (8, 0), part.bandwidth_gbs, part.fp16_tflops
    )
    shared = gpu_of("Tesla-T4-SHARED")
    assert shared is not None
    assert (shared.product, shared.memory_mib) == ("Tesla-T4-SHARED", 15360)


def test_short_names_stand_for_products() -> None:
    assert product_named("a100") == A100
    assert product_named("nvidia-l4") == L4
    assert product_named("nothing") is None
    assert short_name(A100) == "A100-80GB"
    names = [name for card in CARDS for name in card.names]
    assert len(names) == len(set(names))


PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-3-27b-it": 27_432_406_640,
    "microsoft/phi-4": 14_659_507_200,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "bigscience/bloom": 176_247_271_424,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "openai/gpt-oss-20b": 20_914_757_184,
}
"""As published on the models' pages or in other projects' presets."""


@pytest.mark.parametrize(("model_id", "published"), PARAMETERS.items())
def test_parameters_of_catalogued_models(model_id: str, published: int) -> None:
    found = catalogued(model_id)
    assert found is not None
    assert not isinstance(found, SizeUnknown)
    assert parameters(found.shape) == published


def test_every_catalogued_model_can_be_sized_and_names_its_relatives() -> None:
    text = (Path(catalogued.__code__.co_filename).parent / "models.json").read_text()
    groups = json.loads(text)["groups"]
    seen: set[str] = set()
    for group in groups:
        for model_id in (*group["ids"], *group["quantized"]):
            assert model_id.lower() not in seen, f"{model_id} is there twice"
            seen.add(model_id.lower())
            found = catalogued(model_id)
            assert found is not None
            assert not isinstance(found, SizeUnknown), model_id
            assert found.checkpoint_bytes
            assert (found.quantization.method == "none") == (model_id in group["ids"])
    assert relatives("TheBloke/Llama-2-7B-AWQ").base == "meta-llama/Llama-2-7b-hf"
    assert relatives("nobody/knows-it").by_method == {}


def test_a_catalogued_config_can_be_changed_without_changing_the_catalogue() -> None:
    config = catalogued_config(LLAMA_8B)
    assert config is not None
    config["hidden_size"] = 1
    assert catalogued_config(LLAMA_8B) != config


def test_nodes_of_one_product_are_one_offer() -> None:
    small, large = offer(L4, 2, nodes=3), offer(L4, 8)
    (merged,) = offers_for(wish(LLAMA_8B), [small, large])
    assert (merged.gpus_per_node, merged.nodes) == (8, 4)
    reported = Offer(Gpu(L4, 22000, (8, 9)), 1)
    (merged,) = offers_for(wish(LLAMA_8B), [large, reported])
    assert merged.gpu.memory_mib == 22000


def test_offers_do_not_depend_on_the_order_of_nodes() -> None:
    nodes = [offer(T4), offer(A100), offer(L4, 2)]
    assert offers_for(wish(LLAMA_8B), nodes) == offers_for(wish(LLAMA_8B), nodes[::-1])


def test_only_the_resource_asked_for_counts() -> None:
    asked = wish(LLAMA_8B, gpu={"resourceName": "nvidia.com/mig-3g.40gb", "memory": "40Gi"})
    (found,) = offers_for(asked, [offer(A100)])
    assert (found.exists, found.gpu.memory_mib, found.gpu.resource) == (
        False,
        40 << 10,
        "nvidia.com/mig-3g.40gb",
    )


def test_a_spec_says_what_it_wishes() -> None:
    asked = wish_from(
        spec(
            LLAMA_8B,
            quantization={"method": "fp8", "kvCacheDtype": "fp8_e5m2"},
            gpu={"products": [L4, A100, L4]},
            parallelism={"tensor": "auto"},
            limits={"maxTotalTokens": 10, "maxConcurrentRequests": 3},
            runtime={"cudaMemoryFraction": 0.8, "attention": "paged"},
        ),
        (3, 3, 7),
    )
    assert (asked.method, asked.kv_cache_dtype, asked.products) == ("fp8", "fp8_e5m2", (A100, L4))
    assert (asked.tensor_parallel, asked.max_total_tokens, asked.sequences) == (None, 10, 3)
    assert (asked.memory_fraction, asked.attention) == (0.8, "paged")
    assert wish_from(spec(LLAMA_8B, gpu={"memory": "24G"}), (3, 3, 7)).gpu_memory_mib == 22888
    assert wish_from(spec(LLAMA_8B, parallelism={"tensor": 4}), (3, 3, 7)).tensor_parallel == 4
