"""An API server in memory, as the loop sees it: versions, uids, ownership of fields, watch events.

It has what `KubeClient` has. Server-side apply follows the rule that matters here: a field that an
earlier apply of ours set and this one lacks is removed, unless the create set it to the same.
Knows neither schemas nor controllers; a test plays those with `put`.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llm_operator.api import names
from llm_operator.kube.client import ApiError
from llm_operator.kube.resources import BY_KIND, WATCHED, Resource

Object = dict[str, Any]
Place = tuple[str, str, str]
Path = tuple[str, ...]


@dataclass
class Held:
    """An object, what of it our create and our last apply set, and whether the watch has it."""

    body: Object
    created: dict[Path, Any] = field(default_factory=dict)
    applied: dict[Path, Any] = field(default_factory=dict)
    shown: bool = False


class FakeApi:
    """`writes` are all that were carried out, as (verb, kind, name). `events` is the watch, unless
    `watch` is set: then that is told.

    `undeclared` are the fields of the status that the schema lacks, as an apply names them.
    `before` and `after` are called with (verb, kind, name) around each write that is carried out:
    they may raise ApiError (the answer is lost, if after), or change the world. `now` gives the
    time of births, RFC 3339 in UTC.
    """

    def __init__(self) -> None:
        self.objects: dict[Place, Held] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.reads: list[tuple[str, str, str]] = []
        self.events: list[tuple[str, Object]] = []
        self.before: Callable[[str, str, str], None] = lambda *_: None
        self.after: Callable[[str, str, str], None] = lambda *_: None
        self.watch: Callable[[str, Object], Any] = lambda *event: self.events.append(event)
        self.now: Callable[[], str] = self._count
        self.undeclared: list[str] = []
        self.version = 100
        self._uids = 0

    # what a test does to the world

    def put(self, body: Object) -> Object:
        """Make or change an object as somebody else would."""
        metadata = body["metadata"]
        place = (body["kind"], metadata.get("namespace", ""), metadata["name"])
        held = self.objects.get(place)
        if held is None:
            return self._make(place, body)
        spec_changed = "spec" in body and body["spec"] != held.body.get("spec")
        merged = copy.deepcopy({**held.body, **body})
        merged["metadata"] = {**held.body["metadata"], **metadata}
        held.body = merged
        self._changed(held, generation=spec_changed)
        return copy.deepcopy(held.body)

    def edit(self, kind: str, name: str, change: Callable[[Object], Any]) -> None:
        """Change an object in place as somebody else would."""
        held = next(h for (k, _, n), h in self.objects.items() if (k, n) == (kind, name))
        spec = copy.deepcopy(held.body.get("spec"))
        change(held.body)
        self._changed(held, generation=held.body.get("spec") != spec)

    def drop(self, kind: str, name: str) -> None:
        """Delete an object as somebody else would."""
        place = next(place for place in self.objects if (place[0], place[2]) == (kind, name))
        self._gone(place)

    def all(self, kind: str) -> list[Object]:
        """The objects of a kind, by name."""
        return [copy.deepcopy(self.objects[p].body) for p in sorted(self.objects) if p[0] == kind]

    def one(self, kind: str) -> Object:
        """The only object of a kind."""
        (found,) = self.all(kind)
        return found

    # what KubeClient has

    async def create(self, resource: Resource, body: Object) -> Object:
        metadata = body["metadata"]
        self._asked("create", resource.kind, metadata["name"])
        place = (resource.kind, metadata.get("namespace", ""), metadata["name"])
        if place in self.objects:
            raise ApiError(409, "AlreadyExists", f"{metadata['name']} already exists")
        made = self._make(place, {**body, "kind": resource.kind}, ours=True)
        self.after("create", resource.kind, metadata["name"])
        return made

    async def apply(self, resource: Resource, body: Object, *, sub: str = "") -> Object:
        metadata = body["metadata"]
        verb = "status" if sub else "apply"
        self._asked(verb, resource.kind, metadata["name"])
        held = self._find(resource, metadata["namespace"], metadata["name"])
        if metadata.get("uid") not in (None, held.body["metadata"]["uid"]):
            raise ApiError(409, "Conflict", "Precondition failed: UID in precondition differs")
        if sub and resource.kind == names.KIND:
            _check_declared(body, self.undeclared)
        before = copy.deepcopy(held.body)
        if sub and resource.kind == "Pod":
            _merge_conditions(held.body, body["status"]["conditions"])
        elif sub:
            held.body["status"] = copy.deepcopy(body["status"])
        else:
            _apply(held, body)
        if held.body != before:
            self._changed(held, generation=held.body.get("spec") != before.get("spec"))
        answer = copy.deepcopy(held.body)
        self.after(verb, resource.kind, metadata["name"])
        return answer

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, operations: list[Object]
    ) -> Object:
        self._asked("patch", resource.kind, name)
        held = self._find(resource, namespace, name)
        spec = copy.deepcopy(held.body.get("spec"))
        for operation in operations:
            *above, last = operation["path"].strip("/").split("/")
            last = last.replace("~1", "/")
            parent = held.body
            for part in above:
                parent = parent[part]
            if operation["op"] != "add" and last not in parent:
                raise ApiError(422, "Invalid", f"{operation['path']} is not there")
            if operation["op"] == "test" and parent[last] != operation["value"]:
                raise ApiError(422, "Invalid", "the test failed")
            if operation["op"] in ("add", "replace"):
                parent[last] = copy.deepcopy(operation["value"])
            if operation["op"] == "remove":
                del parent[last]
        if any(operation["path"] == "/spec/template" for operation in operations):
            held.body["metadata"]["managedFields"] = []
        self._changed(held, generation=held.body.get("spec") != spec)
        self.after("patch", resource.kind, name)
        return copy.deepcopy(held.body)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        self._asked("delete", resource.kind, name)
        held = self._find(resource, namespace, name)
        if held.body["metadata"]["uid"] != uid:
            raise ApiError(409, "Conflict", "Precondition failed: UID in precondition differs")
        self._gone((resource.kind, namespace, name))
        self.after("delete", resource.kind, name)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        self.reads.append(("get", resource.kind, name))
        return copy.deepcopy(self._find(resource, namespace or "", name).body)

    async def pages(
        self, resource: Resource, namespace: str | None, limit: int = 250
    ) -> AsyncIterator[Object]:
        self.reads.append(("list", resource.kind, ""))
        self.before("list", resource.kind, "")
        items = [item for item in self.all(resource.kind) if _selected(resource, item)]
        version = str(self.version)
        for start in range(0, max(len(items), 1), 2):
            page = [_listed(item) for item in items[start : start + 2]]
            yield {"metadata": {"resourceVersion": version}, "items": page}

    # inside

    def _asked(self, verb: str, kind: str, name: str) -> None:
        self.before(verb, kind, name)
        self.writes.append((verb, kind, name))

    def _find(self, resource: Resource, namespace: str, name: str) -> Held:
        held = self.objects.get((resource.kind, namespace, name))
        if held is None:
            raise ApiError(404, "NotFound", f"{resource.plural} {name!r} not found")
        return held

    def _make(self, place: Place, body: Object, *, ours: bool = False) -> Object:
        self._uids += 1
        made = copy.deepcopy(body)
        made["metadata"] |= {
            "uid": body["metadata"].get("uid") or f"uid-{self._uids}",
            "generation": 1,
            "creationTimestamp": self.now(),
        }
        if place[0] == names.KIND:
            made.setdefault("status", {"observedGeneration": -1})
        held = Held(made, created=dict(_leaves(body)) if ours else {})
        self.objects[place] = held
        self._changed(held, verb="ADDED")
        return copy.deepcopy(made)

    def _count(self) -> str:
        """A time for each object, where nothing else tells it."""
        return f"2026-01-01T00:{self._uids // 60:02}:{self._uids % 60:02}Z"

    def _changed(self, held: Held, *, generation: bool = False, verb: str = "MODIFIED") -> None:
        self.version += 1
        metadata = held.body["metadata"]
        metadata["resourceVersion"] = str(self.version)
        metadata["generation"] += generation
        self._tell(verb, held)

    def _gone(self, place: Place) -> None:
        held = self.objects.pop(place)
        self.version += 1
        held.body["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", held)

    def _tell(self, verb: str, held: Held) -> None:
        """What a watch with the kind's selector shows: to lose the label is to be deleted."""
        resource = BY_KIND.get(held.body["kind"])
        if resource is None or resource not in WATCHED:
            return
        selected = _selected(resource, held.body)
        if selected or held.shown:
            self.watch(verb if selected else "DELETED", copy.deepcopy(held.body))
        held.shown = selected


def _selected(resource: Resource, body: Object) -> bool:
    if resource.label_selector is None:
        return True
    name, _, value = resource.label_selector.partition("=")
    return bool((body["metadata"].get("labels") or {}).get(name) == value)


def _listed(item: Object) -> Object:
    """Items of a list do not say their kind."""
    return {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}


def _leaves(body: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(body, dict) and body and path[-1:] != ("selector",):  # a map of one piece
        for key, value in body.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, copy.deepcopy(body)


def _apply(held: Held, body: Object) -> None:
    wanted = dict(_leaves(body))
    for path in held.applied:
        if path not in wanted and held.created.get(path) != held.applied[path]:
            _remove(held.body, path)
    for path, value in wanted.items():
        _set(held.body, path, value)
    held.applied = wanted


def _check_declared(body: Object, undeclared: list[str]) -> None:
    """As server-side apply does: without a schema for all of it nothing is written, and a 500
    names one of the fields.
    """
    found = [name for name in undeclared if _has(body["status"], name.split("."))]
    if found:
        error = f".status.{found[0]}: field not declared in schema"
        raise ApiError(500, "", f"failed to create typed patch object (ns/name; kind): {error}")


def _has(node: Any, path: list[str]) -> bool:
    """Whether the field is there; `revisions[0]` is the first item of a list."""
    name, _, index = path[0].rstrip("]").partition("[")
    if name not in node or (index and int(index) >= len(node[name])):
        return False
    found = node[name][int(index)] if index else node[name]
    return len(path) == 1 or _has(found, path[1:])


def _merge_conditions(body: Object, conditions: list[Object]) -> None:
    """A list that is a map by type."""
    there = body.setdefault("status", {}).setdefault("conditions", [])
    kept = [c for c in there if c["type"] not in {new["type"] for new in conditions}]
    body["status"]["conditions"] = kept + copy.deepcopy(conditions)


def _set(body: Object, path: Path, value: Any) -> None:
    for part in path[:-1]:
        body = body.setdefault(part, {})
    body[path[-1]] = copy.deepcopy(value)


def _remove(body: Object, path: Path) -> None:
    for part in path[:-1]:
        if part not in body:
            return
        body = body[part]
    body.pop(path[-1], None)
