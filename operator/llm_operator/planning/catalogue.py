"""Well-known models: Hub id -> the fields of its config.json, and its quantized relatives.

Decides for clusters that cannot reach the Hub, and names repositories in ways out. The data is
`models.json` beside this file: shapes, quantizations, and groups of repositories with the same
weights. Refuses to know file sizes: a repository may change, its architecture does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

from llm_operator.planning.model import Model, SizeUnknown, model_of
from llm_operator.planning.quantization import checkpoint_quantization

Json = Mapping[str, Any]

_GPTQ_BRANCH: Final = re.compile(
    r"gptq-(?P<bits>\d)bit-(?P<group>-?\d+)g-actorder_(?P<act_order>True|False)"
)


@dataclass(frozen=True)
class Relatives:
    """The 16-bit model behind a quantized repository, and quantized ones by method."""

    base: str | None = None
    by_method: Mapping[str, str] = field(default_factory=dict)


def catalogued(model_id: str, revision: str | None = None) -> Model | SizeUnknown | None:
    """The model of this id as the catalogue has it, or None. Ids are matched in any case.

    Branches of quantized repositories hold other bits and groups than `main`. One whose name says
    which, as GPTQ collections have them, is understood; of any other the catalogue knows nothing.
    """
    config = catalogued_config(model_id)
    if config is None:
        return None
    if "quantization_config" in config and revision not in (None, "main"):
        branch = _GPTQ_BRANCH.fullmatch(str(revision))
        if branch is None or config["quantization_config"]["quant_method"] != "gptq":
            return None
        config["quantization_config"] = {
            **config["quantization_config"],
            "bits": int(branch["bits"]),
            "group_size": int(branch["group"]),
            "desc_act": branch["act_order"] == "True",
        }
    return model_of(model_id, config, source="catalogue")


def catalogued_config(model_id: str) -> dict[str, Any] | None:
    """The fields of its config.json, `quantization_config` included, or None."""
    entry = _entries().get(model_id.lower())
    return None if entry is None else dict(entry.config)


def relatives(model_id: str) -> Relatives:
    """Repositories with the same weights in other forms, as far as the catalogue has them."""
    entry = _entries().get(model_id.lower())
    return entry.relatives if entry else Relatives()


@dataclass(frozen=True)
class _Entry:
    config: Json
    relatives: Relatives


@cache
def _entries() -> dict[str, _Entry]:
    """Lower-case id -> entry. A group is one set of weights in 16 bit and in other forms."""
    data = json.loads(files(__package__).joinpath("models.json").read_text(encoding="utf-8"))
    entries: dict[str, _Entry] = {}
    for group in data["groups"]:
        shape = data["shapes"][group["shape"]]
        quantized = {name: data["quantizations"][q] for name, q in group["quantized"].items()}
        by_method: dict[str, str] = {}
        for name, q in quantized.items():
            by_method.setdefault(checkpoint_quantization({"quantization_config": q}).method, name)
        base = next(iter(group["ids"]), None)
        for name in group["ids"]:
            entries[name.lower()] = _Entry(shape, Relatives(None, by_method))
        for name, q in quantized.items():
            config = {**shape, "quantization_config": q}
            entries[name.lower()] = _Entry(config, Relatives(base, by_method))
    return entries
