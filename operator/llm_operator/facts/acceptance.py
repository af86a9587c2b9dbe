"""What a model answered to the questions that its user set before it may serve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One answer: `tokens` in `seconds`, from the request to its end.

    `error` instead of a text where the model gave none. Lives only in memory: the text is nobody
    else's business.
    """

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Result:
    """How one question went, without its words. `fault` is what is not as expected, or ""."""

    tokens: int
    seconds: float
    fault: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Proof:
    """The results of the questions that were asked of `total`; the first fault ends it."""

    results: tuple[Result, ...]
    total: int

    @property
    def accepted(self) -> bool:
        return len(self.results) == self.total and not any(r.fault for r in self.results)

    @property
    def message(self) -> str:
        """What went wrong, with its numbers; else how fast the answers came."""
        for number, result in enumerate(self.results, 1):
            if result.fault:
                return f"prompt {number} of {self.total}: {result.fault}"
        slowest = max((result.seconds for result in self.results), default=0.0)
        return (
            f"{len(self.results)} of {self.total} prompts answered as expected,"
            f" the slowest in {slowest:.1f} s"
        )
