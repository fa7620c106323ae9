"""Settings of the trace collector: what cannot be used is refused at the start, with its name and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from nexus_gateway.edge.collecting import Collector
from nexus_gateway.edge.measurements import Tally
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.settings import GatewaySettings, SettingInvalid

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
BAD = ("jaeger:4318", "ftp://jaeger", "http://", "http://jaeger:99999", "http://[::1", "4318")


@pytest.mark.parametrize("text", BAD)
def test_an_endpoint_that_is_no_url_is_refused(text: str) -> None:
    said = (
        rf"{ENDPOINT}=.*wants an http:// or https:// URL, for example http://jaeger:4318\. Change or unset {ENDPOINT}\."
    )
    with pytest.raises(SettingInvalid, match=said):
        GatewaySettings.from_env({ENDPOINT: text})
    with pytest.raises(SettingInvalid, match=said):
        Recorder("r", Tally(), otlp_endpoint=text, environ={})


@pytest.mark.parametrize("text", ["http://jaeger:4318", "https://collector.example/base/", "http://[::1]:4318"])
def test_an_endpoint_that_is_a_url_is_taken(text: str) -> None:
    settings = GatewaySettings.from_env({ENDPOINT: text})
    Collector(settings.otlp_endpoint, {})


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "seconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "seconds"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1", "seconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "gzip, deflate or none"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", "a readable file of PEM certificates"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/nowhere/own.pem", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"),
    ],
)
def test_what_else_cannot_be_used_is_named_as_it_was_set(variable: str, text: str, wanted: str) -> None:
    with pytest.raises(SettingInvalid) as refused:
        Collector("https://collector.example", {variable: text})
    assert str(refused.value).startswith(f"{variable}={text!r} cannot be used: it wants ")
    assert wanted in str(refused.value)
    assert str(refused.value).endswith(f"Change or unset {variable}.")


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    with pytest.raises(SettingInvalid, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        Collector("https://collector.example", {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")})


@pytest.mark.parametrize("text", ["gzip", "GZIP", "deflate", "none", ""])
def test_known_compressions_are_taken(text: str) -> None:
    Collector("http://collector.example", {"OTEL_EXPORTER_OTLP_COMPRESSION": text, "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5"})
