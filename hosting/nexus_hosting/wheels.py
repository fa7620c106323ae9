"""Wheels of a release: the file for this interpreter, held against what was signed and what it says of itself, unpacked in memory."""

from __future__ import annotations

import base64
import csv
import hashlib
import platform
from collections.abc import Mapping
from email.parser import BytesHeaderParser

from nexus_core.snapshot.plugins import Wheel, WheelNeed
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting.unpacking import Limits, read_archive

LIMITS = Limits(files=4096, unpacked_bytes=64 * 2**20)
_COMPILED = (".so", ".pyd", ".dylib", ".dll")

_MAGICS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
"""Of ELF and of Mach-O."""


def choose(need: WheelNeed) -> Wheel:
    """Return the file that fits this interpreter best. Raises `PluginRejected`: WheelInvalid, with what there is."""
    from packaging.tags import sys_tags  # with the first wheel: most plugins have none
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    rank = {tag: place for place, tag in enumerate(sys_tags())}
    found: list[tuple[int, int, Wheel]] = []
    for number, file in enumerate(need.files):
        try:
            name, version, _, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename as error:
            raise _invalid(file.filename, f"its name is not one of a wheel ({error})") from error
        if name != canonicalize_name(need.name) or str(version) != _normal(need.version):
            raise _invalid(file.filename, f"its name is not that of {need.name} {need.version}")
        places = [rank[tag] for tag in tags if tag in rank]
        if places:
            found.append((min(places), number, file))
    if not found:
        has = ", ".join(file.filename for file in need.files) or "no file at all"
        raise PluginRejected(
            "WheelInvalid",
            f"{need.name} {need.version} has no wheel for Python {platform.python_version()} on {platform.machine()} "
            f"({platform.libc_ver()[0] or platform.system()}). There is {has}. Ask the plugin's publisher to add one.",
        )
    return min(found)[2]


def read(file: Wheel, need: WheelNeed, data: bytes, *, native: bool) -> dict[str, bytes]:
    """Return what of a wheel can be imported, and the data beside it, by path. native: whether it may hold compiled code.

    Raises `PluginRejected`: WheelInvalid, or PluginNotPermitted for compiled code that was not granted.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise PluginRejected(
            "PluginDigestMismatch",
            f"{file.filename} has SHA-256 {digest}, but the plugin's release names {file.sha256}. "
            "Ask who runs the index, or the plugin's publisher, who changed the file.",
        )
    files = read_archive(data, LIMITS, lambda what: _invalid(file.filename, what))
    compiled = sorted(path for path, content in files.items() if is_compiled(path, content))
    if compiled and not native:
        raise PluginRejected(
            "PluginNotPermitted",
            f"The wheel {file.filename} holds compiled code ({compiled[0]}), which was not granted: say nativeCode: true in the "
            "permissions of plugin.yaml, and in spec.grants of the NexusPlugin.",
        )
    info = _info_folder(file, files)
    _check_metadata(file, need, files[f"{info}/METADATA"])
    _check_record(file, info, files)
    return dict(_importable(file, info, files))


def is_compiled(path: str, content: bytes) -> bool:
    """Return whether a file is code for a processor: by its name, or by how it begins."""
    name = path.rpartition("/")[2]
    return name.endswith(_COMPILED) or ".so." in name or content.startswith(_MAGICS)


def merge(into: dict[str, bytes], files: Mapping[str, bytes], origin: str) -> None:
    """Put a wheel's files beside those of others. Raises `PluginRejected` where two have different ones of one name."""
    for path, content in files.items():
        if into.setdefault(path, content) != content:
            raise _invalid(origin, f"{path} is in another wheel of the plugin, too, and differs")


def _info_folder(file: Wheel, files: Mapping[str, bytes]) -> str:
    folders = {path.split("/", 1)[0] for path in files if path.split("/", 1)[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise _invalid(file.filename, f"it has {len(folders)} folders *.dist-info, not one")
    (info,) = folders
    for name in ("METADATA", "RECORD", "WHEEL"):
        if f"{info}/{name}" not in files:
            raise _invalid(file.filename, f"{info}/{name} is missing")
    return info


def _check_metadata(file: Wheel, need: WheelNeed, content: bytes) -> None:
    from packaging.utils import canonicalize_name

    said = BytesHeaderParser().parsebytes(content)
    name, version = str(said.get("Name", "")), str(said.get("Version", ""))
    if canonicalize_name(name) != canonicalize_name(need.name) or _normal(version) != _normal(need.version):
        raise _invalid(
            file.filename, f"its METADATA says that it is {name!r} {version!r}, not {need.name} {need.version}"
        )


def _check_record(file: Wheel, info: str, files: Mapping[str, bytes]) -> None:
    """Hold each file against RECORD (PEP 376, the binary distribution format): none differs, none is in one of them alone."""
    record = f"{info}/RECORD"
    listed: dict[str, str] = {}
    for row in csv.reader(files[record].decode("utf-8", "replace").splitlines()):
        if len(row) < 2 or row[0] in listed:
            raise _invalid(
                file.filename, f"its RECORD has a line that is not `path,hash,size`: {','.join(row)[:100]!r}"
            )
        listed[row[0]] = row[1]
    unsigned = {record, f"{record}.jws", f"{record}.p7s"}
    for path, content in files.items():
        if path in unsigned:
            continue
        algorithm, _, wanted = listed.get(path, "").partition("=")
        if algorithm not in ("sha256", "sha384", "sha512"):
            raise _invalid(file.filename, f"its RECORD has no hash of {path}")
        found = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
        if found != wanted:
            raise _invalid(file.filename, f"{path} is not what its RECORD says")
    missing = sorted(listed.keys() - files.keys() - unsigned)
    if missing:
        raise _invalid(file.filename, f"its RECORD lists {missing[0]}, which is not in it")


def _importable(file: Wheel, info: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files by where they would be in site-packages; scripts, headers and data for elsewhere are left out."""
    data = f"{info.removesuffix('.dist-info')}.data/"
    found: dict[str, bytes] = {}
    for path, content in files.items():
        place = path
        if path.startswith(data):
            kind, _, place = path.removeprefix(data).partition("/")
            if kind not in ("purelib", "platlib") or not place:
                continue
        if place in found:
            raise _invalid(file.filename, f"{place} is in it twice")
        if not place.endswith(".pth"):  # runs at the start of an interpreter, and nowhere here
            found[place] = content
    return found


def _normal(version: str) -> str:
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(version))
    except InvalidVersion:
        return version


def _invalid(filename: str, what: str) -> PluginRejected:
    return PluginRejected(
        "WheelInvalid", f"The wheel {filename} is refused: {what}. Ask the plugin's publisher for another one."
    )
