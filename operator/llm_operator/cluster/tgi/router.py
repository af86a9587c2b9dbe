"""The HTTP server of one replica: routes, statuses, headers, streams, as the real router's.

Decides how a request is answered once the engine has made its tokens, and counts what the router
counts. Refuses to know how the replica came up (`program`) and how long passes take (`driver`).
A server is one low-level aiohttp server with a table of routes: cheap enough for a thousand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from . import answers, payload
from .driver import Driver, Ticket
from .engine import Request
from .metrics import Metrics
from .text import tokenize
from .validation import Answer, Bounds, Invalid, check_best_of, settle

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_TEXT = "text/plain; charset=utf-8"
_GENERATION_ERROR = "Request failed during generation: Server error: CUDA out of memory"


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


class Failed(Exception):
    """A request ends with an error: HTTP status, text and `error_type`."""

    def __init__(self, status: int, text: str, kind: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.kind = kind


@dataclass(eq=False)
class _Run:
    """A request under way: its answer, its ticket, and the times that headers speak of."""

    answer: Answer
    ticket: Ticket
    arrived: float
    validated: float
    finished: float = field(default=0.0)

    @property
    def times(self) -> dict[str, float]:
        """Seconds spent in total, in validation, in the queue, in the engine, and per token."""
        request = self.ticket.request
        started = request.started_at if request.started_at is not None else self.validated
        inference = self.finished - started
        return {
            "total": self.finished - self.arrived,
            "validation": self.validated - self.arrived,
            "queue": started - request.queued_at,
            "inference": inference,
            "per_token": inference / max(len(self.answer.tokens), 1),
        }


class Router:
    """Answers requests for one replica. `faults` may change while it runs."""

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
        self._on_answer = on_answer
        self._in_flight = 0
        self._healthy = True
        self._clock = asyncio.get_running_loop().time
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

    # Endpoints that generate nothing.

    async def _health(self, _: web.BaseRequest) -> web.StreamResponse:
        await self._driver.between_passes()
        if not self._healthy:
            # After an error a probe runs one token through the model.
            self._healthy = await self._driver.probe()
        if self._healthy:
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
        body = await self._read(request, payload.Chat)
        prompt = self._chat_prompt(body)
        pieces = answers.tokens(tokenize(prompt))
        return _json({"tokenize_response": pieces, "templated_text": prompt})

    # Generate.

    async def _root(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request, payload.Generate)
        if body.parameters.return_full_text is None:
            body.parameters.return_full_text = True
        if body.stream:
            return await self._stream_generation(request, body)
        return await self._answer_generation(body, listed=True)

    async def _generate(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._answer_generation(await self._read(request, payload.Generate))

    async def _generate_stream(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._stream_generation(request, await self._read(request, payload.Generate))

    async def _answer_generation(
        self, body: payload.Generate, *, listed: bool = False
    ) -> web.StreamResponse:
        self._metrics.count("tgi_request_count")
        wishes = body.parameters
        copies = wishes.best_of or 1
        if copies > 1:
            try:
                check_best_of(copies, self._rules.bounds)
            except Invalid as error:
                raise Failed(422, str(error), "validation") from None
        runs = await asyncio.gather(*(self._complete(body.inputs, wishes) for _ in range(copies)))
        run = runs[0]
        text = run.answer.text
        document: answers.Json = {
            "generated_text": body.inputs + text if wishes.return_full_text else text
        }
        if wishes.details or wishes.decoder_input_details:
            document["details"] = answers.details(run.answer, prefill=wishes.decoder_input_details)
            if copies > 1:
                document["details"] = {
                    **answers.details(run.answer, prefill=wishes.decoder_input_details),
                    "best_of_sequences": [answers.best_of(other.answer) for other in runs[1:]],
                }
        response = _json([document] if listed else document)
        response.headers.update(_measured(run, len(body.inputs)))
        return response

    async def _stream_generation(
        self, request: web.BaseRequest, body: payload.Generate
    ) -> web.StreamResponse:
        self._metrics.count("tgi_request_count")
        wishes = body.parameters
        response = await _open_stream(request, len(body.inputs))
        try:
            if (wishes.best_of or 1) != 1:
                raise self._refused("`best_of` != 1 is not supported when streaming tokens")
            if wishes.decoder_input_details:
                raise self._refused(
                    "`decoder_input_details` == true is not supported when streaming tokens"
                )
            async with self._running(body.inputs, wishes) as run:
                whole = run.answer.text
                full = body.inputs + whole if wishes.return_full_text else whole
                async for index in self._indices(run):
                    event = answers.stream_event(
                        run.answer, index, full=full, with_details=wishes.details
                    )
                    await _send(response, event)
        except Failed as error:
            await _send(response, answers.error(error.text, error.kind))
        return response

    # OpenAI.

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._read(request, payload.Chat)
        self._metrics.count("tgi_request_count")
        prompt, logprobs = self._chat_prompt(body), bool(body.logprobs)
        self._metrics.count("tgi_request_count")  # the generation inside counts again
        voice = self._voice(body.model)
        if not body.stream:
            run = await self._complete(prompt, body.parameters())
            response = _json(
                answers.openai(
                    "chat.completion",
                    voice,
                    [answers.chat_choice(run.answer, logprobs=logprobs)],
                    _usage(run.answer),
                )
            )
            response.headers.update(_measured(run, len(prompt)))
            return response

        def chunk(answer: Answer, index: int) -> answers.Json:
            return answers.chat_delta(answer, index, logprobs=logprobs)

        return await self._stream_openai(
            request, "chat.completion.chunk", voice, prompt, body, chunk
        )

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
        voice = self._voice(body.model)
        if body.stream:

            def chunk(answer: Answer, index: int) -> answers.Json:
                piece, last = answer.tokens[index - 1], index == len(answer.tokens)
                finish = answers.openai_finish(answer.finish) if last else None
                return answers.completion_choice(piece.text, 0, finish)

            prompt = body.prompts[0] if body.prompts else ""
            return await self._stream_openai(request, "text_completion", voice, prompt, body, chunk)
        wishes = body.parameters()
        runs = await asyncio.gather(*(self._complete(prompt, wishes) for prompt in body.prompts))
        choices = [
            answers.completion_choice(
                run.answer.text, number, answers.openai_finish(run.answer.finish)
            )
            for number, run in enumerate(runs)
        ]
        used = answers.usage(
            sum(len(run.answer.input_tokens) for run in runs),
            sum(len(run.answer.tokens) for run in runs),
        )
        response = _json(answers.openai("text_completion", voice, choices, used))
        if runs:
            headers = _measured(runs[0], sum(map(len, body.prompts)))
            headers.pop("x-compute-time")
            response.headers.update(headers)
        return response

    async def _stream_openai(
        self,
        request: web.BaseRequest,
        kind: str,
        voice: answers.Voice,
        prompt: str,
        body: payload.Chat | payload.Completion,
        chunk: Callable[[Answer, int], answers.Json],
    ) -> web.StreamResponse:
        response = await _open_stream(request, len(prompt))
        try:
            async with self._running(prompt, body.parameters()) as run:
                async for index in self._indices(run):
                    await _send(
                        response, answers.openai(kind, voice, [chunk(run.answer, index)], None)
                    )
                if body.stream_options is not None and body.stream_options.include_usage:
                    await _send(response, answers.openai(kind, voice, [], _usage(run.answer)))
        except Failed as error:
            await _send(response, answers.openai_error(error.text))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _chat_prompt(self, body: payload.Chat) -> str:
        if not self._rules.templated:
            self._metrics.count("tgi_request_failure", err="template")
            raise Failed(422, "Template error: template not found", "template_error")
        return body.prompt()

    def _voice(self, asked: str | None) -> answers.Voice:
        model = asked if asked not in (None, "tgi") else self._identity.model_id
        return answers.Voice(str(model), self._identity.fingerprint, int(self._now()))

    # The way of every generation.

    async def _complete(self, inputs: str, wishes: payload.Parameters) -> _Run:
        """Run a generation to its end."""
        async with self._running(inputs, wishes) as run:
            await run.ticket.end()
            self._check_failed(run)
        return run

    async def _indices(self, run: _Run) -> AsyncIterator[int]:
        """The numbers of tokens as they are made, from 1."""
        sent = 0
        while sent < len(run.answer.tokens):
            made = await run.ticket.beyond(sent)
            self._check_failed(run)
            for index in range(sent + 1, made + 1):
                yield index
            sent = made

    @asynccontextmanager
    async def _running(self, inputs: str, wishes: payload.Parameters) -> AsyncIterator[_Run]:
        """Admit, validate and queue a generation; count it when it ends well.

        A body that is left early (the client went away) drops the request from the engine.
        """
        arrived = self._clock()
        if self._in_flight >= self._rules.max_concurrent_requests:
            self._metrics.count("tgi_request_failure", err="overloaded")
            raise Failed(429, "Model is overloaded", "overloaded")
        self._in_flight += 1
        try:
            run = self._submit(inputs, wishes, arrived)
            try:
                yield run
            finally:
                if not run.ticket.request.done:
                    run.ticket.request.dropped = True
            self._succeeded(run)
        finally:
            self._in_flight -= 1

    def _submit(self, inputs: str, wishes: payload.Parameters, arrived: float) -> _Run:
        identity = self._identity
        try:
            answer = settle(
                inputs,
                wishes,
                self._rules.bounds,
                identity.speaker,
                garbage=self._faults.get("garbage"),
            )
        except Invalid as error:
            raise self._refused(str(error), prefixed=True) from None
        self._metrics.observe("tgi_request_input_length", len(answer.input_tokens))
        self._metrics.observe("tgi_request_max_new_tokens", answer.reserve)
        work = Request(len(answer.input_tokens), len(answer.tokens), answer.reserve)
        return _Run(answer, self._driver.submit(work), arrived, self._clock())

    def _refused(self, why: str, *, prefixed: bool = False) -> Failed:
        self._metrics.count("tgi_request_failure", err="validation")
        return Failed(422, why if prefixed else f"Input validation error: {why}", "validation")

    def _check_failed(self, run: _Run) -> None:
        if run.ticket.request.failed:
            self._healthy = False
            self._metrics.count("tgi_request_failure", err="generation")
            raise Failed(424, _GENERATION_ERROR, "generation")

    def _succeeded(self, run: _Run) -> None:
        run.finished = self._clock()
        times, metrics = run.times, self._metrics
        metrics.count("tgi_request_success")
        metrics.observe("tgi_request_duration", times["total"])
        metrics.observe("tgi_request_validation_duration", times["validation"])
        metrics.observe("tgi_request_queue_duration", times["queue"])
        metrics.observe("tgi_request_inference_duration", times["inference"])
        metrics.observe("tgi_request_mean_time_per_token_duration", times["per_token"])
        metrics.observe("tgi_request_generated_tokens", len(run.answer.tokens))
        self._on_answer()

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


def _usage(answer: Answer) -> answers.Json:
    return answers.usage(len(answer.input_tokens), len(answer.tokens))


def _measured(run: _Run, characters: int) -> dict[str, str]:
    """The headers of an answer that was not streamed: milliseconds, and seconds in one case."""
    times = run.times
    return {
        "x-compute-type": "gpu+optimized",
        "x-compute-time": f"{times['total']:.9f}",
        "x-compute-characters": str(characters),
        "x-total-time": str(int(times["total"] * 1e3)),
        "x-validation-time": str(int(times["validation"] * 1e3)),
        "x-queue-time": str(int(times["queue"] * 1e3)),
        "x-inference-time": str(int(times["inference"] * 1e3)),
        "x-time-per-token": str(int(times["per_token"] * 1e3)),
        "x-prompt-tokens": str(len(run.answer.input_tokens)),
        "x-generated-tokens": str(len(run.answer.tokens)),
    }


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
