"""Why plugins do not go together, in words, and which versions of them would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nexus_core.marketplace.searching import Demand, Found, Start

MAX_DEMANDS = 6
"""Demands that a message tells; two or three take part in most contradictions."""
VERSIONS_SHOWN = 5


def explain(
    wish: Start, demands: Sequence[Demand], fits: Found | None, settled: Mapping[str, Start], *, tired: bool
) -> tuple[str, str]:
    """Return what is wrong and how to fix it, as sentences.

    wish: the plugin that does not fit. fits: the newest versions that go together, whatever ranges and update policies say; None when
    none were found. settled: the older plugins with the release that each has. tired: not all was looked through.
    """
    told = [d for d in demands if d.by]
    words = ", ".join(_said(d) for d in told[:MAX_DEMANDS])
    if len(told) > MAX_DEMANDS:
        words += f", and {len(told) - MAX_DEMANDS} more"
    what = words or f"{wish.plugin} does not go with the other plugins of the namespace"
    if fits is None:
        hint = "it was not found out whether other versions fit" if tired else "no versions of them fit each other"
        missing = sorted({d.about for d in told if not d.there and not d.refuses})
        lone = len({d.by for d in told}) == 1 and missing
        fix = (
            f"Have {missing[0]} listed in the marketplace, or take a version of {wish.plugin} that does not need it."
            if lone
            else "Move one of them into another namespace, or set `enabled: false` of one."
        )
        return f"{what}; {hint}.", fix
    names = {d.about for d in told} | {d.by.split(" ")[0] for d in told}
    shared = [f"{name} {offer.release.version}" for name, offer in sorted(fits.libraries.items()) if name in names]
    shared += [f"{name} {version}" for name, version in sorted(fits.wheels.items()) if name in names]
    mine = [i for i, s in settled.items() if s.plugin in names or fits.starts[i] != s.allowed[0]]
    plugins = [f"{settled[i].plugin} {fits.starts[i].version}" for i in mine]
    plugins.append(f"{wish.plugin} {fits.starts[wish.id].version}")
    both = "both" if len(plugins) == 2 else "all" if len(plugins) > 2 else "it"
    newest = " and ".join(plugins)
    newest = f"{', '.join(shared)} with {newest}" if shared else newest
    moved = [i for i in mine if fits.starts[i] != settled[i].allowed[0]]
    moves = [(i, fits.starts[i].version) for i in moved]
    if fits.starts[wish.id] not in wish.allowed:
        moves.append((wish.id, fits.starts[wish.id].version))
    fix = " and ".join(f'spec.version of NexusPlugin {i} to "=={version}"' for i, version in moves)
    return f"{what}; newest that fits {both}: {newest}.", f"Set {fix}." if fix else "It is taken with the next change."


def _said(demand: Demand) -> str:
    if demand.refuses:
        return f"{demand.by} conflicts with {demand.text}"
    text = f"{demand.by} needs {demand.text}"
    if demand.there:
        return text
    return f"{text}, which is in no marketplace"
