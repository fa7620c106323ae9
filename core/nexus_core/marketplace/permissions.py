"""What a release asks for against what it was granted: what is missing, what is new, and what an instance may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from nexus_core.snapshot.plugins import Permissions, Release
from nexus_core.snapshot.sparse import sparse

CONFIG = "config:"
"""Before the path of a configuration's URL whose host may be called: who writes the configuration grants it."""
OPTIONAL = "?"
"""After the name of a secret that a plugin does without where it is not granted."""

Covers = Callable[[str, str], bool]


def covers_host(grant: str, asked: str) -> bool:
    """Whether a pattern of hosts covers another: `api.example.com` any port of it, `*.example.com` all hosts below it, `*` all."""
    if asked.startswith(CONFIG):
        return True
    granted_host, granted_port = _split(grant.lower())
    host, port = _split(asked.lower())
    if granted_port and granted_port != port:
        return False
    if granted_host in ("*", host):
        return True
    return granted_host.startswith("*.") and host.endswith(granted_host[1:])


def covers_header(grant: str, asked: str) -> bool:
    """Whether a pattern of header names covers another: a name, `x-acme-*`, or `*`."""
    if grant.endswith("*"):
        return asked.startswith(grant[:-1])
    return grant == asked


def covers_service(grant: str, asked: str) -> bool:
    """Whether `<namespace>/<name>` or `*` covers another."""
    return grant in ("*", asked)


def covers_secret(grant: str, asked: str) -> bool:
    """Whether two names are the same; `token?` is `token`."""
    return grant.removesuffix(OPTIONAL) == asked.removesuffix(OPTIONAL)


def covers_prefix(grant: str, asked: str) -> bool:
    """Whether all keys with one prefix have another."""
    return asked.startswith(grant)


def covers_module(grant: str, asked: str) -> bool:
    """Whether a module is another or the package that it is in."""
    return asked == grant or asked.startswith(f"{grant}.")


_FIELDS: Sequence[tuple[str, str, Covers]] = (
    ("network", "network", covers_host),
    ("services", "services", covers_service),
    ("secrets", "secrets", covers_secret),
    ("read_headers", "headers.read", covers_header),
    ("write_headers", "headers.write", covers_header),
    ("consul", "consul", covers_prefix),
    ("modules", "modules", covers_module),
)
"""Of Permissions: the field, how users write it, and what covers what."""


def asked_of(release: Release, libraries: Iterable[Release] = ()) -> Permissions:
    """Return what a release and its libraries ask for together; headers are handed to the plugin alone."""
    asked = release.permissions
    for library in libraries:
        other = library.permissions
        changes = {
            name: (*getattr(asked, name), *(each for each in getattr(other, name) if each not in getattr(asked, name)))
            for name in ("network", "services", "secrets", "consul", "modules")
        }
        asked = msgspec.structs.replace(asked, native=asked.native or other.native, **changes)
    return asked


def find_missing(asked: Permissions, grants: Permissions) -> Permissions:
    """Return what is asked for and not granted; nothing of it for one whose every ask is covered.

    Services `*` are those that are granted, if any: which they are is for who configures the plugin. Optional secrets are never missing.
    """
    found = {name: _uncovered(getattr(asked, name), getattr(grants, name), covers) for name, _, covers in _FIELDS}
    found["services"] = tuple(each for each in found["services"] if each != "*")
    found["secrets"] = tuple(each for each in found["secrets"] if not each.endswith(OPTIONAL))
    return Permissions(**found, native=asked.native and not grants.native)


def narrow(asked: Permissions, grants: Permissions) -> Permissions:
    """Return what is both asked for and granted; of two patterns the narrower one."""
    found = {}
    for name, _, covers in _FIELDS:
        mine, theirs = getattr(asked, name), getattr(grants, name)
        kept = [each for each in mine if _is_covered(each, theirs, covers)]
        kept += [g for g in theirs if g not in kept and any(covers(each, g) for each in mine if each not in kept)]
        found[name] = tuple(kept)
    found["secrets"] = tuple(each.removesuffix(OPTIONAL) for each in found["secrets"])
    return sparse(Permissions, **found, native=asked.native and grants.native)


def is_empty(some: Permissions) -> bool:
    """Whether nothing is in it."""
    return not some.native and not any(getattr(some, name) for name, _, _ in _FIELDS)


def list_words(some: Permissions) -> list[str]:
    """Return one phrase for each permission: `network api.example.com`, `secret token`, `compiled code`."""
    words = {"services": "service", "secrets": "secret", "consul": "Consul keys", "modules": "module"}
    words |= {"read_headers": "reading header", "write_headers": "writing header"}
    found = [f"{words.get(name, name)} {each}" for name, _, _ in _FIELDS for each in getattr(some, name)]
    return [*found, *(["compiled code"] if some.native else [])]


def grants_yaml(missing: Permissions, grants: Permissions) -> str:
    """Return what `spec.grants` has to say of the fields in which something is missing, as YAML on one line."""
    parts = []
    headers = []
    for name, written, _ in _FIELDS:
        lacking = getattr(missing, name)
        if not lacking:
            continue
        if name == "secrets":
            items = ", ".join(f"{{name: {each}, secretRef: {{name: SECRET, key: KEY}}}}" for each in lacking)
            parts.append(f"secrets: [{items}]")
            continue
        values = ", ".join(_quoted(each) for each in (*getattr(grants, name), *lacking))
        if written.startswith("headers."):
            headers.append(f"{written.removeprefix('headers.')}: [{values}]")
        else:
            parts.append(f"{written}: [{values}]")
    if headers:
        parts.append(f"headers: {{{', '.join(headers)}}}")
    if missing.native:
        parts.append("nativeCode: true")
    return f"grants: {{{', '.join(parts)}}}"


def _uncovered(asked: Sequence[str], grants: Sequence[str], covers: Covers) -> tuple[str, ...]:
    return tuple(each for each in asked if not _is_covered(each, grants, covers))


def _is_covered(asked: str, grants: Sequence[str], covers: Covers) -> bool:
    return asked.startswith(CONFIG) or any(covers(grant, asked) for grant in grants)


def _split(host: str) -> tuple[str, str]:
    """Return the host and the port, empty for any; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdigit() and not name.endswith(":") else (host, "")


def _quoted(value: str) -> str:
    plain = value and value[0].isalnum() and not value.endswith(":") and not set(value) - _PLAIN and ": " not in value
    return value if plain and not value.replace(".", "").isdigit() else f'"{value}"'


_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/:*")
