"""From a container in a pod's manifest to what its program is started with.

Decides nothing: resolves references and quantities, and refuses what the kubelet refuses before it
starts a container (ConfigError) or what the image cannot start (StartError).
"""

from __future__ import annotations

from typing import Protocol

from .api import Object
from .container import ContainerSpec, Gpu
from .environment import ConfigError, expand, references, resolve_environment
from .machine import Machine
from .quantity import parse_quantity
from .runtime import ImageLike, Runtime
from .volumes import container_volumes, shm_bytes


class StartError(Exception):
    """The image does not have what the container's command names."""


class Owner(Protocol):
    """The pod as its containers see it."""

    pod: Object
    ip: str
    machine: Machine
    runtime: Runtime
    claims: dict[str, Object]
    faults: dict[str, str]

    def changed(self) -> None:
        """A container's view is another one now."""


async def prepare(
    container: Object, owner: Owner, gpus: tuple[Gpu, ...], image: ImageLike
) -> ContainerSpec:
    """The container resolved. Raises ConfigError, or what the API client raises."""
    pod_security = owner.pod["spec"].get("securityContext") or {}
    security = pod_security | (container.get("securityContext") or {})
    user = security.get("runAsUser")
    if security.get("runAsNonRoot") and (image.user if user is None else user) == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")
    sources = await owner.runtime.sources(list(references(container)), owner.pod)
    host = owner.machine.addresses.host
    env = resolve_environment(container, owner.pod, owner.ip, host, sources)
    volumes = container_volumes(container, owner.pod, owner.claims)
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    memory = parse_quantity(limit) if limit is not None else None
    words = (*(container.get("command") or ())[1:], *(container.get("args") or ()))
    return ContainerSpec(
        image=container["image"],
        args=tuple(expand(word, env) for word in words),
        env=env,
        ip=owner.ip,
        pod_name=owner.pod["metadata"]["name"],
        gpus=gpus,
        volumes=volumes,
        shm_bytes=shm_bytes(volumes, memory, owner.machine.memory_bytes),
        memory_limit_bytes=memory,
        read_only_root=bool(security.get("readOnlyRootFilesystem")),
        run_as_user=user,
        working_dir=container.get("workingDir"),
        faults=owner.faults,
    )


def check_command(container: Object, image: ImageLike) -> None:
    """Raises StartError where the command is not the image's own: the fleet has no other."""
    command = container.get("command")
    if command and command[0] not in image.commands:
        raise StartError(f'exec: "{command[0]}": executable file not found in $PATH')
