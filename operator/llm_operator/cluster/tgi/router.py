"""The HTTP server of one replica: routes, statuses, headers, streams, as the real router's.

Decides how a request is read and answered; what happens between is `generation`'s business. Refuses
to know how the replica came up (`program`) and how long passes take (`driver`). A server is a table
of routes behind one low-level aiohttp server: cheap enough for a thousand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from . import answers, payload
from .driver import Driver
from .generation import Failed, Generations, Run
from .metrics import Metrics
from .text import tokenize
from .validation import Answer, Bounds, Invalid, check_best_of, check_stream

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Identity:
    """What the server knows of itself. `info` is the body of /info."""

    model_id: str
    speaker: str
    fingerprint: str
    info: Mapping[str, object]


@dataclass(frozen=True)
class Rules:
    """Limits of the HTTP side. `templated` is false where no chat template was found."""

    bounds: Bounds
    max_concurrent_requests: int
    max_client_batch_size: int
    payload_limit: int
    api_key: str | None = None
    templated: bool = True


class Router:
    """Answers requests for one replica. `now` is the wall clock, `faults` may change."""

    def __init__(
        self,
        identity: Identity,
        rules: Rules,
        driver: Driver,
        metrics: Metrics,
        faults: Mapping[str, str],
        now: Callable[[], float],
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._identity = identity
        self._rules = rules
        self._driver = driver
        self._metrics = metrics
        self._faults = faults
        self._now = now
        self._generations = Generations(
            driver,
            metrics,
            rules.bounds,
            rules.max_concurrent_requests,
            identity.speaker,
            faults,
            on_answer,
        )
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._health, "POST": self._root},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health},
            "/info": {"GET": self._info},
            "/metrics": {"GET": self._metrics_page},
            "/v1/models": {"GET": self._models},
            "/generate": {"POST": self._generate},
            "/generate_stream": {"POST": self._generate_stream},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/tokenize": {"POST": self._tokenize},
            "/chat_tokenize": {"POST": self._chat_tokenize},
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        if "hang" in self._faults:
            await asyncio.Event().wait()
        methods = self._routes.get(request.path)
        if methods is None:
            return web.Response(status=404)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return web.Response(status=405, headers={"Allow": ",".join(methods)})
        open_to_all = request.method != "POST" or request.path == "/chat_tokenize"
        if not open_to_all and not self._authorised(request):
            return web.Response(status=401)
        try:
            return await handler(request)
        except payload.BadBody as error:
            return web.Response(
                status=error.status, body=error.text.encode(), headers={"Content-Type": _TEXT}
            )
        except Failed as error:
            return _json(answers.error(error.text, error.kind), error.status)
        except ConnectionResetError as error:
            # The client left in the middle of a stream: as good as a cancelled handler.
            raise asyncio.CancelledError from error

    # Endpoints that generate nothing.

    async def _health(self, _: web.BaseRequest) -> web.StreamResponse:
        if await self._generations.healthy():
            return web.Response()
        return _json(answers.error("unhealthy", "healthcheck"), 503)

    async def _info(self, _: web.BaseRequest) -> web.StreamResponse:
        return _json(self._identity.info)

    async def _models(self, _: web.BaseRequest) -> web.StreamResponse:
        model = self._identity.model_id
        entry = {"id": model, "object": "model", "created": 0, "owned_by": model}
        return _json({"object": "list", "data": [entry]})

    async def _metrics_page(self, _: web.BaseRequest) -> web.StreamResponse:
        page = self._metrics.render(self._driver.gauges)
        return web.Response(body=page.encode(), headers={"Content-Type": _TEXT})

    async def _tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request, payload.Tokenize)
        return _json(answers.tokens(tokenize(body.inputs)))

    async def _chat_tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        prompt = self._prompt_of(await self._read(request, payload.Chat))
        pieces = answers.tokens(tokenize(prompt))
        return _json({"tokenize_response": pieces, "templated_text": prompt})

    # Generate.

    async def _root(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request, payload.Generate)
        if body.parameters.return_full_text is None:
            body.parameters.return_full_text = True
        if body.stream:
            return await self._stream(request, body)
        return await self._answer(body, listed=True)

    async def _generate(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._answer(await self._read(request, payload.Generate))

    async def _generate_stream(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._stream(request, await self._read(request, payload.Generate))

    async def _answer(self, body: payload.Generate, *, listed: bool = False) -> web.StreamResponse:
        self._metrics.count("tgi_request_count")
        wishes = body.parameters
        copies = max(wishes.best_of or 1, 1)
        try:
            check_best_of(copies, self._rules.bounds)
        except Invalid as error:
            raise Failed(422, str(error), "validation") from None
        complete = self._generations.complete
        best, *others = await asyncio.gather(
            *(complete(body.inputs, wishes) for _ in range(copies))
        )
        document: answers.Json = {"generated_text": _full_text(body, best.answer)}
        if wishes.details or wishes.decoder_input_details:
            details = answers.details(best.answer, prefill=wishes.decoder_input_details)
            if others:
                details["best_of_sequences"] = [answers.best_of(run.answer) for run in others]
            document["details"] = details
        response = _json([document] if listed else document)
        response.headers.update(_measured(best, len(body.inputs)))
        return response

    async def _stream(self, request: web.BaseRequest, body: payload.Generate) -> web.StreamResponse:
        self._metrics.count("tgi_request_count")
        wishes, generations = body.parameters, self._generations
        response = await _open_stream(request, len(body.inputs))
        try:
            try:
                check_stream(wishes)
            except Invalid as error:
                raise generations.refused(error) from None
            async with generations.run(body.inputs, wishes) as run:
                full = _full_text(body, run.answer)
                async for index in generations.indices(run):
                    event = answers.stream_event(
                        run.answer, index, full=full, with_details=wishes.details
                    )
                    await _send(response, event)
        except Failed as error:
            await _send(response, answers.error(error.text, error.kind))
        return response

    # The endpoints that speak as OpenAI does.

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request, payload.Chat)
        self._metrics.count("tgi_request_count")
        prompt, logprobs = self._prompt_of(body), bool(body.logprobs)
        self._metrics.count("tgi_request_count")  # the generation inside counts again
        voice = self._voice(body.model)
        if body.stream:

            def choice(answer: Answer, index: int) -> answers.Json:
                return answers.chat_delta(answer, index, logprobs=logprobs)

            kind = "chat.completion.chunk"
            return await self._stream_openai(request, kind, voice, prompt, body, choice)
        run = await self._generations.complete(prompt, body.parameters())
        choices = [answers.chat_choice(run.answer, logprobs=logprobs)]
        used = answers.usage([run.answer])
        response = _json(answers.openai("chat.completion", voice, choices, used))
        response.headers.update(_measured(run, len(prompt)))
        return response

    async def _completions(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request, payload.Completion)
        self._metrics.count("tgi_request_count")
        most = self._rules.max_client_batch_size
        if len(body.prompts) > most:
            raise Failed(
                422,
                f"Number of prompts exceeds the maximum allowed batch size of {most}",
                "batch size exceeded",
            )
        self._metrics.count("tgi_request_count", len(body.prompts))
        voice, wishes = self._voice(body.model), body.parameters()
        if body.stream:
            prompt = "".join(body.prompts[:1])
            return await self._stream_openai(
                request, "text_completion", voice, prompt, body, answers.completion_delta
            )
        runs = await asyncio.gather(
            *(self._generations.complete(prompt, wishes) for prompt in body.prompts)
        )
        choices = [answers.completion_choice(run.answer, n) for n, run in enumerate(runs)]
        used = answers.usage([run.answer for run in runs])
        response = _json(answers.openai("text_completion", voice, choices, used))
        for run in runs[:1]:
            headers = _measured(run, sum(map(len, body.prompts)))
            del headers["x-compute-time"]
            response.headers.update(headers)
        return response

    async def _stream_openai(
        self,
        request: web.BaseRequest,
        kind: str,
        voice: answers.Voice,
        prompt: str,
        body: payload.Chat | payload.Completion,
        choice: Callable[[Answer, int], answers.Json],
    ) -> web.StreamResponse:
        """Chunks as tokens are made, the usage where it was asked for, and the end mark."""
        response = await _open_stream(request, len(prompt))
        try:
            async with self._generations.run(prompt, body.parameters()) as run:
                async for index in self._generations.indices(run):
                    chunk = answers.openai(kind, voice, [choice(run.answer, index)], None)
                    await _send(response, chunk)
                if body.stream_options is not None and body.stream_options.include_usage:
                    used = answers.usage([run.answer])
                    await _send(response, answers.openai(kind, voice, [], used))
        except Failed as error:
            await _send(response, answers.openai_error(error.text))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _prompt_of(self, body: payload.Chat) -> str:
        if not self._rules.templated:
            self._metrics.count("tgi_request_failure", err="template")
            raise Failed(422, "Template error: template not found", "template_error")
        return body.prompt()

    def _voice(self, asked: str | None) -> answers.Voice:
        model = self._identity.model_id if asked in (None, "tgi") else str(asked)
        return answers.Voice(model, self._identity.fingerprint, int(self._now()))

    def _authorised(self, request: web.BaseRequest) -> bool:
        key = self._rules.api_key
        if key is None:
            return True
        return request.headers.get("Authorization", "").lower() == f"bearer {key}".lower()

    async def _read(self, request: web.BaseRequest, model: type[payload.T]) -> payload.T:
        too_long = payload.BadBody(413, "Failed to buffer the request body: length limit exceeded")
        if (request.content_length or 0) > self._rules.payload_limit:
            raise too_long
        raw = bytearray()
        async for piece in request.content.iter_any():
            raw += piece
            if len(raw) > self._rules.payload_limit:
                raise too_long
        kind = request.content_type if "Content-Type" in request.headers else ""
        return payload.read(model, kind, bytes(raw))


def _full_text(body: payload.Generate, answer: Answer) -> str:
    return body.inputs + answer.text if body.parameters.return_full_text else answer.text


def _measured(run: Run, characters: int) -> dict[str, str]:
    """The headers of an answer that was not streamed: milliseconds, but for one in seconds."""
    return {
        "x-compute-type": "gpu+optimized",
        "x-compute-time": f"{run.total:.9f}",
        "x-compute-characters": str(characters),
        "x-total-time": _milliseconds(run.total),
        "x-validation-time": _milliseconds(run.validation),
        "x-queue-time": _milliseconds(run.queue),
        "x-inference-time": _milliseconds(run.inference),
        "x-time-per-token": _milliseconds(run.per_token),
        "x-prompt-tokens": str(len(run.answer.input_tokens)),
        "x-generated-tokens": str(len(run.answer.tokens)),
    }


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1e3))


async def _open_stream(request: web.BaseRequest, characters: int) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "x-compute-type": "gpu+optimized",
            "x-compute-characters": str(characters),
            "x-accel-buffering": "no",
        }
    )
    await response.prepare(request)
    return response


async def _send(response: web.StreamResponse, document: Mapping[str, object]) -> None:
    await response.write(b"data: " + _compact(document) + b"\n\n")


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=_compact(document), headers={"Content-Type": "application/json"}
    )


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
