"""All there is to say of one installed plugin: what runs, precisely why it does not, what is tried, and what it may use. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from nexus_core.marketplace.permissions import asked_of, find_missing, is_empty, list_words
from nexus_core.problems import Problem
from nexus_core.snapshot import Permissions, Release
from nexus_core.translate.translation import PassedOver

from nexus_cli.plugins.homes import Installed

Row = Mapping[str, Any]
"""Of a running gateway's `/plugins`."""


def describe(
    found: Installed,
    *,
    state: str,
    version: str,
    row: Row | None,
    releases: Sequence[Release],
    problems: Iterable[Problem],
    grants: Permissions,
    passed_over: Sequence[PassedOver] = (),
) -> dict[str, Any]:
    """Return the description, by field, in the order in which people read it.

    row: what a gateway says of it, None when none was asked or knows of it. releases: of the plugin, as far as its index is at hand.
    problems: that the manifests have with it. grants: `spec.grants`. passed_over: newer releases that it does not get; a cluster's
    status has its own.
    """
    status: Mapping[str, Any] = found.raw.get("status") or {}
    release = next((each for each in releases if each.version == version), releases[0] if releases else None)
    told: dict[str, Any] = {"plugin": found.id, "where": found.where, "state": state, "version": version}
    why = list(_why(found, row, problems, status))
    told["why"] = why or ["It runs as declared."] if version and found.spec is not None and found.spec.enabled else why
    if found.spec is not None and not found.spec.enabled:
        told["why"] = [*why, "It is switched off by spec.enabled: requests pass without it."]
    candidate = _candidate(row, status, releases)
    if candidate:
        told["candidate"] = candidate
    if status.get("available"):
        told["available"] = f"{status['available']} is there; spec.updatePolicy holds it back"
    passed = [
        (each.get("version"), each.get("reason"), each.get("message", "")) for each in status.get("passedOver") or ()
    ]
    passed = passed or [(each.version, each.reason, each.message) for each in passed_over]
    if passed:
        told["passedOver"] = [f"{newer}: {message} ({reason})" for newer, reason, message in passed]
    refused = (status.get("lock") or {}).get("refused") or ()
    if refused:
        told["refused"] = [
            {name: each[name] for name in ("version", "reason", "message", "at") if each.get(name)} for each in refused
        ]
    if release is not None:
        told.update(
            {
                name: value
                for name in ("summary", "publisher", "licence", "homepage")
                if (value := getattr(release, name))
            }
        )
        told["failurePolicy"] = (found.spec.failure_policy if found.spec else None) or release.failure_policy
    told.update(_rights(row, release, grants))
    dependencies = _dependencies(row, status)
    if dependencies:
        told["dependencies"] = dependencies
    cost = _cost(row, status)
    if cost:
        told["cost"] = cost
    if release is not None and release.changelog:
        told["changelog"] = release.changelog
    if release is not None:
        told["configSchema"] = release.config_schema
    told["spec"] = found.raw.get("spec", {})
    return told


def told_of(problem: Problem) -> str:
    """Return a problem of a plugin as lists and descriptions have it: what, how to fix it, and where in the manifest."""
    return f"{problem.reason}: {problem.what} {problem.fix} ({problem.path})"


def _why(found: Installed, row: Row | None, problems: Iterable[Problem], status: Mapping[str, Any]) -> Iterable[str]:
    """Yield each reason why it is not as declared, once."""
    said: set[str] = set()
    for problem in problems:
        yield told_of(problem)
        said.add(problem.reason)
    for condition in status.get("conditions") or ():
        if condition.get("status") != "True" and condition.get("reason") not in said:
            said.add(str(condition.get("reason")))
            yield f"{condition.get('reason')}: {condition.get('message', '')}".rstrip(": ")
    if row is not None and row.get("reason") and row["reason"] not in said:
        yield f"{row['reason']}: {row['message']}"
        said.add(str(row["reason"]))
    if not said and found.spec is None and found.why:
        yield found.why


def is_waiting(candidate: Row) -> bool:
    """Whether a release that is to be tried cannot be yet: no request gets it, and it is neither taken nor taken back. candidate: of a
    gateway's `/plugins`.
    """
    return bool(candidate.get("reason")) and candidate["state"] == "running"


def _candidate(row: Row | None, status: Mapping[str, Any], releases: Sequence[Release]) -> dict[str, Any]:
    live = row.get("candidate") if row is not None else None
    version = live["version"] if live else status.get("candidate")
    if not version:
        return {}
    told: dict[str, Any] = {"version": version, "state": live["state"] if live else "running"}
    if live:
        if live.get("reason"):
            told["why"] = f"{live['reason']}: {live['message']}"
        if is_waiting(live):
            told["state"] = "waiting"
        told["share"] = f"{live['percent']:g} % of the requests, for {live['seconds']:g} s"
        if "requests" in live:
            told["seen"] = (
                f"{live['requests']} requests, {live['failed_requests']} answered 5xx; {live['calls']} calls, {live['errors']} failed"
            )
    release = next((each for each in releases if each.version == version), None)
    changelog = (live or {}).get("changelog") or (release.changelog if release is not None else "")
    if changelog:
        told["changelog"] = changelog
    asked = _permissions((live or {}).get("asked")) if live else release.permissions if release is not None else None
    if asked is not None and words(asked):
        told["asks"] = words(asked)
    return told


def _rights(row: Row | None, release: Release | None, grants: Permissions) -> dict[str, Any]:
    asked = _permissions(row["asked"]) if row is not None and "asked" in row else None
    if asked is None and release is not None:
        asked = asked_of(release)
    if asked is None:
        return {}
    told: dict[str, Any] = {"asks": words(asked) or ["nothing"]}
    granted = _permissions(row["granted"]) if row is not None and "granted" in row else None
    told["granted"] = words(granted if granted is not None else grants) or ["nothing"]
    missing = find_missing(asked, grants)
    if not is_empty(missing):
        told["missing"] = words(missing)
    hooks = list(row.get("hooks", ())) if row is not None else list(release.hooks) if release is not None else []
    if hooks:
        told["hooks"] = hooks
    return told


def words(some: Permissions) -> list[str]:
    """Return one phrase for each permission; all headers, which every plugin may see unless it is told otherwise, are none."""
    return [each for each in list_words(some) if each not in ("reading header *", "writing header *")]


def _dependencies(row: Row | None, status: Mapping[str, Any]) -> list[str]:
    if row is not None and row.get("dependencies"):
        return [
            f"{kind} {each[kind]} {each['version']}"
            for each in row["dependencies"]
            for kind in ("plugin", "wheel")
            if kind in each
        ]
    lock = status.get("lock") or {}
    plugins = [f"plugin {each['name']} {each['version']}" for each in lock.get("dependencies") or ()]
    return plugins + [f"wheel {each['name']} {each['version']}" for each in lock.get("wheels") or ()]


def _cost(row: Row | None, status: Mapping[str, Any]) -> dict[str, Any]:
    if row is not None and "calls_per_s" in row:
        return {
            "calls": row["calls"],
            "errors": row["errors"],
            "callsPerSecond": row["calls_per_s"],
            "p50Milliseconds": round(row["p50_s"] * 1000, 3),
            "p99Milliseconds": round(row["p99_s"] * 1000, 3),
            "cpuPercent": row["cpu_percent"],
            "memoryMegabytes": round(row["memory_bytes"] / 2**20, 1),
        }
    names = ("callsPerSecond", "p99Milliseconds", "errors")
    return {name: status[name] for name in names if status.get(name) is not None}


def _permissions(value: Any) -> Permissions | None:
    return msgspec.convert(value, Permissions) if value is not None else None
