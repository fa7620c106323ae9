"""What the operator makes of services' words on their plugins. What statuses say then is in the golden files."""

from __future__ import annotations

from nexus_core.snapshot import PluginInstance, PluginReport, Release
from nexus_core.snapshot.service_reports import encode_reports, reports_key
from nexus_operator.publication.servicereports import Hosting, hostings, read_reports

LOADED = PluginReport("loaded", "1.0")
DISABLED = PluginReport("disabled", "1.0", "PluginDisabled", "Why.")


def instance(name: str) -> PluginInstance:
    release = Release(name=name, version="1.0", api=">=1", package="p", entry_point="p:P", sha256="0" * 64, url="x")
    return PluginInstance(id=f"shop/{name}", source=f"NexusPlugin shop/{name}", release=release, public_key="")


def test_what_can_be_read_is_and_the_rest_is_told() -> None:
    good = encode_reports({"shop/a": LOADED})
    found, bad = read_reports(
        [
            (reports_key("shop/events", "e-1"), good),
            (reports_key("shop/events", "e-2"), b"{"),
            (reports_key("shop/events", "e-3"), encode_reports({})),
            ("nexus/service-plugins/odd", good),
        ],
        "nexus",
    )
    assert found == {"shop/events": {"e-1": {"shop/a": LOADED}, "e-3": {}}}
    assert len(bad) == 2
    assert bad[0].startswith("nexus/service-plugins/shop/events/e-2: The reports of plugins cannot be read")
    assert bad[1] == "nexus/service-plugins/odd: no service wrote it; delete the key."


def test_only_plugins_that_a_service_was_given_are_its_to_speak_of() -> None:
    said = {"e-1": {"shop/a": LOADED, "shop/b": DISABLED}, "e-2": {"shop/a": DISABLED}}
    lists = {"shop/events": (instance("a"),), "shop/silent": (instance("a"),)}
    assert hostings({"shop/events": said, "shop/other": said}, lists) == {
        "shop/a": (Hosting("shop/events", (LOADED, DISABLED)),)
    }


def test_a_former_version_that_runs_is_not_there_yet_and_one_in_trouble_is_told() -> None:
    former, stuck = PluginReport("loaded", "0.9"), PluginReport("previous", "0.9", "PluginFetchFailed", "No answer.")
    [here] = hostings(
        {"shop/events": {"e-1": {"shop/a": former}, "e-2": {"shop/a": stuck}, "e-3": {}}},
        {"shop/events": (instance("a"),)},
    )["shop/a"]
    assert here.reports == (None, stuck, None)
    assert (here.bad, here.missing) == ((stuck,), 2)
