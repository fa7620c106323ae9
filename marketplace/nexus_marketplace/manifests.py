"""plugin.yaml: what its author says of a plugin, checked field by field. All that is wrong is told at once."""

from __future__ import annotations

import difflib
import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from nexus_core.hooks.specs import BY_NAME
from nexus_core.snapshot import Permissions, PluginNeed, Release, Wheel, WheelNeed
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.schemas import schema_faults

REQUIRED = ("name", "version", "api", "entryPoint")
OWN = "nexus"
"""The publisher of the plugins that ship with Nexus: only its names begin so."""
MAX_TEXT = 16_384
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RESERVED = frozenset({"all", "any", "bundled", "index", "none", "official"})
_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_HOST = re.compile(
    r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?|config:[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*",
    re.ASCII,
)
_SERVICE = re.compile(r"\*|[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}")
_SECRET = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\??")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\*?|\*")
_CONSUL = re.compile(r"[^/\s][^\s]*")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHANGELOG_FILE = re.compile(r"[A-Za-z0-9._-]+\.md")


def read_manifest(package_dir: Path, publisher: str) -> Release:
    """Return a release with all that plugin.yaml says; its `sha256` and `url` are empty.

    package_dir: the import package, with plugin.yaml in it. Raises `PublishRefused`, which names every bad field.
    """
    path = package_dir / "plugin.yaml"
    try:
        found = yaml.safe_load(path.read_bytes())
    except FileNotFoundError as error:
        raise PublishRefused(
            f"{path} is missing. Write {', '.join(REQUIRED[:-1])} and {REQUIRED[-1]} into it."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PublishRefused(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise PublishRefused(f"{path} is not an object. Write it as `field: value` lines.")
    reader = _Reader(package_dir, publisher)
    release = reader.read(found)
    if reader.faults:
        raise PublishRefused(f"{path}:\n" + "\n".join(f"  {fault}" for fault in reader.faults))
    return release


class _Reader:
    """Reads the fields of one plugin.yaml. faults: `.<path>: what. fix`, in the order of reading."""

    def __init__(self, package_dir: Path, publisher: str) -> None:
        self._dir = package_dir
        self._publisher = publisher
        self.faults: list[str] = []

    def read(self, found: Mapping[Any, Any]) -> Release:
        self._unknown("", found, FIELDS)
        for name in REQUIRED:
            if name not in found:
                self._fault(f".{name}", "is missing", f"Write {EXAMPLES[name]}.")
        name = self._name(found.get("name", "missing"))
        plugins = self._needs(".plugins", found.get("plugins", []), name)
        conflicts = self._needs(".conflicts", found.get("conflicts", []), name)
        for both in sorted({each.name for each in plugins} & {each.name for each in conflicts}):
            self._fault(
                ".conflicts", f'"{both}" is needed and excluded at once', "Take it out of plugins or conflicts."
            )
        before, after = (self._names(f".{field}", found.get(field, []), name) for field in ("before", "after"))
        for both in sorted(set(before) & set(after)):
            self._fault(".before", f'"{both}" is in after, too', "Keep one of them.")
        permissions = self._permissions(found.get("permissions", {}))
        schema = found.get("configSchema", {})
        for where, what, fix in schema_faults(schema):
            self._fault(f".configSchema{where}", what, fix)
        return Release(
            name=name,
            version=self._version(found.get("version", "0.0.0")),
            api=self._range(".api", found.get("api", ">=1"), required=True),
            package=self._package(),
            entry_point=self._entry_point(found.get("entryPoint", f"{self._dir.name}:X")),
            sha256="",
            url="",
            summary=self._text(".summary", found.get("summary", ""), 512),
            config_schema=schema if isinstance(schema, dict) else {},
            failure_policy=self._one_of(".failurePolicy", found.get("failurePolicy", "open"), ("open", "closed")),
            publisher=self._publisher,
            python=self._range(".python", found.get("python", "")),
            hooks=self._hooks(found.get("hooks", [])),
            permissions=permissions,
            plugins=plugins,
            wheels=self._wheels(found.get("wheels", []), permissions.native),
            host=self._host(found.get("host", [])),
            conflicts=conflicts,
            before=before,
            after=after,
            channel=self._channel(found.get("channel", "stable")),
            licence=self._text(".licence", found.get("licence", ""), 256),
            homepage=self._url(".homepage", found.get("homepage", "")),
            icon=self._url(".icon", found.get("icon", "")),
            screenshots=tuple(
                self._url(f".screenshots[{number}]", each)
                for number, each in self._list(".screenshots", found.get("screenshots", []))
            ),
            changelog=self._changelog(found.get("changelog", "")),
        )  # fmt: skip

    # ---- single fields

    def _name(self, value: Any) -> str:
        name = self._label(".name", value)
        if name in _RESERVED:
            self._fault(".name", f'"{name}" is reserved', "Choose another one, such as yourcompany-headers.")
        if (name == OWN or name.startswith(f"{OWN}-")) and self._publisher != OWN:
            self._fault(
                ".name", f'names that begin with "{OWN}-" are those of Nexus itself', "Begin it with your own name."
            )
        return name

    def _version(self, value: Any) -> str:
        example = "Write three numbers, such as 1.2.0, or 1.2.0-rc.1 for a pre-release"
        if not isinstance(value, str):
            self._fault(".version", f"{value!r} is no text", f'{example}, in quotes if need be ("1.0.0").')
            return "0.0.0"
        try:
            version = Version(value)
        except InvalidVersion:
            self._fault(".version", f'"{value}" is no version', f"{example}.")
            return "0.0.0"
        whole = len(version.release) == 3 and not (
            version.epoch or version.local or version.is_postrelease or version.is_devrelease
        )
        if not whole or not re.match(r"[0-9]+\.[0-9]+\.[0-9]+(?![0-9.])", value):
            self._fault(".version", f'"{value}" is not a semantic version', f"{example}.")
        return value

    def _package(self) -> str:
        package = self._dir.name
        if not package.isidentifier() or not package.isascii() or keyword.iskeyword(package):
            self.faults.append(
                f"{self._dir}: the directory's name is no import package. Name it like nexus_plugin_headers."
            )
        elif package in sys.stdlib_module_names:
            self.faults.append(f"{self._dir}: the standard library has a package {package}. Choose another name.")
        elif not (self._dir / "__init__.py").is_file():
            self.faults.append(f"{self._dir}: __init__.py is missing. Add one; it may be empty.")
        return package

    def _entry_point(self, value: Any) -> str:
        text = self._text(".entryPoint", value, 256)
        package = self._dir.name
        if not _ENTRY_POINT.fullmatch(text) or text.partition(":")[0].split(".")[0] != package:
            self._fault(
                ".entryPoint", f'"{text}" is not module:Class inside {package}', f"Write {package}.plugin:YourClass."
            )
        return text

    def _channel(self, value: Any) -> str:
        return self._label(".channel", value)

    def _changelog(self, value: Any) -> str:
        text = self._text(".changelog", value, MAX_TEXT)
        if not _CHANGELOG_FILE.fullmatch(text):
            return text
        path = self._dir / text
        if path.is_symlink() or not path.is_file():
            self._fault(
                ".changelog", f"{path} is missing", "Put the file beside plugin.yaml, or write the text itself."
            )
            return ""
        try:
            return self._text(".changelog", path.read_bytes().decode(), MAX_TEXT)
        except UnicodeDecodeError:
            self._fault(".changelog", f"{path} is not UTF-8", "Save it as UTF-8.")
            return ""

    def _hooks(self, value: Any) -> tuple[str, ...]:
        found = []
        for number, each in self._list(".hooks", value):
            hook = self._text(f".hooks[{number}]", each, 64)
            if hook not in BY_NAME:
                near = difflib.get_close_matches(hook, BY_NAME, 1)
                fix = f"Did you mean {near[0]}?" if near else f"Hooks are: {', '.join(BY_NAME)}."
                self._fault(f".hooks[{number}]", f'"{hook}" is no hook', fix)
            found.append(hook)
        if len(set(found)) != len(found):
            self._fault(".hooks", "one is named twice", "Name each once.")
        return tuple(sorted(set(found)))

    def _host(self, value: Any) -> tuple[str, ...]:
        found = []
        for number, each in self._list(".host", value):
            text = self._text(f".host[{number}]", each, 256)
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                self._fault(f".host[{number}]", f'"{text}" is no requirement', 'Write it like "brotli>=1.1,<2".')
                continue
            if requirement.url:
                self._fault(f".host[{number}]", "it names an address", "Name a distribution and its versions alone.")
            found.append(text)
        return tuple(found)

    # ---- compound ones

    def _permissions(self, value: Any) -> Permissions:
        found = self._object(".permissions", value)
        known = ("network", "services", "secrets", "headers", "consul", "modules", "nativeCode")
        self._unknown(".permissions", found, known)
        headers = self._object(".permissions.headers", found.get("headers", {}))
        self._unknown(".permissions.headers", headers, ("read", "write"))

        def several(field: str, pattern: re.Pattern[str], example: str, values: Any) -> tuple[str, ...]:
            where = f".permissions.{field}"
            return self._matching(where, values, pattern, example)

        modules = several("modules", _MODULE, "os.path", found.get("modules", []))
        for number, module in enumerate(modules):
            if module.split(".")[0] not in sys.stdlib_module_names:
                self._fault(
                    f".permissions.modules[{number}]",
                    f'"{module}" is not of the standard library',
                    "List distributions from PyPI in wheels, or in host when Nexus has them.",
                )
        native = found.get("nativeCode", False)
        if not isinstance(native, bool):
            self._fault(".permissions.nativeCode", f"{native!r} is neither true nor false", "Write one of them.")
        return Permissions(
            network=several(
                "network", _HOST, "api.example.com:443, *.example.com or config:redis.url", found.get("network", [])
            ),
            services=several("services", _SERVICE, "shop/orders, or * for any", found.get("services", [])),
            secrets=several(
                "secrets", _SECRET, "api-token, or api-token? for one that it does without", found.get("secrets", [])
            ),
            read_headers=several("headers.read", _HEADER, "x-user, x-acme-* or *", headers.get("read", ["*"])),
            write_headers=several("headers.write", _HEADER, "x-user, x-acme-* or *", headers.get("write", ["*"])),
            consul=several("consul", _CONSUL, "acme/flags/", found.get("consul", [])),
            modules=modules,
            native=native is True,
        )

    def _needs(self, where: str, value: Any, own: str) -> tuple[PluginNeed, ...]:
        found: dict[str, PluginNeed] = {}
        for number, each in self._list(where, value):
            at = f"{where}[{number}]"
            entry = self._object(at, each)
            self._unknown(at, entry, ("name", "versions"))
            name = self._label(f"{at}.name", entry.get("name"))
            if name == own:
                self._fault(f"{at}.name", "it names itself", "Name another plugin.")
            if name in found:
                self._fault(f"{at}.name", f'"{name}" is there twice', "Join both ranges into one, with a comma.")
            found[name] = PluginNeed(name, self._range(f"{at}.versions", entry.get("versions", "")))
        return tuple(found[name] for name in sorted(found))

    def _names(self, where: str, value: Any, own: str) -> tuple[str, ...]:
        names = tuple(self._label(f"{where}[{number}]", each) for number, each in self._list(where, value))
        if own in names:
            self._fault(where, "it names itself", "Name other plugins.")
        return names

    def _wheels(self, value: Any, native: bool) -> tuple[WheelNeed, ...]:
        found: dict[tuple[str, Version], WheelNeed] = {}
        for number, each in self._list(".wheels", value):
            at = f".wheels[{number}]"
            entry = self._object(at, each)
            self._unknown(at, entry, ("name", "version", "files"))
            name = canonicalize_name(self._text(f"{at}.name", entry.get("name", ""), 128))
            try:
                version = Version(str(entry.get("version", "")))
            except InvalidVersion:
                self._fault(
                    f"{at}.version", f"{entry.get('version')!r} is no version", 'Write just one, such as "3.1.0".'
                )
                continue
            files = self._files(f"{at}.files", entry.get("files", []), name, version, native)
            if not files:
                self._fault(
                    f"{at}.files",
                    "no file is named",
                    "List filename and sha256 of each, from `pip download` and `sha256sum`.",
                )
            if (name, version) in found:
                self._fault(at, f"{name} {version} is there twice", "Put all files into one entry.")
            found[name, version] = WheelNeed(name, str(version), files)
        return tuple(found[key] for key in sorted(found))

    def _files(self, where: str, value: Any, name: str, version: Version, native: bool) -> tuple[Wheel, ...]:
        found = []
        for number, each in self._list(where, value):
            at = f"{where}[{number}]"
            entry = self._object(at, each)
            self._unknown(at, entry, ("filename", "sha256", "url"))
            filename = self._text(f"{at}.filename", entry.get("filename", ""), 256)
            try:
                of, of_version, _, tags = parse_wheel_filename(filename)
            except (InvalidWheelFilename, InvalidVersion):
                self._fault(
                    f"{at}.filename", f'"{filename}" is no wheel', f"Write it like {name}-{version}-py3-none-any.whl."
                )
                continue
            if (of, of_version) != (name, version):
                self._fault(
                    f"{at}.filename", f'"{filename}" is {of} {of_version}', f"List {name} {version} here alone."
                )
            if any(tag.platform != "any" or tag.abi != "none" for tag in tags) and not native:
                self._fault(
                    f"{at}.filename",
                    f'"{filename}" holds compiled code, and permissions.nativeCode is not asked for',
                    "Set it to true, or take a wheel for `none-any`.",
                )
            sha256 = entry.get("sha256")
            if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
                self._fault(
                    f"{at}.sha256",
                    f"{sha256!r} is no digest",
                    "Write 64 lower-case hex digits, as `sha256sum` prints them.",
                )
                sha256 = ""
            found.append(Wheel(filename, sha256, self._url(f"{at}.url", entry.get("url", ""))))
        return tuple(sorted(found, key=lambda file: file.filename))

    # ---- kinds of values

    def _matching(self, where: str, value: Any, pattern: re.Pattern[str], example: str) -> tuple[str, ...]:
        found = []
        for number, each in self._list(where, value):
            if not isinstance(each, str) or len(each) > 253 or not pattern.fullmatch(each):
                self._fault(f"{where}[{number}]", f"{each!r} cannot be asked for", f"Write it like {example}.")
                continue
            found.append(each)
        return tuple(sorted(set(found)))

    def _label(self, where: str, value: Any) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self._fault(where, f"{value!r} is no name", "Write lower-case letters, digits and hyphens, at most 63.")
            return "invalid"
        return value

    def _range(self, where: str, value: Any, *, required: bool = False) -> str:
        example = 'Write it like ">=1.1,<2"'
        if not isinstance(value, str):
            self._fault(where, f"{value!r} is no text", f"{example}, in quotes.")
            return ""
        try:
            specifiers = SpecifierSet(value)
        except InvalidSpecifier:
            self._fault(where, f'"{value}" is no version range', f"{example}.")
            return ""
        if required and not len(specifiers):
            self._fault(where, "it is empty", f"{example}.")
        return value

    def _text(self, where: str, value: Any, most: int) -> str:
        if not isinstance(value, str):
            self._fault(where, f"{value!r:.80} is no text", "Write text, in quotes if need be.")
            return ""
        if len(value) > most:
            self._fault(where, f"it has {len(value)} characters", f"Write at most {most}.")
        if any(ord(char) < 32 and char not in "\n\t" for char in value):
            self._fault(where, "it has control characters", "Take them out.")
        return value

    def _one_of(self, where: str, value: Any, allowed: tuple[str, ...]) -> Any:
        if value not in allowed:
            self._fault(where, f"{value!r:.80} is none of {', '.join(allowed)}", "Write one of them.")
            return allowed[0]
        return value

    def _url(self, where: str, value: Any) -> str:
        text = self._text(where, value, 2048)
        if not text:
            return ""
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        except ValueError:
            usable = False
        if not usable or not text.isascii() or re.search(r"[\s\"'<>\\]", text):
            self._fault(
                where, f'"{text:.200}" is no address of a page', "Write it like https://example.com/plugins/headers."
            )
            return ""
        return text

    def _list(self, where: str, value: Any) -> list[tuple[int, Any]]:
        if not isinstance(value, list):
            self._fault(where, f"{value!r:.80} is no list", "Write `- ` before each entry.")
            return []
        if len(value) > 64:
            self._fault(where, f"it has {len(value)} entries", "Write at most 64.")
        return list(enumerate(value))

    def _object(self, where: str, value: Any) -> Mapping[Any, Any]:
        if not isinstance(value, dict):
            self._fault(where, f"{value!r:.80} is no object", "Write it as `field: value`.")
            return {}
        return value

    def _unknown(self, where: str, found: Mapping[Any, Any], known: tuple[str, ...]) -> None:
        for name in sorted(set(map(str, found)) - set(known)):
            near = difflib.get_close_matches(name, known, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
            self._fault(f"{where}.{name}", "is not known", fix)

    def _fault(self, where: str, what: str, fix: str) -> None:
        self.faults.append(f"{where}: {what}. {fix}")


FIELDS = (
    "name", "version", "api", "python", "entryPoint", "summary", "failurePolicy", "hooks", "permissions", "plugins", "wheels", "host",
    "conflicts", "before", "after", "channel", "licence", "homepage", "icon", "screenshots", "changelog", "configSchema",
)  # fmt: skip
EXAMPLES: Mapping[str, str] = {
    "name": "name: your-plugin",
    "version": "version: 1.0.0",
    "api": 'api: ">=1.1,<2"',
    "entryPoint": "entryPoint: your_package.plugin:YourClass",
}
