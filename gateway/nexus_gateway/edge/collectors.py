"""The in-memory traces' second inlet: OTLP/HTTP from services beside the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from nexus_gateway.telemetry.trees import SpanRecord, TraceBook

MAX_EXPORT_BYTES = 4 * 2**20
"""Decompressed size of one export; larger ones are refused with 413."""

_KINDS = ("", "internal", "server", "client", "producer", "consumer")
_STATUS = ("", "ok", "error")


class ExportInvalid(ValueError):
    """The body is not an OTLP trace export. The text says so."""


def take_export(book: TraceBook, body: bytes) -> bytes:
    """Put an `ExportTraceServiceRequest`'s spans into the book and return the response's bytes. Raises `ExportInvalid`."""
    # Here: protobuf takes 2 MB of every gateway, and few take exports.
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise ExportInvalid("The body is not an OTLP ExportTraceServiceRequest in protobuf.") from error
    for group in request.resource_spans:
        resource = {item.key: _value(item.value) for item in group.resource.attributes}
        service = str(resource.get("service.name", "unknown"))
        for scope in group.scope_spans:
            for span in scope.spans:
                if len(span.trace_id) != 16 or len(span.span_id) != 8:
                    continue  # OTLP: such spans are invalid and ignored
                book.add(
                    SpanRecord(
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        service,
                        span.name,
                        _KINDS[span.kind] if span.kind < len(_KINDS) else "",
                        span.start_time_unix_nano,
                        max(span.end_time_unix_nano, span.start_time_unix_nano),
                        _STATUS[span.status.code] if span.status.code < len(_STATUS) else "",
                        {item.key: _value(item.value) for item in span.attributes},
                    )
                )
    return bytes(ExportTraceServiceResponse().SerializeToString())


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return [_value(item) for item in value.array_value.values][:32]
        case _:
            return ""
