"""The chart and the image as files: values that their schema accepts, names that fit each other."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import typer
import yaml

from llm_operator.api import names
from llm_operator.cli.main import app
from llm_operator.handlers.settings import Settings
from llm_operator.observe.prometheus import PrometheusConfig
from llm_operator.runtimes.base import engine

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "llm-operator"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_values_satisfy_their_own_schema() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 2},
        {"image": {"repository": ""}},
        {"image": {"repository": "a", "digest": "sha256:short"}},
        {"engine": {"version": "3.3"}},
        {"hub": {"tokenSecretRef": {"name": "token"}}},
        {"log": {"level": "loud"}},
        {"crds": {"install": "yes"}},
        {"prometheus": {"url": "prometheus:9090"}},
        {"prometheus": {"url": "https://user:password@prometheus"}},
        {"prometheus": {"tokenSecretRef": {"key": "token"}}},
        {"prometheus": {"podLabel": "the-pod"}},
        {"podMonitor": {"enabled": "maybe"}},
        {"scaling": {"intervalSeconds": 0}},
    ],
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(wrong)


def test_every_value_is_in_the_schema() -> None:
    assert VALUES.keys() == SCHEMA["properties"].keys() - {"global"}


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_chart_and_image_agree_on_user_and_port() -> None:
    deployment = (CHART / "templates" / "deployment.yaml").read_text()
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user
    assert f"runAsUser: {user[1]}" in deployment
    assert f"runAsGroup: {user[2]}" in deployment
    assert f"containerPort: {Settings().http_port}" in deployment


def test_the_flags_that_the_chart_sets_exist() -> None:
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    there = {name for option in command.params for name in option.opts}
    deployment = (CHART / "templates" / "deployment.yaml").read_text()
    set_here = set(re.findall(r"(--[a-z]+(?:-[a-z]+)*)[=\n]", deployment))
    assert {"--http-port", "--prometheus-token-file", "--scaling-interval-seconds"} <= set_here
    assert set_here <= there


def test_the_chart_has_the_operators_own_defaults() -> None:
    plain, prometheus = PrometheusConfig("http://any"), VALUES["prometheus"]
    assert prometheus["namespaceLabel"] == plain.namespace_label
    assert prometheus["podLabel"] == plain.pod_label
    assert prometheus["timeoutSeconds"] == plain.timeout_seconds
    assert prometheus["scrapeIntervalSeconds"] == plain.scrape_interval_seconds
    assert VALUES["scaling"]["intervalSeconds"] == Settings().scaling_interval_seconds


def test_the_monitor_finds_the_pods_of_models_and_their_metrics() -> None:
    monitor = (CHART / "templates" / "podmonitor.yaml").read_text()
    assert f"{names.LABEL_MANAGED_BY}: {names.APP_NAME}" in monitor
    assert f"key: {names.LABEL_DEPLOYMENT}, operator: Exists" in monitor
    assert f"path: {engine(None).metrics.path}\n" in monitor


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
