"""The JSON of answers: generate, streams, chat, completions, errors. Shapes only, no decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .text import Token
from .validation import Answer

Json = dict[str, object]


@dataclass(frozen=True)
class Voice:
    """Who signs the OpenAI-style answers."""

    model: str
    fingerprint: str
    created: int


def error(text: str, kind: str) -> Json:
    return {"error": text, "error_type": kind}


def openai_error(text: str) -> Json:
    """An error event in a chat or completion stream; the code is 422 whatever happened."""
    return {"error": {"message": text, "http_status_code": 422}}


def token(piece: Token) -> Json:
    return {"id": piece.id, "text": piece.text, "logprob": piece.logprob, "special": False}


def details(answer: Answer, *, prefill: bool) -> Json:
    return {
        "finish_reason": answer.finish,
        "generated_tokens": len(answer.tokens),
        "seed": answer.seed,
        "prefill": [_prefill(piece) for piece in answer.input_tokens] if prefill else [],
        "tokens": [token(piece) for piece in answer.tokens],
    }


def best_of(answer: Answer) -> Json:
    """One of the sequences that were not the best."""
    return {"generated_text": answer.text, **details(answer, prefill=False)}


def stream_event(answer: Answer, index: int, *, full: str, with_details: bool) -> Json:
    """The event of token `index` (from 1); the last one carries the whole text."""
    last = index == len(answer.tokens)
    closing = {
        "finish_reason": answer.finish,
        "generated_tokens": len(answer.tokens),
        "seed": answer.seed,
        "input_length": len(answer.input_tokens),
    }
    return {
        "index": index,
        "token": token(answer.tokens[index - 1]),
        "generated_text": full if last else None,
        "details": closing if last and with_details else None,
    }


def usage(finished: Sequence[Answer]) -> Json:
    """Tokens read and made by one request."""
    prompt = sum(len(answer.input_tokens) for answer in finished)
    completion = sum(len(answer.tokens) for answer in finished)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def openai(kind: str, voice: Voice, choices: Sequence[Json], used: Json | None) -> Json:
    """The frame of chat and completion answers and of their chunks."""
    return {
        "object": kind,
        "id": "",
        "created": voice.created,
        "model": voice.model,
        "system_fingerprint": voice.fingerprint,
        "choices": list(choices),
        "usage": used,
    }


def chat_choice(answer: Answer, *, logprobs: bool) -> Json:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": _logprobs(answer.tokens) if logprobs else None,
        "finish_reason": openai_finish(answer.finish),
    }


def chat_delta(answer: Answer, index: int, *, logprobs: bool) -> Json:
    """The choice of a chunk that carries token `index` (from 1)."""
    piece = answer.tokens[index - 1]
    last = index == len(answer.tokens)
    return {
        "index": 0,
        "delta": {"role": "assistant", "content": piece.text},
        "logprobs": _logprobs([piece]) if logprobs else None,
        "finish_reason": openai_finish(answer.finish) if last else None,
    }


def completion_choice(answer: Answer, number: int) -> Json:
    finish = openai_finish(answer.finish)
    return {"index": number, "text": answer.text, "logprobs": None, "finish_reason": finish}


def completion_delta(answer: Answer, index: int) -> Json:
    """The choice of a chunk that carries token `index` (from 1)."""
    finish = openai_finish(answer.finish) if index == len(answer.tokens) else None
    text = answer.tokens[index - 1].text
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def openai_finish(finish: str) -> str:
    """`length` keeps its name, the others become `stop`."""
    return "length" if finish == "length" else "stop"


def tokens(pieces: Sequence[Token]) -> list[Json]:
    return [
        {"id": piece.id, "text": piece.text, "start": piece.start, "stop": piece.stop}
        for piece in pieces
    ]


def _prefill(piece: Token) -> Json:
    return {"id": piece.id, "text": piece.text, "logprob": piece.logprob}


def _logprobs(pieces: Sequence[Token]) -> Json:
    return {
        "content": [
            {"token": piece.text, "logprob": piece.logprob, "top_logprobs": []} for piece in pieces
        ]
    }
