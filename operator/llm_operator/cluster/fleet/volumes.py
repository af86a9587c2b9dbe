"""What a container finds mounted: its volumes' sizes, and the checkpoints that lie in them.

Pure: whoever calls brings the claims. Files are not simulated; a volume has a size, a medium and,
for a PersistentVolumeClaim, the models which the claim's annotation says are on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .container import Volume
from .environment import Reference
from .quantity import parse_quantity

MODELS = "fleet.llm-operator.dev/models"
DEFAULT_SHM_BYTES = 64 << 20

Manifest = Mapping[str, Any]


class MountError(Exception):
    """The pod's volumes cannot be mounted (yet): FailedMount."""


def volume_references(pod: Manifest) -> Iterator[Reference]:
    """The objects that must exist before the pod's containers may start."""
    for volume in pod["spec"].get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            name = volume["persistentVolumeClaim"]["claimName"]
            yield Reference("PersistentVolumeClaim", name, False)
        if "configMap" in volume:
            source = volume["configMap"]
            yield Reference("ConfigMap", source["name"], bool(source.get("optional")))
        if "secret" in volume:
            source = volume["secret"]
            yield Reference("Secret", source["secretName"], bool(source.get("optional")))


def claim_models(claim: Manifest) -> dict[str, str]:
    """Path -> Hub id (or inline JSON) by the claim's annotation. MountError if malformed."""
    text = (claim["metadata"].get("annotations") or {}).get(MODELS)
    if not text:
        return {}
    try:
        entries = json.loads(text).items()
    except (ValueError, AttributeError):
        raise MountError(
            f"claim {claim['metadata']['name']}: {MODELS} is not a JSON object"
        ) from None
    return {
        path.strip("/"): value if isinstance(value, str) else json.dumps(value)
        for path, value in entries
    }


def container_volumes(
    container: Manifest, pod: Manifest, claims: Mapping[str, Manifest]
) -> tuple[Volume, ...]:
    """The mounts of one container. `claims` are the PersistentVolumeClaims by name."""
    by_name = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    mounts = []
    for mount in container.get("volumeMounts") or ():
        source = by_name[mount["name"]]
        read_only = bool(mount.get("readOnly"))
        size: int | None = None
        memory = False
        models: dict[str, str] = {}
        if "emptyDir" in source:
            limit = source["emptyDir"].get("sizeLimit")
            size = parse_quantity(limit) if limit is not None else None
            memory = source["emptyDir"].get("medium") == "Memory"
        elif "persistentVolumeClaim" in source:
            claim = claims[source["persistentVolumeClaim"]["claimName"]]
            read_only |= bool(source["persistentVolumeClaim"].get("readOnly"))
            storage = (claim.get("status") or {}).get("capacity", {}).get("storage")
            size = parse_quantity(storage) if storage else None
            models = _below(claim_models(claim), mount.get("subPath", ""))
        elif "configMap" in source or "secret" in source or "projected" in source:
            read_only = True
        mounts.append(Volume(mount["mountPath"], read_only, size, memory, models))
    return tuple(mounts)


def _below(models: Mapping[str, str], sub_path: str) -> dict[str, str]:
    prefix = sub_path.strip("/")
    if not prefix:
        return dict(models)
    return {
        path[len(prefix) :].strip("/"): model
        for path, model in models.items()
        if path == prefix or path.startswith(prefix + "/")
    }


def shm_bytes(volumes: tuple[Volume, ...], memory_limit: int | None, node_memory: int) -> int:
    """Size of /dev/shm: 64 MiB, or the memory volume mounted there.

    A memory volume without a limit is as large as the container's memory limit, else as the node's
    memory (kubelet, feature SizeMemoryBackedVolumes).
    """
    for volume in volumes:
        if volume.mount_path.rstrip("/") == "/dev/shm" and volume.memory:
            ceiling = memory_limit or node_memory
            return min(volume.size_limit_bytes or ceiling, ceiling)
    return DEFAULT_SHM_BYTES
