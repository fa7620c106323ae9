"""Compiled code of wheels, on disk: the system loads it from files alone. A directory for each wheel, named by its digest."""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nexus_marketplace.rejections import PluginRejected

from nexus_hosting.wheels import is_compiled


def lay_out(cache: Path, sha256: str, files: Mapping[str, bytes]) -> dict[str, Path]:
    """Put a wheel's compiled files into the cache, unless they are there; return where its extension modules are, by path in the wheel.

    files: of the wheel, from `wheels.read`: no path in it leaves the wheel. What is there already is held against them, byte by byte.
    Blocking. Raises `PluginRejected`.
    """
    compiled = {path: content for path, content in files.items() if is_compiled(path, content)}
    if not compiled:
        return {}
    folder = cache / "native" / sha256
    try:
        if not _holds(folder, compiled):
            _write(folder, compiled)
    except OSError as error:
        raise PluginRejected(
            "WheelInvalid",
            f"Compiled code cannot be put into the plugin cache ({folder}: {error.strerror or error}). "
            "Give the process a cache that it can write to.",
            retryable=True,
        ) from error
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return {path: folder / path for path in compiled if path.endswith(suffixes)}


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / path).read_bytes() == content for path, content in files.items())
    except OSError:
        return False


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder whole, beside its place, and move it there; one that is damaged goes first."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for path, content in files.items():
            place = fresh / path
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o500)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        try:
            fresh.replace(folder)
        except OSError:
            # There already: from another worker that was faster, or damaged.
            if not _holds(folder, files):
                former = Path(tempfile.mkdtemp(dir=folder.parent))
                folder.replace(former)
                shutil.rmtree(former, ignore_errors=True)
                fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
