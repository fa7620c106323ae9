"""Configuration for people to read: what filters and plugins hold of secrets is replaced. Pure; the one place for it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from nexus_core.snapshot import HeaderModifier, PluginInstance, Snapshot

from nexus_gateway.telemetry.redactions import REDACTED, is_secret

_HEADER_FILTER = msgspec.inspect.type_info(HeaderModifier).tag  # type: ignore[attr-defined]  # of a tagged Struct


def redact_settings(value: Any) -> Any:
    """Return a JSON value with the texts under secret-looking names replaced, at any depth."""
    if isinstance(value, dict):
        return {
            key: REDACTED if is_secret(key) and isinstance(item, str) else redact_settings(item)
            for key, item in value.items()
        }
    return [redact_settings(item) for item in value] if isinstance(value, list) else value


def without_header_values(value: Any) -> Any:
    """Return a value with what its header filters put into secret-looking headers (`authorization`, …) replaced."""
    if isinstance(value, dict):
        if value.get("type") == _HEADER_FILTER:
            return {
                key: [(name, REDACTED if is_secret(name) else text) for name, text in item]
                if key in ("set", "add")
                else item
                for key, item in value.items()
            }
        return {key: without_header_values(item) for key, item in value.items()}
    return [without_header_values(item) for item in value] if isinstance(value, list | tuple) else value


def show_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """Return a Snapshot as plain values without secrets. Plugins' configurations become objects."""
    shown: dict[str, Any] = without_header_values(msgspec.to_builtins(snapshot))
    for plugin in shown.get("plugins", ()):
        for each in _instances(plugin):
            each["config"] = redact_settings(json.loads(each.get("config", "{}")))
    return shown


def _instances(plugin: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return an instance and the one that is tried beside it, each with a configuration of its own."""
    candidate = plugin.get("candidate")
    return (plugin, candidate["instance"]) if candidate else (plugin,)


def encode_shown(snapshot: Snapshot) -> bytes:
    """Return what `show_snapshot` returns, as JSON. One item at a time: as plain values in one go, 5,000 routes take 15 MB."""
    encoder = msgspec.json.Encoder()
    sections = []
    for name in snapshot.__struct_fields__:
        items = getattr(snapshot, name)
        if items:
            shown = (show_snapshot(Snapshot(**{name: (item,)}))[name][0] for item in items)
            sections.append(b'"%s":[%s]' % (name.encode(), b",".join(map(encoder.encode, shown))))
    return b"{%s}" % b",".join(sections)


def read_shown(shown: dict[str, Any]) -> Snapshot:
    """Return the Snapshot that `show_snapshot` shows, with the replaced texts in it. Raises msgspec.ValidationError."""
    plugins = [_read_plugin(plugin) for plugin in shown.get("plugins", ())]
    return msgspec.convert({**shown, "plugins": plugins}, Snapshot)


def _read_plugin(shown: dict[str, Any]) -> dict[str, Any]:
    plugin = {**shown, "config": _text(shown.get("config", {}))}
    candidate = plugin.get("candidate")
    if candidate:
        plugin["candidate"] = {**candidate, "instance": _read_plugin(candidate["instance"])}
    return plugin


def redact_snapshot(snapshot: Snapshot) -> Snapshot:
    """Return the Snapshot with the texts replaced that `show_snapshot` hides, to compare with one that was shown."""
    return read_shown(show_snapshot(snapshot))


def _text(config: Any) -> str:
    return json.dumps(config, sort_keys=True) if config else msgspec.structs.fields(PluginInstance)[5].default
