"""What the watches have shown: a slim copy of each object, found by name and by owner.

A plain dictionary that watch handlers, answers to our own writes and the resync feed. They come in
any order, so the newest resourceVersion wins: a late watch event cannot undo what an answer to a
write already said, and neither a late answer nor a listing brings back what has been deleted since.
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
        self._kinds: dict[str, dict[tuple[str, str, str], Entry]] = defaultdict(dict)
        self._by_owner: dict[Key, set[tuple[str, str, str]]] = defaultdict(set)
        self._deleted_at: dict[tuple[str, str, str], int] = {}

    def put(self, entry: Entry) -> bool:
        """Keep it unless something newer is known of that name; True if it was kept."""
        identity = (entry.kind, entry.namespace, entry.name)
        known = self._kinds[identity[0]].get(identity)
        if known is not None and known.version >= entry.version:
            return False
        # Equal is fine: what leaves a watch by its labels is "deleted" at the version it still has.
        if self._deleted_at.get(identity, 0) > entry.version:
            return False
        self._deleted_at.pop(identity, None)
        if known is not None:
            self._disown(known, identity)
        self._kinds[entry.kind][identity] = entry
        if entry.owner:
            self._by_owner[entry.owner].add(identity)
        return True

    def remove(
        self, kind: str, namespace: str, name: str, uid: str | None = None, version: int = 0
    ) -> None:
        """Forget it, unless the name was seen alive later, or belongs to another object since.

        `version` is that of the deletion; 0 where it is not known, then the uid must do.
        """
        identity = (kind, namespace, name)
        known = self._kinds[identity[0]].get(identity)
        if known is not None:
            is_over = version >= known.version if version else uid in (None, known.uid)
            if not is_over:
                return
        if version:
            self._deleted_at[identity] = max(version, self._deleted_at.get(identity, 0))
        if known is not None:
            del self._kinds[kind][identity]
            self._disown(known, identity)

    def replace(self, kind: str, entries: Collection[Entry], version: int) -> None:
        """A whole listing taken at `version`: what it lacks is gone, unless it is younger."""
        listed = {(entry.kind, entry.namespace, entry.name) for entry in entries}
        for identity, known in list(self._kinds[kind].items()):
            if identity not in listed and known.version <= version:
                self.remove(kind, known.namespace, known.name)
        for entry in entries:
            self.put(entry)
        for identity, deleted_at in list(self._deleted_at.items()):
            if identity[0] == kind and deleted_at <= version:  # no later listing can show it
                del self._deleted_at[identity]

    def get(self, kind: str, namespace: str, name: str) -> Entry | None:
        return self._kinds[kind].get((kind, namespace, name))

    def owned(self, owner: Key, kind: str) -> list[Entry]:
        """Objects of a kind that carry the owner's label, by name."""
        entries = self._kinds[kind]
        found = (entries[i] for i in self._by_owner.get(owner, ()) if i[0] == kind)
        return sorted(found, key=lambda entry: entry.name)

    def all(self, kind: str) -> Iterator[Entry]:
        return iter(self._kinds[kind].values())

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def _disown(self, entry: Entry, identity: tuple[str, str, str]) -> None:
        if entry.owner is None:
            return
        owned = self._by_owner[entry.owner]
        owned.discard(identity)
        if not owned:
            del self._by_owner[entry.owner]
