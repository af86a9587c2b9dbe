"""`kubectl logs`: the one call of the kubelet's own API that the fleet answers.

Decides what of a container's output is shown. Refuses every other call: there is no shell to
attach to and no port to forward that a Service does not reach.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from .pods import PodWorker

PORT = 10250
FOLLOW_SECONDS = 0.5

Find = Callable[[str, str], PodWorker | None]
"""The pod of a namespace and name, if the fleet runs it."""


async def serve_logs(find: Find, certificate: Path, key: Path, port: int = PORT) -> None:
    """Answer the API server on every node's address until cancelled.

    The API server insists on TLS but does not check whose certificate it is, unless told to.
    """
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await _answer(request, find)

    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", port, ssl_context=tls).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _answer(request: web.Request, find: Find) -> web.StreamResponse:
    names, query = request.match_info, request.query
    worker = find(names["namespace"], names["pod"])
    if worker is None:
        return web.Response(status=404, text=f'pod "{names["pod"]}" not found')
    previous = query.get("previous") == "true"
    text = worker.logs(names["container"], previous=previous)
    if text is None:
        which = "previous terminated container" if previous else "container"
        complaint = f'{which} "{names["container"]}" in pod "{names["pod"]}" has not started'
        return web.Response(status=400, text=complaint)
    if "tailLines" in query:
        count = int(query["tailLines"])
        text = "\n".join(text.splitlines()[-count:]) if count else ""
    if "limitBytes" in query:
        text = text.encode()[: int(query["limitBytes"])].decode(errors="ignore")
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    await response.write(_lines(text))
    if query.get("follow") == "true" and not previous:
        await _follow(response, worker, names["container"])
    await response.write_eof()
    return response


async def _follow(response: web.StreamResponse, worker: PodWorker, container: str) -> None:
    """Send what is added until the container has ended."""
    shown = worker.logs(container) or ""
    while worker.is_alive(container):
        await asyncio.sleep(FOLLOW_SECONDS)
        now = worker.logs(container) or ""
        # A bounded log loses its beginning: go on behind the last line that was shown.
        last = shown.rstrip("\n").rpartition("\n")[2]
        new = now[len(shown) :] if now.startswith(shown) else now.rpartition(last)[2]
        if new.strip("\n"):
            await response.write(_lines(new.lstrip("\n")))
        shown = now


def _lines(text: str) -> bytes:
    return (text.rstrip("\n") + "\n").encode() if text.strip("\n") else b""
