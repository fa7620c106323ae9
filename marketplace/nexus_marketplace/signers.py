"""Who signs which role of a marketplace's metadata, and the signing. Pure but for chance: no files, no clock."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Role, Root

from nexus_marketplace.refusing import PublishRefused


@dataclass(frozen=True, slots=True)
class Keys:
    """Private keys by role. root: one or more, all of which sign. online: of timestamp and snapshot."""

    root: tuple[Ed25519PrivateKey, ...]
    targets: Ed25519PrivateKey
    online: Ed25519PrivateKey
    root_threshold: int = 1

    @classmethod
    def one(cls, key: Ed25519PrivateKey) -> Keys:
        """Return the same key for all roles."""
        return cls((key,), key, key)


def make_root(keys: Keys, version: int, expires: datetime) -> Metadata[Root]:
    """Return root metadata that names these keys, not yet signed. Raises `PublishRefused` for a threshold that they cannot reach."""
    root = Root(
        version,
        expires=expires,
        consistent_snapshot=True,
        roles={name: Role([], 1) for name in ("root", "timestamp", "snapshot", "targets")},
    )
    for role, several in (
        ("root", keys.root),
        ("timestamp", (keys.online,)),
        ("snapshot", (keys.online,)),
        ("targets", (keys.targets,)),
    ):
        for key in several:
            root.add_key(_public(key), role)
    if not 1 <= keys.root_threshold <= len(root.roles["root"].keyids):
        raise PublishRefused(
            f"{keys.root_threshold} root keys are to sign, and {len(root.roles['root'].keyids)} are given. Give more, or ask for fewer."
        )
    root.roles["root"].threshold = keys.root_threshold
    return Metadata(root)


def _public(key: Ed25519PrivateKey) -> SSlibKey:
    return SSlibKey.from_crypto(key.public_key())


def sign(metadata: Metadata[Any], keys: Iterable[Ed25519PrivateKey]) -> None:
    """Sign metadata with each of the keys, once."""
    for key in distinct(keys):
        metadata.sign(CryptoSigner(key, _public(key)), append=True)


def distinct(keys: Iterable[Ed25519PrivateKey]) -> list[Ed25519PrivateKey]:
    """Return the keys, each once, in order."""
    return list({_public(key).keyid: key for key in keys}.values())


def held_by(root: Root, role: str, keys: Iterable[Ed25519PrivateKey]) -> list[Ed25519PrivateKey]:
    """Return those of the keys that sign a role."""
    return [key for key in distinct(keys) if _public(key).keyid in root.roles[role].keyids]


def public_values(root: Root, role: str) -> tuple[str, ...]:
    """Return the public keys of a role, raw, in base64."""
    values = [root.keys[keyid].keyval["public"] for keyid in root.roles[role].keyids]
    return tuple(base64.b64encode(bytes.fromhex(value)).decode() for value in values)


def public_keys(root: Root, role: str) -> str:
    """Return them as messages name them."""
    return ", ".join(public_values(root, role))
