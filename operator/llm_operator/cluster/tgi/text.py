"""A tokenizer without a vocabulary and a model without weights.

Tokens are words, long ones cut every eight characters. Answers are short words that depend on the
prompt alone, so that the same question gets the same answer from every replica. Nothing here knows
requests or time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from zlib import crc32

_PIECE = re.compile(r"\S{1,8}")
_PROSE = """
a model of this size reads the words in order and keeps what matters in its cache then it picks one
token after the other until the answer is long enough or the end is near so the reply you see here
is made of plain words that depend on what was asked and on nothing else
"""
_WORDS = _PROSE.split()


@dataclass(frozen=True)
class Token:
    """A piece of text. `start` and `stop` are its place in the text, in characters."""

    id: int
    text: str
    start: int = 0
    stop: int = 0

    @property
    def logprob(self) -> float:
        """Fixed per token, between -0.01 and -2."""
        return -(self.id % 200 + 1) / 100


def tokenize(text: str) -> list[Token]:
    """Cut a text into tokens."""
    return [
        Token(_id(found[0]), found[0], found.start(), found.end())
        for found in _PIECE.finditer(text)
    ]


def answer(prompt: str, speaker: str, longest: int, *, to_the_end: bool) -> list[Token]:
    """At most `longest` tokens of an answer.

    `to_the_end` fills all of them, as a model does that never says that it is done; else the
    answer has a length of its own.
    """
    own_length = 24 + crc32(prompt.encode()) % 40
    words = islice(_words(prompt, speaker), longest if to_the_end else min(own_length, longest))
    return [_token(word, first=index == 0) for index, word in enumerate(words)]


def nonsense(longest: int) -> list[Token]:
    """What a broken model says."""
    return [_token("!!!!", first=index == 0) for index in range(min(longest, 32))]


def _words(prompt: str, speaker: str) -> Iterator[str]:
    yield from (speaker + " was asked:").split()
    yield from [found[0] for found in re.finditer(r"\S+", prompt)][-12:]
    state = crc32(prompt.encode())
    while True:
        state = (state * 1103515245 + 12345) % 2**31
        yield _WORDS[state // 65536 % len(_WORDS)]


def _token(word: str, *, first: bool) -> Token:
    return Token(_id(word), word if first else " " + word)


def _id(text: str) -> int:
    return crc32(text.encode()) % 32000
