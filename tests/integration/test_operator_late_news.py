"""The watch lags: the object is gone, and an operator that has not heard of it makes its children.

The garbage collector takes them, and the first refused status write tells the operator.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import yaml
from tests.cluster_fixture import CRDS

from llm_operator.api import names
from llm_operator.cluster.local import LocalCluster
from llm_operator.desired.revision import Defaults
from llm_operator.kube.client import KubeClient
from llm_operator.kube.resources import LLM_DEPLOYMENT, REPLICA_SET, SERVICE
from llm_operator.kube.store import Key, Store
from llm_operator.observe.models import Models
from llm_operator.observe.slim import entry
from llm_operator.reconcile.loop import Loop, Result
from llm_operator.reconcile.reconciler import Reconciler
from llm_operator.reconcile.wishes import Wishes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

AGENT = "llm-operator-behind"
EXAMPLE = CRDS.parent / "examples" / "llama-8b.yaml"


async def names_of_children(client: KubeClient, namespace: str) -> list[str]:
    return [
        f"{resource.plural}/{child['metadata']['name']}"
        for resource in (REPLICA_SET, SERVICE)
        async for page in client.pages(resource, namespace)
        for child in page["items"]
    ]


async def test_children_of_an_object_that_has_gone_are_collected_and_not_made_again(
    cluster: LocalCluster, namespace: str
) -> None:
    manifest = yaml.safe_load(EXAMPLE.read_text())
    key = Key(namespace, manifest["metadata"]["name"])
    cluster.kubectl(
        "create", "--filename=-", f"--namespace={namespace}", input=json.dumps(manifest)
    )
    client = await KubeClient.connect(str(cluster.kubeconfig), user_agent=AGENT)
    try:
        last_news = await client.get(LLM_DEPLOYMENT, *key)
        await client.delete(LLM_DEPLOYMENT, *key, last_news["metadata"]["uid"])
        loop = Loop(client, Store(), namespace=namespace, workers=1, resync_seconds=600)
        await loop.list_all()
        loop.store.put(entry({**last_news, "kind": names.KIND}))
        wishes = Wishes(Models(None, loop.queue.add), Defaults())
        reconcile = Reconciler(client, loop.store, loop.queue, loop.waiting_for_nodes, wishes)
        mark = cluster.audit_log.mark()

        assert await reconcile(key) == Result()
        made = [
            event.resource
            for event in cluster.audit_log.writes(mark, user_agent=AGENT)
            if event.code == 201
        ]
        assert made == ["replicasets", "services"], "the test is about these"
        assert loop.store.get(names.KIND, *key) is None, "the status write was told"

        deadline = time.monotonic() + 60
        while left := await names_of_children(client, namespace):
            assert time.monotonic() < deadline, left
            assert await reconcile(key) == Result()
            await asyncio.sleep(0.2)
        await reconcile.close()
        writes = [event.resource for event in cluster.audit_log.writes(mark, user_agent=AGENT)]
        assert writes == [*made, "llmdeployments"], "no write after the news"
    finally:
        await client.close()
