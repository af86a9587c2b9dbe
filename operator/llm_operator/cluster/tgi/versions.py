"""Which release an image is, and what its options and defaults were.

Decides from the image's tag alone; refuses to know what the options mean. Tags without a release
(`latest`, `sha-...`, none) count as the newest one simulated here.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple


class Version(NamedTuple):
    """A release. `patch` of a tag such as `3.3` is the newest patch of that line."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


NEWEST = Version(3, 3, 7)
_LAST_PATCH = {
    (1, 0): 3,
    (1, 1): 1,
    (1, 4): 5,
    (2, 0): 4,
    (2, 1): 1,
    (2, 3): 1,
    (2, 4): 1,
    (3, 0): 2,
    (3, 1): 1,
    (3, 2): 3,
    (3, 3): 7,
}


def of_image(image: str) -> Version:
    """The release that an image reference names; hardware suffix and digest are left aside."""
    name = image.split("@", 1)[0].rsplit("/", 1)[-1]
    tag = name.partition(":")[2]
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?![\d.])", tag)
    if not found:
        return NEWEST
    major, minor = int(found[1]), int(found[2])
    patch = int(found[3]) if found[3] else _LAST_PATCH.get((major, minor), 0)
    return Version(major, minor, patch)


def reported(version: Version) -> str:
    """What the router says of itself. The source's number was not raised for 3.3.6 and 3.3.7."""
    return "3.3.6-dev0" if version >= (3, 3, 6) else str(version)


def commit(version: Version) -> str:
    """A stand-in for the commit that an image was built from: 40 hex digits, fixed per release."""
    return hashlib.sha1(f"tgi {version}".encode(), usedforsecurity=False).hexdigest()


def needs_root(version: Version) -> bool:
    """From 3.1.1 on the image keeps its Python library below /root."""
    return version >= (3, 1, 1)


def forwards_sigterm(version: Version) -> bool:
    """2.0 to 2.3 started the launcher under a shell that kept SIGTERM to itself."""
    return not (2, 0, 0) <= version < (2, 4, 0)


def image_environment(version: Version) -> dict[str, str]:
    """The variables baked into the CUDA image."""
    cache = {"HF_HOME": "/data"} if version >= (2, 3, 0) else {"HUGGINGFACE_HUB_CACHE": "/data"}
    return {"HF_HUB_ENABLE_HF_TRANSFER": "1", "PORT": "80", **cache}
