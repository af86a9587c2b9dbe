"""Environment, arguments and mounts as the kubelet resolves them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llm_operator.cluster.fleet.container import Volume
from llm_operator.cluster.fleet.environment import (
    ConfigError,
    Sources,
    decode_data,
    expand,
    references,
    resolve_environment,
    service_variables,
)
from llm_operator.cluster.fleet.quantity import parse_quantity
from llm_operator.cluster.fleet.volumes import (
    MountError,
    claim_models,
    container_volumes,
    shm_bytes,
    volume_references,
)

GIB = 1 << 30
POD: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "ns",
        "uid": "u",
        "labels": {"a/b": "c"},
    },
    "spec": {"nodeName": "n"},
}


def resolve(container: dict[str, Any], sources: Sources = Sources()) -> dict[str, str]:  # noqa: B008
    return resolve_environment(container, POD, "10.0.0.2", "10.0.0.1", sources)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)$(B)y", "x12y"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


def test_later_variables_win_and_see_earlier_ones() -> None:
    sources = Sources(
        {
            ("ConfigMap", "cm"): {"MODEL": "from-map", "PORT": "80"},
            ("Secret", "s"): {"token": "hush"},
        }
    )
    container = {
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
        "env": [
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
            {"name": "AUTH", "value": "Bearer $(TOKEN) $(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "CM_PORT", "value": "$(CM_PORT)90"},
            {"name": "EMPTY"},
        ],
    }
    assert resolve(container, sources) == {
        "HOSTNAME": "web",
        "CM_MODEL": "from-map",
        "CM_PORT": "8090",
        "TOKEN": "hush",
        "AUTH": "Bearer hush $(LATER)",
        "LATER": "x",
        "EMPTY": "",
    }
    assert [(each.kind, each.name) for each in references(container)] == [
        ("ConfigMap", "cm"),
        ("Secret", "s"),
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.labels['a/b']", "c"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "n"),
        ("status.podIP", "10.0.0.2"),
        ("status.hostIP", "10.0.0.1"),
    ],
)
def test_downward_api(path: str, value: str) -> None:
    variable = {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}
    assert resolve({"env": [variable]})["X"] == value


@pytest.mark.parametrize(
    ("origin", "complaint"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, 'secret "s" not found'),
        ({"configMapKeyRef": {"name": "have", "key": "k"}}, "couldn't find key k in ConfigMap ns/"),
        ({"fieldRef": {"fieldPath": "spec.wrong"}}, "unsupported fieldPath"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "not simulated"),
    ],
)
def test_what_cannot_be_resolved_is_named(origin: dict[str, Any], complaint: str) -> None:
    sources = Sources({("ConfigMap", "have"): {}})
    with pytest.raises(ConfigError, match=complaint):
        resolve({"env": [{"name": "X", "valueFrom": origin}]}, sources)


def test_optional_references_may_be_missing() -> None:
    optional = {"name": "s", "key": "k", "optional": True}
    container = {
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": optional}}],
        "envFrom": [{"secretRef": {"name": "s", "optional": True}}],
    }
    assert resolve(container) == {"HOSTNAME": "web"}
    with pytest.raises(ConfigError, match='configmap "c" not found'):
        resolve({"envFrom": [{"configMapRef": {"name": "c"}}]})


def test_secrets_are_decoded_and_config_maps_are_not() -> None:
    data = {"k": base64.b64encode(b"v").decode()}
    assert decode_data({"kind": "Secret", "data": data}) == {"k": "v"}
    assert decode_data({"kind": "ConfigMap", "data": data}) == data


def test_services_leave_their_variables() -> None:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    service = {
        "metadata": {"name": "my-tgi"},
        "spec": {"clusterIP": "10.96.0.9", "ports": ports},
    }
    env = resolve({}, Sources(services=(service,)))
    assert env["MY_TGI_PORT"] == "tcp://10.96.0.9:80"
    assert env["MY_TGI_SERVICE_HOST"] == "10.96.0.9"
    assert env["MY_TGI_SERVICE_PORT_HTTP"] == "80"
    assert env["MY_TGI_PORT_80_TCP_ADDR"] == "10.96.0.9"
    headless = {"metadata": {"name": "x"}, "spec": {"clusterIP": "None", "ports": ports}}
    assert service_variables(headless) == {}


MOUNTED: dict[str, Any] = {
    "spec": {
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "cache", "emptyDir": {}},
            {"name": "weights", "persistentVolumeClaim": {"claimName": "w", "readOnly": True}},
            {"name": "conf", "configMap": {"name": "c"}},
        ]
    }
}


def test_mounts_know_their_size_medium_and_models() -> None:
    models = '{"/llama/8b": "org/llama", "llama": {"weight_bytes": 5}, "qwen": "org/qwen"}'
    claim = {
        "metadata": {"name": "w", "annotations": {"fleet.llm-operator.dev/models": models}},
        "status": {"capacity": {"storage": "100Gi"}},
    }
    container = {
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "cache", "mountPath": "/data"},
            {"name": "weights", "mountPath": "/models", "subPath": "llama"},
            {"name": "conf", "mountPath": "/etc/c"},
        ]
    }
    found = {"8b": "org/llama", "": '{"weight_bytes": 5}'}
    assert container_volumes(container, MOUNTED, {"w": claim}) == (
        Volume("/dev/shm", False, GIB, True),
        Volume("/data"),
        Volume("/models", True, 100 * GIB, False, found),
        Volume("/etc/c", True),
    )
    assert [(each.kind, each.name) for each in volume_references(MOUNTED)] == [
        ("PersistentVolumeClaim", "w"),
        ("ConfigMap", "c"),
    ]


def test_a_malformed_models_annotation_is_a_mount_error() -> None:
    annotations = {"fleet.llm-operator.dev/models": "[1]"}
    with pytest.raises(MountError, match="not a JSON object"):
        claim_models({"metadata": {"name": "w", "annotations": annotations}})


@pytest.mark.parametrize(
    ("volumes", "limit", "size"),
    [
        ((), 8 * GIB, 64 << 20),
        ((Volume("/dev/shm", memory=True, size_limit_bytes=GIB),), 8 * GIB, GIB),
        ((Volume("/dev/shm/", memory=True),), 8 * GIB, 8 * GIB),
        ((Volume("/dev/shm", memory=True),), None, 100 * GIB),
        ((Volume("/dev/shm", memory=True, size_limit_bytes=9 * GIB),), 8 * GIB, 8 * GIB),
        ((Volume("/dev/shm", size_limit_bytes=GIB),), 8 * GIB, 64 << 20),
        ((Volume("/data", memory=True),), 8 * GIB, 64 << 20),
    ],
)
def test_shared_memory(volumes: tuple[Volume, ...], limit: int | None, size: int) -> None:
    assert shm_bytes(volumes, limit, 100 * GIB) == size


@pytest.mark.parametrize(
    ("text", "value"),
    [("8Gi", 8 * GIB), ("500m", 1), ("1.5", 2), ("2k", 2000), (3, 3), ("1e3", 1000), ("0", 0)],
)
def test_quantities(text: str, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "8GB", "Gi", "1 2", "x"])
def test_malformed_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)
