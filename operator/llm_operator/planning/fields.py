"""Reading the fields of a config.json that comes from strangers.

Decides which spellings mean the same and which numbers are believed. Knows no model type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Config = Mapping[str, Any]

LARGEST: Final = 100_000_000
"""A configuration comes from strangers: beyond this no dimension is believed."""

MOST_LAYERS: Final = 1_000

ALIASES: Final = {
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_embed": "hidden_size",
    "n_embd": "hidden_size",
    "n_head_kv": "num_kv_heads",
    "dtype": "torch_dtype",
}
"""Older spellings -> the names used here."""


class MissingField(Exception):
    """A field that the formula needs is absent or not a number."""


def normalised(config: Config) -> dict[str, Any]:
    """Old spellings renamed; null means missing. The proper name wins where both are given."""
    given = {key: value for key, value in config.items() if value is not None}
    renamed = {ALIASES[key]: value for key, value in given.items() if key in ALIASES}
    return {**renamed, **given}


def count(fields: Config, name: str, default: int | None = None) -> int:
    """A dimension: a whole number from 1 on. Raises MissingField where it is none."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise MissingField(name)
    return value


def count_or_zero(fields: Config, name: str) -> int:
    """A count that may be 0 or absent."""
    return optional(fields, name) or 0


def optional(fields: Config, name: str) -> int | None:
    """A count, or None where it is absent or 0 (which some configs write for "none")."""
    return None if not fields.get(name) else count(fields, name)
