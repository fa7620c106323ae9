"""What a process runs on, as far as it decides which releases are for it."""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
from pathlib import Path

from nexus_core.hooks import API_VERSION
from packaging.tags import platform_tags


@functools.cache
def runtime_digest() -> str:
    """Return a digest that two processes share to which the same releases are fit: of the plugin API, the Python, the platform with
    its C library, which wheels are made for, and the distributions that are installed. Once; some milliseconds."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    said = [API_VERSION, python, *platform_tags(), *sorted(_installed())]
    return hashlib.sha256("\n".join(said).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _installed() -> set[str]:
    """Names and versions, as the directories of their metadata have them."""
    found: set[str] = set()
    for entry in sys.path:
        try:
            found |= {each.name for each in Path(entry).iterdir() if each.suffix in (".dist-info", ".egg-info")}
        except OSError:
            continue  # no directory: an archive, or it is gone
    return found
