"""Which image is which program, and what pulling it takes.

Decides by the repository's name; registry host and tag do not matter, but for the tag
`does-not-exist`, which no registry has. The simulated engine is imported on first use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from .container import Program
from .programs import HttpProgram, PauseProgram


@dataclass(frozen=True)
class Image:
    """A program as an image: what may stand in `command`, and whom it runs as."""

    program: Program
    commands: frozenset[str] = frozenset()
    user: int = 0


class Images:
    """The images that can be pulled. `speed` scales how fast the engine loads its weights."""

    def __init__(self, speed: float = 60.0) -> None:
        self._speed = speed
        self._made: dict[str, Image] = {}
        self._makers: dict[str, Callable[[], Image]] = {
            r"(^|/)text-generation-inference$": self._engine,
            r"(^|/)pause(-[a-z0-9]+)?$": lambda: Image(
                PauseProgram(), frozenset({"/pause", "pause"}), 65535
            ),
            r"(^|/)fleet/http$": lambda: Image(HttpProgram(), frozenset({"http"}), 65535),
        }

    def find(self, reference: str) -> Image | None:
        """The image, or None where no registry has it."""
        name, tag = split_reference(reference)
        if tag == "does-not-exist":
            return None
        for pattern, make in self._makers.items():
            if re.search(pattern, name):
                if pattern not in self._made:
                    self._made[pattern] = make()
                return self._made[pattern]
        return None

    def _engine(self) -> Image:
        from llm_operator.cluster.tgi import TgiProgram

        return Image(
            TgiProgram(speed=self._speed),
            frozenset({"text-generation-launcher", "/tgi-entrypoint.sh", "./entrypoint.sh"}),
        )


def split_reference(reference: str) -> tuple[str, str]:
    """`host:5000/a/b:tag@sha256:...` -> (`host:5000/a/b`, `tag`); no tag is `latest`."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return head + slash + last, tag or "latest"


def image_id(reference: str) -> str:
    """A digest that is always the same for a reference."""
    name, _ = split_reference(reference)
    return f"{name}@sha256:{hashlib.sha256(reference.encode()).hexdigest()}"
