"""config.json comes from strangers: whatever it holds, it is sized or refused, at once."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planning_inputs import A100, TGI, offer, wish

from llm_operator.planning import Model, SizeUnknown, model_of, plan
from llm_operator.planning.families import FAMILIES
from llm_operator.planning.fields import MOST_LAYERS
from llm_operator.planning.kept import Kept

SANE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "num_experts": 8,
    "num_local_experts": 8,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "n_routed_experts": 8,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
FIELDS = [
    *SANE, "head_dim", "max_position_embeddings", "sliding_window", "sliding_window_pattern",
    "layer_types", "mlp_only_layers", "decoder_sparse_step", "n_shared_experts", "torch_dtype",
    "first_k_dense_replace", "num_nextn_predict_layers", "num_ln_in_parallel_attn", "q_lora_rank",
    "ffn_hidden_size", "num_kv_heads", "tie_word_embeddings", "attention_bias", "text_config",
    "vision_config", "quantization_config", "model_type",
]  # fmt: skip
nonsense = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
quantization_configs = st.fixed_dictionaries(
    {
        "quant_method": st.sampled_from(
            ["gptq", "awq", "exl2", "fp8", "fbgemm_fp8", "mxfp4", "bitsandbytes",
             "compressed-tensors", "hqq"]
        ) | nonsense
    },
    optional={
        name: nonsense
        for name in ("bits", "group_size", "weight_block_size", "ignore", "head_bits",
                     "config_groups", "modules_to_not_convert", "desc_act", "load_in_4bit")
    },
)  # fmt: skip
configs = st.builds(
    lambda kind, wrong, quantized: {**SANE, "model_type": kind, **wrong, **quantized},
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(st.sampled_from(FIELDS), nonsense, max_size=3),
    st.fixed_dictionaries({}, optional={"quantization_config": quantization_configs}),
)


@settings(max_examples=300, deadline=None)
@given(configs)
def test_nonsense_is_sized_or_refused_and_never_raised(config: dict[str, Any]) -> None:
    found = model_of("somebody/something", config)
    if isinstance(found, SizeUnknown):
        assert "size unknown" in found.reason
        assert len(found.reason) < 400
        return
    made = plan(wish("somebody/something"), found, (offer(A100, 2),), TGI)
    assert made.weight_bytes > 0
    assert len(made.message) < 1000


def test_a_giant_is_refused_before_anything_is_counted() -> None:
    for field, value in (("num_hidden_layers", 10**9), ("hidden_size", 10**12)):
        config = {**SANE, "model_type": "llama", field: value}
        assert isinstance(model_of("x", config), SizeUnknown)
    deepest = {**SANE, "model_type": "deepseek_v3", "num_hidden_layers": MOST_LAYERS}
    started = time.process_time()
    assert isinstance(model_of("x", {**deepest, "num_nextn_predict_layers": 10**8}), Model)
    assert time.process_time() - started < 5


def test_expressions_that_would_never_end_are_not_run() -> None:
    layers = range(80)
    started = time.process_time()
    for expression in (
        "re:(a|m+)+$",
        "re:(.*)*x",
        "re:" + ".*" * 50 + "x",
        "re:(",
        "re:[",
        "*" * 99,
    ):
        assert Kept({"ignore": [expression] * 50}).of("self_attn.q_proj", layers) == 0
    assert time.process_time() - started < 5


def test_expressions_of_real_checkpoints_are_understood() -> None:
    def left(pattern: str, module: str) -> int:
        return Kept({"ignore": [pattern, "lm_head"]}).of(module, range(4))

    assert left("re:.*self_attn.*", "self_attn.q_proj") == 4
    assert left("re:.*mlp.gate$", "mlp.gate_proj") == 0
    assert left("re:.*layers\\.(0|3)\\..*", "mlp.up_proj") == 2
    assert left("re:.*\\.(q_proj|k_proj)$", "self_attn.k_proj") == 4
    assert left("model.layers.*.self_attn", "self_attn.q_proj") == 4
    assert left("model.layers.2.mlp", "mlp.up_proj") == 1
    assert left("self_attn", "self_attn.o_proj") == 4
    assert left("lm_head", "self_attn.o_proj") == 0
