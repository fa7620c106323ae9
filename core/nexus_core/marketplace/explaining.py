"""Why plugins do not go together, in words, and which versions of them would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nexus_core.marketplace.searching import Demand, Found, Start
from nexus_core.snapshot.plugins import Release

MAX_DEMANDS = 6
"""Demands that a message tells; two or three take part in most contradictions."""


def explain(
    plugin: str,
    plugin_id: str,
    allowed: Sequence[Release],
    demands: Sequence[Demand],
    fits: tuple[Found, Mapping[str, Release]] | None,
    settled: Sequence[Start],
    *,
    tired: bool,
) -> tuple[str, str]:
    """Return what is wrong and how to fix it, as sentences.

    plugin, plugin_id, allowed: of the one that does not fit. fits: the newest that goes together, whatever ranges and update policies
    say, with the release of each plugin by id; None when nothing was found. settled: the older plugins. tired: not all was looked
    through.
    """
    told = [d for d in demands if d.by]
    what = say(demands) or f"{plugin} does not go with the other plugins of the namespace"
    if fits is None:
        missing = sorted({d.about for d in told if not d.there and not d.refuses})
        if missing and len({d.by for d in told}) == 1:
            fix = f"Have {missing[0]} listed in the marketplace, or take a version of {plugin} that does not need it."
            return f"{what}.", fix
        hint = "it was not found out whether other versions fit" if tired else "no versions of them fit each other"
        return f"{what}; {hint}.", "Move one of them into another namespace, or set `enabled: false` of one."
    found, releases = fits
    names = {d.about for d in told} | {d.by.split(" ")[0] for d in told}
    shared = [f"{name} {offer.release.version}" for name, offer in sorted(found.libraries.items()) if name in names]
    shared += [f"{name} {version}" for name, version in sorted(found.wheels.items()) if name in names]
    older = [s for s in settled if s.plugin in names]
    plugins = [f"{s.plugin} {releases[s.id].version}" for s in older] + [f"{plugin} {releases[plugin_id].version}"]
    both = "both" if len(plugins) == 2 else "all" if len(plugins) > 2 else "it"
    newest = " and ".join(plugins)
    newest = f"{', '.join(shared)} with {newest}" if shared else newest
    moves = [(s.id, releases[s.id].version) for s in older if releases[s.id] != s.release]
    if releases[plugin_id] not in allowed:
        moves.append((plugin_id, releases[plugin_id].version))
    fix = " and ".join(f'spec.version of NexusPlugin {i} to "=={version}"' for i, version in moves)
    return f"{what}; newest that fits {both}: {newest}.", f"Set {fix}."


def say(demands: Sequence[Demand]) -> str:
    """Return who asks for what, without a full stop; empty when nobody in particular does."""
    told = [d for d in demands if d.by]
    words = ", ".join(_said(d) for d in told[:MAX_DEMANDS])
    return words if len(told) <= MAX_DEMANDS else f"{words}, and {len(told) - MAX_DEMANDS} more"


def _said(demand: Demand) -> str:
    if demand.refuses:
        return f"{demand.by} conflicts with {demand.text}"
    text = f"{demand.by} needs {demand.text}"
    if demand.there:
        return text
    return f"{text}, which is in no marketplace"
