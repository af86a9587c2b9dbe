"""Whether a request's values make sense to this server, and what it is going to generate.

The text of an answer is settled here, before it is queued: how many tokens it has, and why it ends.
Refuses to know time and sockets.
"""

from __future__ import annotations

from dataclasses import dataclass

from .payload import Parameters
from .text import Token, answer, nonsense, tokenize

LONGEST_PASS = 1024
"""Tokens that a request may generate, and that admission sets aside, at most."""


class Invalid(Exception):
    """A value is refused: 422 with `error_type` validation."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Input validation error: {why}")


@dataclass(frozen=True)
class Bounds:
    """The server's limits on a request."""

    max_input_tokens: int
    max_total_tokens: int
    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int


@dataclass(frozen=True)
class Answer:
    """A settled generation. `reserve` tokens are set aside for it; `finish` is why it ends."""

    prompt: str
    input_tokens: tuple[Token, ...]
    reserve: int
    tokens: tuple[Token, ...]
    finish: str
    seed: int | None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


def settle(
    inputs: str, wishes: Parameters, bounds: Bounds, speaker: str, *, garbage: str | None
) -> Answer:
    """Check a request and decide its answer. Raises Invalid.

    A request that names `max_new_tokens` gets exactly so many, unless a stop sequence comes first:
    traffic can be replayed. One that does not gets an answer with an end of its own. `garbage` is
    None for a healthy model; the word "empty" makes it say nothing, any other nonsense.
    """
    _check(wishes, bounds)
    if not inputs:
        raise Invalid("`inputs` cannot be empty")
    limit = bounds.max_input_tokens
    if wishes.truncate is not None and not 0 < wishes.truncate <= limit:
        raise Invalid(
            f"`truncate` must be strictly positive and less than {limit}. Given: {wishes.truncate}"
        )
    pieces = tokenize(inputs)
    if wishes.truncate is not None:
        pieces = pieces[-wishes.truncate :]
    if len(pieces) > limit:
        raise Invalid(f"`inputs` must have less than {limit} tokens. Given: {len(pieces)}")
    room = min(bounds.max_total_tokens - len(pieces), LONGEST_PASS)
    reserve = min(wishes.max_new_tokens or room, room)
    fill = wishes.max_new_tokens is not None
    if garbage is None:
        tokens = answer(inputs, speaker, reserve, to_the_end=fill)
    else:
        tokens = [Token(2, "")] if garbage == "empty" else nonsense(reserve)
    finish = "length" if len(tokens) == reserve else "eos_token"
    stopped = _stop(tokens, wishes.stop)
    if stopped is not None:
        tokens, finish = tokens[:stopped], "stop_sequence"
    seed = (wishes.seed or 0) if wishes.do_sample else None
    return Answer(inputs, tuple(pieces), reserve, tuple(tokens), finish, seed)


def _stop(tokens: list[Token], sequences: list[str]) -> int | None:
    """The number of tokens after which a stop sequence stands in the text."""
    if not sequences:
        return None
    text = ""
    for number, token in enumerate(tokens, 1):
        text += token.text
        if any(sequence in text for sequence in sequences):
            return number
    return None


def _check(wishes: Parameters, bounds: Bounds) -> None:
    best_of = wishes.best_of or 1
    sampling = wishes.do_sample or any(
        value is not None
        for value in (wishes.temperature, wishes.top_k, wishes.top_p, wishes.typical_p)
    )
    rules = (
        (best_of > 1 and not sampling, "you must use sampling when `best_of` is > 1"),
        (_low(wishes.temperature), "`temperature` must be strictly positive"),
        (_low(wishes.repetition_penalty), "`repetition_penalty` must be strictly positive"),
        (
            not -2 <= (wishes.frequency_penalty or 0) <= 2,
            "`frequency_penalty` must be >= -2.0 and <= 2.0",
        ),
        (_outside(wishes.top_p), "`top_p` must be > 0.0 and < 1.0"),
        (_outside(wishes.typical_p), "`typical_p` must be > 0.0 and < 1.0"),
        (_low(wishes.top_k), "`top_k` must be strictly positive"),
        (wishes.max_new_tokens == 0, "`max_new_tokens` must be strictly positive"),
        (
            len(wishes.stop) > bounds.max_stop_sequences,
            f"`stop` supports up to {bounds.max_stop_sequences} stop sequences. "
            f"Given: {len(wishes.stop)}",
        ),
        (
            best_of > 1 and wishes.seed is not None,
            "`seed` must not be set when `best_of` > 1",
        ),
        (
            (wishes.top_n_tokens or 0) > bounds.max_top_n_tokens,
            f"`top_n_tokens` must be >= 0 and <= {bounds.max_top_n_tokens}. "
            f"Given: {wishes.top_n_tokens}",
        ),
    )
    for broken, why in rules:
        if broken:
            raise Invalid(why)


def check_best_of(best_of: int, bounds: Bounds) -> None:
    """The endpoint's own limit on `best_of`."""
    if bounds.max_best_of == 1 and best_of != 1:
        raise Invalid("`best_of` != 1 is not allowed for this endpoint")
    if best_of > bounds.max_best_of:
        raise Invalid(f"`best_of` must be > 0 and <= {bounds.max_best_of}. Given: {best_of}")


def check_stream(wishes: Parameters) -> None:
    """What cannot be streamed."""
    if (wishes.best_of or 1) != 1:
        raise Invalid("`best_of` != 1 is not supported when streaming tokens")
    if wishes.decoder_input_details:
        raise Invalid("`decoder_input_details` == true is not supported when streaming tokens")


def _low(value: float | None) -> bool:
    return value is not None and value <= 0


def _outside(value: float | None) -> bool:
    return value is not None and not 0 < value < 1
