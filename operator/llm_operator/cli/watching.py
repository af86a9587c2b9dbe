"""Looks at one LLMDeployment and its pods again and again, and remembers what was seen when."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from llm_operator.cli import view
from llm_operator.cli.status import fetch
from llm_operator.cli.timeline import Moment, Pods
from llm_operator.cluster.local import LocalCluster
from llm_operator.facts.cluster import PodFact
from llm_operator.kube.client import ApiError, KubeClient

_EVERY_S = 0.5
_POLL_S = 0.1


class Watch:
    """A thread that looks twice a second. `moments` may be read at any time; so may `decisions`,
    the scaler's, by their time and oldest first."""

    def __init__(self, cluster: LocalCluster, namespace: str, name: str) -> None:
        self.moments: list[Moment] = []
        self.models: dict[str, str] = {}
        self.decisions: dict[str, view.Object] = {}
        self._kubeconfig = str(cluster.kubeconfig)
        self._where = namespace, name
        self._seen: tuple[float, view.Seen] | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    @property
    def seen(self) -> view.Seen | None:
        """The last look."""
        return self._seen[1] if self._seen else None

    @property
    def reason(self) -> str:
        """Why the deployment was ready or not, at the last look, as kubectl shows it."""
        return str(self._seen[1].status.get("reason", "")) if self._seen else ""

    def look_until(
        self, is_over: Callable[[view.Seen], bool], since: float, seconds: float
    ) -> bool:
        """Whether a look begun after `since` (epoch) shows it within so many seconds."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            if self._seen and self._seen[0] > since and is_over(self._seen[1]):
                return True
            time.sleep(_POLL_S)
        return False

    async def _run(self) -> None:
        client = await KubeClient.connect(self._kubeconfig, user_agent="llm-operator-cli")
        try:
            while not self._end.is_set():
                began = time.time()
                with suppress(ApiError):  # the next look will tell
                    await self._look(client, began)
                await asyncio.sleep(max(0.0, began + _EVERY_S - time.time()))
        finally:
            await client.close()

    async def _look(self, client: KubeClient, began: float) -> None:
        namespace, name = self._where
        (seen,) = await fetch(client, namespace, name)
        for revision in seen.status.get("revisions", ()):
            self.models.setdefault(revision["name"], revision.get("model", ""))
        for decision in reversed(seen.scaling.get("decisions", ())):
            self.decisions.setdefault(decision["time"], decision)
        self.moments.append(Moment(began, count(seen.pods)))
        self._seen = began, seen


def count(pods: Iterable[PodFact]) -> dict[str, Pods]:
    """Pods of each revision by what they do: serve, get there, or leave."""
    found: dict[str, Pods] = {}
    for pod in pods:
        before = found.get(pod.revision, Pods())
        if pod.deleting:
            found[pod.revision] = replace(before, draining=before.draining + 1)
        elif pod.ready:
            found[pod.revision] = replace(before, serving=before.serving + 1)
        else:
            found[pod.revision] = replace(before, starting=before.starting + 1)
    return found
