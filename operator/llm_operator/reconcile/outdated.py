"""An operator that is newer than the CRD: which fields of its status the API server does not know.

Decides what is left out of a status so that the rest can be written. Learns that from refusals
alone, as the operator may not read CRDs, and forgets it now and then, since a CRD may be renewed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from llm_operator.api import names
from llm_operator.kube.client import ApiError

Object = dict[str, Any]
Path = tuple[str, ...]

log = logging.getLogger(__name__)

TRY_AGAIN_SECONDS: Final = 600.0
"""After so long one write is tried whole again, by whichever object is next to be looked at."""

_UNDECLARED: Final = re.compile(r"\.status\.(\S+): field not declared in schema")
_ITEM: Final = re.compile(r"\[[^]]*\]")


class Outdated:
    """Fields of the status that the installed CRD lacks. `clock` in seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._missing: frozenset[Path] = frozenset()
        self._told: frozenset[Path] = frozenset()
        self._learnt_at = 0.0

    def learn(self, error: ApiError) -> bool:
        """True if the refusal names fields that were not known to be missing.

        It names one of each object, so several refusals in a row are to be expected.
        """
        found = frozenset(undeclared(error.message))
        if not found - self._missing:
            return False
        self._missing |= found
        self._learnt_at = self._clock()
        return True

    def tell(self) -> None:
        """Log what is missing, once."""
        if self._missing <= self._told:
            return
        self._told |= self._missing
        log.warning(
            "the installed CRD %s.%s is older than this operator: it lacks %s of the status,"
            " which is left out. Apply crds/%s.yaml of this release, or the output of"
            " `llm-operator crd`",
            *(names.PLURAL, names.GROUP),
            ", ".join(sorted(".".join(path) for path in self._missing)),
            names.PLURAL,
        )

    def fitting(self, status: Object) -> Object:
        """The status without the fields that are missing; the same object if none is."""
        if self._missing and self._clock() - self._learnt_at >= TRY_AGAIN_SECONDS:
            self._missing = frozenset()
        for path in self._missing:
            status = _without(status, path)
        return status


def undeclared(message: str) -> Iterable[Path]:
    """Fields below `status` that a refused apply names, items of lists left out of their paths."""
    return (tuple(_ITEM.sub("", path).split(".")) for path in _UNDECLARED.findall(message))


def _without(node: Any, path: Path) -> Any:
    """A copy without the field, in every item of the lists on the way."""
    if isinstance(node, list):
        return [_without(item, path) for item in node]
    if not isinstance(node, dict) or path[0] not in node:
        return node
    if len(path) == 1:
        return {key: value for key, value in node.items() if key != path[0]}
    return {**node, path[0]: _without(node[path[0]], path[1:])}
