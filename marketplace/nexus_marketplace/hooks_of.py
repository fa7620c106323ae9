"""Which hooks a plugin's class has, read from its source: nothing of it runs."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nexus_core.hooks.specs import ASKING, BY_NAME

BEFORE_1_1 = frozenset({"on_request", "on_response", "start", "stop"})
"""What a release that lists no hooks may have."""


@dataclass(frozen=True, slots=True)
class _Class:
    path: str
    node: ast.ClassDef


class Sources:
    """The modules of one package. A module whose text is no Python raises SyntaxError at once."""

    def __init__(self, files: Mapping[str, bytes], package: str) -> None:
        """files: content by path in the artefact."""
        self._package = package
        self._trees = {
            path: ast.parse(content, path) for path, content in sorted(files.items()) if path.endswith(".py")
        }

    def hook_faults(self, entry_point: str, listed: tuple[str, ...]) -> list[str]:
        """Return what is wrong with the class and its list of hooks; empty when both agree."""
        module, _, name = entry_point.partition(":")
        path = self._path(module)
        if path is None:
            return [f".entryPoint: there is no module {module} in {self._package}. Correct it, or add the file."]
        lineage, whole = self._lineage(path, name)
        if not lineage:
            return [f".entryPoint: {path} has no class {name}. Correct it, or define the class there."]
        found: list[str] = []
        overridden: dict[str, str] = {}
        for each in reversed(lineage):
            for method, node in _methods(each.node):
                where = f"{each.path} line {node.lineno}"
                if method in BY_NAME:
                    overridden[method] = where
                    found += _signature_faults(method, node, where)
                elif method.startswith(("on_", "wants_")) and method not in ASKING:
                    near = difflib.get_close_matches(method, [*BY_NAME, *ASKING], 1)
                    fix = f"Did you mean {near[0]}?" if near else "Begin its name with an underscore, if it is yours."
                    found.append(f"{where}: {method} is no hook. {fix}")
        missing = sorted(set(overridden) - set(listed))
        if not listed and set(overridden) <= BEFORE_1_1:
            missing = []
        for method in missing:
            found.append(
                f".hooks: {method} ({overridden[method]}) is not listed. Write hooks: [{', '.join(sorted(overridden))}]."
            )
        # A base from elsewhere may bring hooks that cannot be seen here.
        if whole:
            found += [
                f".hooks: {name} does not have {each}. Take it out, or write it."
                for each in sorted(set(listed) - set(overridden))
            ]
        return found

    def own_imports(self) -> Iterator[str]:
        """Yield each import of the package by its absolute name: in a gateway that is another version, or nothing."""
        for path, tree in self._trees.items():
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                if any(name.split(".")[0] == self._package for name in names):
                    yield (
                        f"{path} line {getattr(node, 'lineno', 0)} imports {self._package} by its absolute name. "
                        "Write a relative import (`from .module import name`)."
                    )

    def _path(self, module: str) -> str | None:
        base = module.replace(".", "/")
        return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in self._trees), None)

    def _lineage(self, path: str, name: str, depth: int = 0) -> tuple[list[_Class], bool]:
        """Return the class and its bases inside the package, nearest first; and whether all of its bases are known."""
        if depth > 16:
            return [], False
        for node in self._trees[path].body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                lineage, whole = [_Class(path, node)], True
                for base in node.bases:
                    if isinstance(base, ast.Name) and base.id in ("Plugin", "object", "Generic", "Protocol", "ABC"):
                        continue
                    above, known = (
                        self._lineage(path, base.id, depth + 1) if isinstance(base, ast.Name) else ([], False)
                    )
                    lineage += above
                    whole = whole and known and bool(above)
                return lineage, whole
            if isinstance(node, ast.ImportFrom) and node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        origin = self._path(_absolute(path, node))
                        if origin is not None:
                            return self._lineage(origin, alias.name, depth + 1)
        return [], False


def _absolute(path: str, node: ast.ImportFrom) -> str:
    # `pkg/sub/mod.py` is in `pkg.sub`; `pkg/sub/__init__.py` is too.
    parts = path.split("/")[:-1]
    parts = parts[: len(parts) - (node.level - 1)] if node.level > 1 else parts
    return ".".join([*parts, *(node.module.split(".") if node.module else [])])


def _methods(node: ast.ClassDef) -> Iterator[tuple[str, ast.stmt]]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield each.name, each
        elif isinstance(each, ast.Assign):
            for target in each.targets:
                if isinstance(target, ast.Name):
                    yield target.id, each


def _signature_faults(hook: str, node: ast.stmt, where: str) -> Iterator[str]:
    spec = BY_NAME[hook]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    if isinstance(node, ast.AsyncFunctionDef) and not spec.awaits:
        yield f"{where}: {hook} cannot be a coroutine. Write `def` in place of `async def`."
    if hook in ("start", "stop") and isinstance(node, ast.FunctionDef):
        yield f"{where}: {hook} has to be a coroutine. Write `async def`."
    arguments = node.args
    if arguments.vararg is not None or node.decorator_list:
        return
    named = len(arguments.posonlyargs) + len(arguments.args)
    wanted = 1 + len(spec.arguments)
    if not named - len(arguments.defaults) <= wanted <= named or any(
        default is None for default in arguments.kw_defaults
    ):
        names = ", ".join(["self", *(name for name, _ in spec.arguments)])
        yield f"{where}: {hook} is called with ({names}). Write it with these."
