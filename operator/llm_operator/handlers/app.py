"""The operator's process: what is made at start, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

import kopf

from llm_operator.desired.revision import Defaults
from llm_operator.handlers import http, watch
from llm_operator.handlers.settings import Settings
from llm_operator.kube.client import KubeClient
from llm_operator.kube.store import Store
from llm_operator.observe.models import Models
from llm_operator.reconcile.loop import Loop
from llm_operator.reconcile.reconciler import Reconciler
from llm_operator.reconcile.wishes import Wishes

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 3.0
"""kopf may wait for its streams much longer; nothing of ours would be lost by then."""


async def operate(settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises what made the framework end by itself."""
    client = await KubeClient.connect(settings.kubeconfig, user_agent=settings.user_agent)
    loop = Loop(
        client,
        Store(),
        namespace=settings.namespace,
        workers=settings.workers,
        resync_seconds=settings.resync_seconds,
    )
    models = Models(offline=settings.hub_offline, found=loop.queue.add)
    defaults = Defaults(repository=settings.image_repository, version=settings.engine_version)
    reconciler = Reconciler(
        client, loop.store, loop.queue, loop.waiting_for_nodes, Wishes(models, defaults)
    )
    web = await http.serve(
        settings.http_host, settings.http_port, alive=loop.not_alive, ready=loop.not_ready
    )
    framework = asyncio.create_task(_watch(settings, loop, stop))
    try:
        starting = asyncio.create_task(loop.start(reconciler))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({framework, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (starting, stopping):
            task.cancel()
        if framework.done() and not stop.is_set():
            framework.result()
            raise RuntimeError("the watches have ended by themselves")
    finally:
        stop.set()
        await loop.stop()
        await models.close()
        with contextlib.suppress(asyncio.TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(framework, SHUTDOWN_SECONDS)
        await web.cleanup()
        await client.close()


async def _watch(settings: Settings, loop: Loop, stop: asyncio.Event) -> None:
    await kopf.operator(
        registry=watch.registry(loop.seen),
        settings=watch.settings(),
        standalone=True,
        clusterwide=settings.namespace is None,
        namespaces=[settings.namespace] if settings.namespace else [],
        stop_flag=stop,
    )


def run(settings: Settings) -> int:
    """Run the operator in this process until SIGTERM or SIGINT; the exit code."""
    if settings.kubeconfig:
        os.environ["KUBECONFIG"] = settings.kubeconfig  # where kopf looks

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.get_running_loop()
        task = asyncio.create_task(operate(settings, stop))
        await asyncio.sleep(0)
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, stop.set)
        await task

    try:
        asyncio.run(main())
    except Exception as error:
        log.error("%s", error, exc_info=error)
        return 1
    return 0
