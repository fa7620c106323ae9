"""The two messages of grpc.health.v1, against bytes that protobuf's own implementation makes."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st
from nexus_gateway.edge.health.grpc_health import MessageInvalid, decode_status, encode_request


def build(name: str, kind: FieldDescriptorProto.Type.ValueType) -> type[Message]:
    """Return a message class with the one field number 1."""
    field = FieldDescriptorProto(name="field", number=1, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
    file = FileDescriptorProto(
        name=f"{name}.proto", message_type=[DescriptorProto(name=name, field=[field])], syntax="proto3"
    )
    pool = DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    return GetMessageClass(pool.FindMessageTypeByName(name))  # type: ignore[no-untyped-call]


Request = build("Request", FieldDescriptorProto.TYPE_STRING)
# An enumeration and an int32 are the same on the wire.
Response = build("Response", FieldDescriptorProto.TYPE_INT32)


def framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4) + message


@pytest.mark.parametrize("service", ["", "shop.Orders", "ü" * 100])
def test_requests_are_what_protobuf_makes(service: str) -> None:
    assert encode_request(service) == framed(Request(field=service).SerializeToString())


@pytest.mark.parametrize("status", [0, 1, 2, 3, 300])
def test_statuses_are_read(status: int) -> None:
    assert decode_status(framed(Response(field=status).SerializeToString())) == status


@pytest.mark.parametrize(
    "message",
    [
        b"\x08\x01",
        b"\x12\x03abc\x08\x01",  # an unknown string before
        b"\x08\x01\x1d\x00\x00\x00\x00",  # an unknown fixed32 after
        b"\x11\x00\x00\x00\x00\x00\x00\x00\x00\x08\x01",  # an unknown fixed64 before
        b"\x08\x02\x08\x01",  # the last one counts
    ],
)
def test_unknown_fields_are_skipped(message: bytes) -> None:
    assert decode_status(framed(message)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00",
        b"\x01\x00\x00\x00\x02\x08\x01",
        b"\x00\x00\x00\x00\x03\x08\x01",
        b"\x00\x00\x00\x00\x01\x08\x01",
        framed(b"\x08"),
        framed(b"\x08" + b"\xff" * 11),
        framed(b"\x12\x7fabc"),
        framed(b"\x0b"),
        framed(b"\x1d\x00"),
        framed(b"\x08\x01") * 2,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        decode_status(data)


@given(st.binary(max_size=64))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    for tried in (data, framed(data)):
        with contextlib.suppress(MessageInvalid):
            assert decode_status(tried) >= 0
