"""Archives, unpacked into memory: what could reach beyond its package, or beyond what is held of it, is refused whole."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from nexus_marketplace.rejections import PluginRejected

MAX_FILES = 256
MAX_UNPACKED_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may hold."""

    files: int = MAX_FILES
    unpacked_bytes: int = MAX_UNPACKED_BYTES


def unpack(data: bytes, package: str) -> dict[str, bytes]:
    """Return the artefact's files by path, all of them inside the package. Raises `PluginRejected`."""
    files = read_archive(data, Limits(), _invalid)
    for name in files:
        if name.split("/", 1)[0] != package or "/" not in name:
            raise _invalid(f"{name!r} is not inside the package {package}")
    if f"{package}/__init__.py" not in files:
        raise _invalid(f"{package}/__init__.py is missing")
    return files


def read_archive(data: bytes, limits: Limits, refused: Callable[[str], PluginRejected]) -> dict[str, bytes]:
    """Return an archive's files by path, all of them below where it is unpacked. refused: makes the error of what is wrong, which is
    raised.
    """
    files: dict[str, bytes] = {}
    total = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > limits.files:
                raise refused(f"it holds {len(entries)} files; at most {limits.files} are taken")
            for entry in entries:
                name = entry.filename
                parts = name.removesuffix("/").split("/")
                if "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
                    raise refused(f"{name!r} is not inside the package it is to be unpacked into")
                if not name.isprintable():
                    raise refused(f"{name!r} is not a name of a file")
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise refused(f"{name!r} is neither a file nor a folder, but perhaps a link")
                if entry.is_dir():
                    continue
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise refused(f"{name!r} is compressed in a way that is not taken")
                # Read with a bound of our own: the size in the directory is the archive's claim.
                with archive.open(entry) as file:
                    content = file.read(limits.unpacked_bytes - total + 1)
                total += len(content)
                if total > limits.unpacked_bytes:
                    raise refused(f"it unpacks to more than {limits.unpacked_bytes // 2**20} MiB")
                if name in files:
                    raise refused(f"{name!r} is in it twice")
                files[name] = content
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise refused(f"it is not a readable zip file ({error})") from error
    return files


def _invalid(what: str) -> PluginRejected:
    return PluginRejected(
        "PluginArtefactInvalid", f"The plugin's artefact is refused: {what}. Build it with `nexus marketplace build`."
    )
