"""What those who read manifests are told of releases that were tried and taken back, as a NexusPlugin's condition `Updated` tells it on
Kubernetes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nexus_core.marketplace.locks import Lock, RefusedRelease, config_digest
from nexus_core.marketplace.updates import contains
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_core.translate.translation import PluginStatus
from packaging.version import InvalidVersion, Version

_FIX = "Publish a newer version; or disable the plugin and enable it again, to have this one tried again."


def find_taken_back(
    resources: Iterable[Resource], statuses: Iterable[PluginStatus], locks: Mapping[str, Lock]
) -> tuple[Problem, ...]:
    """Return why plugins do not run a newer release that they could, one problem for each.

    statuses: of the NexusPlugins among the resources. locks: by `<namespace>/<name>`. A plugin whose every release was taken back has a
    problem already, and none here; nor have releases that are for other gateways than this, which are passed over.
    """
    specs = {each.ref: each.spec for each in resources if isinstance(each.spec, NexusPluginSpec)}
    found = []
    for status in statuses:
        spec, lock = specs.get(status.ref), locks.get(f"{status.ref.namespace}/{status.ref.name}")
        if spec is None or lock is None or not spec.enabled or not contains(spec.version, status.version):
            continue
        refused = _newest(lock.with_config(config_digest(spec.config)), spec.version, status.version)
        if refused is not None and refused.version not in {each.version for each in status.passed_over}:
            what = (
                f"{refused.version} was tried and taken back; {status.version} stays in use. {refused.message}".strip()
            )
            found.append(Problem(status.ref, ".spec.version", refused.reason or "PluginRolledBack", what, _FIX))
    return tuple(found)


def _newest(lock: Lock, wanted: str, running: str) -> RefusedRelease | None:
    """Return the newest release that was taken back, if it is newer than the running one and in the range."""
    try:
        newer = [r for r in lock.refused if contains(wanted, r.version) and Version(r.version) > Version(running)]
    except InvalidVersion:
        return None  # nothing can be said of what is no version
    return max(newer, key=lambda r: Version(r.version), default=None)
