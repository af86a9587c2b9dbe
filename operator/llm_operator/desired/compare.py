"""Whether what we want is contained in what is there.

Decides equality as the API server sees it: quantities by value, lists that are maps by their key,
a field that is empty or false like one that is absent. What others added is none of our business.
Knows the list types and quantities of the objects we make, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from llm_operator.runtimes.quantities import parse_quantity

_MAP_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_PORT_KEYS: Final = (("containerPort", "protocol"), ("port", "protocol"))
_WHOLE: Final = frozenset({"selector"})
"""Maps of which the API server replaces all or nothing: a key that others added changes it."""

Path = tuple[str | int, ...]


def contains(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of the fields that are not as wanted, in order; empty if nothing needs a write."""
    return tuple(_show(path) for path in _differences(actual, wanted, ()))


def _differences(actual: Any, wanted: Any, path: Path) -> Iterator[Path]:
    if actual == wanted or (_empty(wanted) and _empty(actual)):
        return
    merges = not path or path[-1] not in _WHOLE
    if isinstance(wanted, dict) and isinstance(actual, dict) and merges:
        for key, value in wanted.items():
            yield from _differences(actual.get(key), value, (*path, key))
    elif isinstance(wanted, list) and isinstance(actual, list):
        yield from _in_list(actual, wanted, path)
    elif not _same(actual, wanted, path):
        yield path


def _in_list(actual: list[Any], wanted: list[Any], path: Path) -> Iterator[Path]:
    keys = _keys(path[-1], wanted)
    if keys is None:
        if len(actual) != len(wanted):
            yield path
            return
        for index, value in enumerate(wanted):
            yield from _differences(actual[index], value, (*path, index))
        return
    there = {_identity(item, keys): item for item in actual}
    for item in wanted:
        place = (*path, item[keys[0]])
        found = there.get(_identity(item, keys))
        if found is None:
            yield place
        else:
            yield from _differences(found, item, place)


def _keys(name: str | int, items: list[Any]) -> tuple[str, ...] | None:
    """The fields that identify an item, or None where the list is one value."""
    if name == "ports":
        return next((keys for keys in _PORT_KEYS if all(keys[0] in item for item in items)), None)
    return _MAP_KEYS.get(str(name))


def _identity(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in keys)


def _same(actual: Any, wanted: Any, path: Path) -> bool:
    is_quantity = path[-1] == "sizeLimit" or path[-2:-1] in (("limits",), ("requests",))
    if actual is None or not is_quantity:
        return False
    try:
        return parse_quantity(actual) == parse_quantity(wanted)
    except ValueError:
        return False


def _empty(value: Any) -> bool:
    """What the API server drops from an object, or means by an absent field."""
    return value is None or value is False or value in ("", {}, [])


def _show(path: Path) -> str:
    parts = (
        f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part}]"
        for part in path
    )
    return "".join(parts).removeprefix(".")
