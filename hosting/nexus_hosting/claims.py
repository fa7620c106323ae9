"""Whether a class is the plugin that its release says: hooks that exist, called as they are, and just those that are listed."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from nexus_core.hooks import Plugin, specs
from nexus_core.snapshot import Release
from nexus_marketplace.rejections import PluginRejected

LIFE = frozenset({"start", "stop", "on_config"})
"""Hooks of a plugin's own life: a release may list them or not."""
_ASKED = {hook.asks: hook.name for hook in specs.HOOKS if hook.asks}
_KNOWN = (*specs.BY_NAME, *_ASKED)


def check(kind: type[Any], release: Release) -> None:
    """Raise `PluginRejected` unless the class keeps the contract of hooks."""
    who = f"{release.name} {release.version}"
    if not issubclass(kind, Plugin):
        raise PluginRejected(
            "PluginLoadFailed",
            f"{release.entry_point} of {who} is {kind.__name__}, which is no nexus_sdk.plugin.Plugin. Derive it from that.",
        )
    for name in sorted(each for each in dir(kind) if each.startswith(("on_", "wants_")) and each not in _KNOWN):
        close = difflib.get_close_matches(
            name.removeprefix("on_") if name in ("on_start", "on_stop") else name, _KNOWN, 1
        )
        hint = f"did you mean {close[0]}?" if close else f"hooks are {', '.join(specs.BY_NAME)}."
        raise _invalid(who, kind, f"{name}: {hint} Methods that are no hooks begin with neither on_ nor wants_")
    for name in overridden(kind):
        _check_method(who, kind, name)
    listed, found = set(release.hooks), {name for name in overridden(kind) if name not in _ASKED}
    if not listed:
        return  # a release from before hooks were listed
    missing, unlisted = sorted(listed - found), sorted(found - listed - LIFE)
    if missing:
        near = difflib.get_close_matches(missing[0], _KNOWN, 1)
        known = "" if missing[0] in _KNOWN or not near else f" (did you mean {near[0]}?)"
        raise _invalid(who, kind, f"the release lists the hook {missing[0]}{known}, which the class does not override")
    if unlisted:
        raise _invalid(who, kind, f"it overrides {unlisted[0]}, which the release does not list under hooks")


def overridden(kind: type[Any]) -> tuple[str, ...]:
    """Return the hooks, and the methods that ask for them, that a class has of its own, in their documented order."""
    return tuple(name for name in _KNOWN if getattr(kind, name) is not getattr(Plugin, name))


def _check_method(who: str, kind: type[Any], name: str) -> None:
    method = inspect.getattr_static(kind, name)
    called = getattr(kind, name)
    if not callable(called):
        raise _invalid(who, kind, f"{name} is {type(called).__name__}, not a method")
    spec = specs.BY_NAME.get(name) or specs.BY_NAME[_ASKED[name]]
    # What asks for a hook has its arguments without the body.
    wanted = [argument for argument, _ in spec.arguments if name in specs.BY_NAME or argument != "body"]
    given = [object()] * (len(wanted) + (0 if isinstance(method, staticmethod | classmethod) else 1))
    try:
        signature = inspect.signature(called)
        signature.bind(*given)
    except TypeError as error:
        raise _invalid(
            who,
            kind,
            f"{name} is called as {name}({', '.join(['self', *wanted])}), and yours does not take that: {error}",
        ) from None
    except ValueError:
        return  # made in C, with a signature that nobody knows
    waits = inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)
    if waits and (name in _ASKED or not spec.awaits):
        raise _invalid(who, kind, f"{name} is a coroutine; this hook is called without waiting. Make it a plain `def`")
    if inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called):
        raise _invalid(who, kind, f"{name} is a generator (it has a `yield`); return the result instead")
    if name in ("start", "stop") and not waits:
        raise _invalid(who, kind, f"{name} is no coroutine. Make it `async def`")


def _invalid(who: str, kind: type[Any], what: str) -> PluginRejected:
    return PluginRejected("PluginHooksInvalid", f"{kind.__name__} of {who}: {what}.")
