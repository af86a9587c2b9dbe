"""What is known of a model: its shape, how its checkpoint is stored, how large its files are.

Decides how the sizes of files and the formula go together: summed file sizes win. Refuses to know
where the facts came from; `source` says it to people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_operator.planning.quantization import checkpoint_quantization
from llm_operator.planning.shape import SizeUnknown, shape_of
from llm_operator.planning.weights import DTYPE_BYTES, Weights, weights
from llm_operator.runtimes.terms import NONE, Bytes, ModelShape, Quantization

__all__ = ["Model", "SizeUnknown", "model_of"]


@dataclass(frozen=True)
class Model:
    """One checkpoint. `file_bytes`: summed sizes of its safetensors files, None if not known."""

    id: str
    shape: ModelShape
    quantization: Quantization
    file_bytes: Bytes | None = None
    source: str = "config.json"
    commit: str | None = None

    @property
    def checkpoint_bytes(self) -> Bytes | None:
        """What must be downloaded: the files' sizes, else the formula's; None if unknown."""
        if self.file_bytes is not None:
            return self.file_bytes
        stored = weights(self.shape, self.quantization)
        return stored.total if stored else None

    @property
    def weight_source(self) -> str:
        """Where the bytes come from, for people."""
        return "file sizes" if self.file_bytes is not None else "formula"

    def loaded(self, quantization: Quantization) -> Weights | None:
        """Bytes in GPU memory when run in this quantization; None if they cannot be told.

        Engines compute in 16 bit, so what is stored in 32 bit takes half. What the files hold
        beyond the formula (a tower, heads for speculation) is not sharded.
        """
        bare = self.shape
        if bare.traits.tower_parameters is None:
            if self.file_bytes is None:
                return None
            bare = replace(bare, traits=replace(bare.traits, tower_parameters=0))
        formula = weights(bare, quantization, "float16")
        if self.file_bytes is None:
            return formula
        files = self.file_bytes * 2 // max(2, DTYPE_BYTES.get(bare.dtype, 2))
        if formula is None:
            return Weights(files, 0, 0, bare.vocab_size, 0)
        stored = weights(bare, self.quantization, "float16")
        rest = files - (stored or formula).total
        if rest >= 0:
            return replace(formula, whole=formula.whole + rest)
        if quantization.on_the_fly:
            return formula
        return replace(formula, split=max(0, formula.split + rest))


def model_of(
    model_id: str,
    config: Mapping[str, Any],
    *,
    file_bytes: Bytes | None = None,
    source: str = "config.json",
    commit: str | None = None,
) -> Model | SizeUnknown:
    """The model that this config.json describes, or why it cannot be sized."""
    shape = shape_of(config)
    if isinstance(shape, SizeUnknown):
        return shape
    model = Model(model_id, shape, checkpoint_quantization(config), file_bytes, source, commit)
    if model.loaded(model.quantization) is None:
        what = (
            "its vision or audio tower"
            if shape.traits.tower_parameters is None
            else f"{model.quantization.method} weights"
        )
        return SizeUnknown(
            f"size unknown: there is no formula for {what} ({shape.model_type}), and the sizes of"
            " the files are not known"
        )
    return model


def sixteen_bit(model: Model) -> Model:
    """The same model as it would be unquantized, by formula."""
    return replace(model, quantization=NONE, file_bytes=None)
