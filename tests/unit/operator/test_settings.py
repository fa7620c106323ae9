"""Settings: what is read, and one clear line for everything that is wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from nexus_operator.metrics import Metrics
from nexus_operator.settings import Settings, SettingsInvalid, from_environment

REPOSITORY = Path(__file__).resolve().parents[3]
CONSUL = {"NEXUS_CONSUL_URL": "http://consul:8500/"}


def test_consul_alone_is_required() -> None:
    settings = from_environment(CONSUL)
    assert settings == Settings(consul_url="http://consul:8500")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NEXUS_CONSUL_URL", "", "NEXUS_CONSUL_URL is not set"),
        ("NEXUS_CONSUL_URL", "consul:8500", "not an http:// or https:// address"),
        ("NEXUS_CONSUL_URL", "http://consul:port", "not an http:// or https:// address"),
        ("NEXUS_GATEWAY_URL", "shop.example", "NEXUS_GATEWAY_URL='shop.example'"),
        ("NEXUS_LEASE_SECONDS", "soon", "not a number of seconds above 0"),
        ("NEXUS_RESYNC_SECONDS", "0", "not a number of seconds above 0"),
        ("NEXUS_RELIST_SECONDS", "nan", "not a number of seconds above 0"),
        ("NEXUS_OPERATOR_LISTEN", "8082", "Write it as 0.0.0.0:8082"),
        ("NEXUS_GATEWAY_PARAMETERS", "nexus", "Write it as nexus-system/nexus"),
        ("NEXUS_GATEWAY_PULL_POLICY", "Sometimes", "not one of Always, IfNotPresent, Never"),
        ("NEXUS_SEAL_KEY", "c2hvcnQ=", "NEXUS_SEAL_KEY cannot be used. The seal key has 5 bytes, not 32."),
        ("NEXUS_WORKLOAD_SECURITY", "tight", "not one of compatible, restricted, none"),
        ("NEXUS_LEADER_ELECTION", "maybe", "not one of true, false"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsInvalid, match=re.escape(says)):
        from_environment({**CONSUL, name: value})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        from_environment({"NEXUS_LEASE_SECONDS": "x", "NEXUS_LOG_LEVEL": "loud"})
    assert len(str(caught.value).splitlines()) == 3


def test_every_variable_and_metric_is_documented() -> None:
    source = (REPOSITORY / "operator" / "nexus_operator" / "settings.py").read_text()
    page = (REPOSITORY / "docs" / "reference" / "operator.md").read_text()
    variables = set(re.findall(r'"((?:NEXUS|OTEL)_[A-Z_]+)"', source))
    assert len(variables) > 15
    assert not [name for name in sorted(variables) if f"`{name}`" not in page]
    assert not [f.name for f in fields(Metrics) if f"`{f.name}`" not in page]


def test_metrics_are_prometheus_text() -> None:
    lines = Metrics(leader=1, generation=42).render().splitlines()
    assert "nexus_operator_leader 1" in lines
    assert "# TYPE nexus_operator_publications_total counter" in lines
    assert "# TYPE nexus_operator_generation gauge" in lines
    assert len(lines) == 3 * len(fields(Metrics))


def test_installations_that_share_a_consul_have_catalog_nodes_of_their_own() -> None:
    """Each removes from its node what it did not register: on one node, every endpoint of the other."""
    url = {"NEXUS_CONSUL_URL": "http://consul:8500"}
    assert from_environment(url).consul_node == "nexus-k8s"
    assert from_environment({**url, "NEXUS_CONSUL_PREFIX": "east"}).consul_node == "east-k8s"
    assert from_environment({**url, "NEXUS_CONSUL_PREFIX": "east", "NEXUS_CONSUL_NODE": "n"}).consul_node == "n"
