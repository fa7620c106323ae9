"""An OTLP/HTTP collector that counts spans by service and keeps none: `collector.py PORT`. GET /count tells the counts.

It stands in for Jaeger, whose own cost on the shared core would be more than what is measured.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections import Counter

import uvloop
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_DONE = ExportTraceServiceResponse().SerializeToString()


class Collector:
    """spans: by `service.name`."""

    def __init__(self) -> None:
        self.spans: Counter[str] = Counter()

    async def take(self, request: web.Request) -> web.Response:
        """Count an export. 400 for what is none."""
        data = await request.read()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        export = ExportTraceServiceRequest.FromString(data)
        for resource in export.resource_spans:
            name = next((a.value.string_value for a in resource.resource.attributes if a.key == "service.name"), "")
            self.spans[name] += sum(len(scope.spans) for scope in resource.scope_spans)
        return web.Response(body=_DONE, content_type="application/x-protobuf")

    async def count(self, request: web.Request) -> web.Response:
        """Return the counts as JSON."""
        return web.Response(text=json.dumps(self.spans), content_type="application/json")


async def serve(port: int) -> None:
    """Listen on 127.0.0.1 until killed."""
    collector = Collector()
    app = web.Application(client_max_size=2**26)
    app.add_routes([web.post("/v1/traces", collector.take), web.get("/count", collector.count)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
