"""The admin API's `/explain`, and what files tell of the same, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

OTHERS_SHOWN = 8


def render(found: Mapping[str, Any]) -> str:
    """Return the explanation: one line for each fact, two columns, endpoints below their upstream."""
    if "connection" in found:
        return _render_connection(found)
    request = found["request"]
    query = f"?{request['query']}" if request.get("query") else ""
    shown = f"{request['method']} {request['host'] or '(any host)'}{request['path']}{query}"
    if found.get("refusal") == "MisdirectedRequest":
        lines = [f"{shown} is misdirected: another listener of the port takes this host. The gateway answers 421."]
    elif not found["route"]:
        lines = [f"{shown}: no route takes it. The gateway answers 404."]
    else:
        lines = [f"{shown} goes to {found['route']} (rule {found['rule']})."]
        lines += [_line("why", found["why"])]
        lines += list(_rule(found))
        for row in found["upstreams"]:
            lines += list(_upstream(row))
    if found.get("note"):
        lines.insert(1, _line("note", found["note"]))
    lines += _others(found)
    return "\n".join(lines)


def _render_connection(found: Mapping[str, Any]) -> str:
    asked = found["connection"]
    name = asked["server_name"] or "no name" if asked["scheme"] == "tls" else ""
    shown = f"{asked['scheme']}://{asked['server_name'] or '*'}" + (f":{asked['port']}" if asked["port"] else "")
    listener = found["listener"]
    if listener is None:
        return f"{shown} {found['does']}."
    if found["route"]:
        lines = [f"{shown} goes to {found['route']}.", _line("why", found["why"])]
    elif found["does"].endswith("://"):
        lines = [f"{shown} is not what the listener is for."]
    else:
        lines = [f"{shown}: no route takes it. The connection is ended."]
    host = f", asked for {name}" if name else ""
    lines.append(
        _line("listener", f"{listener['id']} ({listener['hostname'] or 'any host'}, port {listener['port']}){host}")
    )
    lines.append(_line("", f"which {found['does']}"))
    for row in found["upstreams"]:
        lines += _upstream(row, "connections" if asked["scheme"] != "udp" else "clients")
    lines += _others(found)
    return "\n".join(lines)


def _others(found: Mapping[str, Any]) -> list[str]:
    lines = []
    others = found.get("others", [])
    if others:
        lines.append("  others")
        lines += [f"    {other['route']}: {other['why']}" for other in others[:OTHERS_SHOWN]]
        if len(others) > OTHERS_SHOWN:
            lines.append(f"    and {len(others) - OTHERS_SHOWN} more with -o json")
    return lines


def _line(name: str, text: str, depth: int = 1) -> str:
    return f"{'  ' * depth}{name.ljust(9)} {text}".rstrip()


def _rule(found: Mapping[str, Any]) -> Iterator[str]:
    for listener in found.get("listeners", ()):
        yield _line("listener", f"{listener['id']} ({listener['hostname'] or 'any host'}, port {listener['port']})")
    for limit in found.get("limits", ()):
        per = f"for each {' or '.join(key['kind'] for key in limit['key'])}" if limit["key"] else "for all together"
        yield _line(
            "limit",
            f"{limit['requests']} requests in {limit['per_s']:g} s, {limit['burst']} at once, {per}; from {limit['from']}",
        )
    size = found.get("size")
    if size:
        yield _line("size", ", ".join(f"{name.removesuffix('_bytes')} {n} bytes" for name, n in size.items() if n))
    fault = found.get("fault")
    if fault:
        yield _line("fault", _pairs(fault))
    for plugin in found["plugins"]:
        state = plugin.get("state", "")
        closed = "fails closed" if plugin["failure_policy"] == "closed" else "fails open"
        yield _line("plugin", f"{plugin['id']} {plugin['version'] or 'no release'} {state}".rstrip() + f", {closed}")
        if plugin.get("message"):
            yield _line("", plugin["message"])
    for each in found["filters"]:
        if each["type"] not in _TOLD:
            yield _line("filter", f"{each['type']} {_pairs({k: v for k, v in each.items() if k != 'type'})}")
    for mirror in found.get("mirrors", ()):
        yield _line("mirror", f"{mirror['ratio']:.0%} to {mirror['upstream']}")
    fallback = found.get("fallback")
    if fallback:
        reply = fallback.get("reply")
        yield _line("fallback", fallback["upstream"] or (f"the answer {reply['status']}" if reply else "none"))


_TOLD = frozenset({"rate-limit", "size-limit", "fault", "mirror", "fallback"})
"""Filters that have a line of their own."""


def _upstream(row: Mapping[str, Any], what: str = "requests") -> Iterator[str]:
    if not row["upstream"]:
        yield _line(
            "upstream",
            f"(not found: its share of {row['share']:.0%} is {'answered 500' if what == 'requests' else 'reset, or dropped'})",
        )
        return
    yield _line("upstream", f"{row['upstream']}, {row['share']:.0%} of the {what} (weight {row['weight']})")
    for name, policy in row.get("policies", {}).items():
        if policy["from"] not in ("default", "off"):
            said = "off" if name in _BREAKERS and _is_off(policy["value"]) else _pairs(policy["value"])
            yield _line(name.replace("_", "-"), f"{said}; from {policy['from']}", 2)
    kept = [name for name, policy in row.get("policies", {}).items() if policy["from"] == "default"]
    if kept:
        yield _line("defaults", ", ".join(name.replace("_", "-") for name in kept), 2)
    circuit = row.get("service_circuit")
    if circuit is not None and circuit["state"] != "closed":
        yield _line("circuit", f"of the whole service is {circuit['state']}, {circuit['for_s']:g} s more", 2)
    places = row.get("places")
    if places is not None:
        yield _line("places", f"{places['taken']} of {places['limit']} taken", 2)
    for endpoint in row.get("endpoints", ()):
        yield _line("endpoint", _endpoint(endpoint), 2)
    if row.get("found") and "endpoints" in row and not row["endpoints"]:
        yield _line("", "no endpoint is known now: requests are answered 503", 2)
    pick = row.get("pick")
    if pick is not None and row.get("endpoints"):
        yield _line("goes to", f"{pick['endpoint'] or 'any that serves'}: {pick['why']}", 2)


_BREAKERS = frozenset({"breaker", "service_breaker"})


def _is_off(breaker: Mapping[str, Any]) -> bool:
    """Return whether nothing opens this circuit: that the other fields are set means nothing then."""
    return breaker.get("failures") == 0 and not breaker.get("error_ratio")


def _endpoint(endpoint: Mapping[str, Any]) -> str:
    state = f"{endpoint['endpoint']}, circuit {endpoint['circuit']}, {endpoint['active']} active"
    if endpoint.get("zone"):
        state += f", zone {endpoint['zone']}"
    why_not = " ".join(each["text"] for each in endpoint.get("why_not", ()))
    if endpoint.get("serves", True):
        return f"{state}. Serves although: {why_not}" if why_not else state
    return f"{state}. Does not serve: {why_not}"


def _pairs(value: Any) -> str:
    """Return a policy's fields that say something."""
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(
        f"{name}={_plain(item)}" for name, item in value.items() if item not in (None, "", 0, False, [], ())
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(each) for each in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
