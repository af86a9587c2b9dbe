"""A Service is balanced by the real kube-proxy, and reached from inside and from the host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from llm_operator.cluster.local import LocalCluster

# One listener on all addresses: it answers with the address that it was asked at.
LISTENER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.connection.getsockname()[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 18080), Handler).serve_forever()
"""
PODS = ["10.244.77.1", "10.244.77.2", "10.244.77.3"]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture
def service(cluster: LocalCluster, namespace: str) -> Iterator[str]:
    """A Service "echo" over PODS, which a listener serves; gives the Service's address."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "echo", "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 18080}]},
    }
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "echo-1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": "echo"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 18080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in PODS],
    }
    for document in (service, slices):
        cluster.kubectl("apply", "-f", "-", input=json.dumps(document))
    read = ("get", "service", "echo", f"--namespace={namespace}", "-o=jsonpath={.spec.clusterIP}")
    with cluster.run_inside([sys.executable, "-c", LISTENER]) as listener:
        yield cluster.kubectl(*read)
        listener.terminate()


def through_proxy(cluster: LocalCluster, url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": cluster.proxy_url}))
    try:
        with closing(opener.open(url, timeout=5)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code, error.read().decode()


def test_kube_proxy_balances_over_the_endpoints(cluster: LocalCluster, service: str) -> None:
    seen: set[str] = set()

    def all_seen() -> bool:
        curl = ["curl", "-sS", "--max-time", "2", f"http://{service}/"]
        with cluster.run_inside(curl, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            seen.add(process.communicate()[0].decode())
        return set(PODS) <= seen

    until(all_seen)
    assert seen <= {*PODS, ""}


def test_host_reaches_services_by_address_and_by_name(
    cluster: LocalCluster, namespace: str, service: str
) -> None:
    until(lambda: through_proxy(cluster, f"http://{service}/")[0] == 200)
    for host in (service, f"echo.{namespace}", f"echo.{namespace}.svc.cluster.local"):
        status, text = through_proxy(cluster, f"http://{host}/any?x=1")
        assert (status, text in PODS) == (200, True), (host, text)


@pytest.mark.parametrize("host", ["127.0.0.1:2379", "192.0.2.1", "nothing.default", "localhost"])
def test_host_reaches_nothing_else(cluster: LocalCluster, host: str) -> None:
    status, text = through_proxy(cluster, f"http://{host}/health")
    assert status == 403
    assert "no pod or Service" in text


def test_the_namespace_has_no_way_out(cluster: LocalCluster) -> None:
    command = ["curl", "-sS", "--max-time", "2", "http://192.0.2.1/"]
    with cluster.run_inside(command, stderr=subprocess.PIPE, text=True) as process:
        said = process.communicate()[1]
    assert process.returncode != 0, said
