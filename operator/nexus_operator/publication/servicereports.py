"""What the instances of services say of the plugins that run in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nexus_core.snapshot import PluginInstance, PluginReport
from nexus_core.snapshot.service_reports import decode_reports, parse_reports_key
from nexus_core.snapshot.wire import WireError

ServiceReports = Mapping[str, Mapping[str, Mapping[str, PluginReport]]]
"""By service, as `<namespace>/<name>`, by instance, by `PluginInstance.id`."""


@dataclass(frozen=True, slots=True)
class Hosting:
    """One plugin in one service. service: `<namespace>/<name>`. reports: of each instance that speaks, by its name; None: it does not
    run there yet in the version that it should.
    """

    service: str
    reports: tuple[PluginReport | None, ...]

    @property
    def bad(self) -> tuple[PluginReport, ...]:
        """What instances report that do not run it as declared."""
        return tuple(each for each in self.reports if each is not None and each.state != "loaded")

    @property
    def missing(self) -> int:
        """Instances that do not run it yet."""
        return sum(1 for each in self.reports if each is None)


def read_reports(
    values: Iterable[tuple[str, bytes]], prefix: str
) -> tuple[dict[str, dict[str, dict[str, PluginReport]]], tuple[str, ...]]:
    """Return the readable reports, and a sentence for each value that is not. values: (key, value). prefix: of the installation."""
    found: dict[str, dict[str, dict[str, PluginReport]]] = {}
    bad: list[str] = []
    for key, value in values:
        named = parse_reports_key(key, prefix)
        if named is None:
            bad.append(f"{key}: no service wrote it; delete the key.")
            continue
        try:
            found.setdefault(named[0], {})[named[1]] = decode_reports(value)
        except WireError as err:
            bad.append(f"{key}: {err}")
    return found, tuple(bad)


def hostings(
    reports: ServiceReports, lists: Mapping[str, tuple[PluginInstance, ...]]
) -> dict[str, tuple[Hosting, ...]]:
    """Return where each plugin runs in services, by `PluginInstance.id`.

    lists: what should run, by service; what a service says of other plugins counts for nothing.
    """
    found: dict[str, list[Hosting]] = {}
    for service, instances in sorted(reports.items()):
        spoken = [said for _, said in sorted(instances.items())]
        for wanted in lists.get(service, ()):
            version = wanted.release.version
            here = Hosting(service, tuple(_current(said.get(wanted.id), version) for said in spoken))
            found.setdefault(wanted.id, []).append(here)
    return {plugin: tuple(each) for plugin, each in found.items()}


def _current(report: PluginReport | None, version: str) -> PluginReport | None:
    """A former version that runs well has not been told of its successor yet."""
    return None if report is not None and report.state == "loaded" and report.version != version else report
