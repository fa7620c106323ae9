"""Plugin code, read before it runs: what it imports and uses that it may not, with file and line.

What is only seen while it runs (`__import__` of a name that is made up, a wheel's imports) the guard sees. An import that the code can do
without (`try: … except ImportError`) or that only type checkers read is not held against it here: the guard refuses it, and it goes on.
"""

from __future__ import annotations

import ast
import contextlib
import threading
from collections.abc import Iterator, Mapping

from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import modules
from nexus_hosting.modules import Rules

_INNARDS = frozenset(
    {
        "__builtins__",
        "__globals__",
        "__loader__",
        "__spec__",
        "__subclasses__",
        "f_builtins",
        "f_globals",
        "f_back",
        "tb_frame",
    }
)
"""Attributes that lead out of a plugin's own objects; with `inspect` they are its to use."""
_INSPECT = "inspect"
_PARSES = 20
"""Tries, against parsers that are not ours."""
_PARSING = threading.Lock()
"""One at a time: to build a tree, CPython before 3.13 counts its depth in one place for all threads, and fails with SystemError where
two plugins that are loaded at once get in each other's way (gh-106905).
"""


def check(files: Mapping[str, bytes], own: frozenset[str], rules: Rules, who: str) -> None:
    """Raise `PluginRejected` for the first thing that the code may not do.

    files: by path, `<package>/module.py`. own: top-level names that are the plugin's. who: the release, for the message.
    """
    for path in sorted(files):
        if not path.endswith(".py"):
            continue
        try:
            tree = _parse(files[path], path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 0
            raise PluginRejected(
                "PluginLoadFailed",
                f"{who}: {path} line {line} is not Python: {getattr(error, 'msg', None) or error}. "
                "Report it to the plugin's publisher.",
            ) from error
        for line, what in sorted(_found(tree, own, rules)):
            raise PluginRejected("PluginNotPermitted", f"{who}: {path} line {line} {what}.")


def _parse(source: bytes, path: str) -> ast.Module:
    """Return what `ast.parse` does, whichever other threads parse something. Raises what it raises for what is no Python."""
    for _ in range(_PARSES):
        with contextlib.suppress(SystemError), _PARSING:
            return ast.parse(source, path)
    return ast.parse(source, path)


def _found(tree: ast.Module, own: frozenset[str], rules: Rules) -> Iterator[tuple[int, str]]:
    bound = {
        *(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)),
        *(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)),
        *(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)),
        *(alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
          for alias in node.names),
    }  # fmt: skip
    partly = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names if alias.name in modules.PARTLY
    }  # fmt: skip
    inspects = rules.is_whole(_INSPECT)
    for node in _walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield from _import(node.lineno, alias.name, own, rules)
            case ast.ImportFrom(module=str(name), level=0, names=names):
                yield from _import_from(node.lineno, name, [alias.name for alias in names], own, rules)
            case ast.Call(func=ast.Name(id="__import__"), args=[ast.Constant(value=str(name)), *_]):
                yield from _import(node.lineno, name, own, rules)
            case ast.Name(id=name, ctx=ast.Load()) if (
                name in modules.BUILTINS and name not in bound and not rules.files
            ):
                yield node.lineno, modules.told_name("", name)
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in partly and not rules.shows(
                partly[module], name
            ):
                yield node.lineno, modules.told_name(partly[module], name)
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in _INNARDS and not inspects:
                yield (
                    node.lineno,
                    (
                        f"uses {name}, which it may not: name {_INSPECT!r} in permissions.modules of its plugin.yaml, and in "
                        "spec.grants.modules of the NexusPlugin"
                    ),
                )


def _import(line: int, name: str, own: frozenset[str], rules: Rules) -> Iterator[tuple[int, str]]:
    if name.partition(".")[0] not in own and not rules.is_allowed(name) and not rules.leads_on(name):
        yield line, modules.told(name)


def _import_from(
    line: int, name: str, names: list[str], own: frozenset[str], rules: Rules
) -> Iterator[tuple[int, str]]:
    if name.partition(".")[0] in own:
        return
    if not rules.is_allowed(name):
        if not rules.leads_on(name):
            yield line, modules.told(name)
            return
        for each in names:
            inner = f"{name}.{each}"
            if not rules.is_allowed(inner) and not rules.leads_on(inner):
                yield line, modules.told(inner)
    for each in names:
        if each != "*" and not rules.shows(name, each):
            yield line, modules.told_name(name, each)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes, without what only type checkers read and imports that the code can do without."""
    yield node
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        children = list(node.orelse)
    elif isinstance(node, ast.Try) and any(_takes_import_errors(handler.type) for handler in node.handlers):
        children = [
            child for child in children if not (child in node.body and isinstance(child, ast.Import | ast.ImportFrom))
        ]
    for child in children:
        yield from _walk(child)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _takes_import_errors(kind: ast.expr | None) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(_takes_import_errors(each) for each in kind.elts)
    return isinstance(kind, ast.Name) and kind.id in ("ImportError", "ModuleNotFoundError")
