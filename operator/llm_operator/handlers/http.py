"""The operator's own small HTTP server: /healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from llm_operator.telemetry import metrics


async def serve(
    host: str, port: int, *, alive: Callable[[], str | None], ready: Callable[[], str | None]
) -> web.AppRunner:
    """Start it; `alive` and `ready` return what is wrong, or None. Stop it with `cleanup`."""

    def probe(check: Callable[[], str | None]) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            wrong = check()
            return web.Response(text=wrong or "ok", status=503 if wrong else 200)

        return answer

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), content_type="text/plain")

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", probe(alive)),  # type: ignore[arg-type]
            web.get("/readyz", probe(ready)),  # type: ignore[arg-type]
            web.get("/metrics", show),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
