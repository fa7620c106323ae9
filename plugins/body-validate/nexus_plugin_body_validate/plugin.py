"""The plugin: finds what a request has to be, and refuses what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, PluginConfigError, Reply, RequestHead, ResponseHead

from .documents import NotJson, parse
from .faults import Fault, problem
from .operations import Content, Found, Operation, Operations
from .parameters import cookies_of, pairs_of
from .schemas import Direction, Document, Schema

_UNREADABLE = frozenset({"accept-encoding", "range", "if-range"})
"""What a request asks for that would keep a response from being checked: a part of a JSON text is none."""


class BodyValidate(Plugin):
    """Refuses requests, and responses if wanted, that do not follow their schema."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._max_errors = int(config.get("maxErrors", 20))
        self._max_depth = int(config.get("maxDepth", 64))
        self._max_values = int(config.get("maxValues", 10_000))
        self._unknown = str(config.get("unknownOperations", "refuse"))
        self._strict_query = bool(config.get("refuseUnknownParameters", False))
        self._responses = str(config.get("responses", "pass"))
        self._operations: Operations | None = None
        self._bodied: Operation | None = None
        self._bodiless: Operation | None = None
        self._methods = frozenset(config.get("methods", ("POST", "PUT", "PATCH")))
        if "openapi" in config:
            if "request" in config or "response" in config:
                raise PluginConfigError("config: openapi and request/response are two ways; keep one of them.")
            self._operations = Operations(config["openapi"], "config.openapi", config.get("basePath"))
        elif "request" in config or "response" in config:
            response = self._side(config, "response")
            responses = {"2XX": response} if response else {}
            self._bodied = Operation("", (), self._side(config, "request"), responses)
            self._bodiless = Operation("", (), None, responses)
            if response and "responses" not in config:
                self._responses = "refuse"
        else:
            raise PluginConfigError("config: nothing to check; give openapi, or the schema of request or response.")

    # ---- requests

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request, or what is wrong with its address, parameters or content type."""
        found = self._find(request)
        if found is None:
            if self._unknown == "pass":
                return self._plain(request)
            return problem(
                request, 404, "OperationUnknown", "There is no such operation", "No path of the API matches."
            )
        operation = found.operation
        if operation is None:
            if self._unknown == "pass":
                return self._plain(request)
            allow = ", ".join(found.allowed)
            return problem(
                request,
                405,
                "MethodUnknown",
                "There is no such operation",
                f"This path has: {allow}.",
                (),
                (("allow", allow),),
            )
        faults = self._parameters(operation, found.variables, request)
        if faults:
            detail = "Some parameters are not as the API wants them."
            return problem(request, 400, "ParametersInvalid", "The parameters are not valid", detail, faults)
        return self._unfit(operation, request) or self._plain(request)

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether there is a rule for the body."""
        found = self._find(request)
        if found is None or found.operation is None:
            return False
        if found.operation.body is not None:
            return True
        # A body where the API has none is refused; so it has to be seen.
        return self._operations is not None and (request.method not in ("GET", "HEAD") or _has_body(request))

    def on_request_body(self, request: RequestHead, body: bytes) -> bytes | Reply:
        """Return the body, or what is wrong with it."""
        found = self._find(request)
        operation = found.operation if found is not None else None
        if operation is None:
            return body
        content = operation.body
        title = "The request's body is not valid"
        if not body:
            if content is None or not content.required:
                return body
            return problem(request, 400, "BodyMissing", title, "The operation needs a body.")
        if content is None:
            return problem(request, 400, "BodyUnexpected", title, "The operation takes no body.")
        unfit = self._unfit(operation, request, sent=True)
        if unfit is not None:
            return unfit
        _, schema = content.find(_media_type(request.header("content-type")))
        if schema is None:
            return body
        try:
            faults = self._body_faults(schema, _media_type(request.header("content-type")), body)
        except NotJson as error:
            return problem(request, 400, "BodyNotJson", title, str(error))
        if faults:
            return problem(request, 422, "BodyInvalid", title, "Some parts are not as the schema wants them.", faults)
        return body

    # ---- responses

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether there is a rule for the body."""
        if self._responses == "pass" or request.method == "HEAD" or response.status in (204, 304):
            return False
        return self._answer(request, response) is not None

    def on_response_body(self, request: RequestHead, response: ResponseHead, body: bytes) -> bytes | Reply:
        """Return the body, or a 502 in its place; what is wrong is for the log, not for the client."""
        content = self._answer(request, response)
        if content is None:
            return body
        media_type = _media_type(response.header("content-type"))
        known, schema = content.find(media_type)
        wrong = ""
        if (response.header("content-encoding") or "identity").lower() != "identity":
            wrong = "its content-encoding is not one that can be read"
        elif content.schemas and not known:
            wrong = f"its content-type {media_type[:100]!r} is not one of the schema's"
        elif schema is not None:
            try:
                faults = self._body_faults(schema, media_type, body)
            except NotJson as error:
                wrong = str(error)
            else:
                wrong = "; ".join(f"{fault.pointer} {fault.detail}" for fault in faults)
        if not wrong:
            return body
        self.context.log.warning(
            "response %d to %s %s is not valid: %s", response.status, request.method, request.path[:256], wrong[:2000]
        )
        if self._responses == "log":
            return body
        detail = "The service's answer does not follow its API. The plugin's log says where."
        return problem(request, 502, "ResponseInvalid", "The service answered what it should not", detail)

    # ---- parts

    def _side(self, config: Mapping[str, Any], side: Direction) -> Content | None:
        if side not in config:
            return None
        where = f"config.{side}"
        rule = config[side]
        schema = rule["schema"]
        document = Document(schema if isinstance(schema, dict) else {}, f"{where}.schema")
        whole = document.content if isinstance(schema, dict) else schema
        compiled = document.compile(whole, f"{where}.schema", side)
        types = rule.get("contentTypes", ["application/json", "application/*+json"])
        return Content({str(each).lower(): compiled for each in types}, bool(rule.get("required", True)))

    def _find(self, request: RequestHead) -> Found | None:
        if self._operations is None:
            return Found(self._bodied if request.method in self._methods else self._bodiless, {})
        return self._operations.find(request.method, request.path)

    def _plain(self, request: RequestHead) -> RequestHead:
        """Return the request so that its response comes whole and without compression, when that is to be read."""
        if self._responses == "pass":
            return request
        return request.with_headers(tuple([pair for pair in request.headers if pair[0] not in _UNREADABLE]))

    def _parameters(self, operation: Operation, variables: Mapping[str, str], request: RequestHead) -> list[Fault]:
        query = pairs_of(request.query)
        cookies = cookies_of("; ".join(value for name, value in request.headers if name == "cookie"))
        faults: list[Fault] = []
        for parameter in operation.parameters:
            if parameter.place == "path":
                texts = [variables[parameter.name]] if parameter.name in variables else []
            else:
                pairs = {"query": query, "header": request.headers, "cookie": cookies}[parameter.place]
                texts = [value for name, value in pairs if name == parameter.name]
            faults += parameter.faults(texts, query, self._max_errors)
        if self._strict_query and self._operations is not None:
            known = [parameter for parameter in operation.parameters if parameter.place == "query"]
            names = {parameter.name for parameter in known if parameter.style != "deepObject"}
            deep = tuple(f"{parameter.name}[" for parameter in known if parameter.style == "deepObject")
            strange = {name for name, _ in query if name not in names and not (deep and name.startswith(deep))}
            faults += [Fault("is not known", place="query", name=name[:128]) for name in sorted(strange)]
        return faults[: self._max_errors]

    def _unfit(self, operation: Operation, request: RequestHead, *, sent: bool = False) -> Reply | None:
        """Return the reply to a body that cannot be read by its head; without `sent` only where the head says there is one."""
        content = operation.body
        if content is None or not (sent or _has_body(request)):
            return None
        encodings = [value.strip().lower() for name, value in request.headers if name == "content-encoding"]
        types = [value for name, value in request.headers if name == "content-type"]
        title = "The request's body cannot be checked"
        if len(types) > 1:
            # The service might believe another one than is checked here.
            return problem(request, 415, "ContentTypeUnsupported", title, "Send one content-type.")
        if any(each not in ("", "identity") for each in encodings):
            detail = "Send the body without content-encoding."
            return problem(request, 415, "EncodingUnsupported", title, detail, (), (("accept-encoding", "identity"),))
        if content.schemas and not content.find(_media_type(request.header("content-type")))[0]:
            wanted = ", ".join(content.schemas)
            detail = f"The operation takes: {wanted}."
            return problem(request, 415, "ContentTypeUnsupported", title, detail, (), (("accept", wanted),))
        return None

    def _answer(self, request: RequestHead, response: ResponseHead) -> Content | None:
        found = self._find(request)
        if found is None or found.operation is None:
            return None
        return found.operation.response(response.status)

    def _body_faults(self, schema: Schema, media_type: str, body: bytes) -> list[Fault]:
        """Return what is wrong with a body; nothing for a media type that is not JSON. Raises NotJson."""
        if not _is_json(media_type):
            return []
        value = parse(body, self._max_depth, self._max_values)
        try:
            return schema.faults(value, self._max_errors)
        except RecursionError as error:
            raise NotJson("The body is nested too deeply for its schema.") from error


def _has_body(request: RequestHead) -> bool:
    length = request.header("content-length")
    return request.header("transfer-encoding") is not None or (length is not None and length != "0")


def _media_type(header: str | None) -> str:
    """Return the media type of a Content-Type, lower-case and without parameters."""
    return (header or "").partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")
