"""Reads manifests from files. What is in them is `nexus_core`'s business."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nexus_core.model.load import parse_text
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem, sort_problems

from nexus_cli.errors import UserError

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 16 * 1024 * 1024
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Manifests:
    """What some files say. resources: with the file each is from, in the files' order. problems: of files and resources."""

    resources: tuple[tuple[Resource, Path], ...]
    problems: tuple[Problem, ...]
    files: tuple[Path, ...]

    def origin(self, ref: ObjectRef) -> Path | None:
        """Return the file an object is from."""
        return next((path for resource, path in self.resources if resource.ref == ref), None)


def find_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the manifests: files as given, and those directly in directories (as `kubectl apply -f DIR` takes them).

    Raises UserError for a path that is not there, cannot be read, or holds no manifest.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = _inside(path)
            if not inside:
                raise UserError(f"{path} holds no manifests ({', '.join(SUFFIXES)}). Name a directory that does.")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist. Name a directory of manifests, such as examples/shop.")
    return tuple(dict.fromkeys(found))


def _inside(directory: Path) -> list[Path]:
    try:
        named = (p for p in directory.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
        # A symbolic link to nothing is a manifest that cannot be read, not one that is not there.
        return sorted(p for p in named if p.is_file() or (p.is_symlink() and not p.exists()))
    except OSError as error:
        raise UserError(f"{directory} cannot be read: {error.strerror}. Check its permissions.") from error


def load(paths: Iterable[Path]) -> Manifests:
    """Read and parse. Raises UserError as `find_files`; what is wrong inside the files becomes problems."""
    files = find_files(paths)
    resources: list[tuple[Resource, Path]] = []
    problems: list[Problem] = []
    for path in files:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(
                    f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB. Is it a manifest? Split or move it."
                )
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 ({error.reason})"
            raise UserError(f"{path} cannot be read: {why}. Mend or move the file.") from error
        parsed, wrong = parse_text(text, str(path))
        problems.extend(wrong)
        for resource in parsed:
            resources.append((resource, path))
            # What a readable object says beyond what Nexus implements, translation tells: it knows what may be left out.
            problems.extend(p for p in resource.problems if resource.spec is None or p.reason != "UnsupportedValue")
    return Manifests(tuple(resources), sort_problems(problems), files)


def stamp(directory: Path) -> Stamp:
    """Return what changes when a manifest in the directory does; empty when the directory cannot be read."""
    entries: list[tuple[str, int, int]] = []
    try:
        for path in _inside(directory):
            status = path.lstat() if path.is_symlink() and not path.exists() else path.stat()
            entries.append((path.name, status.st_mtime_ns, status.st_size))
    except (OSError, UserError):
        return ()
    return tuple(entries)
