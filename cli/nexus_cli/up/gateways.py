"""The gateway in this process, fed from the manifests' directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.discovery import Discovery
from nexus_core.snapshot import Snapshot

from nexus_cli.errors import UserError
from nexus_cli.up import ports

if TYPE_CHECKING:
    from nexus_gateway.edge.listeners.shown import ListenerRow

TRACES_KEPT = 200


class LocalGateway:
    """listen, tls_listen, admin: host:port, tls_listen empty for the default. alone: nobody but the manifests tells where Kubernetes
    Services are. otlp: URL of a collector; empty keeps the last traces in memory for `nexus traces`."""

    def __init__(
        self, directory: Path, listen: str, tls_listen: str, admin: str, otlp: str, data_dir: Path, *, alone: bool
    ) -> None:
        # Imported here: it takes a while, in which the services boot.
        from nexus_gateway.app import Gateway
        from nexus_gateway.edge.sources.files import FileSource
        from nexus_gateway.edge.sources.locks import LOCKS, LocksFile
        from nexus_gateway.edge.sources.workshop import Workshop
        from nexus_gateway.settings import GatewaySettings

        self._make = Gateway
        workshop = Workshop(data_dir / "marketplaces", alone=alone, artefacts=data_dir / "plugins")
        self._source = FileSource(directory, workshop, locks=LocksFile(data_dir / LOCKS))
        self._settings = GatewaySettings(
            listen=listen,
            tls_listen=tls_listen,
            admin=admin,
            plugin_cache=data_dir / "plugins",
            access_log=False,  # the services log the same requests
            otlp_endpoint=otlp,
            traces_memory=0 if otlp else TRACES_KEPT,
        )
        listen_host, listen_port = ports.parse_address(listen, "--listen")
        admin_host, admin_port = ports.parse_address(admin, "--admin")
        self.url, self.admin_url = _url(listen_host, listen_port), _url(admin_host, admin_port)
        self._gateway: Gateway | None = None

    async def start(self, discovery: Discovery) -> None:
        """Listen. Raises UserError when somebody took an address since it was checked, or a setting cannot be used."""
        from nexus_gateway.settings import SettingInvalid

        self._gateway = self._make(self._settings, self._source, discovery)
        try:
            await self._gateway.start()
        except OSError as error:
            raise UserError(
                f"The gateway cannot listen: {error}. Choose other addresses with --listen and --admin."
            ) from error
        except SettingInvalid as error:
            raise UserError(str(error)) from error

    @property
    def listeners(self) -> tuple[ListenerRow, ...]:
        """Where each listener is, and what is wrong with it."""
        return self._gateway.ports.rows if self._gateway is not None else ()

    @property
    def snapshot(self) -> Snapshot:
        """What serves now."""
        return self._gateway.runtime.published.snapshot if self._gateway is not None else Snapshot()

    @property
    def live_snapshot(self) -> Snapshot | None:
        """What serves now, the same object until it changes; None before the first."""
        published = self._gateway.runtime.published if self._gateway is not None else None
        return published.snapshot if published is not None and published.generation else None

    async def live(self) -> None:
        """Return once the manifests' first Snapshot serves."""
        if self._gateway is not None:
            await self._gateway.live()

    async def stop(self, drain_s: float, drained: Callable[[], Awaitable[None]]) -> None:
        """Let requests finish for at most `drain_s` seconds, await `drained`, then close the admin API, too."""
        if self._gateway is not None:
            await self._gateway.stop(drain_s, drained=drained)


def _url(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
