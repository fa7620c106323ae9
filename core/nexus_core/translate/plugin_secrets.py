"""The secrets of plugins: read from Secrets of their namespace, sealed for the Gateways on whose routes the plugin is.

A secret that cannot be read (any more) stays at its last good value and is told; one that is no longer granted is gone at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from nexus_core.model import kubernetes
from nexus_core.model.plugins import NexusPluginSpec, SecretKeyRef
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot.plugins import PluginInstance, SealedValue
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.worlds import World

if TYPE_CHECKING:
    from nexus_core.certificates.sealing import Sealer

KEPT = "The value that it had before stays."
_NOBODY = ("",)
"""Gateways of a plugin that is on no route: only who has the installation's key can open its secrets."""


@dataclass(frozen=True, slots=True)
class _Ref:
    """A value that comes from a Secret. name: of the sealed value. path: of the reference in the spec."""

    name: str
    path: str
    at: SecretKeyRef


class Secrets:
    """Seals what one translation's plugins need."""

    def __init__(self, world: World, last: LastGood, sealer: Sealer | None) -> None:
        self._world, self._last, self._sealer = world, last, sealer

    def put_in(
        self, instance: PluginInstance, spec: NexusPluginSpec | None, gateways: Iterable[str]
    ) -> tuple[PluginInstance, list[Problem]]:
        """Return the instance with its secrets, and what is wrong with them. spec: None for a plugin whose spec cannot be read.
        gateways: `<namespace>/<name>` of those on whose routes it is.
        """
        problems: list[Problem] = []
        former = {value.name: value for value in instance.sealed}
        before = self._last.plugins.get(instance.id)
        if before is not None:
            former = {value.name: value for each in _versions(before) for value in each.sealed} | former
        values: dict[str, bytes] = {}
        if spec is None:
            values = {
                name: clear for name, value in former.items() if (clear := self._open(instance.id, value)) is not None
            }
        else:
            for ref in _refs(spec, _asked(instance)):
                clear = self._read(instance, ref, former.get(ref.name), problems)
                if clear is not None:
                    values[ref.name] = clear
        if not values:
            return (instance if not instance.sealed else msgspec.structs.replace(instance, sealed=())), problems
        holders = tuple(gateways) or _NOBODY
        sealed = {}
        for name in sorted(values):
            text, held = self._get_sealer().seal(values[name], f"{instance.id}#{name}", holders)
            sealed[name] = SealedValue(name, text, held)
        return _with(instance, sealed), problems

    def _read(
        self, instance: PluginInstance, ref: _Ref, former: SealedValue | None, problems: list[Problem]
    ) -> bytes | None:
        owner = ObjectRef.parse(instance.source)
        resource = self._world.find("Secret", owner.namespace, ref.at.name)
        content = resource.spec if resource is not None else None
        value = content.find(ref.at.key) if isinstance(content, kubernetes.SecretContent) else None
        fault = ""
        path = f"{ref.path}.key"
        if resource is None:
            fault, path = f'There is no Secret "{ref.at.name}" in namespace "{owner.namespace}"', f"{ref.path}.name"
        elif value is None:
            fault = f'Secret "{ref.at.name}" in namespace "{owner.namespace}" has no key "{ref.at.key}"'
        elif not _is_text(value):
            fault = f'Key "{ref.at.key}" of Secret "{ref.at.name}" is no UTF-8 text'
        if not fault:
            return value
        kept = self._open(instance.id, former) if former is not None else None
        fix = f"Create it, with a text under {ref.at.key}: kubectl create secret generic."
        if kept is not None:
            fix = f"{fix} {KEPT}"
        problems.append(Problem(owner, path, "SecretNotFound", f"{fault}.", fix))
        return kept

    def _open(self, plugin: str, value: SealedValue) -> bytes | None:
        from nexus_core.certificates.sealing import SealError

        try:
            return self._get_sealer().unseal_text(value.text, value.holders, f"{plugin}#{value.name}")
        except SealError:
            return None  # sealed with a key that is no longer ours: it is lost, and who needs it says so

    def _get_sealer(self) -> Sealer:
        if self._sealer is None:
            from nexus_core.certificates.sealing import process_sealer

            self._sealer = process_sealer()
        return self._sealer


def _refs(spec: NexusPluginSpec, asked: frozenset[str]) -> Iterable[_Ref]:
    for index, entry in enumerate(spec.config_from):
        yield _Ref(f"config:{entry.path}", f".spec.configFrom[{index}].secretRef", entry.secret_ref)
    for index, granted in enumerate(spec.grants.secrets):
        if granted.name in asked:
            yield _Ref(f"secret:{granted.name}", f".spec.grants.secrets[{index}].secretRef", granted.secret_ref)


def _versions(instance: PluginInstance) -> tuple[PluginInstance, ...]:
    """An instance's candidate and itself: of two values of one name its own is the one that counts."""
    return (instance,) if instance.candidate is None else (instance.candidate.instance, instance)


def _asked(instance: PluginInstance) -> frozenset[str]:
    return frozenset(name for each in _versions(instance) for name in each.granted.secrets)


def _with(instance: PluginInstance, sealed: Mapping[str, SealedValue]) -> PluginInstance:
    mine = frozenset(f"secret:{name}" for name in instance.granted.secrets)
    candidate = instance.candidate
    if candidate is not None:
        candidate = msgspec.structs.replace(candidate, instance=_with(candidate.instance, sealed))
    own = tuple(value for name, value in sealed.items() if name in mine or name.startswith("config:"))
    return msgspec.structs.replace(instance, sealed=own, candidate=candidate)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
