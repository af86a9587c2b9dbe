"""Parameters of what a multimodal checkpoint carries beside its language model.

Decides only for towers with a known formula (Gemma 3's SigLIP); for any other the answer is None,
and then only the sizes of the files tell the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llm_operator.runtimes.terms import ModelShape

GEMMA3_MULTIMODAL_VOCABULARY: Final = 262_208
"""The text-only Gemma 3 has 262,144 entries; only checkpoints with a tower have the image tokens
besides, so a bare text config with this vocabulary still describes files with a tower."""

SIGLIP: Final = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "image_size": 896,
    "num_channels": 3,
}
"""SigLIP so400m as Gemma 3 uses it; a vision_config overrides single fields."""

LARGEST: Final = 1_000_000
"""Beyond this no dimension of a tower is believed."""

OTHER_MODALITIES: Final = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower")


def tower_parameters(family: str, shape: ModelShape, config: Mapping[str, Any]) -> int | None:
    """Parameters of towers and projectors; 0 without any, None where there is no formula."""
    vision = config.get("vision_config")
    if family == "gemma3_text":
        if isinstance(vision, dict):
            return _siglip({**SIGLIP, **vision}, shape.hidden_size)
        multimodal = shape.vocab_size == GEMMA3_MULTIMODAL_VOCABULARY
        return _siglip(SIGLIP, shape.hidden_size) if multimodal else 0
    return None if any(config.get(key) for key in OTHER_MODALITIES) else 0


def _siglip(vision: Mapping[str, Any], text_hidden: int) -> int | None:
    """Patch and position embedding, encoder, last norm, and Gemma's projector with its norm."""
    dimensions: list[int] = [vision[key] for key in SIGLIP]
    if not all(isinstance(one, int) and 0 < one < LARGEST for one in dimensions):
        return None
    h, inner, layers, patch, image, channels = dimensions
    attention = 4 * (h * h + h)
    mlp = 2 * h * inner + inner + h
    encoder = layers * (attention + mlp + 2 * 2 * h)
    embeddings = channels * patch * patch * h + h + (image // patch) ** 2 * h
    return encoder + embeddings + 2 * h + h * text_hidden + h
