"""Records that operators wrote: every later one must read them, and render them as they were.

One file per release. That of the release to come is written anew with UPDATE_GOLDEN=1. Where a
later one must render an older record otherwise, `RENDERS_NO_MORE` names it: templates edited by
hand can then no longer be restored for pods of that release. Nothing restarts even so.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from llm_operator.api.spec import LLMDeploymentSpec, user_inputs
from llm_operator.desired import revision

RECORDS = sorted((Path(__file__).parent / "records").glob("*.json"))
RENDERS_NO_MORE: frozenset[str] = frozenset()


@pytest.mark.parametrize("file", RECORDS, ids=[file.stem for file in RECORDS])
def test_record(file: Path) -> None:
    record = revision.record_from_json(file.read_text())
    assert record is not None
    if os.environ.get("UPDATE_GOLDEN") and file.stem == f"v{version('llm-operator')}":
        template = revision.render("chat", record.revision, record.user, record.resolved)
        record = replace(record, rendering=revision.rendering_sha(template), text="")
        file.write_text(revision.record_to_json(record) + "\n")
    assert (revision.restore("chat", record) is None) == (file.stem in RENDERS_NO_MORE)
    wish = user_inputs(LLMDeploymentSpec.model_validate(record.user))
    assert revision.matching({"chat": record}, wish) == "chat"


def test_there_are_records() -> None:
    assert RECORDS
