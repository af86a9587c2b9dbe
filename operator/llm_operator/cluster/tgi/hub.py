"""Where a model's files come from: a mounted directory, the cache, or the simulated Hub.

The Hub is a file of well-known checkpoints (`checkpoints.json`): published bytes where a figure is
known, else this room's own count. Decides what is found, what is refused (gated, unknown, offline,
asked too often) and how much must be downloaded. Refuses to know how long that takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llm_operator.cluster.fleet.container import Volume

from .shape import Config, Shape, UnknownShape, shape_of
from .weights import file_bytes

_SITE = "https://huggingface.co"


class DownloadError(Exception):
    """The download step fails. The text is the last line of its traceback."""


@dataclass(frozen=True)
class Checkpoint:
    """A model's files: config.json, the bytes of its weights, and whether a licence guards it."""

    model_id: str
    config: Config
    weight_bytes: int
    gated: bool = False

    @property
    def shape(self) -> Shape:
        return shape_of(self.config)


@dataclass(frozen=True)
class Found:
    """A checkpoint, and how it got there. `download_bytes` is 0 for what is already on disk."""

    checkpoint: Checkpoint
    local: bool
    download_bytes: int


@cache
def _catalogue() -> dict[str, dict[str, object]]:
    text = (Path(__file__).parent / "checkpoints.json").read_text(encoding="utf-8")
    data = json.loads(text)
    shapes, entries = data["shapes"], {}
    for model_id, entry in data["models"].items():
        config = dict(shapes[entry["shape"]]) | {"torch_dtype": entry["torch_dtype"]}
        if "quantization_config" in entry:
            config["quantization_config"] = entry["quantization_config"]
        entries[model_id] = {**entry, "config": config}
    return entries


def known() -> tuple[str, ...]:
    """Everything on the simulated Hub: ids, and `id@branch` for branches with other files."""
    return tuple(_catalogue())


def published(model_id: str, revision: str | None = None) -> Checkpoint | None:
    """A checkpoint of the simulated Hub; a branch with other files has an entry of its own."""
    entries = _catalogue()
    entry = entries.get(f"{model_id}@{revision}") or entries.get(model_id)
    return None if entry is None else _checkpoint(model_id, entry)


def _checkpoint(model_id: str, entry: Mapping[str, object]) -> Checkpoint:
    config, size = entry["config"], entry.get("bytes")
    assert isinstance(config, Mapping)
    if not isinstance(size, int):
        try:
            size = file_bytes(config, shape_of(config))
        except UnknownShape:
            size = 0  # the shard will say that it cannot load such a model
    return Checkpoint(model_id, config, size, entry.get("gated") is True)


def local_directory(path: str, volumes: Sequence[Volume]) -> Checkpoint | None:
    """The checkpoint in a mounted directory: named by its Hub id, or described in JSON.

    A description is an object with `config` (the fields of config.json) and, where the size is
    known, `weight_bytes`.
    """
    for volume in volumes:
        for below, what in volume.models.items():
            if _join(volume.mount_path, below) != path.rstrip("/"):
                continue
            if not what.lstrip().startswith("{"):
                return published(what)
            described = json.loads(what)
            entry = {"config": described["config"], "bytes": described.get("weight_bytes")}
            return _checkpoint(path, entry)
    return None


def find(
    model_id: str,
    revision: str | None,
    env: Mapping[str, str],
    volumes: Sequence[Volume],
    faults: Mapping[str, str],
) -> Found:
    """Look for a model as the launcher's download step does. Raises DownloadError."""
    local = local_directory(model_id, volumes)
    if local is not None:
        return Found(local, True, 0)
    cached = _cached(model_id, env, volumes)
    if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        if cached is None:
            raise DownloadError(
                f"huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach {_api(model_id)}: "
                "offline mode is enabled. To disable it, please unset the `HF_HUB_OFFLINE` "
                "environment variable."
            )
        return Found(cached, False, 0)
    checkpoint = _ask(model_id, revision, env, faults)
    return Found(checkpoint, False, 0 if cached else checkpoint.weight_bytes)


def _ask(
    model_id: str, revision: str | None, env: Mapping[str, str], faults: Mapping[str, str]
) -> Checkpoint:
    if model_id.count("/") > 1 or model_id.startswith(("/", ".")):
        raise DownloadError(
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
            f"'namespace/repo_name': '{model_id}'. Use `repo_type` argument if needed."
        )
    if "hub-429" in faults:
        raise DownloadError(
            "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: "
            f"{_api(model_id)}"
        )
    checkpoint = published(model_id, revision)
    if checkpoint is None or "hub-404" in faults:
        raise DownloadError(
            "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. Repository Not "
            f"Found for url: {_api(model_id)}. Please make sure you specified the correct "
            "`repo_id` and `repo_type`."
        )
    if "hub-401" in faults or (checkpoint.gated and not token(env)):
        raise DownloadError(
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo "
            f"for url {_api(model_id)}. Access to model {model_id} is restricted. You must have "
            "access to it and be authenticated to access it. Please log in."
        )
    return checkpoint


def token(env: Mapping[str, str]) -> str | None:
    """The access token that the download step sends, if any."""
    names = ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    return next((env[name] for name in names if env.get(name)), None)


def cache_directory(env: Mapping[str, str]) -> str:
    """Where downloads go: `$HF_HOME/hub`, unless an older variable names the cache itself."""
    direct = env.get("HUGGINGFACE_HUB_CACHE")
    return direct if direct else _join(env.get("HF_HOME", "/root/.cache/huggingface"), "hub")


def _cached(model_id: str, env: Mapping[str, str], volumes: Sequence[Volume]) -> Checkpoint | None:
    """What an earlier download left in a mounted cache."""
    folder = _join(cache_directory(env), "models--" + model_id.replace("/", "--"))
    return local_directory(folder, volumes)


def _join(folder: str, below: str) -> str:
    return "/".join(filter(None, [folder.rstrip("/"), below.strip("/")]))


def _api(model_id: str) -> str:
    return f"{_SITE}/api/models/{model_id}"
