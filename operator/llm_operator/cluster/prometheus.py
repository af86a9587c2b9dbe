"""A Prometheus beside the control plane, which scrapes pods as any cluster's would.

Decides its configuration: pods are kept by the usual scrape annotations, with the labels
`namespace` and `pod`. Refuses to know any metric, and who asks. Options and configuration are those
that Prometheus 2.42 and 3 have in common, in every build (see discovery.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from .controlplane import Component
from .discovery import META
from .files import PROMETHEUS, Files
from .network import PROMETHEUS_IP

URL = f"http://{PROMETHEUS_IP}:9090"
"""Inside the cluster's network; from the host through the cluster's proxy."""

SCRAPE_SECONDS = 2.0
DISCOVERY = "prometheus-discovery"
_RETENTION = "6h"
_ANNOTATION = f"{META}pod_annotation_prometheus_io_"


def components(files: Files, program: Path) -> tuple[Component, Component]:
    """Prometheus, and what tells it of pods. Its data go with the cluster's directory."""
    argv = (
        str(program),
        f"--config.file={_config_file(files)}",
        f"--storage.tsdb.path={files.root / 'prometheus'}",
        f"--storage.tsdb.retention.time={_RETENTION}",
        f"--web.listen-address={URL.removeprefix('http://')}",
        "--log.level=warn",
    )
    discovery = (
        sys.executable,
        "-m",
        "llm_operator.cluster.discovery",
        f"--kubeconfig={files.component_kubeconfig(PROMETHEUS)}",
        f"--file={_targets_file(files)}",
    )
    return Component(PROMETHEUS, argv, f"{URL}/-/ready"), Component(DISCOVERY, discovery)


def write_config(files: Files, scrape_seconds: float) -> bool:
    """Write the configuration; whether that changed anything."""
    path, text = _config_file(files), yaml.safe_dump(config(files, scrape_seconds))
    if path.exists() and path.read_text() == text:
        return False
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)
    return True


def config(files: Files, scrape_seconds: float) -> dict[str, Any]:
    """Scrape every annotated pod that runs, each `scrape_seconds`."""
    interval = f"{round(scrape_seconds * 1000)}ms"
    job = {
        "job_name": "kubernetes-pods",
        "file_sd_configs": [{"files": [str(_targets_file(files))]}],
        "relabel_configs": [
            {"source_labels": [f"{_ANNOTATION}scrape"], "action": "keep", "regex": "true"},
            {
                "source_labels": [f"{META}pod_phase"],
                "action": "drop",
                "regex": "Pending|Succeeded|Failed",
            },
            {
                "source_labels": [f"{_ANNOTATION}path"],
                "target_label": "__metrics_path__",
                "regex": "(.+)",
            },
            {
                "source_labels": [f"{META}pod_ip", f"{_ANNOTATION}port"],
                "separator": ":",
                "target_label": "__address__",
            },
            {"source_labels": [f"{META}namespace"], "target_label": "namespace"},
            {"source_labels": [f"{META}pod_name"], "target_label": "pod"},
        ],
    }
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [job],
    }


def _config_file(files: Files) -> Path:
    return files.config / "prometheus.yaml"


def _targets_file(files: Files) -> Path:
    return files.config / "prometheus-targets.json"
