"""Failures on demand, the fleet's own images, and which image is which program."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping

import pytest
from tests.unit.fleet_fakes import pod

from llm_operator.cluster.fleet.container import ContainerSpec, Exit, Process
from llm_operator.cluster.fleet.faults import FaultRules, Rule, parse_faults
from llm_operator.cluster.fleet.images import Images, image_id, split_reference
from llm_operator.cluster.fleet.probes import Probe, check
from llm_operator.cluster.fleet.programs import HttpProgram, PauseProgram

PORT = 18931
IP = f"127.7.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
"""Of this process alone: tests run side by side."""


def test_faults_have_a_kind_and_perhaps_an_argument() -> None:
    assert parse_faults(" hang, slow-start=30 ") == {"hang": "", "slow-start": "30"}
    assert parse_faults("") == {}
    with pytest.raises(ValueError, match=r"no fault 'explode'; there are crash-after"):
        parse_faults("explode")


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        ({"fault": "hang"}, True),
        ({"fault": "hang", "namespace": "ns"}, True),
        ({"fault": "hang", "namespace": "other"}, False),
        ({"fault": "hang", "selector": {"app": "web"}}, True),
        ({"fault": "hang", "selector": {"app": "web", "x": "y"}}, False),
    ],
)
def test_rules_mean_pods_by_namespace_and_labels(rule: dict[str, object], meant: bool) -> None:
    item = pod()
    item["metadata"]["labels"] = {"app": "web"}
    assert Rule.parse(json.dumps(rule)).matches(item) is meant


def test_rules_and_annotation_add_up_and_a_bad_one_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: list[int] = []
    rules = FaultRules(lambda: changes.append(1))
    data = {"a": '{"fault": "slow=2"}', "b": '{"fault": "nonsense"}', "c": "[", "d": "3"}
    rules.on_change("ADDED", {"data": data | {"e": '{"fault": "slow=4"}'}})
    item = pod()
    item["metadata"]["annotations"] = {"fleet.llm-operator.dev/fault": "hang"}
    assert rules.of(item) == {"slow": "4", "hang": ""}
    assert caplog.text.count("fault rule") == 3
    rules.on_change("DELETED", {"data": data})
    assert rules.of(item) == {"hang": ""}
    assert len(changes) == 2


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        (
            "ghcr.io/huggingface/text-generation-inference:3.3.7",
            "text-generation-inference",
            "3.3.7",
        ),
        ("localhost:5000/tgi", "localhost:5000/tgi", "latest"),
        ("a/b:1@sha256:00ff", "a/b", "1"),
        ("a/b@sha256:00ff", "a/b", "latest"),
    ],
)
def test_references(reference: str, name: str, tag: str) -> None:
    found = split_reference(reference)
    assert found[0].endswith(name)
    assert found[1] == tag


def test_images_are_known_by_the_repository_s_name() -> None:
    images = Images()
    engine = images.find("mirror.example.org/text-generation-inference:2.0.1")
    assert engine is not None
    assert engine is images.find("ghcr.io/huggingface/text-generation-inference:3.3.7")
    assert (engine.user, "text-generation-launcher" in engine.commands) == (0, True)
    pause = images.find("registry.k8s.io/pause:3.10")
    assert pause is not None
    assert isinstance(pause.program, PauseProgram)
    for unknown in (
        "busybox",
        "example.org/fleet/http:does-not-exist",
        "text-generation",
        "x/pauses",
    ):
        assert images.find(unknown) is None
    assert image_id("a:1") == image_id("a:1") != image_id("a:2")


def start(*args: str, faults: Mapping[str, str] | None = None) -> Process:
    spec = ContainerSpec(
        "fleet/http",
        (f"--port={PORT}", *args),
        {},
        IP,
        "web",
        (),
        faults={} if faults is None else faults,
    )
    return HttpProgram().start(spec)


async def health(timeout: float = 1.0) -> str | None:
    action = {"httpGet": {"path": "/health", "port": PORT}}
    probe = Probe.of({"readinessProbe": {**action, "timeoutSeconds": timeout}}, "readiness")
    assert probe is not None
    return await check(probe, {}, IP)


async def healthy() -> None:
    async with asyncio.timeout(5):
        while await health() is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_test_program_serves_drains_and_leaves() -> None:
    process = start("--drain=0.05", "--say=hello")
    run = asyncio.create_task(process.run())
    await healthy()
    process.terminate()
    assert await run == Exit(0, "hello\nSIGTERM")
    assert "connection refused" in str(await health())


async def test_its_socket_goes_with_a_kill_and_with_a_cancellation() -> None:
    process = start("--ignore-term")
    run = asyncio.create_task(process.run())
    await healthy()
    process.terminate()
    process.kill()
    assert (await run).code == 137
    again = asyncio.create_task(start().run())
    await healthy()
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert "connection refused" in str(await health())


async def test_faults_reach_a_running_program() -> None:
    faults: dict[str, str] = {}
    run = asyncio.create_task(start(faults=faults).run())
    await healthy()
    faults["never-ready"] = ""
    assert "503" in str(await health())
    faults.clear()
    faults["hang"] = ""
    assert "deadline" in str(await health(timeout=0.05))
    faults.clear()
    faults["crash-after"] = "1"
    await health()
    assert (await run).code == 1


@pytest.mark.parametrize(
    ("args", "faults", "end"),
    [
        (("--exit-after=0.01", "--exit-code=3"), {}, Exit(3)),
        (("--nonsense",), {}, Exit(2, "error: unrecognized arguments: --nonsense")),
        ((), {"crash-loading": ""}, Exit(1, "crashed while loading")),
        ((), {"oom": ""}, Exit(137, oom_killed=True)),
    ],
)
async def test_ends(args: tuple[str, ...], faults: dict[str, str], end: Exit) -> None:
    assert await start(*args, faults=faults).run() == end


async def test_pause_waits_for_a_signal() -> None:
    for signal, code in (("terminate", 0), ("kill", 137)):
        process = PauseProgram().start(ContainerSpec("pause", (), {}, "127.0.0.1", "p", ()))
        run = asyncio.create_task(process.run())
        await asyncio.sleep(0)
        assert not run.done()
        getattr(process, signal)()
        assert (await run).code == code
