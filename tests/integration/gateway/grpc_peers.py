"""A gRPC service and its calls, with grpcio and without generated code: messages are bytes.

The service is `shop.Echo`: `Unary`, `Collect` (client streams), `Spread` (server streams), `Talk` (both). What it does, its metadata says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

SERVICE = "shop.Echo"


class Echo(grpc.GenericRpcHandler):
    """seen: metadata of each call. cancelled: calls whose client left. remaining_s: time that each call had left. collected: answers
    of `Collect`."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.cancelled = 0
        self.remaining_s: list[float | None] = []
        self.running = 0
        self.collected: list[bytes] = []

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        if not details.method.startswith(f"/{SERVICE}/"):
            return None
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "Spread": grpc.unary_stream_rpc_method_handler(self.spread),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }.get(method)

    async def _begin(self, context: Any) -> dict[str, Any]:
        metadata = dict(context.invocation_metadata())
        self.seen.append(metadata)
        self.remaining_s.append(context.time_remaining())
        return metadata

    async def unary(self, message: bytes, context: Any) -> bytes:
        metadata = await self._begin(context)
        if "x-sleep" in metadata:
            try:
                self.running += 1
                await asyncio.sleep(float(metadata["x-sleep"]))
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
        if "x-fail" in metadata:
            await context.abort(
                grpc.StatusCode[metadata["x-fail"]], "as asked for: 100 % ü", (("x-why-bin", b"\x00\xff"),)
            )
        await context.send_initial_metadata((("x-first", "1"), ("x-first-bin", b"\x01\x02")))
        context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\xfe\x00")))
        return message if "x-same" in metadata else message[::-1]

    async def collect(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        metadata = await self._begin(context)
        self.collected.append(metadata.get("x-join", ",").encode().join([message async for message in messages]))
        return self.collected[-1]

    async def spread(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        metadata = await self._begin(context)
        count, size = int(metadata.get("x-count", "3")), int(metadata.get("x-size", "1"))
        if "x-head" in metadata:
            await context.send_initial_metadata(())
        try:
            self.running += 1
            for number in range(count):
                yield message + bytes([number % 256]) * size
                if "x-sleep" in metadata:
                    await asyncio.sleep(float(metadata["x-sleep"]))
            if "x-fail" in metadata:
                await context.abort(grpc.StatusCode[metadata["x-fail"]], "in the end")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def talk(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        metadata = await self._begin(context)
        if "x-quiet" in metadata:
            await context.send_initial_metadata(())
            yield b",".join([message async for message in messages])
            return
        async for message in messages:
            yield message.upper()


class Service:
    """The service on a port of its own; several may share what they saw."""

    def __init__(self, echo: Echo) -> None:
        self.echo = echo
        self.server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((echo,))
        self.port = 0

    async def start(self, credentials: Any = None) -> int:
        address = "127.0.0.1:0"
        port = (
            self.server.add_insecure_port(address)
            if credentials is None
            else self.server.add_secure_port(address, credentials)
        )
        await self.server.start()
        self.port = port
        return int(port)

    async def stop(self) -> None:
        await self.server.stop(0)


class Client:
    """Calls of the service over one channel."""

    def __init__(self, port: int, authority: str = "x") -> None:
        options = [
            ("grpc.default_authority", authority),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),
        ]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.unary = self.channel.unary_unary(f"/{SERVICE}/Unary")
        self.collect = self.channel.stream_unary(f"/{SERVICE}/Collect")
        self.spread = self.channel.unary_stream(f"/{SERVICE}/Spread")
        self.talk = self.channel.stream_stream(f"/{SERVICE}/Talk")
        self.nothing = self.channel.unary_unary(f"/{SERVICE}/Nothing")

    async def close(self) -> None:
        await self.channel.close()
