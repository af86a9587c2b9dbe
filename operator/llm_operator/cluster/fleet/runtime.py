"""What every pod of the fleet shares: the API, the images, the rules, the clock.

Holds; decides nothing. Tests put fakes here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from .api import ApiError, Object
from .container import Program
from .environment import Reference, Sources, decode_data
from .events import EventRecorder
from .faults import FaultRules
from .probes import Probe, check


@dataclass(frozen=True)
class Settings:
    """Seconds. Kubernetes has a crash back-off of 10 to 300; here it is a tenth of that."""

    backoff_initial: float = 1.0
    backoff_ceiling: float = 30.0
    pull: float = 0.2
    retry: float = 1.0


class Requests(Protocol):
    """The part of `Api` that pods use."""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object: ...

    async def patch(self, path: str, body: Object, kind: str = "strategic") -> Object: ...

    async def delete(self, path: str, body: Object | None = None) -> Object: ...


class ImageLike(Protocol):
    """The part of `images.Image` that containers use."""

    @property
    def program(self) -> Program: ...

    @property
    def commands(self) -> frozenset[str]: ...

    @property
    def user(self) -> int: ...


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


_PATHS = {
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "PersistentVolumeClaim": "persistentvolumeclaims",
}


@dataclass(frozen=True)
class Runtime:
    """Shared by all pods."""

    api: Requests
    find_image: Callable[[str], ImageLike | None]
    events: EventRecorder
    faults: FaultRules
    settings: Settings = Settings()
    now: Callable[[], datetime] = utc_now
    check: Callable[[Probe, Object, str], Awaitable[str | None]] = check

    async def fetch(self, reference: Reference, namespace: str) -> Object | None:
        """The object that is referred to, or None if there is none."""
        try:
            item = await self.api.get(
                f"/api/v1/namespaces/{namespace}/{_PATHS[reference.kind]}/{reference.name}"
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return {"kind": reference.kind} | item

    async def sources(self, references: list[Reference], pod: Mapping[str, Any]) -> Sources:
        """What a container's environment refers to, read now."""
        namespace = pod["metadata"]["namespace"]
        data = {}
        for reference in references:
            item = await self.fetch(reference, namespace)
            if item is not None:
                data[reference.kind, reference.name] = decode_data(item)
        return Sources(data, await self._services(pod, namespace))

    async def _services(self, pod: Mapping[str, Any], namespace: str) -> tuple[Object, ...]:
        """The Services whose variables the pod gets: `kubernetes` always, others if linked."""
        services: list[Object] = []
        if pod["spec"].get("enableServiceLinks", True):
            listing = await self.api.get(f"/api/v1/namespaces/{namespace}/services")
            services += listing.get("items") or []
        try:
            services.append(await self.api.get("/api/v1/namespaces/default/services/kubernetes"))
        except ApiError as error:
            if error.status != 404:
                raise
        return tuple(services)
