"""Writes of one pass: create or repair a child, delete one, write the status. Counted.

Every answer goes into the store at once, so that the next pass sees it before the watch does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from llm_operator.api import names
from llm_operator.facts.cluster import PodFact
from llm_operator.kube.client import ApiError, KubeClient
from llm_operator.kube.resources import BY_KIND, LLM_DEPLOYMENT, POD
from llm_operator.kube.store import Key, Store
from llm_operator.observe.slim import controller_uid, entry
from llm_operator.reconcile.outdated import Outdated
from llm_operator.telemetry.metrics import API_WRITES

Object = dict[str, Any]


class NameTaken(Exception):
    """An object of somebody else has the name that a child of ours needs."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"a {kind} named {name} exists and is not ours")
        self.kind = kind
        self.name = name


class Writer:
    """Writes for LLMDeployments; children are only touched if their controller is the owner."""

    def __init__(self, client: KubeClient, store: Store) -> None:
        self._client = client
        self._store = store
        self._outdated = Outdated(lambda: asyncio.get_running_loop().time())

    async def create(self, body: Object, owner_uid: str) -> Object | None:
        """Create a child, None; the child if it was there and ours. Else raises NameTaken."""
        kind, metadata = body["kind"], body["metadata"]
        try:
            answer = await self._client.create(BY_KIND[kind], body)
            API_WRITES.labels(kind, "create").inc()
            self._store.put(entry(answer))
            return None
        except ApiError as error:
            if not error.already_exists:
                raise
            answer = await self._client.get(BY_KIND[kind], metadata["namespace"], metadata["name"])
            if controller_uid(answer) != owner_uid:
                raise NameTaken(kind, metadata["name"]) from error
        self._store.put(entry(answer))
        return answer

    async def find(self, kind: str, namespace: str, name: str, owner_uid: str) -> bool:
        """Read a child that the watch does not show; True if it is there and ours."""
        try:
            answer = await self._client.get(BY_KIND[kind], namespace, name)
        except ApiError as error:
            if not error.not_found:
                raise
            return False
        if controller_uid(answer) != owner_uid or "deletionTimestamp" in answer["metadata"]:
            return False
        self._store.put(entry(answer))
        return True

    async def repair(self, wanted: Object, actual: Object) -> Object:
        """Apply our fields over a child that differs; the uid guards against a namesake.

        Where what others have put beside our fields makes that invalid (a second Service port of
        the same name), our parts of the spec are put back whole.
        """
        body = {**wanted, "metadata": {**wanted["metadata"], "uid": actual["metadata"]["uid"]}}
        try:
            answer = await self._client.apply(BY_KIND[wanted["kind"]], body)
        except ApiError as error:
            self._forget_if_gone(actual, error)
            if error.code != 422:
                raise
            return await self._replace(
                actual, {f"/spec/{key}": value for key, value in wanted["spec"].items()}
            )
        API_WRITES.labels(wanted["kind"], "apply").inc()
        self._store.put(entry(answer))
        return answer

    async def replace_template(self, actual: Object, template: Object) -> Object:
        """Put a ReplicaSet's template back whole, fields that others added included."""
        return await self._replace(actual, {"/spec/template": template})

    async def _replace(self, actual: Object, places: Mapping[str, Any]) -> Object:
        return await self.patch(
            actual, [{"op": "add", "path": path, "value": v} for path, v in places.items()]
        )

    async def patch(self, actual: Object, operations: Sequence[Object]) -> Object:
        """Change single places of a child (JSON patch), all or none; the uid guards it."""
        kind, metadata = actual["kind"], actual["metadata"]
        guard: Object = {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]}
        answer = await self._client.json_patch(
            BY_KIND[kind], metadata["namespace"], metadata["name"], [guard, *operations]
        )
        API_WRITES.labels(kind, "apply").inc()
        self._store.put(entry(answer))
        return answer

    async def pod(self, namespace: str, pod: PodFact, fields: Object, sub: str = "") -> None:
        """Apply fields of ours to a pod, or with `sub` to its status; that it is gone is fine."""
        metadata = {"namespace": namespace, "name": pod.name, "uid": pod.uid}
        body = {"apiVersion": POD.api_version, "kind": POD.kind, **fields}
        body["metadata"] = {**fields.get("metadata", {}), **metadata}
        try:
            answer = await self._client.apply(POD, body, sub=sub)
        except ApiError as error:
            if _is_gone(error):
                return
            raise
        API_WRITES.labels(POD.kind, "status" if sub else "apply").inc()
        self._store.put(entry(answer))

    async def delete(self, actual: Object) -> None:
        """Delete exactly this child; that it is gone already is fine."""
        kind, metadata = actual["kind"], actual["metadata"]
        try:
            await self._client.delete(
                BY_KIND[kind], metadata["namespace"], metadata["name"], metadata["uid"]
            )
            API_WRITES.labels(kind, "delete").inc()
        except ApiError as error:
            if not _is_gone(error):
                raise
        self._store.remove(kind, metadata["namespace"], metadata["name"], metadata["uid"])

    def fitting(self, status: Object) -> Object:
        """The status as the installed CRD can hold it, as far as that is known."""
        return self._outdated.fitting(status)

    async def status(self, key: Key, uid: str, status: Object) -> bool:
        """Write the whole status; False if the object is gone (the store then forgets it).

        What the installed CRD does not know is left out.
        """
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": uid},
            "status": status,
        }
        try:
            answer = await self._client.apply(LLM_DEPLOYMENT, body, sub="/status")
        except ApiError as error:
            if _is_gone(error):
                self._store.remove(names.KIND, key.namespace, key.name, uid)
                return False
            if self._outdated.learn(error):
                written = await self.status(key, uid, self.fitting(status))
                self._outdated.tell()
                return written
            raise
        API_WRITES.labels(names.KIND, "status").inc()
        self._store.put(entry(answer))
        return True

    def _forget_if_gone(self, actual: Object, error: ApiError) -> None:
        """So that the next try makes it anew, even if no watch tells that it is gone."""
        if _is_gone(error):
            metadata = actual["metadata"]
            self._store.remove(
                actual["kind"], metadata["namespace"], metadata["name"], metadata["uid"]
            )


def _is_gone(error: ApiError) -> bool:
    """The object that was meant is not there any more; another may have its name."""
    return error.not_found or (error.code == 409 and "uid" in error.message.lower())
