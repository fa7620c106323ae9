"""Routes of the Gateway API in what `nexus up` prints, and the commands that ask them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nexus_cli.up import routes, screen
from nexus_cli.up.plans import ServicePlan
from nexus_core.snapshot import HeaderMatch, Match, Route, Rule, Snapshot, StreamRoute
from nexus_gateway.edge.listeners.shown import ListenerRow

ADMIN = "http://127.0.0.1:8081"
LISTENERS = (
    ListenerRow("t/g/http", "Gateway t/g", "HTTP", "", 80, 8080, "http://127.0.0.1:8080"),
    ListenerRow("t/g/https", "Gateway t/g", "HTTPS", "*.ex.test", 443, 8443, "https://127.0.0.1:8443"),
    ListenerRow("t/g/shut", "Gateway t/g", "HTTP", "", 81, problem="Port 81 is taken."),
    ListenerRow("t/g/six", "Gateway t/g", "HTTP", "", 82, 8082, "http://[::1]:8082"),
    ListenerRow("t/g/tls", "Gateway t/g", "TLS", "v.ex.test", 443, 8443, "tls://127.0.0.1:8443"),
)


def http(name: str, *listeners: str, hostnames: tuple[str, ...] = (), kind: str = "HTTPRoute", **match: Any) -> Route:
    rule = Rule(f"{kind}/t/{name}/0", (Match(**match),))
    return Route(f"{kind}/t/{name}", f"{kind} t/{name}", listeners, hostnames, (rule,))


def commands(*parts: Route | StreamRoute) -> list[str]:
    snapshot = Snapshot(
        routes=tuple(each for each in parts if isinstance(each, Route)),
        streams=tuple(each for each in parts if isinstance(each, StreamRoute)),
    )
    return [command for command, _ in routes.commands(routes.rows(snapshot, LISTENERS), "nexus", "")]


def test_a_row_for_each_route_at_each_listener_but_none_for_what_services_expose() -> None:
    snapshot = Snapshot(
        routes=(
            http("b", "t/g/http", "t/g/https", hostnames=("a.ex.test", "b.other.test")),
            http("a", "t/g/https", "t/g/shut"),
            http("orders", "t/g/http", kind="NexusService"),
        ),
        streams=(StreamRoute("TLSRoute/t/v", "TLSRoute t/v", "TLS", ("t/g/tls",)),),
    )
    found = routes.rows(snapshot, LISTENERS)
    assert routes.table(found) == [
        ("HTTPRoute t/a", "*.ex.test", "https://127.0.0.1:8443"),
        ("HTTPRoute t/a", "any", "not open"),
        ("HTTPRoute t/b", "a.ex.test, b.other.test", "http://127.0.0.1:8080"),
        ("HTTPRoute t/b", "a.ex.test", "https://127.0.0.1:8443"),
        ("TLSRoute t/v", "v.ex.test", "tls://127.0.0.1:8443"),
    ]
    assert routes.values(found)[1] == {"route": "HTTPRoute t/a", "hostnames": [], "url": ""}


def test_a_table_of_many_routes_ends() -> None:
    snapshot = Snapshot(routes=tuple(http(f"r{n:02}", "t/g/http") for n in range(25)))
    made = routes.table(routes.rows(snapshot, LISTENERS))
    assert (len(made), made[-1][0]) == (21, "and 5 more")


@pytest.mark.parametrize(
    ("route", "curl", "explain"),
    [
        (
            http("r", "t/g/http", hostnames=("a.ex.test",), path="/x"),
            "curl -i -H 'host: a.ex.test' http://127.0.0.1:8080/x",
            "nexus explain http://a.ex.test:8080/x",
        ),
        (http("r", "t/g/http"), "curl -i http://127.0.0.1:8080/", "nexus explain http://127.0.0.1:8080/"),
        (http("r", "t/g/six"), "curl -i 'http://[::1]:8082/'", "nexus explain 'http://[::1]:8082/'"),
        (
            http("r", "t/g/https", hostnames=("*.ex.test",), path="/a'b"),
            "curl -ik --resolve www.ex.test:8443:127.0.0.1 'https://www.ex.test:8443/a'\"'\"'b'",
            "nexus explain 'https://www.ex.test:8443/a'\"'\"'b'",
        ),
        # HTTP in clear needs the fewest options.
        (
            http("r", "t/g/https", "t/g/http", hostnames=("a.ex.test",)),
            "curl -i -H 'host: a.ex.test' http://127.0.0.1:8080/",
            "nexus explain http://a.ex.test:8080/",
        ),
    ],
)
def test_the_commands_ask_the_first_route_at_its_listener(route: Route, curl: str, explain: str) -> None:
    assert commands(route) == [curl, explain]


@pytest.mark.parametrize(
    "match", [{"path_kind": "regex"}, {"method": "POST"}, {"headers": (HeaderMatch("a", "b"),)}, {"path": "/x"}]
)
def test_a_route_that_a_plain_get_does_not_reach_is_not_suggested(match: dict[str, Any]) -> None:
    at = "t/g/shut" if match == {"path": "/x"} else "t/g/http"
    assert commands(http("a", at, **match), http("b", "t/g/http", path="/b"))[0] == "curl -i http://127.0.0.1:8080/b"
    assert commands(http("a", at, **match)) == []
    tls = StreamRoute("TLSRoute/t/v", "TLSRoute t/v", "TLS", ("t/g/tls",))
    assert commands(http("a", at, **match), tls) == ["nexus explain tls://v.ex.test:8443"]


@pytest.mark.parametrize(("exposed", "plugins"), [("", False), ("/orders", True)])
def test_plugins_and_traces_are_next_where_a_service_is_exposed(exposed: str, plugins: bool) -> None:
    plan = ServicePlan("t/orders", "t", "orders", "orders.t", exposed=exposed)
    found = routes.rows(Snapshot(routes=(http("r", "t/g/http"),)), LISTENERS)
    made = [command for command, _ in screen.next_commands([plan], Path("m"), "http://127.0.0.1:8080", ADMIN, found)]
    assert "curl -i http://127.0.0.1:8080/" in made
    assert any("plugin list" in each for each in made) == plugins
    assert any("traces" in each for each in made) == plugins
