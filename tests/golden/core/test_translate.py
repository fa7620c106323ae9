"""Golden pairs of translation: `translate/<kind>-<situation>.in.yaml` → `.out.yaml`. `pytest --accept` rewrites them.

An input may begin with documents of `kind: Setting`: `previous` (manifests whose Snapshot was published before), `indexes` (releases
by marketplace; `previousIndexes` those of before, if they were others), `locks` (by plugin), `now` and `hooks` (of `hooks.py`, on
manifests). `<<shop.crt>>` and the like are made up by `pem.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from nexus_core.certificates.sealing import Sealer
from nexus_core.marketplace import Index
from nexus_core.marketplace.locks import Lock
from nexus_core.model.base import Model
from nexus_core.model.load import parse_text
from nexus_core.snapshot import PluginInstance, Release, Snapshot
from nexus_core.snapshot.plugins import SealedValue
from nexus_core.translate import (
    ClassStatus,
    GatewayStatus,
    Infrastructure,
    ListenerStatus,
    Translation,
    Verdict,
    translate,
)

sys.path.insert(0, str(Path(__file__).parent))
import hooks
import pem

HERE = Path(__file__).parent / "translate"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in HERE.glob("*.in.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_translation_gives(case: str, accept: bool) -> None:
    text = (HERE / f"{case}.in.yaml").read_text("utf-8")
    found = render(*run(text))
    golden = HERE / f"{case}.out.yaml"
    if accept:
        golden.write_text(found, "utf-8")
    assert golden.exists(), (
        f"{golden.name} is missing; look at what `pytest --accept` writes and keep it if it is right"
    )
    assert found == golden.read_text("utf-8")


def test_there_is_an_input_for_every_output() -> None:
    assert {path.name.removesuffix(".out.yaml") for path in HERE.glob("*.out.yaml")} == set(CASES)


SEALER = Sealer(bytes(range(32)))


def run(text: str) -> tuple[Translation, list[str]]:
    settings, manifests = split(re.sub(r"<<([a-z0-9.-]+)>>", lambda found: pem.content(found[1]), text))
    resources, problems = parse_text(manifests, "in.yaml")
    indexes = read_indexes(settings.get("indexes", {}))
    previous: Snapshot | None = None
    if "previous" in settings:
        before, broken = parse_text(yaml.safe_dump_all(settings["previous"]), "previous")
        assert not broken
        known = read_indexes(settings["previousIndexes"]) if "previousIndexes" in settings else indexes
        previous = translate(before, indexes=known, sealer=SEALER).snapshot
    if settings.get("indexesLost"):
        indexes = {}
    translation = translate(
        resources,
        previous=previous,
        indexes=indexes,
        sealer=SEALER,
        locks=msgspec.convert(settings.get("locks", {}), dict[str, Lock]),
        now_utc=settings.get("now"),
        manifest_hooks=[hooks.Hook(**each) for each in settings.get("hooks", ())],
    )
    return translation, [str(p) for p in problems]


def read_indexes(written: dict[str, Any]) -> dict[str, Index]:
    return {
        name: Index(tuple(msgspec.convert({**DEFAULT_RELEASE, **release}, Release) for release in releases))
        for name, releases in written.items()
    }


DEFAULT_RELEASE = {
    "version": "1.0.0",
    "api": ">=1,<2",
    "package": "demo",
    "entry_point": "demo:Plugin",
    "sha256": "0" * 64,
    "url": "bundled:",
    "publisher": "nexus",
}


def split(text: str) -> tuple[dict[str, Any], str]:
    """Return the settings of an input and its manifests."""
    parts = text.split("\n---\n")
    settings: dict[str, Any] = {}
    while parts and "kind: Setting" in parts[0]:
        settings |= yaml.safe_load(parts.pop(0))
    return settings, "\n---\n".join(parts)


def render(translation: Translation, texts: list[str]) -> str:
    """Return what matters, as YAML: defaults are left out."""
    snapshot = translation.snapshot
    shown: dict[str, Any] = {
        name: [msgspec.to_builtins(item) for item in getattr(snapshot, name)]
        for name in ("listeners", "routes", "streams", "upstreams", "plugins")
    }
    shown = {"gateways": [msgspec.to_builtins(part) for part in snapshot.gateways], **shown}
    shown["certificates"] = [
        {
            "id": each.id,
            "source": each.source,
            "chain": each.chain.count("BEGIN"),
            "key": pem.told(SEALER, each),
            "holders": [holder.gateway for holder in each.holders],
        }
        for each in snapshot.certificates
    ]
    for plugin, instance in zip(shown["plugins"], snapshot.plugins, strict=True):
        for each, of in ((plugin, instance), *_candidates(plugin, instance)):
            if of.sealed:
                each["sealed"] = [_opened(of.id, value) for value in of.sealed]
    for listener in shown["listeners"]:
        if (tls := listener.get("tls")) and "client_authorities" in tls:
            tls["client_authorities"] = f"{tls['client_authorities'].count('BEGIN')} certificates"
    shown["mirrors"] = [
        {key: value for key, value in msgspec.to_builtins(m).items() if (key, value) != ("protocol", "TCP")}
        for m in translation.mirrors
    ]
    for name in ("classes", "gateways", "listener_sets", "routes", "services", "plugins", "policies", "policies_tls"):
        statuses = [_plain(status) for status in getattr(translation, name)]
        shown[f"status of {name}"] = statuses
    shown["changes at"] = translation.changes_at_utc.isoformat() if translation.changes_at_utc is not None else ""
    shown["problems"] = [*texts, *(str(p) for p in translation.problems)]
    return yaml.safe_dump({k: v for k, v in shown.items() if v}, sort_keys=False, width=140, allow_unicode=True)


def _candidates(shown: dict[str, Any], instance: PluginInstance) -> list[tuple[dict[str, Any], PluginInstance]]:
    return [] if instance.candidate is None else [(shown["candidate"]["instance"], instance.candidate.instance)]


def _opened(plugin: str, value: SealedValue) -> str:
    clear = SEALER.unseal_text(value.text, value.holders, f"{plugin}#{value.name}").decode()
    return f"{value.name} = {clear}, for {', '.join(h.gateway or 'nobody' for h in value.holders)}"


DEFAULT_KINDS = ("GRPCRoute", "HTTPRoute")


def _plain(status: Any) -> Any:
    """What a status says beyond what goes without saying."""
    found: dict[str, Any] = {}
    for name in status.__dataclass_fields__:
        value = getattr(status, name)
        if value in ("", (), None, 0, False, {}):
            continue
        found[name] = _value(value)
    match status:
        case GatewayStatus(infrastructure=Infrastructure() as infrastructure):
            if not {"labels", "annotations", "parameters", "addresses"} & found["infrastructure"].keys():
                del found["infrastructure"]
            if not infrastructure.usable:
                found["infrastructure"] = {**found.get("infrastructure", {}), "usable": False}
            if status.resolved == Verdict(True, "ResolvedRefs"):
                del found["resolved"]
        case ListenerStatus():
            if not found.pop("serves", False):
                found["serves"] = False
            if status.supported_kinds in (DEFAULT_KINDS, ()):
                found.pop("supported_kinds", None)
        case ClassStatus():
            found["features"] = len(status.features)
        case _:
            pass
    return found


def _value(value: Any) -> Any:
    kind = type(value).__name__
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if kind == "ObjectRef":
        return str(value)
    if kind == "Verdict":
        return (
            value.reason
            if value.ok
            else f"not {value.reason}"
            if not value.message
            else f"not {value.reason}: {value.message}"
        )
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    if isinstance(value, Model):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return _plain(value) if hasattr(value, "__dataclass_fields__") else value
