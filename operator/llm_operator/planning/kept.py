"""Which modules a quantized checkpoint left in 16 bit, by its own list of names.

Decides what `modules_to_not_convert` (transformers) and `ignore` (compressed-tensors) mean. The
list comes from strangers, so it is never run as a regular expression: of those only literal names,
`.*`, anchors and groups of alternatives are understood, and no backtracking can explode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

MOST_WILDCARDS: Final = 3
MOST_EXPRESSIONS: Final = 16
LONGEST: Final = 200
_SAFE_EXPRESSION: Final = re.compile(r"(?:[\w|^$()-]|\.\*?|\\\.|\\d\+?|\[0-9\]\+?)*")


class Kept:
    """Answers whether a module of a layer is on the list."""

    def __init__(self, detail: Mapping[str, object]) -> None:
        """`detail` is the checkpoint's quantization_config."""
        named = detail.get("modules_to_not_convert") or detail.get("ignore")
        listed = [str(one) for one in named] if isinstance(named, list | tuple) else []
        self._names = {one for one in listed if not _is_pattern(one)}
        patterns = [one for one in listed if _is_pattern(one)][:MOST_EXPRESSIONS]
        self._patterns = tuple(p for one in patterns if (p := _compiled(one)) is not None)

    def of(self, module: str, layers: Iterable[int]) -> int:
        """In how many of these layers the module (`self_attn.q_proj`) stays in 16 bit."""
        if not self._names and not self._patterns:
            return 0
        return sum(self._holds(f"model.layers.{layer}.{module}") for layer in layers)

    def _holds(self, name: str) -> bool:
        """A name on the list stands for the module itself, a parent, or a part of its path."""
        parts = name.split(".")
        ends = range(1, len(parts) + 1)
        if any(".".join(parts[start:end]) in self._names for end in ends for start in range(end)):
            return True
        return any(pattern.match(name) for pattern in self._patterns)


def _is_pattern(text: str) -> bool:
    return text.startswith("re:") or "*" in text


@lru_cache(maxsize=256)
def _compiled(text: str) -> re.Pattern[str] | None:
    """`re:` expressions match from the start, globs any part of a path; None if not understood."""
    if text.startswith("re:"):
        source = text.removeprefix("re:")
    else:
        source = r"(.*\.)?" + re.escape(text).replace(r"\*", ".*") + r"(\.|$)"
        return re.compile(source) if _is_modest(text) else None
    if not _is_modest(source) or not _SAFE_EXPRESSION.fullmatch(source):
        return None
    try:
        return re.compile(source)
    except re.error:
        return None


def _is_modest(text: str) -> bool:
    return len(text) <= LONGEST and text.count("*") + text.count("+") <= MOST_WILDCARDS
