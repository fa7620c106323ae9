"""Which modules plugin code may import, and which of their names it sees. A table, and what reads it.

It makes a review of `permissions.modules` mean something: code that asks for nothing reaches no file, socket, process or thread by
ordinary means. It is no jail: Python has none, and hostile code in this process finds a way out. Install what you would run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata

SDK = "nexus_sdk.plugin"
HARMLESS = frozenset(
    [
        "__future__",
        "abc",
        "array",
        "asyncio",
        "base64",
        "binascii",
        "bisect",
        "bz2",
        "calendar",
        "cmath",
        "collections",
        "contextlib",
        "contextvars",
        "copy",
        "csv",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "email",
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "graphlib",
        "gzip",
        "hashlib",
        "heapq",
        "hmac",
        "html",
        "http",
        "io",
        "ipaddress",
        "itertools",
        "json",
        "logging",
        "lzma",
        "math",
        "mimetypes",
        "numbers",
        "operator",
        "pprint",
        "random",
        "re",
        "reprlib",
        "secrets",
        "statistics",
        "string",
        "struct",
        "textwrap",
        "time",
        "traceback",
        "types",
        "typing",
        "unicodedata",
        "urllib.parse",
        "uuid",
        "warnings",
        "weakref",
        "zlib",
        "zoneinfo",
    ]
)
"""Of the standard library."""
WITH_ALL_BELOW = frozenset({"collections", "email", "html", "json", "zoneinfo"})
"""Packages whose modules are as harmless as they are."""
BEHIND = frozenset({"_strptime", "copyreg"})
"""What the interpreter imports on behalf of whoever calls `datetime.strptime` or copies an object: in the caller's name."""
PARTLY = {"os": frozenset({"urandom"})}
"""Modules of which a few names are harmless; the others take their permission."""
WITHHELD = {
    "bz2": frozenset({"BZ2File", "open"}),
    "gzip": frozenset({"GzipFile", "open"}),
    "io": frozenset({"FileIO", "OpenWrapper", "open", "open_code"}),
    "logging": frozenset({"FileHandler", "basicConfig", "disable", "shutdown"}),
    "lzma": frozenset({"LZMAFile", "open"}),
    "mimetypes": frozenset({"MimeTypes", "init", "read_mime_types"}),
    "zoneinfo": frozenset({"reset_tzpath"}),
}
"""Names of harmless modules that reach files, or turn off for everybody what the process needs; with `os` they are there."""
BUILTINS = frozenset({"breakpoint", "compile", "eval", "exec", "input", "open"})
"""Builtins that are there with `os` alone."""
FILES = "os"
"""The module whose permission brings these back: whoever may use it can do all that they do."""


class Rules:
    """What one plugin may import beyond its own code. files: whether it has `os`, and with it what reaches files."""

    def __init__(self, modules: Iterable[str], host: Iterable[str] = ()) -> None:
        """modules: granted ones. host: requirements on what is installed beside Nexus, whose modules may be imported, too."""
        self._whole = frozenset(modules) | {name for text in host for name in _modules_of(text)}
        self.files = FILES in self._whole

    def is_allowed(self, name: str) -> bool:
        """Return whether a module may be imported. name: absolute, dotted."""
        if name in HARMLESS or name in BEHIND or name in PARTLY or name == SDK:
            return True
        parents = _with_parents(name)
        return not self._whole.isdisjoint(parents) or not WITH_ALL_BELOW.isdisjoint(parents)

    def is_whole(self, name: str) -> bool:
        """Return whether a module was asked for and granted: the plugin sees it as it is."""
        return name == SDK or not self._whole.isdisjoint(_with_parents(name))

    def leads_on(self, name: str) -> bool:
        """Return whether a package has something below it that may be imported."""
        below = name + "."
        return any(each.startswith(below) for each in (*self._whole, *HARMLESS, SDK))

    def shows(self, module: str, name: str) -> bool:
        """Return whether the plugin sees a name of a module that it may import."""
        if self.is_whole(module):
            return True
        some = PARTLY.get(module)
        return name in some if some is not None else name not in self.withheld(module)

    def withheld(self, name: str) -> frozenset[str]:
        """Return the names of a harmless module that the plugin does not see."""
        return frozenset() if self.files else WITHHELD.get(name, frozenset())


def told(name: str) -> str:
    """Return why a module may not be imported, and how to fix it, as the end of a sentence."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return (
            f"imports {name}, which it may not: name {top!r} in permissions.modules of its plugin.yaml, and in spec.grants.modules of "
            "the NexusPlugin"
        )
    return (
        f"imports {name}, which is neither its own, nor of a plugin or wheel that its release names: name it under wheels, plugins or "
        "host of its plugin.yaml"
    )


def told_name(module: str, name: str) -> str:
    """Return why a name of a module, or a builtin, may not be used, as the end of a sentence."""
    what = f"{module}.{name}" if module else f"{name}()"
    return (
        f"uses {what}, which it may not: name {FILES!r} in permissions.modules of its plugin.yaml, and in spec.grants.modules of the "
        "NexusPlugin"
    )


def _with_parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


def _modules_of(requirement: str) -> set[str]:
    """Return the import packages of an installed distribution; of a namespace, what it has in there. Empty when it is not installed."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    try:
        files = metadata.files(found[0]) if found is not None else None
    except metadata.PackageNotFoundError:
        return set()
    paths = [path.parts for path in files or () if path.suffix in (".py", ".so", ".pyd")]
    packages = {parts[:-1] for parts in paths if parts[-1] == "__init__.py"}
    names: set[str] = set()
    for parts in paths:
        if parts[0] in ("..", "__pycache__"):
            continue
        if len(parts) == 1:
            names.add(parts[0].partition(".")[0])
            continue
        # The shortest folder on the way that is a package; what is above it is a namespace, which others share.
        own = next((parts[:count] for count in range(1, len(parts)) if parts[:count] in packages), None)
        if own is not None:
            names.add(".".join(own))
    return names
