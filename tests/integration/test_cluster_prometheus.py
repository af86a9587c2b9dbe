"""A real Prometheus on the local cluster: it finds the pods, comes and goes, and may hang."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_operator.cluster.errors import ClusterError
from llm_operator.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SCRAPE_SECONDS = 0.5
IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.7"
ARGUMENTS = ["--model-id", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "--port", "8080"]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)
    return seen


def values(cluster: LocalCluster, promql: str) -> dict[str, float]:
    """The values of a query, by pod."""
    return {
        found["metric"].get("pod", ""): float(found["value"][1])
        for found in cluster.ask_prometheus(promql)
    }


def engine(name: str, annotations: dict[str, str]) -> str:
    container = {
        "name": "tgi",
        "image": IMAGE,
        "args": ARGUMENTS,
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    return json.dumps(pod)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of this module's own, with a Prometheus."""
    root = tmp_path_factory.mktemp("prometheus") / "cluster"
    cluster = LocalCluster.start("metrics", state_dir=root, nodes="t4=1x4", die_with=os.getpid())
    try:
        cluster.start_prometheus(scrape_seconds=SCRAPE_SECONDS)
        yield cluster
    finally:
        cluster.stop()


def earliest(cluster: LocalCluster) -> float:
    """The moment of the first sample that is kept, of any pod, to a second."""
    (found,) = cluster.ask_prometheus("min(min_over_time(timestamp(up)[1h:1s]))")
    return float(found["value"][1])


@pytest.fixture
def pod(own: LocalCluster) -> Iterator[str]:
    """An engine with the usual annotations, which Prometheus scrapes."""
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
    }
    own.kubectl("apply", "--filename=-", input=engine("engine", annotations))
    own.kubectl("wait", "--for=condition=Ready", "pod/engine", "--timeout=60s")
    until(lambda: values(own, "up == 1") == {"engine": 1.0})
    yield "engine"
    own.kubectl("delete", "pod", "engine", "--now")


def test_annotated_pods_are_scraped_and_no_others(own: LocalCluster, pod: str) -> None:
    own.kubectl("apply", "--filename=-", input=engine("silent", {}))
    own.kubectl("wait", "--for=condition=Ready", "pod/silent", "--timeout=60s")
    address = own.kubectl("get", "pod", pod, "--output=jsonpath={.status.podIP}")
    ask = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": 3}})
    curl = ["curl", "-sSf", "-HContent-Type: application/json", f"-d{ask}"]
    with own.run_inside([*curl, f"http://{address}:8080/generate"], stdout=-3) as asked:
        assert asked.wait(20) == 0
    until(lambda: values(own, "tgi_request_success") == {pod: 1.0})
    (up,) = own.ask_prometheus("up")
    assert (up["metric"]["namespace"], up["metric"]["pod"]) == ("default", pod)
    assert up["metric"]["instance"] == f"{address}:8080"
    own.kubectl("delete", "pod", "silent", "--now")


def test_a_pod_without_an_open_port_is_seen_to_be_down(own: LocalCluster) -> None:
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8081"}
    own.kubectl("apply", "--filename=-", input=engine("shut", annotations))
    until(lambda: values(own, "up") == {"shut": 0.0})
    own.kubectl("delete", "pod", "shut", "--now")
    until(lambda: values(own, "up") == {})


def test_it_is_killed_and_comes_again_with_what_it_knew(own: LocalCluster, pod: str) -> None:
    before = own.processes()["prometheus"].pid
    first = earliest(own)
    own.restart("prometheus")
    assert own.processes()["prometheus"].pid != before
    until(lambda: answers(own) and values(own, "up == 1") == {pod: 1.0})
    assert earliest(own) <= first + 2


def test_it_hangs_while_it_is_paused(own: LocalCluster, pod: str) -> None:
    with own.paused("prometheus"), pytest.raises(ClusterError, match="does not answer"):
        own.ask_prometheus("up")
    until(lambda: values(own, "up == 1") == {pod: 1.0})


def test_it_stays_away_once_stopped(own: LocalCluster, pod: str) -> None:
    own.stop_prometheus()
    assert "prometheus" not in own.processes()
    with pytest.raises(ClusterError):
        own.ask_prometheus("up")
    own.stop_prometheus()  # which is no error
    url = own.start_prometheus(scrape_seconds=SCRAPE_SECONDS)
    inside = ["curl", "-sSf", f"{url}/-/ready"]
    with own.run_inside(inside, stdout=-3) as asked:
        assert asked.wait(20) == 0
    until(lambda: values(own, "up == 1") == {pod: 1.0})


def test_its_interval_can_be_changed(own: LocalCluster, pod: str) -> None:
    def scrapes() -> float:
        return sum(values(own, "count_over_time(up[2s])").values())

    before = own.processes()["prometheus"]
    until(lambda: scrapes() >= 3)
    own.start_prometheus(scrape_seconds=2)
    try:
        until(lambda: scrapes() <= 1)
    finally:
        own.start_prometheus(scrape_seconds=SCRAPE_SECONDS)
    assert own.processes()["prometheus"].pid == before.pid


def answers(cluster: LocalCluster) -> bool:
    try:
        return bool(cluster.ask_prometheus("vector(1)"))
    except ClusterError:
        return False
