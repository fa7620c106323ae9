"""The plugin: turns JSON requests into calls of gRPC, and their answers into JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.message import DecodeError
from nexus_sdk.plugin import Headers, Plugin, Reply, RequestHead, ResponseHead

from .framing import NotFramed, frame, messages, status_of, text_of
from .services import Binding, Services
from .transcoding import NotFitting, Transcoder

_ASKED = frozenset(
    {"accept", "accept-encoding", "content-encoding", "content-length", "content-type", "te", "transfer-encoding"}
)
"""Headers of the JSON request, which is another message than the call."""


class GrpcJson(Plugin):
    """Lets JSON clients call gRPC services."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._services = Services(
            str(config["descriptors"]),
            tuple(config.get("services", ())),
            every_method=bool(config.get("everyMethod", False)),
        )
        self._transcoder = Transcoder(
            self._services.pool, proto_names=bool(config.get("protoNames", False)), defaults=bool(config.get("defaults", False)),
            enum_numbers=bool(config.get("enumNumbers", False)), ignore_unknown=bool(config.get("ignoreUnknown", False)),
        )  # fmt: skip
        self._unknown = str(config.get("unknownPaths", "refuse"))
        self._max_bytes = int(config.get("maxBytes", 4 * 2**20))
        for rpc in self._services.skipped:
            self.context.log.warning("%s is not offered: its clients stream", rpc)

    # ---- requests

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request, and note its binding; calls of gRPC itself as they are."""
        if (request.header("content-type") or "").startswith("application/grpc"):
            return request
        index, known = self._services.find(request.method, request.path)
        if index >= 0:
            request.notes[self.context.plugin] = self._services.bindings[index]
            return request
        if self._unknown == "pass":
            return request
        if known:
            return _problem(request, 405, "MethodUnknown", "The path is there with another method.")
        return _problem(request, 404, "OperationUnknown", "No method of the services has this path.")

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether the request is to be a call."""
        return self.context.plugin in request.notes

    def on_request_body(self, request: RequestHead, body: bytes) -> bytes | tuple[RequestHead, bytes] | Reply:
        """Return the call, or what does not fit."""
        binding = self._binding(request)
        if binding is None:
            return body
        if body and (request.header("content-encoding") or "identity").strip().lower() != "identity":
            return _problem(request, 415, "EncodingUnsupported", "Send the body without content-encoding.")
        variables = binding.template.match(request.path)
        query = parse_qsl(request.query, keep_blank_values=True, max_num_fields=None)
        try:
            message = self._transcoder.request(binding, variables or {}, query, body)
        except NotFitting as error:
            return _problem(request, 400, "RequestInvalid", str(error))
        headers = (
            *(pair for pair in request.headers if pair[0] not in _ASKED and not pair[0].startswith("grpc-")),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-accept-encoding", "identity"),
        )
        head = RequestHead(
            "POST", binding.rpc, "", request.host, headers, request.client_ip, request.route, request.notes
        )
        return head, frame(message)

    # ---- responses

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead | Reply:
        """Return the answer of a call that failed at once, as its status says; others as they are."""
        if self._binding(request) is None or not _is_grpc(response):
            return response
        status = response.header("grpc-status")
        return self._failed(request, response) if status not in (None, "0") else response

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether the answer is one to a call."""
        return self._binding(request) is not None and _is_grpc(response)

    def on_response_body(self, request: RequestHead, response: ResponseHead, body: bytes) -> bytes | Reply:
        """Return the answer as JSON."""
        binding = self._binding(request)
        if binding is None:
            return body
        if response.header("grpc-status") not in (None, "0"):
            return self._failed(request, response)
        try:
            found = messages(body, (response.header("grpc-encoding") or "identity").lower(), self._max_bytes)
            if not binding.streams and len(found) != 1:
                # A call without a message failed; its status is in the trailers, which plugins do not see.
                what = (
                    "no message: it failed, and its status is in its trailers"
                    if not found
                    else f"{len(found)} messages"
                )
                return _problem(
                    request,
                    502,
                    "GrpcStatusUnknown" if not found else "ResponseInvalid",
                    f"The service answered with {what}.",
                )
            made = [self._transcoder.response(binding, data) for data in found]
        except (NotFramed, DecodeError, ValueError) as error:
            self.context.log.warning("answer of %s: %s", binding.rpc, error)
            return _problem(request, 502, "ResponseInvalid", "The service's answer cannot be read.")
        headers = _plain(response.headers)
        if not binding.streams and made[0][2] is not None:
            return Reply(200, (*headers, ("content-type", made[0][1] or "application/octet-stream")), made[0][2])
        value = [each[0] for each in made] if binding.streams else made[0][0]
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return Reply(200, (*headers, ("content-type", "application/json")), content)

    def _binding(self, request: RequestHead) -> Binding | None:
        found: Binding | None = request.notes.get(self.context.plugin)
        return found

    def _failed(self, request: RequestHead, response: ResponseHead) -> Reply:
        name, status = status_of(response.header("grpc-status"))
        detail = text_of(response.header("grpc-message")) or "The service says no more."
        reply = _problem(request, status, name, detail)
        return Reply(status, (*_plain(response.headers), *reply.headers), reply.body)


def _is_grpc(response: ResponseHead) -> bool:
    return response.status == 200 and (response.header("content-type") or "").startswith("application/grpc")


def _plain(headers: Headers) -> Headers:
    """Return the headers that are not about gRPC or the body as it was: the service's metadata."""
    return tuple(
        pair
        for pair in headers
        if not pair[0].startswith("grpc-") and pair[0] not in ("content-type", "content-length", "trailer")
    )


def _problem(request: RequestHead, status: int, reason: str, detail: str) -> Reply:
    title = "The call cannot be made" if status < 500 else "The call failed"
    body: dict[str, Any] = {
        "type": "about:blank", "title": title, "status": status, "reason": reason, "detail": detail,
    }  # fmt: skip
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    return Reply(status, (("content-type", "application/problem+json"),), json.dumps(body).encode())
