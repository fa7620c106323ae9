"""What is kept in memory of kinds that hold more than the operator needs.

Of a Secret: its certificate, key and authority, and the keys that plugins name; of one that has none, or that the operator made, that it
is there. Of a ConfigMap: an authority, all of it where a marketplace is in it, else nothing at all. Of a Pod: its name, labels, and
whether it is ready. Of a HorizontalPodAutoscaler: its spec; of one that is not ours, what it scales. The rest is dropped before
anything else sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nexus_operator.world.kinds import GATEWAY, MANAGED_BY, RENDERED
from nexus_operator.world.named import NOTHING, Named

Object = Mapping[str, Any]
SECRET_KEYS = ("tls.crt", "tls.key", "ca.crt")
CONFIG_MAP_KEYS = ("ca.crt",)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Repeats the whole object, a Secret's values and all."""
_IDENTITY = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")


def trim(kind: str, obj: Object, named: Named = NOTHING) -> Object | None:
    """Return what to keep of the object, None for nothing. The object itself stays as it is. named: what is kept beside the usual."""
    if kind == "Secret":
        return _secret(obj, named)
    if kind == "ConfigMap":
        return _config_map(obj, named)
    trimmer = _TRIMMERS.get(kind)
    return obj if trimmer is None else trimmer(obj)


def _secret(obj: Object, named: Named) -> Object:
    meta = obj.get("metadata") or {}
    ours = _is_made_here(meta)
    data = obj.get("data") or {}
    # What the operator made itself it can make again, and no plugin gets it; of the others, a certificate's parts and what is named.
    wanted = {*SECRET_KEYS, *(_asked(named, "Secret", meta) or ())}
    kept = {} if ours else {key: value for key, value in data.items() if key in wanted}
    shown = {**_identity(meta), **_described(meta)} if ours else _identity(meta)
    return {**_kind(obj), "metadata": shown, "type": obj.get("type", ""), **({"data": kept} if kept else {})}


def _is_made_here(meta: Mapping[str, Any]) -> bool:
    """Whether the operator made an object. The label alone does not tell: people give it to what they keep for Nexus, too."""
    if (meta.get("labels") or {}).get(MANAGED_BY[0]) != MANAGED_BY[1]:
        return False
    owned = any(
        ref.get("controller")
        and ref.get("kind") == GATEWAY.kind
        and str(ref.get("apiVersion")).startswith(f"{GATEWAY.group}/")
        for ref in meta.get("ownerReferences") or ()
    )
    return owned or RENDERED in (meta.get("annotations") or {})


def _config_map(obj: Object, named: Named) -> Object | None:
    meta, data = obj.get("metadata") or {}, obj.get("data") or {}
    if _asked(named, "ConfigMap", meta) is None:
        parts = {part: obj[part] for part in ("data", "binaryData") if obj.get(part)}
        return {**_kind(obj), "metadata": _identity(meta), **parts}
    kept = {key: data[key] for key in CONFIG_MAP_KEYS if key in data}
    return {**_kind(obj), "metadata": _identity(meta), "data": kept} if kept else None


def _asked(named: Named, kind: str, meta: Mapping[str, Any]) -> frozenset[str] | None:
    """The keys of an object that are named, none for one that nobody names; None for all."""
    return named.get((kind, str(meta.get("namespace") or ""), str(meta.get("name") or "")), frozenset())


def _pod(obj: Object) -> Object:
    meta, status = obj.get("metadata") or {}, obj.get("status") or {}
    ready = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    conditions = [{"type": "Ready", "status": ready[0].get("status")}] if ready else []
    shown = {**_identity(meta), "labels": meta.get("labels") or {}}
    return {**_kind(obj), "metadata": shown, "status": {"phase": status.get("phase"), "conditions": conditions}}


def _autoscaler(obj: Object) -> Object:
    meta, spec = obj.get("metadata") or {}, obj.get("spec") or {}
    ours = (meta.get("labels") or {}).get(MANAGED_BY[0]) == MANAGED_BY[1]
    if ours:
        return {**_kind(obj), "metadata": {**_identity(meta), **_described(meta)}, "spec": spec}
    return {**_kind(obj), "metadata": _identity(meta), "spec": {"scaleTargetRef": spec.get("scaleTargetRef")}}


def _kind(obj: Object) -> dict[str, Any]:
    return {key: obj[key] for key in ("apiVersion", "kind") if key in obj}


def _identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: meta[key] for key in _IDENTITY if key in meta}


def _described(meta: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: meta[key] for key in ("labels", "ownerReferences") if key in meta}
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    return {**found, **({"annotations": annotations} if annotations else {})}


_TRIMMERS: Mapping[str, Callable[[Object], Object | None]] = {
    "Pod": _pod,
    "HorizontalPodAutoscaler": _autoscaler,
}
