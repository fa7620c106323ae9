"""Whether a plugin may run here, and the configuration it gets: the user's, with the schema's defaults and with secrets in their places.

Runs in the process of `judging`. No message holds a value that the schema marks `writeOnly`, or that came from a Secret.
"""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jsonschema
import referencing
from nexus_core.snapshot import PluginInstance, Release
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.verifying import verify_api, verify_signature
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

Path = tuple[str | int, ...]
_MAX_SHOWN = 300
_NAMES_KEYS_ALONE = frozenset({"required", "dependentRequired", "additionalProperties", "unevaluatedProperties"})
"""Keywords whose message names keys of the configuration and no values."""
_BRANCHES = ("anyOf", "oneOf", "allOf")


def verify(instance: PluginInstance, secrets: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return the configuration of a plugin that may run. secrets: by dotted path. Raises `PluginRejected`."""
    verify_signature(instance.release, instance.public_key)
    for library in instance.libraries:
        verify_signature(library.release, library.public_key)
    for release in (instance.release, *(library.release for library in instance.libraries)):
        verify_api(release)
        verify_python(release)
        verify_host(release)
    return read_config(instance, secrets)


def verify_python(release: Release) -> None:
    """Raise `PluginRejected` unless the release works with this interpreter."""
    here = platform.python_version()
    try:
        fits = SpecifierSet(release.python).contains(here, prereleases=True)
    except InvalidSpecifier as error:
        raise PluginRejected(
            "PythonIncompatible",
            f"{release.name} {release.version} names Python {release.python!r}, which is not a range like >=3.11.",
        ) from error
    if not fits:
        raise PluginRejected(
            "PythonIncompatible",
            f"{release.name} {release.version} needs Python {release.python}; this is Python {here}. "
            "Choose another version of the plugin, or run Nexus with another Python.",
        )


def verify_host(release: Release) -> None:
    """Raise `PluginRejected` unless what the release needs is installed beside Nexus."""
    for text in release.host:
        try:
            need = Requirement(text)
        except InvalidRequirement as error:
            raise PluginRejected(
                "HostRequirementMissing",
                f"{release.name} {release.version} asks for {text!r}, which is not a requirement like brotli>=1.1. Tell its publisher.",
            ) from error
        if need.marker is not None and not need.marker.evaluate():
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError as error:
            raise PluginRejected(
                "HostRequirementMissing",
                f"{release.name} {release.version} needs {text}, which is not installed here. "
                "Install it beside Nexus, or use an image that has it.",
            ) from error
        if not need.specifier.contains(found, prereleases=True):
            raise PluginRejected(
                "HostRequirementMissing",
                f"{release.name} {release.version} needs {text}; here is {need.name} {found}. Install a version that fits.",
            )


def read_config(
    instance: PluginInstance, secrets: Mapping[str, str] = {}, *, withheld: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the instance's configuration in full, checked against the release's schema. Raises `PluginRejected`.

    withheld: places of secrets that are not known here, each a dotted path. They count as there, and nothing is said of what depends
    on their values.
    """
    release, schema = instance.release, instance.release.config_schema
    config = json.loads(instance.config)
    if not isinstance(config, dict):
        raise PluginRejected("PluginConfigInvalid", f"spec.config of {instance.id} is not an object.")
    unknown = {_put(config, path, "") for path in sorted(withheld)}
    hidden = unknown | {_put(config, path, value) for path, value in sorted(secrets.items())}
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        _fill(schema, config, schema)
        hidden.update(_secret_paths(schema, config, schema, ()))
        # An empty registry: a `$ref` to somewhere else is refused instead of being fetched.
        validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
        error = jsonschema.exceptions.best_match(
            each for each in validator.iter_errors(config) if not _depends(each, unknown)
        )
    except (jsonschema.exceptions.SchemaError, referencing.exceptions.Unresolvable, RecursionError) as broken:
        raise PluginRejected(
            "PluginConfigInvalid",
            f"The config schema of {release.name} {release.version} is broken; tell its publisher.",
        ) from broken
    if error is not None:
        raise PluginRejected("PluginConfigInvalid", f"{_where(tuple(error.absolute_path))}: {_told(error, hidden)}")
    return config


def _depends(error: Any, unknown: set[Path]) -> bool:
    """Whether a mistake may be none with the secrets in their places."""
    path: Path = tuple(error.absolute_path)
    if error.validator in _NAMES_KEYS_ALONE:
        return any(path[: len(each)] == each for each in unknown)
    return any(path[: len(each)] == each or each[: len(path)] == path for each in unknown)


def _put(config: dict[str, Any], dotted: str, value: str) -> Path:
    """Put a secret in its place, with the objects on the way there; return the place."""
    path = tuple(dotted.split("."))
    at: Any = config
    for depth, part in enumerate(path[:-1]):
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise PluginRejected(
                "PluginConfigInvalid",
                f"{_where(path[: depth + 1])} is not an object, so spec.configFrom cannot put {dotted} into it.",
            )
    at[path[-1]] = value
    return path


def _fill(schema: Any, value: Any, root: Mapping[str, Any]) -> None:
    """Put the schema's defaults where the value has nothing. A default object is filled in turn; one that is not there is not made."""
    for each in _applied(schema, root):
        if isinstance(value, dict):
            for name, inner in _properties(each):
                if name not in value and isinstance(inner, dict):
                    for one in _applied(inner, root):
                        if "default" in one:
                            value[name] = copy.deepcopy(one["default"])
                            break
        for key, inner in _children(each, value):
            _fill(inner, value[key], root)


def _secret_paths(schema: Any, value: Any, root: Mapping[str, Any], path: Path) -> Iterator[Path]:
    """Yield the places whose value some part of the schema marks `writeOnly`."""
    for each in _applied(schema, root, alternatives=True):
        if each.get("writeOnly") is True:
            yield path
        for key, inner in _children(each, value):
            yield from _secret_paths(inner, value[key], root, (*path, key))


def _applied(schema: Any, root: Mapping[str, Any], *, alternatives: bool = False) -> list[dict[str, Any]]:
    """Return the schemas that hold for a value: this, what it refers to within itself, all of its `allOf`.

    alternatives: also what may hold. Each once, so that references in a circle end.
    """
    found: list[dict[str, Any]] = []
    waiting = [schema]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, dict) or any(each is known for known in found):
            continue
        found.append(each)
        waiting += each.get("allOf", ())
        if alternatives:
            for branch in _BRANCHES[:2]:
                waiting += each.get(branch, ())
            waiting += [each[name] for name in ("if", "then", "else") if name in each]
            waiting += each.get("dependentSchemas", {}).values()
        reference = each.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            waiting.append(_find(root, reference))
    return found


def _find(root: Any, reference: str) -> Any:
    """Return what a JSON pointer names, None for nothing: then the validator says so."""
    at = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(at, dict) or name not in at:
            return None
        at = at[name]
    return at


def _properties(schema: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found = schema.get("properties")
    return list(found.items()) if isinstance(found, dict) else []


def _children(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the keys of a value whose schema this one has, and that schema."""
    if isinstance(value, dict):
        properties = dict(_properties(schema))
        others = schema.get("additionalProperties")
        for key in value:
            if key in properties:
                yield key, properties[key]
            elif isinstance(others, dict):
                yield key, others
    elif isinstance(value, list):
        first = schema.get("prefixItems") or []
        for index in range(len(value)):
            if index < len(first):
                yield index, first[index]
            elif isinstance(schema.get("items"), dict):
                yield index, schema["items"]


def _where(path: Path) -> str:
    return ".spec.config" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _told(error: Any, hidden: set[Path]) -> str:
    """Return what is wrong, without values where one is secret, or holds one."""
    path: Path = tuple(error.absolute_path)
    secret = any(path[: len(each)] == each or each[: len(path)] == path for each in hidden)
    if not secret or error.validator in _NAMES_KEYS_ALONE:
        message = str(error.message)
        return message if len(message) <= _MAX_SHOWN else message[:_MAX_SHOWN] + "…"
    wanted = json.dumps(error.validator_value)
    if len(wanted) > _MAX_SHOWN:
        wanted = wanted[:_MAX_SHOWN] + "…"
    return f"its value, which is secret, does not fit {error.validator}: {wanted}"
