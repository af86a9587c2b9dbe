"""kopf's part: one watch per kind, each event into the store and its owner into the queue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from llm_operator.handlers.stateless import NoDiffs, NoProgress
from llm_operator.kube.resources import WATCHED, Resource

Seen = Callable[[str | None, Mapping[str, Any]], None]

log = logging.getLogger(__name__)


def registry(
    seen: Seen, stopping: Callable[[], None], resources: tuple[Resource, ...] = WATCHED
) -> kopf.OperatorRegistry:
    """Handlers that hand every watch event to `seen(type, object)`; type None = initial listing.

    `stopping` is called when kopf, which catches the signals, has begun to leave.
    """
    handlers = kopf.OperatorRegistry()

    async def on_event(event: Mapping[str, Any], **_: Any) -> None:
        seen(event["type"], event["object"])

    for resource in resources:
        group, _, version = resource.api_version.rpartition("/")
        kopf.on.event(group, version, resource.plural, id="store", registry=handlers)(on_event)

    @kopf.on.cleanup(registry=handlers)
    async def on_cleanup(**_: Any) -> None:
        stopping()

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    return handlers


def settings(resources: tuple[Resource, ...] = WATCHED) -> kopf.OperatorSettings:
    """kopf writes nothing and sees only our children; a silent watch is dropped and made anew."""
    configured = kopf.OperatorSettings()
    configured.posting.enabled = False
    configured.persistence.diffbase_storage = NoDiffs()
    configured.persistence.progress_storage = NoProgress()
    configured.networking.trust_env = False
    configured.scanning.disabled = True
    configured.watching.connect_timeout = 10
    configured.watching.server_timeout = 300
    configured.watching.client_timeout = 310
    configured.watching.chunk_size = 100
    configured.queueing.exit_timeout = 1
    # Its task for an object holds the whole body as long as it waits for another event.
    configured.queueing.idle_timeout = 0.1
    for resource in resources:
        if resource.label_selector:
            group, _, version = resource.api_version.rpartition("/")
            place = (group, version, resource.plural)
            configured.watching.label_selectors[place] = resource.label_selector
    return configured
