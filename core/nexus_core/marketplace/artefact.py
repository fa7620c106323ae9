"""The artefact: a zip of one import package, the same bytes wherever it is built."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date a zip can hold; the real one would make every build differ."""


def is_part(path: str) -> bool:
    """Whether a file of the package's folder belongs into the artefact. path: with `/`."""
    name = path.rsplit("/", 1)[-1]
    return "__pycache__" not in path.split("/") and (name.endswith(".py") or name == "plugin.yaml")


def build_zip(files: Mapping[str, bytes]) -> bytes:
    """Return the artefact: stored, sorted by name, fixed dates and modes, only what `is_part` keeps.

    files: content by path inside the zip (`<package>/module.py`). Raises ValueError for a path that is absolute or
    leaves the folder.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
                raise ValueError(f"{path!r} cannot be put into an artefact; name files below the package's folder.")
            if not is_part(path):
                continue
            info = zipfile.ZipInfo(path, FIXED_DATE)
            info.compress_type = zipfile.ZIP_STORED
            info.create_system = 3  # Unix, on every system: the byte is part of the digest
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[path])
    return buffer.getvalue()
