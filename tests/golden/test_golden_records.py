"""Records that released operators wrote: they must stay readable, and render as they did.

Where a change of the rendering is intended, `RENDERS_NO_MORE` says from which version on a template
edited by hand can no longer be restored for pods of the old one. Nothing restarts even then.
"""

from __future__ import annotations

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
    assert (revision.restore("chat", record) is None) == (file.stem in RENDERS_NO_MORE)
    wish = user_inputs(LLMDeploymentSpec.model_validate(record.user))
    assert revision.matching({"chat": record}, wish) == "chat"


def test_there_are_records() -> None:
    assert RECORDS
