"""What the watches have shown: a slim copy of each object, found by name and by owner.

A plain dictionary that watch handlers, answers to our own writes and the resync feed. The newest
resourceVersion wins, so a late watch event cannot undo what an answer to a write already said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class Key(NamedTuple):
    """Name of an LLMDeployment: what the work queue holds."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One object. `owner` is the LLMDeployment that it belongs to by label, if any."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    owner: Key | None
    fact: Any


class Store:
    """Slim copies by (kind, namespace, name), with an index by owner."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str, str], Entry] = {}
        self._by_owner: dict[Key, set[tuple[str, str, str]]] = defaultdict(set)

    def put(self, entry: Entry) -> bool:
        """Keep it unless something newer is there; True if anything was kept."""
        identity = (entry.kind, entry.namespace, entry.name)
        known = self._entries.get(identity)
        if known is not None and known.uid == entry.uid and known.version >= entry.version:
            return False
        if known is not None and known.owner and known.owner != entry.owner:
            self._by_owner[known.owner].discard(identity)
        self._entries[identity] = entry
        if entry.owner:
            self._by_owner[entry.owner].add(identity)
        return True

    def remove(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Forget it, unless the uid says that another object has taken the name since."""
        identity = (kind, namespace, name)
        known = self._entries.get(identity)
        if known is None or (uid is not None and known.uid != uid):
            return
        del self._entries[identity]
        if known.owner:
            owned = self._by_owner[known.owner]
            owned.discard(identity)
            if not owned:
                del self._by_owner[known.owner]

    def replace(self, kind: str, entries: Collection[Entry], version: int) -> None:
        """A whole listing taken at `version`: what it lacks is gone, unless it is younger."""
        listed = {(entry.kind, entry.namespace, entry.name) for entry in entries}
        for identity, known in list(self._entries.items()):
            if identity[0] == kind and identity not in listed and known.version <= version:
                self.remove(kind, known.namespace, known.name)
        for entry in entries:
            self.put(entry)

    def get(self, kind: str, namespace: str, name: str) -> Entry | None:
        return self._entries.get((kind, namespace, name))

    def owned(self, owner: Key, kind: str) -> list[Entry]:
        """Objects of a kind that carry the owner's label, by name."""
        found = (self._entries[i] for i in self._by_owner.get(owner, ()) if i[0] == kind)
        return sorted(found, key=lambda entry: entry.name)

    def all(self, kind: str) -> Iterator[Entry]:
        return (entry for entry in self._entries.values() if entry.kind == kind)

    def __len__(self) -> int:
        return len(self._entries)
