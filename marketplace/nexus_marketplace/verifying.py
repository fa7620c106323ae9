"""Whether a release may run here: signed by the pinned publisher, made for this API, configured as it asks. No I/O."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import jsonschema
import referencing
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nexus_core.hooks import API_VERSION
from nexus_core.marketplace import signed_bytes
from nexus_core.snapshot import PluginInstance, Release
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from nexus_marketplace.rejections import PluginRejected


def verify(instance: PluginInstance) -> dict[str, Any]:
    """Return the configuration of a plugin that may run. Raises `PluginRejected`."""
    verify_signature(instance.release, instance.public_key)
    verify_api(instance.release)
    return read_config(instance)


def verify_signature(release: Release, public_key: str) -> None:
    """Raise `PluginRejected` unless the release is signed with the key. public_key: base64, raw Ed25519."""
    name = f"{release.name} {release.version}"
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    except (ValueError, binascii.Error) as error:
        raise PluginRejected(
            "PluginSignatureInvalid",
            f"The marketplace pins a publicKey for {release.publisher!r} that is not a base64 Ed25519 key. Correct it.",
        ) from error
    try:
        key.verify(base64.b64decode(release.signature, validate=True), signed_bytes(release))
    except (InvalidSignature, ValueError, binascii.Error) as error:
        raise PluginRejected(
            "PluginSignatureInvalid",
            f"{name} is not signed with the key that the marketplace pins for {release.publisher!r}. "
            "Do not install it unless its publisher confirms a new key; then pin that.",
        ) from error


def verify_api(release: Release) -> None:
    """Raise `PluginRejected` unless the release works with this gateway's hooks."""
    try:
        fits = SpecifierSet(release.api).contains(API_VERSION)
    except InvalidSpecifier as error:
        raise PluginRejected(
            "PluginIncompatible",
            f"{release.name} {release.version} names API {release.api!r}, which is not a range like >=1,<2.",
        ) from error
    if not fits:
        raise PluginRejected(
            "PluginIncompatible",
            f"{release.name} {release.version} needs plugin API {release.api}; this gateway has {API_VERSION}. "
            "Choose another version of the plugin, or update the gateway.",
        )


def read_config(instance: PluginInstance) -> dict[str, Any]:
    """Return the instance's configuration, checked against the release's schema. Raises `PluginRejected`."""
    release = instance.release
    config = json.loads(instance.config)
    if not isinstance(config, dict):
        raise PluginRejected("PluginConfigInvalid", f"spec.config of {instance.id} is not an object.")
    # An empty registry: a `$ref` to somewhere else is refused instead of being fetched.
    try:
        jsonschema.Draft202012Validator.check_schema(release.config_schema)
        validator = jsonschema.Draft202012Validator(release.config_schema, registry=referencing.Registry())
        error = jsonschema.exceptions.best_match(validator.iter_errors(config))
    except (jsonschema.exceptions.SchemaError, referencing.exceptions.Unresolvable) as broken:
        raise PluginRejected(
            "PluginConfigInvalid",
            f"The config schema of {release.name} {release.version} is broken; tell its publisher.",
        ) from broken
    if error is not None:
        where = ".spec.config" + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path
        )
        raise PluginRejected("PluginConfigInvalid", f"{where}: {_told(error)}")
    return config


def _told(error: Any) -> str:
    """Return the message, without the value where it could be a secret and long."""
    message = str(error.message)
    return message if len(message) <= 300 else message[:300] + "…"
