"""Root metadata: who signed it, and whose keys it changed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root


def count_signers(metadata: Metadata[Root], keys: Sequence[str]) -> int:
    """Return how many of the keys (raw Ed25519, base64) signed the metadata, whatever key ids it names them by."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signed = metadata.signed_bytes
    signatures = [each.signature for each in list(metadata.signatures.values())[:64]]
    count = 0
    for text in set(keys):
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error):
            continue
        for signature in signatures:
            try:
                key.verify(bytes.fromhex(signature), signed)
            except (InvalidSignature, ValueError):
                continue
            count += 1
            break
    return count


def is_rekeyed(role: str, since: int, history: dict[int, Metadata[Root]]) -> bool:
    """Whether the newest root has other keys for the role than the root of version `since`, as far as that is known."""
    if role == "root" or since not in history:
        return False
    newest = history[max(history)].signed
    # Whoever holds the timestamp key decides which snapshot, and with the snapshot's, which targets are named.
    roles = ("timestamp",) if role == "timestamp" else ("timestamp", "snapshot")
    roles = (*roles, "targets") if role == "targets" else roles
    return any(set(newest.roles[each].keyids) != set(history[since].signed.roles[each].keyids) for each in roles)


def kept_roots(state: Path) -> list[Path]:
    """Return the root metadata in a marketplace's state directory, oldest first."""
    found = [
        (int(path.name.split(".")[0]), path)
        for path in state.glob("root_history/*.root.json")
        if path.name[0].isdigit()
    ]
    return [path for _, path in sorted(found)]
