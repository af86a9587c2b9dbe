"""A plan as JSON and back, without loss: it is recorded with the revision that it made.

Decides the names of fields outside. A record of another version of the operator may lack fields or
have more: what is missing is left at its default, what is unknown is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from llm_operator.runtimes.terms import Gpu, Plan, Quantization, Rejected

Json = dict[str, Any]


def plan_to_json(plan: Plan) -> Json:
    """The plan as JSON-ready data with camelCase keys."""
    return {_outside(key): _plain(value) for key, value in asdict(plan).items()}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan that was recorded. KeyError or TypeError if it is no record of a plan."""
    values = _inside(Plan, data)
    gpu = values.get("gpu")
    return Plan(
        **{
            **values,
            "gpu": None if gpu is None else _gpu(gpu),
            "quantization": Quantization(**_inside(Quantization, values["quantization"])),
            "products": tuple(values["products"]),
            "ways_out": tuple(values.get("ways_out", ())),
            "rejected": tuple(Rejected(**_inside(Rejected, one)) for one in values["rejected"]),
        }
    )


def _gpu(data: Mapping[str, Any]) -> Gpu:
    values = _inside(Gpu, data)
    capability = values.get("compute_capability")
    return Gpu(
        **{**values, "compute_capability": None if capability is None else tuple(capability)}
    )


def _inside(kind: type, data: Mapping[str, Any]) -> Json:
    """The values that this dataclass knows, by its own field names."""
    return {
        field.name: data[_outside(field.name)]
        for field in fields(kind)
        if _outside(field.name) in data
    }


def _outside(name: str) -> str:
    """weight_bytes_per_gpu -> weightBytesPerGPU"""
    first, *rest = name.split("_")
    return first + "".join("GPU" if word == "gpu" else word.capitalize() for word in rest)


def _plain(value: Any) -> Any:
    """Tuples as lists and nested names outside; free-form detail is left as it is."""
    if isinstance(value, dict):
        return {
            _outside(key): item if key == "detail" else _plain(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
