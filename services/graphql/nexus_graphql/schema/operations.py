"""Paths of an OpenAPI document → operations: GET is a query, POST, PUT, PATCH and DELETE are mutations.

Name of a field: `x-nexus-graphql: {name: …}`, else operationId, else from method and path: `GET /orders/{id}` is
`ordersById`, `POST /orders` is `postOrders`. HEAD, OPTIONS and TRACE say nothing that GraphQL could ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from nexus_graphql.schema import names
from nexus_graphql.schema.pointers import Unresolved, join
from nexus_graphql.schema.shapes import Answer, Argument, Operation, Root, Scalar, TypeRef
from nexus_graphql.schema.types import JSON, Types, deprecation, describe

ROOTS: dict[str, Root] = {
    "get": "query",
    "post": "mutation",
    "put": "mutation",
    "patch": "mutation",
    "delete": "mutation",
}
MOST_OPERATIONS = 2_000
_HOLE = re.compile(r"\{([^{}]*)\}")
_IGNORED_HEADERS = frozenset({"accept", "content-type", "authorization"})
"""OpenAPI says that parameters of these names are ignored."""
_FRAMING_HEADERS = frozenset({
    "connection", "content-encoding", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""These say where a message ends and who gets it: an argument must not."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_STYLES: dict[str, frozenset[str]] = {
    "path": frozenset({"simple"}),
    "query": frozenset({"form", "spaceDelimited", "pipeDelimited", "deepObject"}),
    "header": frozenset({"simple"}),
}
_DEFAULT_STYLE = {"path": "simple", "query": "form", "header": "simple"}


class _LeftOut(Exception):
    """This operation cannot be a field. at, what, fix as in Note."""

    def __init__(self, at: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.at, self.what, self.fix = at, what, fix


def read(service: str, types: Types) -> Iterator[Operation]:
    """Yield the operations in order of path and method; what is left out is noted in `types`."""
    root = types.document.root
    paths = root.get("paths", {})
    base = _base_path(root.get("servers"))
    scopes = {"query": names.Scope(frozenset({"_services"})), "mutation": names.Scope()}
    count = 0
    for path in sorted(p for p in paths if isinstance(p, str)):
        at = join("/paths", path)
        if not path.startswith("/") or path.startswith("//"):  # '//host/…' would lead to another host
            if not path.startswith("x-"):
                types.note(at, f"The path {path!r} does not start with one '/'.", "Write it as '/…'.", lost=True)
            continue
        try:
            item, at = types.document.resolve(paths[path], at)
        except Unresolved as err:
            types.note(at, str(err), "Write the path item here.", lost=True)
            continue
        if not isinstance(item, Mapping):
            types.note(at, "This path item is not an object.", "Write its operations: get, post, …", lost=True)
            continue
        for method in ROOTS:
            if method not in item:
                continue
            count += 1
            if count > MOST_OPERATIONS:
                types.note(
                    "/paths",
                    f"The document has more than {MOST_OPERATIONS} operations.",
                    "The rest is left out.",
                    lost=True,
                )
                return
            try:
                operation = _read_one(service, types, base, path, method, item, join(at, method))
            except _LeftOut as why:
                types.note(why.at, f"{why.what} {method.upper()} {path} is left out.", why.fix, lost=True)
                continue
            if operation is not None:
                wanted = scopes[operation.root].take(operation.wanted)
                if wanted != operation.wanted:
                    types.note(operation.at, f"Two operations want the field {operation.wanted!r}.",
                               f"This one is {wanted!r}; give it an operationId of its own.", lost=True)  # fmt: skip
                # Its own place in the document, also when the path item is shared by reference: it identifies the operation.
                yield replace(operation, wanted=wanted, at=join("/paths", path, method))


def _base_path(servers: Any) -> str:
    """Return the path of the first server's URL: `https://api.example/v1/` → `/v1`. Its host is the registry's matter."""
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if not isinstance(url, str) or "{" in url:
        return ""
    try:
        path = urlsplit(url).path.strip("/")
    except ValueError:
        return ""
    return f"/{path}" if path else ""


def _read_one(
    service: str, types: Types, base: str, path: str, method: str, item: Mapping[str, Any], at: str
) -> Operation | None:
    node = item[method]
    if not isinstance(node, Mapping):
        raise _LeftOut(at, "This operation is not an object.", "Write at least its responses.")
    own = node.get("x-nexus-graphql")
    own = own if isinstance(own, Mapping) else {}
    if own.get("ignore") is True:
        return None
    given = own.get("name") or node.get("operationId")
    default = _default_name(method, path)
    wanted = names.field_name(given, default) if isinstance(given, str) and given else default
    root: Root = {"query": "query", "mutation": "mutation"}.get(str(own.get("kind")), ROOTS[method])  # type: ignore[assignment]
    stem = names.type_name(wanted)
    arguments = [*_parameters(types, path, item, node, at, stem), *_body(types, node, at, stem)]
    returns, answer = _answer(types, node, at, stem)
    scope = names.Scope()
    described = "\n\n".join(t.strip() for t in (node.get("summary"), node.get("description")) if isinstance(t, str))
    return Operation(
        service=service, wanted=wanted, root=root, method=method.upper(), path=base + path,
        arguments=tuple(replace(a, name=scope.take(a.name)) for a in arguments),
        returns=TypeRef(returns.type, nullable=True), answer=answer,
        description=f"{described.strip()}\n\n{method.upper()} {base}{path} of {service}.".strip(),
        deprecated=deprecation(node), at=at,
    )  # fmt: skip


def _default_name(method: str, path: str) -> str:
    parts = [p for p in path.split("/") if p]
    fixed = [p for p in parts if not _HOLE.search(p)]
    holes = [h for p in parts for h in _HOLE.findall(p)]
    words = "-".join(fixed) or "root"
    by = "-".join(["by", *holes]) if holes else ""
    text = "-".join(x for x in ("" if method == "get" else method, words, by) if x)
    return names.field_name(text.replace("_", "-"), method)


# -- parameters --------------------------------------------------------------------------------------------------


def _parameters(
    types: Types, path: str, item: Mapping[str, Any], node: Mapping[str, Any], at: str, stem: str
) -> Iterator[Argument]:
    found: dict[tuple[str, str], tuple[Mapping[str, Any], str]] = {}
    for owner, where in ((item, at.rsplit("/", 1)[0]), (node, at)):
        listed = owner.get("parameters", [])
        if not isinstance(listed, list):
            raise _LeftOut(join(where, "parameters"), "parameters is not a list.", "Write a list of parameters.")
        for index, raw in enumerate(listed):
            place = join(where, "parameters", index)
            try:
                parameter, place = types.document.resolve(raw, place)
            except Unresolved as err:
                raise _LeftOut(place, str(err), "Define the parameter under #/components/parameters.") from err
            name = parameter.get("name") if isinstance(parameter, Mapping) else None
            location = parameter.get("in") if isinstance(parameter, Mapping) else None
            if not isinstance(name, str) or not name or not isinstance(location, str):
                raise _LeftOut(place, "A parameter without name or in.", "Write name, in and schema.")
            found[location, name] = (parameter, place)  # the operation's own replaces the path item's
    holes = _HOLE.findall(path)
    for hole in holes:
        if ("path", hole) not in found:
            raise _LeftOut(at, f"The path has {{{hole}}} but no path parameter of that name.", "Define the parameter.")
    order = {"path": 0, "query": 1, "header": 2}
    for (location, name), (parameter, place) in sorted(found.items(), key=lambda kv: order.get(kv[0][0], 9)):
        argument = _parameter(types, location, name, parameter, place, stem)
        if argument is not None and (location != "path" or name in holes):
            yield argument


def _parameter(types: Types, location: str, name: str, node: Mapping[str, Any], at: str, stem: str) -> Argument | None:
    required = node.get("required") is True or location == "path"
    if location == "header" and (name.lower() in _IGNORED_HEADERS):
        return None
    if location == "header" and not _HEADER_NAME.match(name):
        raise _LeftOut(at, f"{name!r} is not a header name.", "Use letters, digits and '-'.")
    if location == "header" and name.lower() in _FRAMING_HEADERS:
        if required:
            raise _LeftOut(at, f"The header {name!r} frames the message.", "Leave it to HTTP, or use another name.")
        types.note(at, f"The header {name!r} frames the message, it is no argument.", "Leave it to HTTP.")
        return None
    if location not in _STYLES:
        if required:
            raise _LeftOut(at, f"A required parameter in {location!r} cannot be sent.", "Use path, query or header.")
        types.note(at, f"Parameters in {location!r} are not sent.", "Use path, query or header.")
        return None
    style, schema, where = node.get("style", _DEFAULT_STYLE[location]), node.get("schema", {}), join(at, "schema")
    content = node.get("content")
    if "schema" not in node and isinstance(content, Mapping) and content:
        media = str(next(iter(content)))
        entry = content[next(iter(content))]
        schema, where = (entry.get("schema", {}) if isinstance(entry, Mapping) else {}), join(at, "content", media)
        style = "json"
    elif style not in _STYLES[location]:
        raise _LeftOut(at, f"The style {style!r} is not supported in {location}.",
                       f"Use {' or '.join(sorted(_STYLES[location]))}.")  # fmt: skip
    ref = types.read(schema, where, f"{stem}{names.type_name(name)}", is_input=True)
    explode = node.get("explode")
    has_default = isinstance(schema, Mapping) and "default" in schema
    return Argument(
        name=names.field_name(name), source=name, location=location,  # type: ignore[arg-type]  # checked above
        ref=TypeRef(ref.type, nullable=not required or (has_default and location != "path")),
        style=str(style), explode=explode if isinstance(explode, bool) else style == "form",
        description=_parameter_text(node, schema),
        deprecated="" if required and not has_default else deprecation(node),
    )  # fmt: skip


def _parameter_text(node: Mapping[str, Any], schema: Any) -> str:
    own = node.get("description")
    inner = dict(schema) if isinstance(schema, Mapping) else {}
    if isinstance(own, str) and own.strip():
        inner["description"] = own
    return describe(inner)


# -- body and answer ---------------------------------------------------------------------------------------------


def _body(types: Types, node: Mapping[str, Any], at: str, stem: str) -> Iterator[Argument]:
    if "requestBody" not in node:
        return
    place = join(at, "requestBody")
    try:
        body, place = types.document.resolve(node["requestBody"], place)
    except Unresolved as err:
        raise _LeftOut(place, str(err), "Define it under #/components/requestBodies.") from err
    content = body.get("content") if isinstance(body, Mapping) else None
    if not isinstance(content, Mapping) or not content:
        raise _LeftOut(place, "The request body has no content.", "Write content: {application/json: {schema: …}}.")
    media = _pick_media(content, ("application/json", "application/x-www-form-urlencoded"))
    required = body.get("required") is True
    if media is None:
        if not required:
            types.note(
                join(place, "content"), "An optional body that is not JSON is not sent.", "Offer application/json."
            )
            return
        raise _LeftOut(join(place, "content"), f"A body of {', '.join(map(str, content))} cannot be sent.",
                       "Offer application/json or application/x-www-form-urlencoded.")  # fmt: skip
    entry = content[media] if isinstance(content[media], Mapping) else {}
    ref = types.read(entry.get("schema", {}), join(place, "content", media, "schema"), stem, is_input=True)
    yield Argument(
        name="input", source="", location="body", ref=TypeRef(ref.type, nullable=not required),
        form="json" not in media, description=describe(body),
    )  # fmt: skip


def _answer(types: Types, node: Mapping[str, Any], at: str, stem: str) -> tuple[TypeRef, Answer]:
    responses = node.get("responses")
    if not isinstance(responses, Mapping):
        raise _LeftOut(join(at, "responses"), "The operation has no responses.", "Write at least one, such as '200'.")
    good = sorted(str(code) for code in responses if re.fullmatch(r"2(\d\d|XX)", str(code)))
    code = good[0] if good else "default" if "default" in responses else None
    if code is None:
        return TypeRef(Scalar("Boolean")), "empty"
    raw = responses.get(code, responses.get(int(code)) if code.isdigit() else None)
    place = join(at, "responses", code)
    try:
        response, place = types.document.resolve(raw, place)
    except Unresolved as err:
        raise _LeftOut(place, str(err), "Define it under #/components/responses.") from err
    content = response.get("content") if isinstance(response, Mapping) else None
    if not isinstance(content, Mapping) or not content:
        return TypeRef(Scalar("Boolean")), "empty"
    media = _pick_media(content, ("application/json",))
    if media is None:
        if any(str(m).lower().startswith("text/") for m in content):
            return TypeRef(Scalar("String")), "text"
        raise _LeftOut(join(place, "content"), f"An answer of {', '.join(map(str, content))} has no GraphQL type.",
                       "Offer application/json.")  # fmt: skip
    entry = content[media] if isinstance(content[media], Mapping) else {}
    if "schema" not in entry:
        return TypeRef(JSON), "json"
    return types.read(entry["schema"], join(place, "content", media, "schema"), f"{stem}Result", is_input=False), "json"


def _pick_media(content: Mapping[Any, Any], wanted: tuple[str, ...]) -> str | None:
    """Return the key of `content` that fits best; `application/*+json` and wildcards count as JSON."""
    plain = {str(key).split(";")[0].strip().lower(): key for key in content if isinstance(key, str)}
    for media in wanted:
        if media in plain:
            return str(plain[media])
    for name, key in plain.items():
        if name.endswith("+json") or name in ("*/*", "application/*"):
            return str(key)
    return None
