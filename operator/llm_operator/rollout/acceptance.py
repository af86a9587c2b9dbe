"""Whether an answer is what its user expects.

Pure. Decides from a text, its tokens and its time; refuses to know who asked and how.
"""

from __future__ import annotations

from llm_operator.api.rollout import Expectation
from llm_operator.facts.acceptance import Answer, Result


def judge(answer: Answer, expected: Expectation | None) -> Result:
    """The result of one question. The first expectation that is not met is its fault."""
    fault = answer.error or _fault(answer, expected or Expectation())
    return Result(answer.tokens, answer.seconds, fault)


def _fault(answer: Answer, expected: Expectation) -> str:
    if expected.not_empty is not False and not answer.text.strip():
        return "the answer is empty"
    if expected.contains is not None and expected.contains not in answer.text:
        return f"the answer does not contain {expected.contains[:100]!r}"
    most = expected.max_latency_seconds
    if most is not None and answer.seconds > most:
        return f"the answer took {answer.seconds:.2f} s, at most {most:g} s wanted"
    least = expected.min_tokens_per_second
    speed = answer.tokens / answer.seconds if answer.seconds > 0 else 0.0
    if least is not None and speed < least:
        return f"{speed:.1f} tokens/s, at least {least:g} wanted"
    return ""
