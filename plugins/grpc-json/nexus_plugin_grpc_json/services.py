"""From descriptors to bindings: which path leads to which method, and how its messages are made."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from nexus_sdk.plugin import PluginConfigError

from .rules import NotReadable, Rule, rules_of
from .templates import NotTemplate, Template, compile_template

_KNOWN = (any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
_ANNOTATIONS = ("google/api/annotations.proto", "google/api/http.proto", "google/api/client.proto", "google/api/field_behavior.proto",
                "google/api/resource.proto")  # fmt: skip
"""Files of options alone, which are read without their descriptors."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to call one method. rpc: `/package.Service/Method`. streams: whether the service answers with several messages."""

    rpc: str
    rule: Rule
    template: Template
    request: type[Message]
    response: type[Message]
    streams: bool

    def new_request(self) -> Message:
        """Return an empty request message."""
        return self.request()


class Services:
    """All bindings of a descriptor set. pool: where messages are found, such as those in an Any."""

    def __init__(self, encoded: str, only: Sequence[str], *, every_method: bool) -> None:
        """encoded: a FileDescriptorSet in base64. only: full names of services, empty for all. every_method: whether methods are bound to
        `POST /package.Service/Method`, too. Raises PluginConfigError.
        """
        self.pool = descriptor_pool.DescriptorPool()
        files = _files(encoded)
        self._add(files)
        self.bindings: list[Binding] = []
        self.skipped: list[str] = []
        """Methods whose clients stream, which HTTP with JSON has no form for."""
        found = set()
        for file in files.values():
            for service in file.service:
                name = f"{file.package}.{service.name}" if file.package else service.name
                if only and name not in only:
                    continue
                found.add(name)
                for method in service.method:
                    self._bind(name, method, every_method)
        missing = set(only) - found
        if missing:
            raise PluginConfigError(
                f"config.services: {min(missing)} is not in the descriptors; there are: {', '.join(sorted(found)) or 'none'}."
            )
        if not self.bindings:
            raise PluginConfigError(
                "config.descriptors: no method has an HTTP binding; annotate some, or set everyMethod."
            )
        self.bindings.sort(key=lambda binding: binding.template.order)

    def find(self, verb: str, path: str) -> tuple[int, bool]:
        """Return the index of a request's binding, -1 for none; and whether the path has one with another method."""
        known = False
        for index, binding in enumerate(self.bindings):
            if binding.template.pattern.fullmatch(path):
                if binding.rule.verb in (verb, "*"):
                    return index, True
                known = True
        return -1, known

    def _add(self, files: Mapping[str, descriptor_pb2.FileDescriptorProto]) -> None:
        known = {module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb for module in _KNOWN}
        done: set[str] = set()

        def add(name: str, trail: tuple[str, ...]) -> None:
            if name in done:
                return
            if name in trail:
                raise PluginConfigError(f"config.descriptors: {name} imports itself.")
            if name in known:
                # The host's: json_format knows these types by their fields, which have to be the ones it was built with.
                file = descriptor_pb2.FileDescriptorProto.FromString(known[name])
            elif name in files:
                file = files[name]
            elif name in _ANNOTATIONS:
                file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
            else:
                raise PluginConfigError(
                    f"config.descriptors: {trail[-1] if trail else 'a file'} imports {name}, which is not among them; "
                    "make them with `protoc --include_imports --descriptor_set_out=…`."
                )
            for dependency in file.dependency:
                add(dependency, (*trail, name))
            try:
                self.pool.Add(file)
            except (TypeError, ValueError) as error:
                raise PluginConfigError(f"config.descriptors: {name} cannot be used: {str(error)[:300]}") from error
            done.add(name)

        for name in files:
            add(name, ())

    def _bind(self, service: str, method: descriptor_pb2.MethodDescriptorProto, every_method: bool) -> None:
        rpc = f"/{service}/{method.name}"
        if method.client_streaming:
            self.skipped.append(rpc)
            return
        request, response = (self._class(kind.removeprefix(".")) for kind in (method.input_type, method.output_type))
        try:
            rules = rules_of(method.options.SerializeToString())
        except (NotReadable, UnicodeDecodeError) as error:
            raise PluginConfigError(f"config.descriptors: google.api.http of {rpc} cannot be read: {error}.") from error
        if every_method:
            rules.append(Rule("POST", rpc, "*"))
        for rule in rules:
            try:
                template = compile_template(rule.path)
            except NotTemplate as error:
                raise PluginConfigError(f"config.descriptors: google.api.http of {rpc}: {error}.") from error
            _check_fields(request.DESCRIPTOR, response.DESCRIPTOR, rule, template, rpc)
            self.bindings.append(Binding(rpc, rule, template, request, response, method.server_streaming))

    def _class(self, name: str) -> type[Message]:
        try:
            made: type[Message] = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
        except KeyError as error:
            raise PluginConfigError(f"config.descriptors: there is no message {name}.") from error
        return made


def field_of(message: Descriptor, path: str) -> FieldDescriptor | None:
    """Return the field of a dotted path, names as in the proto or in JSON; None when there is none."""
    field: FieldDescriptor | None = None
    for name in path.split("."):
        if message is None:
            return None
        field = message.fields_by_name.get(name) or message.fields_by_camelcase_name.get(name)
        if field is None:
            return None
        message = field.message_type
    return field


def _check_fields(request: Descriptor, response: Descriptor, rule: Rule, template: Template, rpc: str) -> None:
    wanted = [(request, name) for name, _ in template.variables]
    if rule.body not in ("", "*"):
        wanted.append((request, rule.body))
    if rule.response_body:
        wanted.append((response, rule.response_body))
    for message, name in wanted:
        if field_of(message, name) is None:
            raise PluginConfigError(
                f"config.descriptors: google.api.http of {rpc}: {message.full_name} has no field {name}."
            )


def _files(encoded: str) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    except (binascii.Error, ValueError, DecodeError) as error:
        raise PluginConfigError(
            "config.descriptors: it is no FileDescriptorSet in base64; make it with "
            "`protoc --include_imports --descriptor_set_out=/dev/stdout … | base64 -w0`."
        ) from error
    return {file.name: file for file in files}
