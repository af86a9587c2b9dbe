"""What a user may write in `spec.rollout`: how a change reaches running pods.

Nothing here but `drainSeconds` reaches a pod, so nothing else is part of a revision. Nothing has a
default in the schema either: what is left out is decided by `llm_operator.rollout`, so a better
default needs no new CRD. Refuses to know what runs.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from llm_operator.api.part import Part

PERCENTAGE: Final = r"^(100|[1-9]?[0-9])%$"

Strategy = Literal["RollingUpdate", "Recreate", "Canary"]
OnNoSpareGpu = Literal["Wait", "Recreate"]
OnFailure = Literal["Rollback", "Hold"]


def _percentage(value: str) -> str:
    if not re.match(PERCENTAGE, value):
        raise ValueError("must be a number of replicas, or a share of them such as 25%")
    return value


Replicas = Annotated[int, Field(ge=0, le=1000)]
Share = Replicas | Annotated[str, Field(max_length=4), AfterValidator(_percentage)]
"""A number of replicas (each of all its GPUs), or a percentage of those wanted."""
Seconds = Annotated[int, Field(ge=1, le=86_400)]


class Expectation(Part):
    """What an answer must be."""

    contains: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        None, description="Text that must be in the answer, as it is written here."
    )
    not_empty: bool | None = Field(
        None, description="Whether an answer of nothing but white space fails. Unset: true."
    )
    max_latency_seconds: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        None, description="Longest time from the question to the end of the answer."
    )
    min_tokens_per_second: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None, description="Lowest speed of one answer: its tokens over its time."
    )


class AcceptancePrompt(Part):
    """A question with what is expected of the answer."""

    prompt: Annotated[str, Field(min_length=1, max_length=8192)] = Field(
        description="Sent as it is, without a chat template."
    )
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Longest answer, in tokens. Unset: 64."
    )
    expect: Expectation | None = None


class Acceptance(Part):
    """Questions that the first pod of a new revision must answer before it gets any request."""

    prompts: Annotated[list[AcceptancePrompt], Field(min_length=1, max_length=16)] = Field(
        description="Asked one after the other; the revision fails with the first that fails."
    )
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        None, description="Longest time for one answer. Unset: 60."
    )


class CanaryStep(Part):
    """A stage at which the new revision stays for a while."""

    replicas: Share = Field(
        description="Pods of the new revision at this step: a number, or a percentage of replicas"
        " (rounded up)."
    )
    pause_seconds: Seconds | None = Field(
        None, description="Go on after this time. Unset: wait for `llm-operator rollout promote`."
    )


class Analysis(Part):
    """How well the new revision serves at a step, compared with the old one over the same time."""

    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Requests that each of the two revisions must have had within the window;"
        " nothing is said of fewer. Unset: 50.",
    )
    window_seconds: Annotated[int, Field(ge=10, le=3600)] | None = Field(
        None,
        description="The last so many seconds count, at most since the step's pods serve."
        " Unset: 300.",
    )
    max_error_rate_increase: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="Percentage points by which the share of failed requests may be larger."
        " Unset: 5.",
    )
    max_latency_increase: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None,
        description="Percentage by which the 95th percentile of a request's duration may be longer."
        " Unset: 100.",
    )
    max_token_time_increase: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None,
        description="Percentage by which the mean time per token may be longer. Unset: 50.",
    )
    timeout_seconds: Seconds | None = Field(
        None,
        description="How long after a step's pause the numbers may be missing or too few before the"
        " rollout is paused for a person to look. Unset: 900.",
    )


def _ascending(steps: list[CanaryStep]) -> list[CanaryStep]:
    """Refuses steps of the same kind that go downwards; CEL cannot, for the price it sets on it.

    A number and a percentage can be compared only where the number of replicas is known.
    """
    for kind in (int, str):
        counts = [s.replicas for s in steps if isinstance(s.replicas, kind)]
        for before, after in pairwise(counts):
            if int(str(before).removesuffix("%")) > int(str(after).removesuffix("%")):
                raise ValueError(
                    f"replicas go down from {before} to {after}: write the steps with the fewest"
                    " replicas first"
                )
    return steps


class Canary(Part):
    """The way of a new revision from a few pods to all of them."""

    steps: Annotated[
        list[CanaryStep], Field(min_length=1, max_length=16), AfterValidator(_ascending)
    ] = Field(
        description="In this order, the fewest replicas first; after the last one come all. A"
        " percentage that comes to fewer pods than the number before it counts as that number."
    )
    analysis: Analysis | None = None


class Rollout(Part):
    """How a change reaches running pods."""

    strategy: Strategy | None = Field(
        None,
        description="RollingUpdate replaces pods a few at a time, Recreate stops all old pods"
        " first, Canary stops at steps. Unset: RollingUpdate.",
    )
    max_surge: Literal["auto"] | Share | None = Field(
        None,
        description="Pods above replicas during an update: a number, a percentage (rounded up), or"
        " auto: one, if the scheduler finds GPUs for it. Unset: auto.",
    )
    max_unavailable: Share | None = Field(
        None,
        description="Serving pods that may be missing at any time of an update: a number, or a"
        " percentage (rounded down). Unset: 0.",
    )
    min_available: Share | None = Field(
        None,
        description="Serving pods that stay when there is no GPU for a surge and room must be made:"
        " a number, or a percentage (rounded up). Unset: replicas - 1, or one"
        " fewer than have a node. With one replica onNoSpareGPU decides instead.",
    )
    on_no_spare_gpu: OnNoSpareGpu | None = Field(
        None,
        alias="onNoSpareGPU",
        description="With one replica and no GPU for a second: Wait for one, or Recreate, which"
        " stops the old pod first and serves nothing until the new one has loaded. Unset: Wait.",
    )
    progress_deadline_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = Field(
        None,
        description="Longest time from a new pod's place on a node until it serves; after it the"
        " revision has failed. Unset, or not longer than the start-up budget of the pods: that"
        " budget + 600.",
    )
    on_failure: OnFailure | None = Field(
        None,
        description="When a new revision fails: Rollback gives the old one its replicas back, Hold"
        " leaves both as they are. Unset: Rollback.",
    )
    history: Annotated[int, Field(ge=0, le=10)] | None = Field(
        None, description="Old revisions that are kept, to go back to. Unset: 3."
    )
    paused: bool | None = Field(
        None,
        description="Stop where the update is: no pod of the new revision comes, none of the old"
        " one goes, until this is false or unset.",
    )
    acceptance: Acceptance | None = None
    canary: Canary | None = None
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        None,
        description="How long requests in flight may take to finish when a pod goes. Unset: 90.",
    )
