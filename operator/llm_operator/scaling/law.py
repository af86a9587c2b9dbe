"""The law (placeholder by the lead so that imports work; helper A replaces this file)."""

from __future__ import annotations

from llm_operator.scaling.terms import Decision, History, Look, State, Why


def decide(look: Look, history: History, now: float) -> tuple[Decision, History]:
    """Hold."""
    return (
        Decision(now, look.current, look.current, Why.STEADY, "held", State.COMPLETE),
        history,
    )
