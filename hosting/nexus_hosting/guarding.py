"""What `import` means in a plugin's code: its own modules by their public names, of all others those that it may have.

Each module of a plugin has the plugin's own builtins, and `__import__` among them. Harmless modules of the standard library come as
views: their names without those that lead elsewhere (`json.codecs`, `io.open`). A view is the plugin's own, so that nothing it does to
one reaches anybody else.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import random
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from nexus_core.hooks import NotGranted

from nexus_hosting import modules
from nexus_hosting.modules import Rules

_NOT_SHOWN = frozenset({"__builtins__", "__cached__", "__file__", "__loader__", "__path__", "__spec__"})


class ImportRefused(ImportError):
    """Plugin code imports what it may not. Where, what, and how to fix it. An ImportError: what can do without goes on."""


class Guard:
    """The imports of one plugin. prefix: of the private names of its modules. own: top-level names it has under that prefix."""

    def __init__(
        self, prefix: str, own: frozenset[str], rules: Rules, replaced: Mapping[str, types.ModuleType]
    ) -> None:
        """replaced: what it sees in place of some modules, by their names."""
        self._prefix = prefix
        self._own = own
        self._rules = rules
        self._views: dict[str, types.ModuleType] = {
            name: each for name, each in replaced.items() if not rules.is_whole(name)
        }
        self.builtins: dict[str, Any] = {
            name: value for name, value in vars(builtins).items() if rules.files or name not in modules.BUILTINS
        }
        if not rules.files:
            self.builtins.update({name: _refusing("", name) for name in modules.BUILTINS})
        self.builtins["__import__"] = self.import_

    def close(self) -> None:
        """Let go of everything: of the views, and of the builtins of whatever code still holds them."""
        for name, view in self._views.items():
            if view is not sys.modules.get(name):  # what it saw as it is belongs to everybody
                view.__dict__.clear()
        self._views.clear()
        self.builtins.clear()

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002  # the names of `__import__`
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        """Return what `__import__` does, of what the plugin may have. Raises `ImportRefused`, ImportError and what the module raises."""
        if level:
            package = str((globals or {}).get("__package__") or "")
            found = importlib.util.resolve_name("." * level + name, package)
            if not found.startswith(f"{self._prefix}."):
                self._refuse(found or name)
            return self._own_module(found, fromlist)
        top = name.partition(".")[0]
        if top in self._own:
            private = f"{self._prefix}.{name}"
            if fromlist:
                return self._own_module(private, fromlist)
            importlib.import_module(private)
            return sys.modules[f"{self._prefix}.{top}"]
        if not fromlist:
            for end in [place for place, sign in enumerate(name) if sign == "."]:
                self._foreign(name[:end])
            self._foreign(name)
            return self._foreign(top)
        module = self._foreign(name)
        for each in fromlist:
            self._check_name(module, name, each)
        return module

    def import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        """Return what `importlib.import_module` does, of what the plugin may have."""
        if name.startswith("."):
            name = importlib.util.resolve_name(name, package)
        public = name.removeprefix(f"{self._prefix}.")
        self.import_(public)
        if public.partition(".")[0] in self._own:
            return sys.modules[f"{self._prefix}.{public}"]
        return self._foreign(public)

    def private(self, name: str) -> str:
        """Return the private name of one of the plugin's own modules; any other name as it is."""
        return f"{self._prefix}.{name}" if name.partition(".")[0] in self._own else name

    def _own_module(self, private: str, fromlist: Sequence[str] | None) -> types.ModuleType:
        return importlib.__import__(private, {}, {}, tuple(fromlist or ("__name__",)), 0)

    def _foreign(self, name: str) -> types.ModuleType:
        """Return a module that is not the plugin's, as it may see it."""
        view = self._views.get(name)
        if view is not None:
            return view
        allowed = self._rules.is_allowed(name)
        if not allowed and not self._rules.leads_on(name):
            self._refuse(name)
        real = importlib.import_module(name)
        if self._rules.is_whole(name):
            view = self._replaced(real) if name in ("importlib", "importlib.resources") else real
        elif allowed:
            view = self._view(real)
        else:
            view = types.ModuleType(name, real.__doc__)
        self._views[name] = view
        parent, _, last = name.rpartition(".")
        if parent and not self._rules.is_whole(parent):
            setattr(self._foreign(parent), last, view)
        return view

    def _view(self, real: types.ModuleType) -> types.ModuleType:
        """Return a module of its own with the real one's names, without other modules and what is withheld."""
        name = real.__name__
        view = types.ModuleType(name, real.__doc__)
        # Before its modules: `collections.abc` is in `collections`.
        self._views[name] = view
        withheld = self._rules.withheld(name)
        chance = random.Random() if real is random else None
        for each, value in list(vars(real).items()):
            if each in _NOT_SHOWN:
                continue
            if chance is not None and isinstance(getattr(value, "__self__", value), random.Random):
                # The module's functions are methods of one generator: whoever seeds it decides what everybody draws.
                view.__dict__[each] = getattr(chance, each, chance)
                continue
            if each in withheld:
                view.__dict__[each] = _refusing(name, each)
            elif not self._rules.shows(name, each):
                continue
            elif not isinstance(value, types.ModuleType):
                view.__dict__[each] = value
            elif value.__name__.startswith(f"{name}.") and self._rules.is_allowed(value.__name__):
                view.__dict__[each] = self._foreign(value.__name__)
        if name in modules.PARTLY:
            view.__dict__["__getattr__"] = _refusing_all(name)
        names = getattr(real, "__all__", None)
        if names is not None:
            view.__dict__["__all__"] = [each for each in names if each in view.__dict__ and each not in withheld]
        return view

    def _replaced(self, real: types.ModuleType) -> types.ModuleType:
        """Return importlib, or its resources, in which the plugin's own modules have their public names."""
        module = types.ModuleType(real.__name__, real.__doc__)
        module.__dict__.update({name: value for name, value in vars(real).items() if name not in _NOT_SHOWN})
        if real.__name__ == "importlib":
            module.__dict__["import_module"] = self.import_module
            module.__dict__["__import__"] = self.import_
        else:
            files = real.files
            module.__dict__["files"] = lambda anchor: files(self.private(anchor) if isinstance(anchor, str) else anchor)
        return module

    def _check_name(self, module: types.ModuleType, name: str, each: str) -> None:
        """Import `name.each` if it is a module; raise for what is withheld, rather than let the name be missing."""
        if each == "*":
            return
        if not self._rules.shows(name, each) and hasattr(sys.modules.get(name), each):
            self._fail(modules.told_name(name, each))
        if hasattr(module, each):
            return
        inner, real = f"{name}.{each}", sys.modules.get(name)
        found = getattr(real, each, None)
        if isinstance(found, types.ModuleType) and not self._rules.is_allowed(found.__name__):
            self._refuse(found.__name__)
        if self._rules.is_allowed(inner) or self._rules.leads_on(inner):
            try:
                self._foreign(inner)
            except ModuleNotFoundError as error:
                if error.name != inner:
                    raise
                # `import` says itself that there is no such name.
        elif hasattr(real, "__path__") and importlib.util.find_spec(inner) is not None:
            self._refuse(inner)

    def _refuse(self, name: str) -> NoReturn:
        self._fail(modules.told(name))

    def _fail(self, what: str) -> NoReturn:
        raise ImportRefused(f"{place(self._prefix)}{what}.")


def place(prefix: str) -> str:
    """Return `file line n `, of the plugin's code that is running, empty when none is. prefix: of its modules."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(f"<{prefix}>/"):
            return f"{file.partition('>/')[2]} line {frame.f_lineno} "
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _refusing(module: str, name: str) -> Callable[..., NoReturn]:
    """Return what stands in the place of a name that is withheld."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise NotGranted(f"The plugin {modules.told_name(module, name)}.")

    refused.__name__ = refused.__qualname__ = name
    return refused


def _refusing_all(module: str) -> Callable[[str], NoReturn]:
    """Return a module's `__getattr__`: says of names that are withheld what they take."""

    def missing(name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotGranted(f"The plugin {modules.told_name(module, name)}.")

    return missing
