"""Who has which card and which address of one node.

The kubelet's device bookkeeping: a card belongs to one pod from its admission until its last
container has ended. Decides which card; refuses to know why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .quantity import parse_quantity

GPU = "nvidia.com/gpu"


class AdmissionError(Exception):
    """The node cannot take the pod: it fails with reason UnexpectedAdmissionError."""


class Cards:
    """The cards of one node by index. Pods are known by their uid."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._holders: dict[int, str] = {}

    def allocate(self, uid: str, wanted: int) -> tuple[int, ...]:
        """The `wanted` lowest free indices. Raises AdmissionError, and takes none, if too few."""
        free = [index for index in range(self.count) if index not in self._holders]
        if len(free) < wanted:
            raise AdmissionError(
                "Allocate failed due to requested number of devices unavailable for "
                f"{GPU}. Requested: {wanted}, Available: {len(free)}, which is unexpected"
            )
        for index in free[:wanted]:
            self._holders[index] = uid
        return tuple(free[:wanted])

    def release(self, uid: str) -> None:
        """Give back all that the pod holds."""
        self._holders = {index: who for index, who in self._holders.items() if who != uid}

    def holders(self) -> Mapping[int, str]:
        """Index -> uid of the pod that has it."""
        return dict(self._holders)


class Addresses:
    """The pod addresses of one node's range `a.b.c.0/24`: .2 to .254, the least recent first."""

    def __init__(self, cidr: str) -> None:
        self._stem = cidr.rsplit(".", 1)[0]
        self._free = [f"{self._stem}.{last}" for last in range(2, 255)]

    @property
    def host(self) -> str:
        """The node's own address."""
        return f"{self._stem}.1"

    def allocate(self, preferred: str | None = None) -> str:
        """An address nobody has. Raises AdmissionError when there is none."""
        if not self._free:
            raise AdmissionError(f"no free pod address in {self._stem}.0/24")
        address = preferred if preferred in self._free else self._free[0]
        self._free.remove(address)
        return address

    def release(self, address: str) -> None:
        """Give an address back; it goes to the end of the line, so that it rests for a while."""
        if address not in self._free:
            self._free.append(address)


def gpus_wanted(container: Mapping[str, Any]) -> int:
    """Cards that a container's limits ask for."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return parse_quantity(limits.get(GPU, 0))
