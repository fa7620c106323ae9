"""The plugins of services: a file for each event and GraphQL service, written when the gateway's Snapshot has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
from nexus_core.snapshot import Snapshot
from nexus_core.translate.service_plugins import KINDS, service_plugins

from nexus_cli import manifests
from nexus_cli.errors import UserError
from nexus_cli.plugins.homes import replace_file

POLL_S = 0.2


def environment(data_dir: Path, kind: str, namespace: str, name: str) -> dict[str, str]:
    """Return what tells a service where its plugins are listed; nothing for kinds that call none."""
    if kind not in KINDS:
        return {}
    return {
        "NEXUS_PLUGINS_FILE": str(file_of(data_dir, f"{namespace}/{name}")),
        "NEXUS_PLUGIN_CACHE": str(data_dir / "plugins"),
    }


def file_of(data_dir: Path, key: str) -> Path:
    """Return the file of a service. key: `<namespace>/<name>`."""
    return data_dir / "plugins-of" / f"{key.replace('/', '.')}.json"


async def follow(
    directory: Path, data_dir: Path, live: Callable[[], Snapshot | None], say: Callable[[str], None]
) -> None:
    """Write the files, for ever. live: the Snapshot that serves now, if any. say: told of what cannot be written."""
    last: Snapshot | None = None
    written: dict[str, bytes] = {}
    while True:
        snapshot = live()
        if snapshot is not None and snapshot is not last:
            try:
                await asyncio.to_thread(_write, directory, data_dir, snapshot, written)
                last = snapshot
            except UserError as error:
                say(f"nexus: the services' plugins cannot be listed: {error.format_message()}")
                last = snapshot
        await asyncio.sleep(POLL_S)


def _write(directory: Path, data_dir: Path, snapshot: Snapshot, written: dict[str, bytes]) -> None:
    loaded = manifests.load([directory])
    for key, instances in service_plugins(snapshot, [resource for resource, _ in loaded.resources]).items():
        data = msgspec.json.encode(instances)
        if written.get(key) != data:
            path = file_of(data_dir, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data.decode())
            written[key] = data
