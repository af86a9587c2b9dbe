"""What the documents say exists, exists, and what they show is what is printed.

After an intended change of an output write the blocks anew with UPDATE_GOLDEN=1.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from llm_operator.api.autoscaling import Autoscaling
from llm_operator.api.part import Part
from llm_operator.api.rollout import Rollout
from llm_operator.cli import console
from llm_operator.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
SHOWN = re.compile(r"```console\n\$ (llm-operator plan [^\n]+)\n(.*?)```", re.DOTALL)


def code(page: Path) -> str:
    """All that is set as code: blocks and spans."""
    text = page.read_text()
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []


def test_commands_and_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    command = typer.main.get_command(app)
    commands = set(command.commands)  # type: ignore[attr-defined]
    rollout = set(command.commands["rollout"].commands)  # type: ignore[attr-defined]
    for page in PAGES:
        said = code(page)
        assert set(re.findall(r"^make ([a-z]+)", said, re.MULTILINE)) <= targets, page
        assert set(re.findall(r"^llm-operator ([a-z]+)", said, re.MULTILINE)) <= commands, page
        assert set(re.findall(r"^llm-operator rollout ([a-z]+)", said, re.MULTILINE)) <= rollout


def test_tests_and_sources_that_are_named_exist() -> None:
    for page in PAGES:
        named = re.findall(r"`((?:tests|operator)/[\w/]+\.py)`", page.read_text())
        assert [path for path in named if not (ROOT / path).exists()] == [], page


def test_the_readme_has_the_example_as_it_is() -> None:
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = (ROOT / "examples" / "llama-70b-awq.yaml").read_text()
    assert shown
    assert all(example.endswith(block) for block in shown)


def test_the_readme_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(console, "console", lambda **_: Console(width=98, color_system=None))

    def block(match: re.Match[str]) -> str:
        done = CliRunner().invoke(app, shlex.split(match[1])[1:])
        assert done.exit_code in (0, 1), done.output
        lines = "\n".join(line.rstrip() for line in done.stdout.splitlines())
        return f"```console\n$ {match[1]}\n{lines}\n```"

    page = ROOT / "README.md"
    text = page.read_text()
    fresh, count = SHOWN.subn(block, text)
    assert count >= 2
    if os.environ.get("UPDATE_GOLDEN"):
        page.write_text(fresh)
    assert text == fresh


@pytest.mark.parametrize(
    ("page", "field", "model", "least"),
    [("rollouts.md", "rollout", Rollout, 2), ("autoscaling.md", "autoscaling", Autoscaling, 1)],
)
def test_what_is_shown_of_a_spec_is_understood(
    page: str, field: str, model: type[Part], least: int
) -> None:
    """Each YAML block of that field loses nothing when it is read."""
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(rf"```yaml\n({field}:\n.*?)```", text, re.DOTALL)
    assert len(blocks) >= least
    for block in blocks:
        said = yaml.safe_load(block)[field]
        read = model.model_validate(said)
        assert read.model_dump(by_alias=True, exclude_none=True) == said
