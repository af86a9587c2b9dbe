"""What the model hub says of a repository: config.json, commit, sizes of the safetensors files.

Decides how its answers and its failures are classified. Refuses to know what a shape is good for,
and keeps nothing: `models` remembers answers. `huggingface_hub` is synchronous, so it is used in
threads of its own, with time limits; it honours HF_ENDPOINT and HF_HUB_OFFLINE. The only token ever
used is the one given, the operator's own: no token file is read, no user's Secret.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from llm_operator.api.status import Reason
from llm_operator.observe.models import WAYS, Unknown
from llm_operator.planning import Model, SizeUnknown, model_of

INDEX: Final = "model.safetensors.index.json"
OLD_QUANTIZATION_FILES: Final = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where checkpoints of 2023 say how they are quantized, if config.json does not."""

NOT_WEIGHTS: Final = ("consolidated", "adapter", "optimizer", "training_args")
"""Top-level safetensors files that repeat or extend the model's own begin like this."""

LARGEST_FILE: Final = 64 << 20
"""Bytes of JSON that are read at most: the index of the largest models has about 10 MB."""

RATE_LIMIT_SECONDS: Final = 300.0
UNREACHABLE_SECONDS: Final = 60.0

Failure = Literal["gated", "not-found", "no-model", "rate-limited", "unreachable", "offline"]


@dataclass(frozen=True)
class Repository:
    """A repository at one commit. `file_bytes` is None where it has no safetensors files."""

    commit: str | None
    config: Mapping[str, Any]
    file_bytes: int | None


@dataclass(frozen=True)
class HubFailure:
    """Why the hub gave no answer; `retry_after` in seconds where time may help."""

    kind: Failure
    message: str
    retry_after: float | None = None


class HubModels:
    """Looks models up at the hub, a few at a time."""

    def __init__(
        self,
        token: str | None = None,
        *,
        endpoint: str | None = None,
        offline: bool | None = None,
        timeout: float = 10.0,
    ) -> None:
        """`endpoint` and `offline` unset: HF_ENDPOINT and HF_HUB_OFFLINE. `timeout` in seconds."""
        self._token: str | Literal[False] = token or False
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._offline = constants.HF_HUB_OFFLINE if offline is None else offline
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hub")

    async def look_up(self, model_id: str, revision: str | None) -> Model | Unknown:
        """The model as the planner wants it, or why it is not known."""
        found = await self.repository(model_id, revision)
        if isinstance(found, HubFailure):
            return _unknown(model_id, found)
        model = model_of(
            model_id,
            found.config,
            file_bytes=found.file_bytes,
            source="Hub",
            commit=found.commit,
        )
        if isinstance(model, SizeUnknown):
            return Unknown(Reason.MODEL_SHAPE_UNKNOWN, f"{model_id}: {model.reason}: {WAYS}")
        return model

    async def repository(self, model_id: str, revision: str | None) -> Repository | HubFailure:
        """What the hub says of a repository at a branch, tag or commit (unset: its main branch)."""
        if self._offline:
            return HubFailure("offline", f"the Hub is not asked for {model_id} (offline)")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._ask, model_id, revision)

    def close(self) -> None:
        """Give up what is still asked."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, model_id: str, revision: str | None) -> Repository | HubFailure:
        """In a thread."""
        try:
            return self._read(model_id, revision)
        except (OSError, ValueError) as error:
            return classified(error, model_id, self._endpoint)

    def _read(self, model_id: str, revision: str | None) -> Repository:
        api = HfApi(endpoint=self._endpoint, token=self._token)
        info = api.model_info(
            model_id, revision=revision, files_metadata=True, timeout=self._timeout
        )
        sizes = {entry.rfilename: entry.size for entry in info.siblings or ()}
        at = info.sha or revision or "main"
        config = self._json(model_id, at, "config.json")
        for name, method in OLD_QUANTIZATION_FILES.items():
            if name in sizes and "quantization_config" not in config:
                old = self._json(model_id, at, name)
                config = {**config, "quantization_config": {"quant_method": method, **old}}
        index = self._json(model_id, at, INDEX) if INDEX in sizes else None
        return Repository(info.sha, config, weight_file_bytes(sizes, index))

    def _json(self, model_id: str, revision: str, name: str) -> dict[str, Any]:
        """One JSON object of the repository. ValueError if it is too large or no JSON object."""
        url = hf_hub_url(model_id, name, revision=revision, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token)
        answer = get_session().get(url, headers=headers, timeout=self._timeout, stream=True)
        with answer:
            hf_raise_for_status(answer)
            content = b""
            for chunk in answer.iter_content(1 << 20):
                content += chunk
                if len(content) > LARGEST_FILE:
                    raise ValueError(f"{name} has more than {LARGEST_FILE >> 20} MiB")
        parsed = json.loads(content)
        if not isinstance(parsed, dict):
            raise ValueError(f"{name} is not a JSON object")
        return parsed


def weight_file_bytes(
    sizes: Mapping[str, int | None], index: Mapping[str, Any] | None
) -> int | None:
    """Bytes of the model's own safetensors files, None where the repository has none.

    The index names them; its `total_size`, which can be stale, counts only where the hub tells no
    sizes. Without an index, every safetensors file at the top counts, but not copies in folders.
    """
    weight_map = index.get("weight_map") if index else None
    if isinstance(weight_map, dict) and weight_map:
        total = _sum(sizes.get(str(name)) for name in set(weight_map.values()))
        metadata = index.get("metadata") if index else None
        stated = metadata.get("total_size") if isinstance(metadata, dict) else None
        return total or (int(stated) if isinstance(stated, int | float) else None)
    return _sum(
        size
        for name, size in sizes.items()
        if name.endswith(".safetensors") and "/" not in name and not name.startswith(NOT_WEIGHTS)
    )


def _sum(sizes: Iterable[int | None]) -> int | None:
    """Their sum; None if one is unknown or there are none."""
    known = list(sizes)
    return sum(size for size in known if size) if known and all(known) else None


def classified(error: Exception, model_id: str, endpoint: str) -> HubFailure:
    """What an exception of the hub's client means. No message of the hub is repeated."""
    answer = error.response if isinstance(error, HfHubHTTPError) else None
    status = None if answer is None else answer.status_code
    if isinstance(error, OfflineModeIsEnabled):
        return HubFailure("offline", f"the Hub is not asked for {model_id} (offline)")
    if isinstance(error, GatedRepoError) or status == 403:
        return HubFailure("gated", f"{model_id} is gated and the operator may not see it")
    if isinstance(error, RevisionNotFoundError):
        return HubFailure("not-found", f"{model_id} has no such revision at {endpoint}")
    if isinstance(error, EntryNotFoundError):
        return HubFailure("no-model", f"{model_id} has no config.json")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return HubFailure("not-found", f"{model_id} is not at {endpoint}, or is private")
    if answer is not None and status == 429:
        wait = answer.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdigit() else RATE_LIMIT_SECONDS
        return HubFailure("rate-limited", f"{endpoint} limits the rate of requests", seconds)
    if isinstance(error, HFValidationError):
        return HubFailure("not-found", f"{model_id} cannot be the name of a repository")
    if isinstance(error, OSError):
        what = f"answered {status}" if status else "could not be reached"
        return HubFailure("unreachable", f"{endpoint} {what}", UNREACHABLE_SECONDS)
    return HubFailure("no-model", f"{model_id}: its config.json or index cannot be read")


_REASONS: Final[Mapping[Failure, Reason]] = {
    "rate-limited": Reason.HUB_RATE_LIMITED,
    "unreachable": Reason.HUB_UNREACHABLE,
}


def _unknown(model_id: str, failure: HubFailure) -> Unknown:
    """A failure as a fact about the model. What time may cure has its own reason."""
    reason = _REASONS.get(failure.kind, Reason.MODEL_SHAPE_UNKNOWN)
    ways = f": {WAYS}" if reason is Reason.MODEL_SHAPE_UNKNOWN else ""
    return Unknown(reason, f"{failure.message}{ways}", failure.retry_after)
