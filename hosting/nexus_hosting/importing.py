"""Plugin code in this process: unpacked in memory, imported under a private name, several versions side by side.

What runs is exactly the bytes that were verified: nothing is written to disk and read back. Inside its package a
plugin imports its own modules relatively (`from .keys import …`); an absolute import of its own name would find whatever
is installed under it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import io
import itertools
import sys
import types
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_core.snapshot import Release
from nexus_marketplace.rejections import PluginRejected

MAX_FILES = 256
MAX_UNPACKED_BYTES = 16 * 2**20
_serial = itertools.count(1)


def unpack(data: bytes, package: str) -> dict[str, bytes]:
    """Return the artefact's files by path, all of them inside the package. Raises `PluginRejected`."""
    files: dict[str, bytes] = {}
    total = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES:
                raise _invalid(f"it holds {len(entries)} files; at most {MAX_FILES} are taken")
            for entry in entries:
                name = entry.filename
                parts = name.split("/")
                if "\\" in name or "" in parts[:-1] or ".." in parts or name.startswith("/") or parts[0] != package:
                    raise _invalid(f"{name!r} is not inside the package {package}")
                if entry.is_dir():
                    continue
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _invalid(f"{name!r} is compressed in a way that is not taken")
                # Read with a bound of our own: the size in the directory is the archive's claim.
                with archive.open(entry) as file:
                    content = file.read(MAX_UNPACKED_BYTES - total + 1)
                total += len(content)
                if total > MAX_UNPACKED_BYTES:
                    raise _invalid(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB")
                if name in files:
                    raise _invalid(f"{name!r} is in it twice")
                files[name] = content
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise _invalid(f"it is not a readable zip file ({error})") from error
    if f"{package}/__init__.py" not in files:
        raise _invalid(f"{package}/__init__.py is missing")
    return files


def _invalid(what: str) -> PluginRejected:
    return PluginRejected(
        "PluginArtefactInvalid", f"The plugin's artefact is refused: {what}. Build it with `nexus marketplace build`."
    )


class PluginCode(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """One artefact's importable code. Finds only names below its own private prefix."""

    def __init__(self, release: Release, files: Mapping[str, bytes]) -> None:
        self.prefix = f"_nexus_plugin_{release.sha256[:12]}_{next(_serial)}"
        self._release = release
        self._modules: dict[str, tuple[str, bool]] = {}
        for path, content in files.items():
            if path.endswith(".py"):
                parts = path.removesuffix(".py").split("/")
                package = parts[-1] == "__init__"
                name = ".".join([self.prefix, *(parts[:-1] if package else parts)])
                self._modules[name] = (content.decode("utf-8", "replace"), package)

    def load(self) -> type[Any]:
        """Import the package and return its entry point, a class. Blocking: runs the plugin's top-level code. Raises `PluginRejected`."""
        module_name, _, attribute = self._release.entry_point.partition(":")
        root = types.ModuleType(self.prefix)
        root.__path__ = []
        sys.modules[self.prefix] = root
        sys.meta_path.insert(0, self)
        try:
            module = importlib.import_module(f"{self.prefix}.{module_name}")
            found: Any = module
            for part in attribute.split("."):
                found = getattr(found, part)
        except BaseException as error:  # in a thread of its own: also `sys.exit()` is the plugin's failure, and no more
            self.unload()
            raise PluginRejected(
                "PluginLoadFailed",
                f"{self._release.entry_point} of {self._release.name} {self._release.version} cannot be imported: "
                f"{type(error).__name__}: {error}. Report it to the plugin's publisher.",
            ) from error
        if not isinstance(found, type):
            self.unload()
            raise PluginRejected("PluginLoadFailed", f"{self._release.entry_point} is not a class.")
        return found

    def unload(self) -> None:
        """Forget the modules; instances that still run keep theirs alive."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in [name for name in sys.modules if name == self.prefix or name.startswith(self.prefix + ".")]:
            del sys.modules[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of one of the artefact's modules."""
        found = self._modules.get(fullname)
        if found is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=f"<{fullname}>", is_package=found[1])

    def is_package(self, fullname: str) -> bool:
        """Return whether the module is a package."""
        return self._modules[fullname][1]

    def get_source(self, fullname: str) -> str:
        """Return the module's source."""
        return self._modules[fullname][0]
