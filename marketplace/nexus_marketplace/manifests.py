"""plugin.yaml: what its author says of a plugin, checked field by field. All that is wrong is told at once."""

from __future__ import annotations

import difflib
import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from nexus_core.hooks.specs import BY_NAME
from nexus_core.snapshot import Permissions, PluginNeed, Release, Wheel, WheelNeed
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from nexus_marketplace.fields import Fields
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.schemas import schema_faults

REQUIRED = ("name", "version", "api", "entryPoint")
OWN = "nexus"
"""The publisher of the plugins that ship with Nexus: only its names begin so."""
MAX_TEXT = 16_384
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


class _Reader(Fields):
    """Reads the fields of one plugin.yaml."""

    def __init__(self, package_dir: Path, publisher: str) -> None:
        super().__init__()
        self._dir = package_dir
        self._publisher = publisher

    def read(self, found: Mapping[Any, Any]) -> Release:
        self.refuse_unknown("", found, FIELDS)
        for name in REQUIRED:
            if name not in found:
                self.fault(f".{name}", "is missing", f"Write {EXAMPLES[name]}.")
        name = self._name(found.get("name", "missing"))
        plugins = self._needs(".plugins", found.get("plugins", []), name)
        conflicts = self._needs(".conflicts", found.get("conflicts", []), name)
        for both in sorted({each.name for each in plugins} & {each.name for each in conflicts}):
            self.fault(".conflicts", f'"{both}" is needed and excluded at once', "Take it out of plugins or conflicts.")
        before, after = (self._names(f".{field}", found.get(field, []), name) for field in ("before", "after"))
        for both in sorted(set(before) & set(after)):
            self.fault(".before", f'"{both}" is in after, too', "Keep one of them.")
        permissions = self._permissions(found.get("permissions", {}))
        schema = found.get("configSchema", {})
        for where, what, fix in schema_faults(schema):
            self.fault(f".configSchema{where}", what, fix)
        return Release(
            name=name,
            version=self._version(found.get("version", "0.0.0")),
            api=self.read_range(".api", found.get("api", ">=1"), required=True),
            package=self._package(),
            entry_point=self._entry_point(found.get("entryPoint", f"{self._dir.name}:X")),
            sha256="",
            url="",
            summary=self.read_text(".summary", found.get("summary", ""), 512),
            config_schema=schema if isinstance(schema, dict) else {},
            failure_policy=self.read_one_of(".failurePolicy", found.get("failurePolicy", "open"), ("open", "closed")),
            publisher=self._publisher,
            python=self.read_range(".python", found.get("python", "")),
            hooks=self._hooks(found.get("hooks", [])),
            permissions=permissions,
            plugins=plugins,
            wheels=self._wheels(found.get("wheels", []), permissions.native),
            host=self._host(found.get("host", [])),
            conflicts=conflicts,
            before=before,
            after=after,
            channel=self._channel(found.get("channel", "stable")),
            licence=self.read_text(".licence", found.get("licence", ""), 256),
            homepage=self.read_url(".homepage", found.get("homepage", "")),
            icon=self.read_url(".icon", found.get("icon", "")),
            screenshots=tuple(
                self.read_url(f".screenshots[{number}]", each)
                for number, each in self.read_list(".screenshots", found.get("screenshots", []))
            ),
            changelog=self._changelog(found.get("changelog", "")),
        )  # fmt: skip

    # ---- single fields

    def _name(self, value: Any) -> str:
        name = self.read_label(".name", value)
        if name in _RESERVED:
            self.fault(".name", f'"{name}" is reserved', "Choose another one, such as yourcompany-headers.")
        if (name == OWN or name.startswith(f"{OWN}-")) and self._publisher != OWN:
            self.fault(
                ".name", f'names that begin with "{OWN}-" are those of Nexus itself', "Begin it with your own name."
            )
        return name

    def _version(self, value: Any) -> str:
        example = "Write three numbers, such as 1.2.0, or 1.2.0-rc.1 for a pre-release"
        if not isinstance(value, str):
            self.fault(".version", f"{value!r} is no text", f'{example}, in quotes if need be ("1.0.0").')
            return "0.0.0"
        try:
            version = Version(value)
        except InvalidVersion:
            self.fault(".version", f'"{value}" is no version', f"{example}.")
            return "0.0.0"
        whole = len(version.release) == 3 and not (
            version.epoch or version.local or version.is_postrelease or version.is_devrelease
        )
        if not whole or not re.match(r"[0-9]+\.[0-9]+\.[0-9]+(?![0-9.])", value):
            self.fault(".version", f'"{value}" is not a semantic version', f"{example}.")
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
        text = self.read_text(".entryPoint", value, 256)
        package = self._dir.name
        if not _ENTRY_POINT.fullmatch(text) or text.partition(":")[0].split(".")[0] != package:
            self.fault(
                ".entryPoint", f'"{text}" is not module:Class inside {package}', f"Write {package}.plugin:YourClass."
            )
        return text

    def _channel(self, value: Any) -> str:
        return self.read_label(".channel", value)

    def _changelog(self, value: Any) -> str:
        text = self.read_text(".changelog", value, MAX_TEXT)
        if not _CHANGELOG_FILE.fullmatch(text):
            return text
        path = self._dir / text
        if path.is_symlink() or not path.is_file():
            self.fault(".changelog", f"{path} is missing", "Put the file beside plugin.yaml, or write the text itself.")
            return ""
        try:
            return self.read_text(".changelog", path.read_bytes().decode(), MAX_TEXT)
        except UnicodeDecodeError:
            self.fault(".changelog", f"{path} is not UTF-8", "Save it as UTF-8.")
            return ""

    def _hooks(self, value: Any) -> tuple[str, ...]:
        found = []
        for number, each in self.read_list(".hooks", value):
            hook = self.read_text(f".hooks[{number}]", each, 64)
            if hook not in BY_NAME:
                near = difflib.get_close_matches(hook, BY_NAME, 1)
                fix = f"Did you mean {near[0]}?" if near else f"Hooks are: {', '.join(BY_NAME)}."
                self.fault(f".hooks[{number}]", f'"{hook}" is no hook', fix)
            found.append(hook)
        if len(set(found)) != len(found):
            self.fault(".hooks", "one is named twice", "Name each once.")
        return tuple(sorted(set(found)))

    def _host(self, value: Any) -> tuple[str, ...]:
        found = []
        for number, each in self.read_list(".host", value):
            text = self.read_text(f".host[{number}]", each, 256)
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                self.fault(f".host[{number}]", f'"{text}" is no requirement', 'Write it like "brotli>=1.1,<2".')
                continue
            if requirement.url:
                self.fault(f".host[{number}]", "it names an address", "Name a distribution and its versions alone.")
            found.append(text)
        return tuple(found)

    # ---- compound ones

    def _permissions(self, value: Any) -> Permissions:
        found = self.read_object(".permissions", value)
        known = ("network", "services", "secrets", "headers", "consul", "modules", "nativeCode")
        self.refuse_unknown(".permissions", found, known)
        headers = self.read_object(".permissions.headers", found.get("headers", {}))
        self.refuse_unknown(".permissions.headers", headers, ("read", "write"))

        def several(field: str, pattern: re.Pattern[str], example: str, values: Any) -> tuple[str, ...]:
            where = f".permissions.{field}"
            return self.read_matching(where, values, pattern, example)

        modules = several("modules", _MODULE, "os.path", found.get("modules", []))
        for number, module in enumerate(modules):
            if module.split(".")[0] not in sys.stdlib_module_names:
                self.fault(
                    f".permissions.modules[{number}]",
                    f'"{module}" is not of the standard library',
                    "List distributions from PyPI in wheels, or in host when Nexus has them.",
                )
        native = found.get("nativeCode", False)
        if not isinstance(native, bool):
            self.fault(".permissions.nativeCode", f"{native!r} is neither true nor false", "Write one of them.")
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
        for number, each in self.read_list(where, value):
            at = f"{where}[{number}]"
            entry = self.read_object(at, each)
            self.refuse_unknown(at, entry, ("name", "versions"))
            name = self.read_label(f"{at}.name", entry.get("name"))
            if name == own:
                self.fault(f"{at}.name", "it names itself", "Name another plugin.")
            if name in found:
                self.fault(f"{at}.name", f'"{name}" is there twice', "Join both ranges into one, with a comma.")
            found[name] = PluginNeed(name, self.read_range(f"{at}.versions", entry.get("versions", "")))
        return tuple(found[name] for name in sorted(found))

    def _names(self, where: str, value: Any, own: str) -> tuple[str, ...]:
        names = tuple(self.read_label(f"{where}[{number}]", each) for number, each in self.read_list(where, value))
        if own in names:
            self.fault(where, "it names itself", "Name other plugins.")
        return names

    def _wheels(self, value: Any, native: bool) -> tuple[WheelNeed, ...]:
        found: dict[tuple[str, Version], WheelNeed] = {}
        for number, each in self.read_list(".wheels", value):
            at = f".wheels[{number}]"
            entry = self.read_object(at, each)
            self.refuse_unknown(at, entry, ("name", "version", "files"))
            name = canonicalize_name(self.read_text(f"{at}.name", entry.get("name", ""), 128))
            try:
                version = Version(str(entry.get("version", "")))
            except InvalidVersion:
                self.fault(
                    f"{at}.version", f"{entry.get('version')!r} is no version", 'Write just one, such as "3.1.0".'
                )
                continue
            files = self._files(f"{at}.files", entry.get("files", []), name, version, native)
            if not files:
                self.fault(
                    f"{at}.files",
                    "no file is named",
                    "List filename and sha256 of each, from `pip download` and `sha256sum`.",
                )
            if (name, version) in found:
                self.fault(at, f"{name} {version} is there twice", "Put all files into one entry.")
            found[name, version] = WheelNeed(name, str(version), files)
        return tuple(found[key] for key in sorted(found))

    def _files(self, where: str, value: Any, name: str, version: Version, native: bool) -> tuple[Wheel, ...]:
        found = []
        for number, each in self.read_list(where, value):
            at = f"{where}[{number}]"
            entry = self.read_object(at, each)
            self.refuse_unknown(at, entry, ("filename", "sha256", "url"))
            filename = self.read_text(f"{at}.filename", entry.get("filename", ""), 256)
            try:
                of, of_version, _, tags = parse_wheel_filename(filename)
            except (InvalidWheelFilename, InvalidVersion):
                self.fault(
                    f"{at}.filename", f'"{filename}" is no wheel', f"Write it like {name}-{version}-py3-none-any.whl."
                )
                continue
            if (of, of_version) != (name, version):
                self.fault(f"{at}.filename", f'"{filename}" is {of} {of_version}', f"List {name} {version} here alone.")
            if any(tag.platform != "any" or tag.abi != "none" for tag in tags) and not native:
                self.fault(
                    f"{at}.filename",
                    f'"{filename}" holds compiled code, and permissions.nativeCode is not asked for',
                    "Set it to true, or take a wheel for `none-any`.",
                )
            sha256 = entry.get("sha256")
            if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
                self.fault(
                    f"{at}.sha256",
                    f"{sha256!r} is no digest",
                    "Write 64 lower-case hex digits, as `sha256sum` prints them.",
                )
                sha256 = ""
            found.append(Wheel(filename, sha256, self.read_url(f"{at}.url", entry.get("url", ""))))
        return tuple(sorted(found, key=lambda file: file.filename))

    # ---- kinds of values


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
