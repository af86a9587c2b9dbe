"""Stands between the operator and a real Prometheus, and makes it misbehave. A program of its own.

    python tests/prometheus_proxy.py PORT UPSTREAM ORDERS LOG

ORDERS is a JSON file, read at each query: `demand` {deployment: requests} is the load that its pods
show, shared evenly; `faults` {deployment: fault} changes what is said of its pods, `fault` what is
said at all. LOG gets a line for each query.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Element = dict[str, Any]
PORT, UPSTREAM, ORDERS, LOG = 1, 2, 3, 4


def changed(elements: list[Element], orders: dict[str, Any]) -> list[Element]:
    """The vector, with the load that is ordered and then the faults."""
    by_owner: dict[tuple[str, str], dict[str, list[Element]]] = defaultdict(
        lambda: defaultdict(list)
    )
    said = []
    for one in elements:
        pod = one["metric"].get("pod", "")
        owner = pod.rsplit("-", 2)[0]
        if owner in orders["demand"]:
            # Other tests' deployments may have the same names in namespaces of their own.
            by_owner[one["metric"].get("namespace", ""), owner][pod].append(one)
        else:
            said.append(one)
    for (_, owner), pods in by_owner.items():
        each = orders["demand"][owner] / len(pods)
        for number, pod in enumerate(sorted(pods)):
            loaded = list(with_load(pods[pod], each))
            said += with_fault(loaded, orders["faults"].get(owner, ""), number)
    return said


def with_load(pod: list[Element], each: float) -> Iterable[Element]:
    """As if the pod had so many requests, in place of those that it has."""
    for one in pod:
        if one["metric"]["signal"] == "scraped":
            yield one
            at = one["value"][0]
            for signal, value in (("running", each), ("queued", 0)):
                yield {"metric": {**one["metric"], "signal": signal}, "value": [at, str(value)]}


def with_fault(pod: list[Element], fault: str, number: int) -> list[Element]:
    """What is said of the pod, the `number`-th of its deployment."""
    if fault == "gone" or (fault == "half" and number % 2):
        return []
    for one in pod:
        scraped = one["metric"]["signal"] == "scraped"
        at, value = one["value"]
        if fault in ("NaN", "+Inf", "-1") and not scraped:
            one["value"] = [at, fault]
        elif fault == "stale" and scraped:
            one["value"] = [at, str(float(value) - 600)]
        elif fault == "down" and scraped:
            one["value"] = [at, "0"]
        elif fault == "labels":
            one["metric"]["kubernetes_pod_name"] = one["metric"].pop("pod")
    return pod[:1] if fault == "down" else pod


class Proxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with Path(sys.argv[LOG]).open("a") as log:
            log.write(f"{self.path[:20]}\n")
        orders = json.loads(Path(sys.argv[ORDERS]).read_text())
        fault = orders["fault"]
        if fault == "hang":
            time.sleep(5)
        elif fault == "reset":
            self.connection.close()
        elif fault.isdecimal():
            self.answer(int(fault), b'{"status": "error", "error": "as ordered"}')
        elif fault == "html":
            self.answer(200, b"<html>log in</html>")
        else:
            with urllib.request.urlopen(sys.argv[UPSTREAM] + self.path, timeout=5) as answer:
                body = json.load(answer)
            if fault == "matrix":
                body["data"] = {"resultType": "matrix", "result": [{"metric": {}, "values": []}]}
            elif fault == "empty":
                body["data"]["result"] = []
            else:
                body["data"]["result"] = changed(body["data"]["result"], orders)
            self.answer(200, json.dumps(body).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[PORT])), Proxy).serve_forever()
