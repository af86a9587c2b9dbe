"""Which environment variables of the engine a user may set.

Decides names only. Everything else is refused: an option of the engine is a typed field, a token is
a secret reference, and what changes which code a process loads is no option at all.
"""

from __future__ import annotations

from typing import Final

ALLOWED_ENV: Final = (
    "CUDA_LAUNCH_BLOCKING",
    "DISABLE_EXLLAMA",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ENABLE_HF_TRANSFER",
    "LOG_LEVEL",
    "MAX_IMAGE_FETCH_SIZE",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TGI_WIGGLE_ROOM",
    "USE_CUTLASS_W8A8",
)
"""Exact names."""

ALLOWED_ENV_PREFIX: Final = "NCCL_"
"""A family of names: how GPUs talk with each other depends on the machine."""

REFUSED_ENV_PART: Final = "PLUGIN"
"""...but NCCL_*PLUGIN* names a shared library to load."""


def env_allowed(name: str) -> bool:
    """Whether a user may set the environment variable `name` on the engine."""
    family = name.startswith(ALLOWED_ENV_PREFIX) and REFUSED_ENV_PART not in name
    return family or name in ALLOWED_ENV
