"""In which order plugins run: by `order`, then as their releases' `before` and `after` say, then by id."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot.plugins import PluginInstance


def sort_plugins(instances: Iterable[PluginInstance]) -> tuple[list[str], list[Problem]]:
    """Return the ids in running order, and what is wrong with it.

    `before` and `after` name plugins, and hold between those of equal `order`. Where they go in a circle, its first plugin by id goes
    first, and all of the circle are told.
    """
    by_order: dict[int, dict[str, PluginInstance]] = {}
    for instance in instances:
        by_order.setdefault(instance.order, {})[instance.id] = instance
    found: list[str] = []
    problems: list[Problem] = []
    for _, group in sorted(by_order.items()):
        if any(i.release.before or i.release.after for i in group.values()):
            found += _sort(group, problems)
        else:
            found += sorted(group)
    return found, problems


def _sort(group: Mapping[str, PluginInstance], problems: list[Problem]) -> list[str]:
    named: dict[str, list[str]] = {}
    for plugin, instance in group.items():
        named.setdefault(instance.release.name, []).append(plugin)
    later: dict[str, set[str]] = {plugin: set() for plugin in group}
    for plugin, instance in group.items():
        for name in instance.release.before:
            later[plugin].update(other for other in named.get(name, ()) if other != plugin)
        for name in instance.release.after:
            for other in named.get(name, ()):
                if other != plugin:
                    later[other].add(plugin)
    waits_for = dict.fromkeys(group, 0)
    for others in later.values():
        for other in others:
            waits_for[other] += 1
    ready = [plugin for plugin, count in waits_for.items() if count == 0]
    heapq.heapify(ready)
    left = set(group)
    found: list[str] = []
    while left:
        if ready:
            plugin = heapq.heappop(ready)
        else:
            circle = _circle(left, later)
            plugin = circle[0]
            problems.extend(_told(group, circle))
        if plugin not in left:
            continue
        left.remove(plugin)
        found.append(plugin)
        for other in later[plugin]:
            waits_for[other] -= 1
            if waits_for[other] == 0 and other in left:
                heapq.heappush(ready, other)
    return found


def _circle(left: set[str], later: Mapping[str, set[str]]) -> list[str]:
    """Return the plugins of one circle among those that are left, each of which waits for another, sorted."""
    before: dict[str, list[str]] = {plugin: [] for plugin in left}
    for plugin in left:
        for other in later[plugin] & left:
            before[other].append(plugin)
    path: list[str] = []
    plugin = min(left)
    while plugin not in path:
        path.append(plugin)
        plugin = min(before[plugin])
    return sorted(path[path.index(plugin) :])


def _told(group: Mapping[str, PluginInstance], circle: list[str]) -> Iterable[Problem]:
    names = ", ".join(circle)
    for plugin in circle:
        what = f"Its release and others want to run before each other: {names}. They run in the order of their names."
        yield Problem(
            ObjectRef.parse(group[plugin].source), ".spec.order", "PluginConflict", what, "Give them different orders."
        )
