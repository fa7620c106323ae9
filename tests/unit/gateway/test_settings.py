"""Settings through the environment, and from one process to another."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from nexus_gateway.settings import GatewaySettings, SettingInvalid, count_cpus, environment


def test_settings_reach_another_process_as_they_are() -> None:
    settings = GatewaySettings(
        listen="127.0.0.1:1", tls_listen="127.0.0.1:2", tls_certificates=Path("/etc/tls"), replica="pod-1~3", workers=4,
        consul_url="http://consul:8500", consul_token="secret", trace_ratio=0.0, access_log=False, drain_s=1.5, zone="west-1",
        trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")), plugin_cache=Path("/cache"),
    )  # fmt: skip
    other = environment(
        settings, {"PATH": "/bin", "NEXUS_CONSUL_PREFIX": "other", "NEXUS_DISCOVERY_FILE": "/stale.json"}
    )
    assert other["PATH"] == "/bin"
    assert GatewaySettings.from_env(other) == settings, "what the environment said before does not show through"
    defaults = GatewaySettings()
    assert GatewaySettings.from_env(environment(defaults, {})) == defaults


@pytest.mark.parametrize(("text", "workers"), [("", 1), ("3", 3), ("auto", count_cpus()), ("AUTO", count_cpus())])
def test_workers(text: str, workers: int) -> None:
    assert GatewaySettings.from_env({"NEXUS_WORKERS": text}).workers == workers


@pytest.mark.parametrize("text", ["0", "-1", "257", "many", "1.5"])
def test_a_number_of_workers_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match=r"NEXUS_WORKERS=.*`auto` or a whole number from 1 to 256"):
        GatewaySettings.from_env({"NEXUS_WORKERS": text})


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("NEXUS_PORTS", "any", "local or declared"),
        ("NEXUS_GATEWAY", "shop", "namespace/name of a Gateway"),
        ("NEXUS_GATEWAY", "shop/", "namespace/name of a Gateway"),
        ("NEXUS_SEAL_KEY", "c2hvcnQ=", "NEXUS_SEAL_KEY cannot be used: it wants base64 of 32 bytes"),
        ("NEXUS_SEAL_KEY", "no base64", "NEXUS_SEAL_KEY cannot be used: it wants base64 of 32 bytes"),
    ],
)
def test_what_names_no_gateway_and_no_way_to_open_ports_is_refused(name: str, text: str, remedy: str) -> None:
    with pytest.raises(SettingInvalid, match=remedy):
        GatewaySettings.from_env({name: text})


@pytest.mark.parametrize("name", ["pod~x", "pod~1234", "~1", "pod~1~2"])
def test_replica_names_have_room_for_a_workers_number_alone(name: str) -> None:
    with pytest.raises(SettingInvalid):
        GatewaySettings.from_env({"NEXUS_GATEWAY_REPLICA": name})
