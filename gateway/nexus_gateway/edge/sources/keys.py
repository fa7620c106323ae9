"""What plugins have from Consul's KV store: values that they were granted, and artefacts that the operator keeps there for gateways
which cannot reach the marketplace.
"""

from __future__ import annotations

from nexus_core.snapshot.wire import artefact_key
from nexus_sdk.consul.connection import Connection, ConsulAway, ConsulRefused

MAX_ARTEFACT_BYTES = 4 * 2**20
MAX_PARTS = 64


class Keys:
    """Reads values. Made outside of an event loop, used in one; connects with the first question."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        """prefix: first part of the installation's keys. connection: closed by `close`."""
        self._connection = connection
        self._prefix = prefix

    async def value(self, key: str) -> bytes | None:
        """Return a key's value, None when there is none. Raises OSError when Consul does not say."""
        try:
            _, found = await self._connection.call(
                self._connection.client.kv.get(key), what=f"read the key {key[:200]!r}"
            )
        except (ConsulAway, ConsulRefused) as error:
            raise OSError(str(error)) from error
        value = found.get("Value") if found is not None else None
        return value if isinstance(value, bytes) else b"" if found is not None else None

    async def artefact(self, sha256: str) -> bytes | None:
        """Return an artefact, its digest not yet checked; None when it is not there in full. Raises OSError."""
        parts: list[bytes] = []
        for number in range(MAX_PARTS):
            part = await self.value(artefact_key(sha256, number, self._prefix))
            if not part:
                break
            parts.append(part)
            if sum(map(len, parts)) > MAX_ARTEFACT_BYTES:
                raise OSError(f"What Consul has under {sha256} is larger than {MAX_ARTEFACT_BYTES // 2**20} MiB.")
        return b"".join(parts) or None

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
