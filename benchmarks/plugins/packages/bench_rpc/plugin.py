"""The same header by a call to another process: how gateways that are not written in Python run Python plugins.

One round trip over a Unix socket with the head in JSON each way, on a connection that stays open. It is the least that such a runner
can do: real ones make one more round trip for each thing that the plugin asks of the gateway.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, RequestHead


class Rpc(Plugin):
    """Adds the header that the runner says. config.socket: its path."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    async def start(self) -> None:
        self._socket.connect(self.config["socket"])

    async def stop(self) -> None:
        self._socket.close()

    def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with the header."""
        asked = {"method": request.method, "path": request.path, "headers": request.headers}
        self._socket.sendall(json.dumps(asked).encode() + b"\n")
        said = json.loads(self._socket.recv(65536))
        return request.with_header(said["name"], said["value"])
