"""A container's environment and arguments, as the kubelet resolves them.

Pure: whoever calls brings the ConfigMaps, Secrets and Services (`Sources`). Rules: API type
`core/v1.EnvVar`: service variables, then envFrom, then env; `$(NAME)` expands to what is defined
before it, `$$(NAME)` is the literal, an unknown name stays as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = Mapping[str, Any]


class ConfigError(Exception):
    """The container cannot be configured (yet): CreateContainerConfigError in its status."""


@dataclass(frozen=True)
class Reference:
    """An object that a container's environment needs, in the pod's namespace."""

    kind: str
    name: str
    optional: bool


@dataclass(frozen=True)
class Sources:
    """What references point to: decoded data by (kind, name), and Services to be linked."""

    data: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    services: tuple[Manifest, ...] = ()


def references(container: Manifest) -> Iterator[Reference]:
    """The ConfigMaps and Secrets that `resolve_environment` will ask for."""
    for source in container.get("envFrom") or ():
        for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if key in source:
                yield Reference(kind, source[key]["name"], bool(source[key].get("optional")))
    for variable in container.get("env") or ():
        origin = variable.get("valueFrom") or {}
        for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            if key in origin:
                yield Reference(kind, origin[key]["name"], bool(origin[key].get("optional")))


def decode_data(item: Manifest) -> dict[str, str]:
    """A ConfigMap's or Secret's keys and values as text."""
    data = dict(item.get("data") or {})
    if item.get("kind") == "Secret":
        return {
            key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()
        }
    return data


def resolve_environment(
    container: Manifest, pod: Manifest, pod_ip: str, host_ip: str, sources: Sources
) -> dict[str, str]:
    """Names and values for one container. Raises ConfigError where a reference has no value."""
    env: dict[str, str] = {"HOSTNAME": pod["metadata"]["name"]}
    for service in sources.services:
        env |= service_variables(service)
    for source in container.get("envFrom") or ():
        env |= _from_source(source, sources)
    for variable in container.get("env") or ():
        name, origin = variable["name"], variable.get("valueFrom")
        if not origin:
            env[name] = expand(variable.get("value", ""), env)
            continue
        value = _from_origin(origin, pod, pod_ip, host_ip, sources)
        if value is not None:
            env[name] = value
    return env


def _from_source(source: Manifest, sources: Sources) -> dict[str, str]:
    prefix = source.get("prefix", "")
    for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
        if key not in source:
            continue
        data = sources.data.get((kind, source[key]["name"]))
        if data is None and not source[key].get("optional"):
            raise ConfigError(f'{kind.lower()} "{source[key]["name"]}" not found')
        return {prefix + name: value for name, value in (data or {}).items()}
    return {}


def _from_origin(
    origin: Manifest, pod: Manifest, pod_ip: str, host_ip: str, sources: Sources
) -> str | None:
    if "fieldRef" in origin:
        return field_value(origin["fieldRef"]["fieldPath"], pod, pod_ip, host_ip)
    for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if key not in origin:
            continue
        name, wanted = origin[key]["name"], origin[key]["key"]
        data = sources.data.get((kind, name))
        if data is not None and wanted in data:
            return data[wanted]
        if origin[key].get("optional"):
            return None
        if data is None:
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        namespace = pod["metadata"].get("namespace", "default")
        raise ConfigError(f"couldn't find key {wanted} in {kind} {namespace}/{name}")
    raise ConfigError(f"not simulated: env from {', '.join(origin)}")


def field_value(path: str, pod: Manifest, pod_ip: str, host_ip: str) -> str:
    """The downward API. Raises ConfigError for a field that it does not have."""
    metadata, spec = pod["metadata"], pod["spec"]
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    simple: dict[str, str] = {
        "metadata.name": metadata.get("name", ""),
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in simple:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return simple[path]


def service_variables(service: Manifest) -> dict[str, str]:
    """The variables that a Service puts into every pod of its namespace (Docker-link style)."""
    address = service["spec"].get("clusterIP")
    ports = service["spec"].get("ports") or ()
    if not address or address == "None" or not ports:
        return {}
    prefix = service["metadata"]["name"].upper().replace("-", "_")
    first = ports[0]
    env = {
        f"{prefix}_SERVICE_HOST": address,
        f"{prefix}_SERVICE_PORT": str(first["port"]),
        f"{prefix}_PORT": f"{first.get('protocol', 'TCP').lower()}://{address}:{first['port']}",
    }
    for port in ports:
        protocol, number = port.get("protocol", "TCP"), str(port["port"])
        if port.get("name"):
            env[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = number
        stem = f"{prefix}_PORT_{number}_{protocol}"
        env |= {
            stem: f"{protocol.lower()}://{address}:{number}",
            f"{stem}_PROTO": protocol.lower(),
            f"{stem}_PORT": number,
            f"{stem}_ADDR": address,
        }
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` by its value, `$$` by `$`; a name that is not there stays as written."""

    def replace(match: re.Match[str]) -> str:
        token = match[0]
        return "$" if token == "$$" else env.get(token[2:-1], token)

    return re.sub(r"\$\$|\$\([^()]*\)", replace, text)
