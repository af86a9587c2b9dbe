"""config.json read as each model type means it."""

from __future__ import annotations

from typing import Any

import pytest

from llm_operator.planning import SizeUnknown, model_of
from llm_operator.planning.kv import bytes_per_token, bytes_per_token_per_gpu, windowed_bytes
from llm_operator.planning.model import Model
from llm_operator.planning.quantization import checkpoint_quantization, label
from llm_operator.planning.shape import shape_of
from llm_operator.planning.tensors import parameters
from llm_operator.planning.weights import weights
from llm_operator.runtimes.terms import NONE, ModelShape, Quantization

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
LLAMA_7B = {**LLAMA_8B, "intermediate_size": 11008, "num_key_value_heads": 32, "vocab_size": 32000}


def shape(config: dict[str, Any]) -> ModelShape:
    found = shape_of(config)
    assert isinstance(found, ModelShape)
    return found


def test_missing_fields_mean_the_defaults_of_their_type() -> None:
    llama = shape({k: v for k, v in LLAMA_7B.items() if k != "num_key_value_heads"})
    assert (llama.kv_heads, llama.head_dim, llama.tied_embeddings) == (32, 128, False)
    gemma = shape({**LLAMA_8B, "model_type": "gemma2"})
    assert (gemma.head_dim, gemma.tied_embeddings) == (256, True)
    assert gemma.windows[:2] == (4096, None)
    assert shape({**LLAMA_8B, "head_dim": None}).head_dim == 128


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "brand_new", **{k: v for k, v in LLAMA_8B.items() if k != "model_type"}},
        {k: v for k, v in LLAMA_8B.items() if k != "vocab_size"},
        {**LLAMA_8B, "num_hidden_layers": "many"},
        {**LLAMA_8B, "hidden_size": 0},
        {**LLAMA_8B, "num_attention_heads": True},
        {**LLAMA_8B, "model_type": "deepseek_v3"},
        {**LLAMA_8B, "model_type": "mixtral", "num_local_experts": -1},
    ],
)
def test_what_cannot_be_sized_is_said_and_not_guessed(config: dict[str, Any]) -> None:
    found = shape_of(config)
    assert isinstance(found, SizeUnknown)
    assert "size unknown" in found.reason


def test_a_wrapper_is_sized_by_its_language_model_and_kept_by_its_own_type() -> None:
    wrapped = {
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
        },
    }
    found = shape(wrapped)
    assert (found.model_type, found.heads, found.vocab_size) == ("gemma3", 8, 262208)
    assert found.traits.tower_parameters == 419_816_304  # 0.840 GB in 16 bit, as published
    flat = shape({**wrapped["text_config"], "vocab_size": 262208})  # type: ignore[dict-item]
    assert parameters(flat) == parameters(found)
    text_only = shape({**wrapped["text_config"], "vocab_size": 262144})  # type: ignore[dict-item]
    assert text_only.traits.tower_parameters == 0


def test_a_tower_without_formula_needs_file_sizes() -> None:
    config = {"model_type": "llava", "text_config": LLAMA_7B, "vision_config": {"hidden_size": 1}}
    unknown = model_of("x", config)
    assert isinstance(unknown, SizeUnknown)
    assert "tower" in unknown.reason
    known = model_of("x", config, file_bytes=14_000_000_000)
    assert isinstance(known, Model)
    loaded = known.loaded(NONE)
    assert loaded is not None
    assert loaded.total == 14_000_000_000
    assert loaded.per_gpu(2) - loaded.total // 2 > 200_000_000  # each GPU keeps the whole tower


def test_file_sizes_win_over_the_formula() -> None:
    model = model_of("x", LLAMA_8B, file_bytes=16_500_000_000)
    assert isinstance(model, Model)
    loaded = model.loaded(NONE)
    assert loaded is not None
    assert (loaded.total, model.checkpoint_bytes) == (16_500_000_000, 16_500_000_000)
    smaller = model_of("x", LLAMA_8B, file_bytes=16_000_000_000)
    assert isinstance(smaller, Model)
    loaded = smaller.loaded(NONE)
    assert loaded is not None
    assert loaded.total == 16_000_000_000


def test_float32_files_take_half_once_loaded() -> None:
    model = model_of("x", {**LLAMA_8B, "torch_dtype": "float32"})
    assert isinstance(model, Model)
    loaded = model.loaded(NONE)
    assert loaded is not None
    assert model.checkpoint_bytes == 2 * loaded.total
    by_files = model_of(
        "x", {**LLAMA_8B, "torch_dtype": "float32"}, file_bytes=model.checkpoint_bytes
    )
    assert isinstance(by_files, Model)
    again = by_files.loaded(NONE)
    assert again is not None
    assert again.total == loaded.total


QUANTIZATIONS: list[tuple[dict[str, Any], tuple[object, ...]]] = [
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, ("awq", 4, 128)),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, ("awq", 4, 64)),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, ("gptq", 8, None)),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"},
     ("marlin", 4, 128)),
    ({"quant_method": "fbgemm_fp8"}, ("fp8", 8, None)),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ("fp8", 8, None)),
    ({"quant_method": "exl2", "bits": 4.25}, ("exl2", 4.25, None)),
    ({"quant_method": "mxfp4"}, ("mxfp4", 4, 32)),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("bitsandbytes", 8, None)),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
     ("bitsandbytes-nf4", 4, 64)),
    ({"quant_method": "compressed-tensors",
      "config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 32}}}},
     ("compressed-tensors", 4, 32)),
    ({"quant_method": "compressed-tensors"}, ("compressed-tensors", 8, None)),
    ({"quant_method": "hqq", "bits": 3}, ("hqq", 3, None)),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), QUANTIZATIONS)
def test_how_a_checkpoint_says_it_is_quantized(
    raw: dict[str, Any], expected: tuple[object, ...]
) -> None:
    q = checkpoint_quantization({"quantization_config": raw})
    assert (q.method, q.bits, q.group_size) == expected
    assert not q.on_the_fly


def test_no_or_empty_quantization_config_is_16_bit() -> None:
    assert checkpoint_quantization({}) == NONE
    assert checkpoint_quantization({"quantization_config": None}) == NONE
    assert label(NONE) == "16 bit"
    assert label(Quantization("awq", 4, 128)) == "AWQ 4-bit g128"


def test_an_unknown_method_has_no_size() -> None:
    unknown = model_of("x", {**LLAMA_8B, "quantization_config": {"quant_method": "hqq"}})
    assert isinstance(unknown, SizeUnknown)
    assert "hqq" in unknown.reason


def total(config: dict[str, Any], q: Quantization) -> int:
    found = weights(shape(config), q, "float16")
    assert found is not None
    return found.total


def test_modules_left_in_16_bit_are_counted_as_such() -> None:
    ignored = {"modules_to_not_convert": ["self_attn"]}
    whole = Quantization("fp8", 8)
    part = Quantization("fp8", 8, detail=ignored)
    attention = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096)
    scales = 32 * 4 * (2 * 4096 + 2 * 1024)
    assert total(LLAMA_8B, part) - total(LLAMA_8B, whole) == attention - scales
    first = {"ignore": ["re:.*layers\\.1\\..*", "lm_head"]}
    one_layer = total(LLAMA_8B, Quantization("fp8", 8, detail=first)) - total(LLAMA_8B, whole)
    block = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336
    assert one_layer == block - 4 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    # layers.1 is not layers.10
    assert one_layer == total(
        LLAMA_8B, Quantization("fp8", 8, detail={"ignore": ["model.layers.1"]})
    ) - total(LLAMA_8B, whole)


def test_llama_7b_in_the_forms_of_the_published_table() -> None:
    assert parameters(shape(LLAMA_7B)) == 6_738_415_616
    in_gb = {
        name: round(total(LLAMA_7B, q) / 1e9, 2)
        for name, q in {
            "int8": Quantization("eetq", 8, on_the_fly=True),
            "llm.int8": Quantization("bitsandbytes", 8, on_the_fly=True),
            "gptq": Quantization("gptq", 4, 128, detail={"checkpoint_format": "gptq"}),
            "gptq without groups": Quantization("gptq", 4, detail={"checkpoint_format": "gptq"}),
            "nf4": Quantization("bitsandbytes-nf4", 4, 64, on_the_fly=True),
        }.items()
    }
    assert in_gb == {
        "int8": 7.0,
        "llm.int8": 7.01,
        "gptq": 3.89,
        "gptq without groups": 3.77,
        "nf4": 4.17,
    }


KV_BYTES = [
    (LLAMA_8B, 131_072),
    (LLAMA_7B, 524_288),
    ({**LLAMA_8B, "model_type": "qwen2", "num_hidden_layers": 28, "num_key_value_heads": 4},
     57_344),
    ({"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
      "num_attention_heads": 71, "vocab_size": 65024}, 8_192),
    ({"model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60,
      "num_attention_heads": 128, "num_kv_heads": 8, "vocab_size": 65024,
      "new_decoder_architecture": True}, 122_880),
    ({"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
      "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
      "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
      "v_head_dim": 128, "first_k_dense_replace": 3, "n_routed_experts": 256,
      "n_shared_experts": 1, "vocab_size": 129280}, 70_272),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), KV_BYTES)
def test_kv_bytes_per_token(config: dict[str, Any], expected: int) -> None:
    assert bytes_per_token(shape(config)) == expected
    assert bytes_per_token(shape(config), "fp8_e5m2") == expected // 2


def test_what_cannot_be_divided_is_whole_on_every_gpu() -> None:
    falcon_7b, deepseek = shape(KV_BYTES[3][0]), shape(KV_BYTES[5][0])
    assert bytes_per_token_per_gpu(shape(LLAMA_8B), 4) == 131_072 // 4
    assert bytes_per_token_per_gpu(falcon_7b, 4) == 8_192
    assert bytes_per_token_per_gpu(deepseek, 8) == 70_272


def test_sliding_windows_cap_what_a_sequence_keeps() -> None:
    full, tokens = shape(LLAMA_8B), 32_768
    assert windowed_bytes(full, tokens) == tokens * bytes_per_token(full)
    gemma3 = shape({**LLAMA_8B, "model_type": "gemma3_text", "num_hidden_layers": 6})
    per_layer = bytes_per_token(gemma3) // 6
    assert windowed_bytes(gemma3, tokens) == (5 * 1024 + tokens) * per_layer
    oss = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 128}
    named = shape({**LLAMA_8B, **oss, "num_hidden_layers": 2})
    assert named.windows == (None, 128)
    every = shape({**LLAMA_8B, "model_type": "mistral", "sliding_window": 4096})
    assert windowed_bytes(every, tokens) == 4096 * bytes_per_token(every)


def test_mixtures_have_dense_layers_where_their_config_says_so() -> None:
    qwen = {
        **LLAMA_8B,
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "num_experts": 8,
        "moe_intermediate_size": 512,
        "mlp_only_layers": [0],
    }
    moe = shape(qwen).moe
    assert moe is not None
    assert moe.dense_layers == (0,)
    every_second = shape({**qwen, "mlp_only_layers": [], "decoder_sparse_step": 2}).moe
    assert every_second is not None
    assert every_second.dense_layers == (0, 2)


def test_a_head_whose_vocabulary_does_not_divide_is_whole_on_every_gpu() -> None:
    odd = weights(shape({**LLAMA_8B, "vocab_size": 49155}), NONE)
    even = weights(shape({**LLAMA_8B, "vocab_size": 49156}), NONE)
    assert odd is not None
    assert even is not None
    assert odd.per_gpu(1) == odd.total
    assert odd.per_gpu(2) - even.per_gpu(2) == pytest.approx(49155 * 4096, rel=0.001)
