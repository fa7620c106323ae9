"""Settings of the GraphQL service, from `NEXUS_GRAPHQL_*`; the service's own (port, discovery, …) are the SDK's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from nexus_sdk import SettingsError

from nexus_graphql.execute.limits import Limits

Value = TypeVar("Value")
_PATTERN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.*")
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class CatalogueSettings:
    """services: patterns of names that take part, `orders.*`; `!events.*` takes out again. Empty: the own namespace,
    because whoever may ask GraphQL may ask everything it offers. (NEXUS_GRAPHQL_SERVICES)
    refresh_s: between two looks at the registry and the documents, 5: a new service shows while one still looks.
    (NEXUS_GRAPHQL_REFRESH_SECONDS)
    fetch_s: for one document, 5. (NEXUS_GRAPHQL_FETCH_SECONDS)
    keep_s: how long the fields of a service stay after it left the registry, 300: longer than a bad roll-out.
    (NEXUS_GRAPHQL_KEEP_SECONDS)
    document_bytes: of one OpenAPI document, 4 MiB. (NEXUS_GRAPHQL_MAX_DOCUMENT_BYTES)
    """

    services: tuple[str, ...] = ()
    refresh_s: float = 5.0
    fetch_s: float = 5.0
    keep_s: float = 300.0
    document_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GraphqlSettings:
    """path: of the endpoint, `/graphql`. (NEXUS_GRAPHQL_PATH)
    timeout_s: for a whole operation, 15. (NEXUS_GRAPHQL_TIMEOUT_SECONDS)
    body_bytes: of a request, 64 KiB. (NEXUS_GRAPHQL_MAX_BODY_BYTES)
    introspection: whether clients may read the schema, and whether errors suggest names; true.
    (NEXUS_GRAPHQL_INTROSPECTION)
    graphiql: whether browsers get GraphiQL; true. (NEXUS_GRAPHIQL)
    graphiql_assets: where its scripts are: a URL or a directory; empty: a public CDN. (NEXUS_GRAPHIQL_ASSETS)
    forward_headers: of the client's request, sent on to services, lower case. (NEXUS_GRAPHQL_FORWARD_HEADERS)
    fanout: upstream requests at once of one operation, 16. (NEXUS_GRAPHQL_FANOUT)
    limits: NEXUS_GRAPHQL_MAX_DEPTH, _MAX_ALIASES, _MAX_FIELDS, _MAX_TOKENS.
    """

    path: str = "/graphql"
    timeout_s: float = 15.0
    body_bytes: int = 64 * 1024
    introspection: bool = True
    graphiql: bool = True
    graphiql_assets: str = ""
    forward_headers: tuple[str, ...] = ("authorization", "accept-language", "x-request-id")
    fanout: int = 16
    limits: Limits = field(default_factory=Limits)
    catalogue: CatalogueSettings = field(default_factory=CatalogueSettings)


def parse(environ: Mapping[str, str]) -> GraphqlSettings:
    """Return the settings; an empty variable counts as unset. Raises SettingsError: which variable, what, how to fix."""
    usual, look, most = GraphqlSettings(), CatalogueSettings(), Limits()

    def read(name: str, default: Value, convert: Callable[[str], Value], fix: str) -> Value:
        text = environ.get(name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as err:
            raise SettingsError(f"Environment variable {name}: {text!r} cannot be used. {fix}") from err

    def seconds(name: str, default: float) -> float:
        return read(name, default, _between(float, 0.05, 86_400.0), "Use seconds, 0.05 to 86400.")

    def count(name: str, default: int) -> int:
        return read(name, default, _between(int, 1, 2**31), "Use a whole number, 1 or more.")

    def flag(name: str) -> bool:
        return read(name, True, _flag, "Use 'true' or 'false'.")

    return GraphqlSettings(
        path=read("NEXUS_GRAPHQL_PATH", usual.path, _path, "Use a path such as '/graphql'."),
        timeout_s=seconds("NEXUS_GRAPHQL_TIMEOUT_SECONDS", usual.timeout_s),
        body_bytes=count("NEXUS_GRAPHQL_MAX_BODY_BYTES", usual.body_bytes),
        introspection=flag("NEXUS_GRAPHQL_INTROSPECTION"),
        graphiql=flag("NEXUS_GRAPHIQL"),
        graphiql_assets=environ.get("NEXUS_GRAPHIQL_ASSETS", "").strip(),
        forward_headers=read("NEXUS_GRAPHQL_FORWARD_HEADERS", usual.forward_headers, _names,
                             "Use header names joined with commas, or 'none'."),
        fanout=count("NEXUS_GRAPHQL_FANOUT", usual.fanout),
        limits=Limits(
            depth=count("NEXUS_GRAPHQL_MAX_DEPTH", most.depth),
            aliases=count("NEXUS_GRAPHQL_MAX_ALIASES", most.aliases),
            fields=count("NEXUS_GRAPHQL_MAX_FIELDS", most.fields),
            tokens=count("NEXUS_GRAPHQL_MAX_TOKENS", most.tokens),
        ),
        catalogue=CatalogueSettings(
            services=read("NEXUS_GRAPHQL_SERVICES", look.services, _patterns,
                          "Use names such as 'orders.shop', '*.shop' or '!events.*', joined with commas."),
            refresh_s=seconds("NEXUS_GRAPHQL_REFRESH_SECONDS", look.refresh_s),
            fetch_s=seconds("NEXUS_GRAPHQL_FETCH_SECONDS", look.fetch_s),
            keep_s=seconds("NEXUS_GRAPHQL_KEEP_SECONDS", look.keep_s),
            document_bytes=count("NEXUS_GRAPHQL_MAX_DOCUMENT_BYTES", look.document_bytes),
        ),
    )  # fmt: skip


def _between(kind: Callable[[str], Value], low: float, high: float) -> Callable[[str], Value]:
    def convert(text: str) -> Value:
        value = kind(text)
        if not low <= value <= high:  # type: ignore[operator]  # int or float; also refuses nan
            raise ValueError(text)
        return value

    return convert


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _path(text: str) -> str:
    if not text.startswith("/") or text.startswith("//") or text.endswith("/") or set(text) & set("{}?# "):
        raise ValueError(text)
    return text


def _patterns(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(set(p.removeprefix("!")) <= _PATTERN and p != "!" for p in found):
        raise ValueError(text)
    return found


def _names(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    found = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if not all(name.replace("-", "").replace("_", "").isalnum() and name.isascii() for name in found):
        raise ValueError(text)
    return found
