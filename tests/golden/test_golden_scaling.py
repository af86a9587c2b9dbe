"""What a user reads of a burst, to the letter: the law's words, on the page that shows them.

After an intended change write page and README anew with UPDATE_GOLDEN=1 and read the diff.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from llm_operator.api.autoscaling import Autoscaling
from llm_operator.cli import scaling_view
from llm_operator.cli.view import Seen
from llm_operator.facts.signals import Fresh, Load, Signals
from llm_operator.reconcile.scaling_status import Mode, Told
from llm_operator.scaling.law import decide
from llm_operator.scaling.policy import Capacity, policy_from
from llm_operator.scaling.terms import History, Look, Replica

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "scaling" / "burst.txt"
SHOWN = re.compile(r"(```console\n\$ llm-operator scaling llama-70b-awq\n)(.*?)```", re.DOTALL)
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC).timestamp()
TICK, LOADS = 15.0, 90.0
WISH = Autoscaling(max_replicas=4)
CAPACITY = Capacity(sequences=32, concurrent_requests=64, startup_seconds=1600.0)
DEMAND = [8.0] * 8 + [45.0] * 12
"""Requests in hand at each tick: a burst that stays."""


def told() -> Told:
    """What status tells in the end, by a law that looks every 15 s and pods that load for 90 s."""
    found, history, wanted = Told(), History(), 1
    ready_at = {0: START}
    for tick, demand in enumerate(DEMAND):
        now = START + TICK * tick
        for name in range(wanted):
            ready_at.setdefault(name, now + LOADS)
        serving = [name for name in range(wanted) if ready_at[name] <= now]
        share = demand / len(serving)
        load = Load(max(share - CAPACITY.sequences, 0.0), min(share, CAPACITY.sequences))
        look = Look(
            signals=Signals(now, {str(name): Fresh(load, now) for name in serving}),
            replicas=tuple(Replica(str(n), n in serving, LOADS) for n in range(wanted)),
            current=wanted,
            capacity=CAPACITY,
            policy=policy_from(WISH, CAPACITY),
        )
        decision, history = decide(look, history, now)
        found.take(decision)
        wanted = decision.replicas
    return found


def page() -> str:
    seen = told().seen(Mode.AUTO, 1, 4, 2, 1, ())
    condition = {
        "type": "ScalingActive",
        "status": "True" if seen.active else "False",
        "reason": seen.reason,
        "message": seen.message,
    }
    thing: dict[str, Any] = {
        "metadata": {"name": "llama-70b-awq", "namespace": "default", "generation": 1},
        "spec": {
            "model": {"id": "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"},
            "autoscaling": WISH.model_dump(by_alias=True, exclude_none=True),
        },
        "status": {
            "observedGeneration": 1,
            "readyReplicas": 2,
            "conditions": [condition],
            "scaling": seen.shown.model_dump(mode="json", by_alias=True, exclude_none=True),
        },
    }
    now = datetime.fromtimestamp(START + TICK * len(DEMAND), UTC)
    out = StringIO()
    console = Console(file=out, width=98, color_system=None, highlight=False)
    console.print(scaling_view.page(Seen(thing, ()), now, 98))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def test_a_burst_reads_as_agreed() -> None:
    text = page()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_readme_shows_the_beginning_of_it() -> None:
    beginning = page().partition("\nReplicas wanted")[0]
    readme = ROOT / "README.md"
    text = readme.read_text()
    fresh, count = SHOWN.subn(lambda match: f"{match[1]}{beginning}```", text)
    assert count == 1
    if os.environ.get("UPDATE_GOLDEN"):
        readme.write_text(fresh)
    assert readme.read_text() == fresh
