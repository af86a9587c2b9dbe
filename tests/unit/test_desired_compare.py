"""Containment as the API server sees it."""

from __future__ import annotations

from typing import Any

import pytest

from llm_operator.desired.compare import contains

Json = dict[str, Any]


def container(**fields: Any) -> Json:
    return {"containers": [{"name": "tgi", **fields}]}


SAME: dict[str, tuple[Json, Json]] = {
    "what others added": ({"a": 1, "b": 2}, {"a": 1}),
    "labels of others": (
        {"metadata": {"labels": {"ours": "1", "theirs": "2"}}},
        {"metadata": {"labels": {"ours": "1"}}},
    ),
    "a quantity written otherwise": (
        container(resources={"requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": 2}}),
        container(
            resources={"requests": {"cpu": "1000m", "memory": "1024Mi", "nvidia.com/gpu": "2"}}
        ),
    ),
    "a size limit written otherwise": (
        {"emptyDir": {"sizeLimit": "1Ti"}},
        {"emptyDir": {"sizeLimit": "1024Gi"}},
    ),
    "another order of what is a map": (
        container(env=[{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]),
        container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
    ),
    "a container beside ours": (
        {"containers": [{"name": "proxy"}, {"name": "tgi", "image": "x"}]},
        container(image="x"),
    ),
    "what the API server adds to a port": (
        {"ports": [{"port": 80, "protocol": "TCP", "nodePort": 31000}]},
        {"ports": [{"port": 80, "protocol": "TCP"}]},
    ),
    "an empty field": ({"spec": {}}, {"spec": {"affinity": {}, "volumes": [], "reason": ""}}),
    "false where nothing is said": ({}, {"readOnly": False}),
    "two spreads over one key": (
        {
            "topologySpreadConstraints": [
                {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
                {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
            ]
        },
        {
            "topologySpreadConstraints": [
                {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
                {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
            ]
        },
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_contained(name: str) -> None:
    actual, wanted = SAME[name]
    assert contains(actual, wanted) == ()


DIFFERENT: dict[str, tuple[Json, Json, tuple[str, ...]]] = {
    "a value": ({"spec": {"replicas": 2}}, {"spec": {"replicas": 1}}, ("spec.replicas",)),
    "a missing field": ({}, {"spec": {"replicas": 1}}, ("spec",)),
    "zero is a value": ({"spec": {}}, {"spec": {"replicas": 0}}, ("spec.replicas",)),
    "a label": (
        {"labels": {"a.b/c": "1"}},
        {"labels": {"a.b/c": "2", "d": "3"}},
        ("labels[a.b/c]", "labels.d"),
    ),
    "true where nothing is said": ({}, {"readOnly": True}, ("readOnly",)),
    "false where true is said": ({"readOnly": True}, {"readOnly": False}, ("readOnly",)),
    "the order of arguments": (
        container(args=["--a", "--b"]),
        container(args=["--b", "--a"]),
        ("containers.tgi.args[0]", "containers.tgi.args[1]"),
    ),
    "an argument too many": (
        container(args=["--a", "--b"]),
        container(args=["--a"]),
        ("containers.tgi.args",),
    ),
    "another quantity": (
        container(resources={"limits": {"nvidia.com/gpu": "2"}}),
        container(resources={"limits": {"nvidia.com/gpu": "4"}}),
        ("containers.tgi.resources.limits[nvidia.com/gpu]",),
    ),
    "what is no quantity is not read as one": (
        container(env=[{"name": "A", "value": "1"}]),
        container(env=[{"name": "A", "value": "1000m"}]),
        ("containers.tgi.env.A.value",),
    ),
    "a variable that is gone": (
        container(env=[{"name": "B", "value": "2"}]),
        container(env=[{"name": "A", "value": "1"}]),
        ("containers.tgi.env.A",),
    ),
    "our container is gone": (
        {"containers": [{"name": "proxy"}]},
        container(image="x"),
        ("containers.tgi",),
    ),
    "another port": (
        {"ports": [{"port": 81, "protocol": "TCP"}]},
        {"ports": [{"port": 80, "protocol": "TCP"}]},
        ("ports[80]",),
    ),
    "a target by name is not a number": (
        {"ports": [{"port": 80, "targetPort": 8080}]},
        {"ports": [{"port": 80, "targetPort": "http"}]},
        ("ports[80].targetPort",),
    ),
    "a toleration too many is a change of the whole list": (
        {"tolerations": [{"key": "a"}, {"key": "b"}]},
        {"tolerations": [{"key": "a"}]},
        ("tolerations",),
    ),
    "a list that became something else": (
        {"volumes": {}},
        {"volumes": [{"name": "a"}]},
        ("volumes",),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name: str) -> None:
    actual, wanted, paths = DIFFERENT[name]
    assert contains(actual, wanted) == paths
