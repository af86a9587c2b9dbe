"""What Prometheus is told of pods, and what is wished for beside the cluster's own programs."""

from __future__ import annotations

from pathlib import Path

from llm_operator.cluster import discovery, prometheus, supervisor
from llm_operator.cluster.controlplane import Component
from llm_operator.cluster.files import Files

POD = {
    "metadata": {
        "namespace": "ns",
        "name": "a",
        "annotations": {"prometheus.io/scrape": "true", "x.y/z-1": "2"},
    },
    "status": {"podIP": "10.244.0.7", "phase": "Running"},
}


def test_a_target_carries_what_relabelling_looks_at() -> None:
    (target,) = discovery.targets([POD])
    assert target["targets"] == ["10.244.0.7"]
    labels = target["labels"]
    assert labels["__meta_kubernetes_pod_annotation_x_y_z_1"] == "2"
    (job,) = prometheus.config(Files(Path("/x")), 2)["scrape_configs"]
    looked_at = {name for rule in job["relabel_configs"] for name in rule["source_labels"]}
    given = {name for name in looked_at if not name.endswith(("io_port", "io_path"))}
    assert given <= labels.keys()
    assert len(given) == 5


def test_a_pod_without_an_address_is_no_target() -> None:
    assert discovery.targets([{**POD, "status": {"phase": "Pending"}}]) == []


def test_the_interval_may_be_a_part_of_a_second() -> None:
    times = prometheus.config(Files(Path("/x")), 0.5)["global"]
    assert times == {"scrape_interval": "500ms", "scrape_timeout": "500ms"}


def test_a_configuration_is_written_on_change_only(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.config.mkdir()
    assert prometheus.write_config(files, 2)
    assert not prometheus.write_config(files, 2)
    assert prometheus.write_config(files, 1)


def test_a_wish_reads_back_until_it_is_taken_back(tmp_path: Path) -> None:
    files = Files(tmp_path)
    assert supervisor.read_wishes(files) == []
    supervisor.unwish(files, "a")
    wished = Component("a", ("sleep", "1"), "http://x/ready")
    supervisor.wish(files, wished)
    supervisor.wish(files, Component("b", ("true",)))
    assert supervisor.read_wishes(files) == [wished, Component("b", ("true",))]
    supervisor.unwish(files, "b")
    assert supervisor.read_wishes(files) == [wished]
