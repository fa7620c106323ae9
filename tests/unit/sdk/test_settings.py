import pytest
from nexus_sdk import settings
from nexus_sdk.errors import SettingsError


def test_defaults() -> None:
    parsed = settings.parse({}, default_name="orders")
    assert (parsed.name, parsed.namespace, parsed.host, parsed.port) == ("orders", "default", "0.0.0.0", 8000)
    assert (parsed.drain_s, parsed.settle_s, parsed.max_body_bytes) == (10.0, 0.0, 1024 * 1024)
    assert parsed.consul.url is None
    assert not parsed.consul.register
    assert parsed.traces.endpoint is None


def test_empty_variables_count_as_unset() -> None:
    names = (
        "NEXUS_SERVICE_NAME",
        "NEXUS_NAMESPACE",
        "PORT",
        "NEXUS_CONSUL_URL",
        "NEXUS_CONSUL_REGISTER",
        "NEXUS_LOG_LEVEL",
    )
    assert settings.parse(dict.fromkeys(names, ""), default_name="orders") == settings.parse({}, default_name="orders")


def test_zone_and_meta_of_the_registration() -> None:
    parsed = settings.parse(
        {"NEXUS_ZONE": "eu-1", "NEXUS_META": "version = v2, tier=fast,,empty="}, default_name="orders"
    )
    assert parsed.zone == "eu-1"
    assert parsed.meta == {"empty": "", "tier": "fast", "version": "v2"}


@pytest.mark.parametrize(
    ("environ", "registers"),
    [
        ({"NEXUS_CONSUL_URL": "http://c:8500"}, True),
        ({"NEXUS_CONSUL_URL": "http://c:8500", "NEXUS_CONSUL_REGISTER": "false"}, False),
        ({"NEXUS_CONSUL_REGISTER": "true"}, False),
    ],
)
def test_a_service_registers_itself_when_there_is_a_consul(environ: dict[str, str], registers: bool) -> None:
    assert settings.parse(environ, default_name="orders").consul.register is registers


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318/"}, "http://j:4318/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"},
            "http://t/x",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://j:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_trace_receiver(environ: dict[str, str], endpoint: str | None) -> None:
    assert settings.parse(environ, default_name="orders").traces.endpoint == endpoint


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("PORT", "http", "0 to 65535"),
        ("PORT", "65536", "0 to 65535"),
        ("PORT", "1.5", "whole number"),
        ("NEXUS_DRAIN_SECONDS", "nan", "0 to 3600"),
        ("NEXUS_DRAIN_SECONDS", "-1", "0 to 3600"),
        ("NEXUS_SERVICE_NAME", "Orders", "DNS label"),
        ("NEXUS_SERVICE_NAME", "a.b", "DNS label"),
        ("NEXUS_NAMESPACE", "a" * 64, "DNS label"),
        ("NEXUS_CONSUL_URL", "consul:8500", "http://127.0.0.1:8500"),
        ("NEXUS_CONSUL_URL", "http://[::1", "http://127.0.0.1:8500"),
        ("NEXUS_CONSUL_REGISTER", "perhaps", "'true' or 'false'"),
        ("NEXUS_LOG_LEVEL", "loud", "DEBUG"),
        ("NEXUS_CONSUL_FORGET_SECONDS", "5", "60 to"),
        ("OTEL_TRACES_SAMPLER", "mine", "always_on"),
        ("NEXUS_META", "version", "name=value"),
        ("NEXUS_META", "a b=c", "name=value"),
        ("NEXUS_META", "nexus-zone=eu", "begin with nexus-"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(variable: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.parse({variable: value}, default_name="orders")
    for part in (variable, repr(value.upper() if variable == "NEXUS_LOG_LEVEL" else value), remedy):
        assert part in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert "s3cret" not in repr(settings.parse({"NEXUS_CONSUL_TOKEN": "s3cret"}, default_name="orders"))
