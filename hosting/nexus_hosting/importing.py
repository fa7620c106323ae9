"""Plugin code in this process: in memory, imported under a private name, several versions side by side.

What runs is exactly the bytes that were verified: nothing is written to disk and read back, but for extension modules of wheels, which
the system loads from files alone. The plugin's package, the plugins it imports and its wheels live below one prefix of their own; the
guard maps their public names there.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import itertools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import abc as resources
from pathlib import Path
from typing import Any

from nexus_core.hooks import NotGranted
from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import Permissions
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import letting_go, reading
from nexus_hosting.guarding import Guard, ImportRefused
from nexus_hosting.modules import Rules
from nexus_hosting.packages import Folder

PREFIX = "_nexus_plugin_"
_serial = itertools.count(1)


class PluginCode(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """The importable code of one plugin instance. Finds only names below its own private prefix."""

    def __init__(
        self,
        release: Release,
        files: Mapping[str, bytes],
        *,
        libraries: Sequence[tuple[Release, Mapping[str, bytes]]] = (),
        wheels: Mapping[str, bytes] | None = None,
        extensions: Mapping[str, Path] | None = None,
        granted: Permissions = Permissions(),  # noqa: B008  # frozen
        replaced: Mapping[str, types.ModuleType] | None = None,
    ) -> None:
        """files: of the release's package, by path. libraries: releases it imports, with theirs. wheels: files of all its wheels.
        extensions: where the system finds the extension modules of these, by path. replaced: see `Guard`.
        """
        self.prefix = f"{PREFIX}{release.sha256[:12]}_{next(_serial)}"
        self._release = release
        self._checked: list[tuple[Release, Mapping[str, bytes]]] = [(release, files), *libraries]
        self._files: dict[str, bytes] = dict(wheels or {})
        for _, each in self._checked:
            self._files.update(each)
        self._extensions = dict(extensions or {})
        self._modules = dict(self._find_modules())
        own = frozenset(name.split(".", 1)[0] for name in self._modules)
        host = [text for each, _ in self._checked for text in each.host]
        self._rules = Rules(granted.modules, host)
        self._own = own
        self._guard = Guard(self.prefix, own, self._rules, replaced or {})

    def load(self) -> type[Any]:
        """Import the package and return its entry point, a class. Blocking: runs the plugin's top-level code. Raises `PluginRejected`."""
        who = f"{self._release.name} {self._release.version}"
        for release, files in self._checked:
            reading.check(files, self._own, self._rules, f"{release.name} {release.version}")
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
            refused = refusal_in(error)
            rejected = PluginRejected(
                "PluginNotPermitted" if refused is not None else "PluginLoadFailed",
                f"{who}: {refused}"
                if refused is not None
                else f"{self._release.entry_point} of {who} cannot be imported: {self._at(error)}{type(error).__name__}: {error}. "
                "Report it to the plugin's publisher.",
            )
            self.unload()
            raise rejected from without_frames(error)
        if not isinstance(found, type):
            self.unload()
            raise PluginRejected("PluginLoadFailed", f"{self._release.entry_point} is not a class.")
        return found

    def is_own(self, name: str) -> bool:
        """Return whether a module is this code's. name: its private one."""
        return name.startswith(f"{self.prefix}.")

    def modules(self) -> list[types.ModuleType]:
        """Return the modules that are imported."""
        return [module for name, module in list(sys.modules.items()) if self.is_own(name)]

    def unload(self) -> None:
        """Forget the modules and take them apart, so that what they held is free. Whatever still runs of them fails."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        gone = self.modules()
        for name in [name for name in sys.modules if name == self.prefix or self.is_own(name)]:
            del sys.modules[name]
        letting_go.take_apart(gone, self.prefix)
        self._guard.close()
        self._files.clear()
        self._checked.clear()
        self._modules.clear()

    # ---- finding

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of one of the code's modules."""
        if not self.is_own(fullname):
            return None
        name = fullname[len(self.prefix) + 1 :]
        found = self._modules.get(name)
        if found is None:
            return None
        where = self._extensions.get(found)
        if where is not None:
            extension = importlib.machinery.ExtensionFileLoader(fullname, str(where))
            return importlib.machinery.ModuleSpec(fullname, extension, origin=str(where))
        is_package = self.is_package(fullname)
        return importlib.machinery.ModuleSpec(fullname, self, origin=self._origin(found), is_package=is_package)

    # ---- loading

    def exec_module(self, module: types.ModuleType) -> None:
        """Run a module's code, with the plugin's own builtins."""
        path = self._modules[module.__name__[len(self.prefix) + 1 :]]
        origin = self._origin(path)
        module.__dict__["__builtins__"] = self._guard.builtins
        module.__dict__["__file__"] = origin
        content = self._files.get(path, b"")  # none: a folder without __init__.py
        exec(compile(content, origin, "exec", dont_inherit=True), module.__dict__)

    def is_package(self, fullname: str) -> bool:
        """Return whether the module is a package."""
        path = self._modules[fullname[len(self.prefix) + 1 :]]
        return path.endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        """Return the module's source."""
        return importlib.util.decode_source(self._files.get(self._modules[fullname[len(self.prefix) + 1 :]], b""))

    def get_data(self, path: str) -> bytes:
        """Return a file beside the modules, for `pkgutil.get_data`. path: below `__file__`'s folder. Raises OSError."""
        try:
            return self._files[path.removeprefix(f"<{self.prefix}>/")]
        except KeyError as error:
            raise FileNotFoundError(path) from error

    def get_resource_reader(self, fullname: str) -> resources.TraversableResources:
        """Return what `importlib.resources` reads a package's files with."""
        folder = self._modules[fullname[len(self.prefix) + 1 :]].rpartition("/")[0]
        return Resources(Folder(self._files, folder))

    # ---- inside

    def _find_modules(self) -> Iterator[tuple[str, str]]:
        """Yield the public names of the modules with their paths; a folder without `__init__.py` has one that is not there."""
        for path in self._files:
            if path.endswith(".py"):
                parts = path.removesuffix(".py").split("/")
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
            if path.endswith(".py") or path in self._extensions:
                folders = path.split("/")[:-1]
                for count in range(1, len(folders) + 1):
                    if "/".join([*folders[:count], "__init__.py"]) not in self._files:
                        yield ".".join(folders[:count]), "/".join([*folders[:count], "__init__.py"])
        for path in self._extensions:
            *folders, last = path.split("/")
            yield ".".join([*folders, last.partition(".")[0]]), path

    def _origin(self, path: str) -> str:
        return f"<{self.prefix}>/{path}"

    def _at(self, error: BaseException) -> str:
        """Return `file line n: ` of the code's last line that ran, empty when none did."""
        traceback, found = error.__traceback__, ""
        while traceback is not None:
            file = traceback.tb_frame.f_code.co_filename
            if file.startswith(f"<{self.prefix}>/"):
                found = f"{file.partition('>/')[2]} line {traceback.tb_lineno}: "
            traceback = traceback.tb_next
        return found


class Resources(resources.TraversableResources):
    """A package's files."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def files(self) -> Folder:
        """Return the package's folder."""
        return self._folder


def refusal_in(error: BaseException | None) -> BaseException | None:
    """Return what was refused, when that is why something failed: the error, or what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ImportRefused | NotGranted):
            return error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def without_frames(error: BaseException) -> BaseException:
    """Return the error without its traceback, which would keep the plugin's frames, and all they hold, for as long as it is known."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        at.__traceback__ = None
        at = at.__cause__ or at.__context__
    return error
