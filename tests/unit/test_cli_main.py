"""The program's surface: commands, help, exit codes, errors.

After an intended change of a help text write the files anew with UPDATE_GOLDEN=1.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llm_operator.cli import main as cli
from llm_operator.cli.console import CommandError
from llm_operator.cluster import state

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "cli"
COMMANDS = [
    "", "plan", "up", "down", "demo", "run", "status", "crd", "version", "fault", "rollout",
    "scaling",
]  # fmt: skip
ROLLOUT = ["status", "history", "diff", "pause", "resume", "promote", "retry", "undo"]


@pytest.mark.parametrize("command", [*COMMANDS, *(f"rollout {one}" for one in ROLLOUT)])
def test_help_is_as_agreed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)
    done = CliRunner().invoke(cli.app, [*command.split(), "--help"], prog_name="llm-operator")
    text = "\n".join(line.rstrip() for line in done.output.splitlines()) + "\n"
    file = GOLDEN / f"{command.replace(' ', '-') or 'llm-operator'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_every_command_is_covered_here() -> None:
    command = typer.main.get_command(cli.app)
    assert {*command.commands} == {*COMMANDS} - {""}  # type: ignore[attr-defined]
    assert {*command.commands["rollout"].commands} == {*ROLLOUT}  # type: ignore[attr-defined]


def test_both_names_start_the_same_program() -> None:
    scripts = metadata.entry_points(group="console_scripts")
    targets = {script.name: script.value for script in scripts}
    assert targets["llm-operator"] == targets["kubectl-llm"] == "llm_operator.cli.main:main"


def test_help_loads_nothing_that_it_does_not_need() -> None:
    heavy = {"kubernetes", "kopf", "aiohttp", "pydantic", "yaml", "huggingface_hub"}
    program = f"import sys, llm_operator.cli.main; print(*({heavy!r} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, env=env)
    assert (loaded.returncode, loaded.stdout.split()) == (0, [])


def test_crd_prints_what_is_committed() -> None:
    done = CliRunner().invoke(cli.app, ["crd"])
    assert done.output == (ROOT / "crds" / "llmdeployments.yaml").read_text()


def test_version() -> None:
    done = CliRunner().invoke(cli.app, ["version"])
    assert done.output.strip() == metadata.version("llm-operator")


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of the whole program."""
    monkeypatch.setattr(sys, "argv", ["llm-operator", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr("llm_operator.api.crd.crd_yaml", fail)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CommandError("no [such] thing"), "error: no [such] thing\n"),
        (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'\n"),
        (KeyError("status"), "error: KeyError: 'status'\n"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(error, monkeypatch)
    assert call(["crd"], monkeypatch) == 1
    assert capsys.readouterr().err == line


def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_OPERATOR_DEBUG", "")
    monkeypatch.setattr(sys, "argv", ["llm-operator", "--debug", "crd"])
    failing(CommandError("boom"), monkeypatch)
    with pytest.raises(CommandError, match="boom"):
        cli.main()


@pytest.mark.parametrize("arguments", [["nothing"], ["status", "--output=xml"], ["plan"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(arguments, monkeypatch) == 2


def test_down_stops_no_cluster_but_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    other = tmp_path / "llm-operator" / "other"
    other.mkdir(parents=True)
    with state.lock(other):  # this is what a running cluster holds
        done = CliRunner().invoke(cli.app, ["down"])
        assert done.exit_code == 0
        assert "no local cluster 'default' is running; there are: other" in done.stderr
        assert state.is_running(other)


def test_a_fault_without_a_cluster_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert call(["fault", "set", "x", "--fault=hang"], monkeypatch) == 1
    assert "`llm-operator up` starts one" in capsys.readouterr().err
