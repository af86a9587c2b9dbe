"""The operator's process: what is made at start, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import kopf

from llm_operator.desired.revision import Defaults
from llm_operator.handlers import http, watch
from llm_operator.handlers.settings import Settings
from llm_operator.kube.client import KubeClient
from llm_operator.kube.store import Store
from llm_operator.observe import signals
from llm_operator.observe.hub import HubModels
from llm_operator.observe.models import Models
from llm_operator.observe.prometheus import Prometheus
from llm_operator.reconcile.loop import Loop
from llm_operator.reconcile.reconciler import Reconciler
from llm_operator.reconcile.wishes import Wishes

log = logging.getLogger(__name__)

HUB_TOKEN = "HF_TOKEN"
"""The operator's own optional token for the model hub, from its own environment."""

SHUTDOWN_SECONDS = 3.0
"""kopf may wait for its streams much longer; nothing of ours would be lost by then."""


async def operate(settings: Settings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises what made kopf fail."""
    client = await KubeClient.connect(settings.kubeconfig, user_agent=settings.user_agent)
    loop = Loop(
        client,
        Store(),
        namespace=settings.namespace,
        workers=settings.workers,
        resync_seconds=settings.resync_seconds,
    )
    hub = None if settings.hub_offline else HubModels(os.environ.get(HUB_TOKEN))
    models = Models(hub, found=loop.queue.add)
    defaults = Defaults(repository=settings.image_repository, version=settings.engine_version)
    prometheus = Prometheus(settings.prometheus) if settings.prometheus else None
    source = signals.source(prometheus)
    reconciler = Reconciler(
        client,
        loop.store,
        loop.queue,
        loop.waiting_for_nodes,
        Wishes(models, defaults),
        prometheus=prometheus,
    )
    web = await http.serve(
        settings.http_host, settings.http_port, alive=loop.not_alive, ready=loop.not_ready
    )
    stopping = asyncio.create_task(stop.wait())
    framework: asyncio.Task[None] | None = None
    scaling: asyncio.Task[None] | None = None
    try:
        listing = asyncio.create_task(loop.first_listing())
        await asyncio.wait({listing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if listing.done():
            listing.result()  # what no repetition can help is the end, not an empty store
        listing.cancel()
        if not stop.is_set():
            # kopf looks only once which kinds there are, hence after they could be listed.
            framework = asyncio.create_task(_watch(settings, loop, stop))
            loop.start(reconciler)
            scaling = asyncio.create_task(
                reconciler.scaler.run(source, settings.scaling_interval_seconds)
            )
            await asyncio.wait({framework, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if framework is not None and framework.done():  # it never ends by itself, unless it failed
            framework.result()
    finally:
        stop.set()
        if scaling is not None:
            scaling.cancel()
        await loop.stop()
        await reconciler.close()
        source.close()
        await models.close()
        await web.cleanup()
        await client.close()
        if framework is not None:
            await asyncio.wait({framework}, timeout=SHUTDOWN_SECONDS)


async def _watch(settings: Settings, loop: Loop, stop: asyncio.Event) -> None:
    await kopf.operator(
        registry=watch.registry(loop.seen, stop.set),
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
        for number in (signal.SIGTERM, signal.SIGINT):  # until kopf takes them over
            running.add_signal_handler(number, stop.set)
        await operate(settings, stop)

    try:
        asyncio.run(main())
    except Exception as error:
        log.error("%s", error, exc_info=error)
        return 1
    return 0
