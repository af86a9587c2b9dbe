"""What requests may say: bodies of the generate, chat and completion endpoints.

Reads JSON and refuses what the real router's deserializer refuses, in the same form: plain text,
400 for what is no JSON, 422 for JSON of the wrong shape, 415 without a JSON content type. Whether
the values make sense is `validation`'s business.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Natural = Annotated[int, Field(ge=0)]


class BadBody(Exception):
    """The body cannot be read: HTTP status and the plain text of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Parameters(_Body):
    """The knobs of one generation."""

    best_of: _Natural | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: _Natural | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: _Natural | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: _Natural | None = None
    top_n_tokens: _Natural | None = None
    grammar: dict[str, Any] | None = None


class Generate(_Body):
    """POST /generate, /generate_stream and / ."""

    inputs: str
    parameters: Parameters = Parameters()
    stream: bool = False


class Part(_Body):
    """A piece of a message's content; only text counts here."""

    type: str
    text: str | None = None


class Message(_Body):
    role: str
    content: str | list[Part] | None = None

    @property
    def words(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class StreamOptions(_Body):
    include_usage: bool = False


class _OpenAI(_Body):
    """Fields that chat and completions share."""

    model: str | None = None
    max_tokens: _Natural | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: list[str] | str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: _Natural | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None

    def parameters(self) -> Parameters:
        """The same wishes in the words of the generate endpoints."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        greedy = self.temperature == 0
        return Parameters(
            temperature=None if greedy else self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            do_sample=not greedy,
            max_new_tokens=self.max_tokens,
            stop=stop,
            details=True,
        )


class Chat(_OpenAI):
    """POST /v1/chat/completions."""

    messages: list[Message]
    logprobs: bool | None = None
    top_logprobs: _Natural | None = None

    def prompt(self) -> str:
        """The messages through a plain chat template."""
        return "\n".join(f"{message.role}: {message.words}" for message in self.messages)


class Completion(_OpenAI):
    """POST /v1/completions."""

    prompt: str | list[str]

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Tokenize(_Body):
    """POST /tokenize."""

    inputs: str


T = TypeVar("T", bound=_Body)


def read(model: type[T], content_type: str, raw: bytes) -> T:
    """Read a body or raise BadBody."""
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise BadBody(415, "Expected request with `Content-Type: application/json`")
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise BadBody(400, _not_json(error)) from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise BadBody(422, _wrong_shape(error, raw)) from None


def _not_json(error: ValueError) -> str:
    why = "invalid unicode code point at line 1 column 1"
    if isinstance(error, json.JSONDecodeError):
        words = {
            "Expecting property name": "key must be a string",
            "Expecting value": "expected value",
            "Expecting ','": "expected `,` or `}`",
            "Expecting ':'": "expected `:`",
            "Unterminated string": "EOF while parsing a string",
            "Extra data": "trailing characters",
        }
        text = next((ours for theirs, ours in words.items() if error.msg.startswith(theirs)), "")
        at_end = error.pos >= len(error.doc.rstrip())
        text = "EOF while parsing a value" if at_end else text or "expected value"
        why = f"{text} at line {error.lineno} column {error.colno}"
    return f"Failed to parse the request body as JSON: {why}"


def _wrong_shape(error: ValidationError, raw: bytes) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "missing":
        where, why = path[:-1], f"missing field `{path[-1]}`"
    else:
        where, why = path, f"invalid value: {first['msg']}"
    prefix = "".join(part + ": " for part in [".".join(where)] if part)
    lines = raw.decode(errors="replace").split("\n")
    place = f"line {len(lines)} column {len(lines[-1])}"
    return f"Failed to deserialize the JSON body into the target type: {prefix}{why} at {place}"
