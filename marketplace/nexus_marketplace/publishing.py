"""Makes a marketplace: artefacts and a signed index from plugin packages. For publishers; no request passes here."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from nexus_core.marketplace import parse_index, signed_bytes
from nexus_core.marketplace.artefact import build_zip, is_part
from nexus_core.marketplace.index import INDEX_VERSION
from nexus_core.snapshot import Release

from nexus_marketplace.refusing import PublishRefused

_FIELDS = {"name", "version", "api", "entryPoint", "summary", "configSchema", "failurePolicy"}


@dataclass(frozen=True, slots=True)
class Artefact:
    """One built release: what the index says of it, and the zip's bytes."""

    release: Release
    data: bytes

    @property
    def file_name(self) -> str:
        """`<name>-<version>.zip`."""
        return f"{self.release.name}-{self.release.version}.zip"


def read_key(path: Path, *, create: bool = False) -> Ed25519PrivateKey:
    """Return the publisher's private key (PKCS 8, PEM, mode 0600). create: make one when there is none. Raises `PublishRefused`."""
    if not path.exists():
        if not create:
            raise PublishRefused(
                f"There is no key at {path}. `nexus marketplace build` makes one; keep it out of repositories."
            )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Ed25519PrivateKey.generate()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return made
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise PublishRefused(f"{path} is not a private key in PEM without a password.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PublishRefused(f"{path} is not an Ed25519 key.")
    return key


def public_key(key: Ed25519PrivateKey) -> str:
    """Return the public half as NexusMarketplace.spec.publishers[].publicKey wants it: base64 of the raw key."""
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def build_artefact(package_dir: Path, key: Ed25519PrivateKey, publisher: str, url: str = "") -> Artefact:
    """Return the signed release of one import package with a `plugin.yaml`. url: empty names the zip beside the index.

    Raises `PublishRefused`.
    """
    package = package_dir.name
    manifest = _read_manifest(package_dir / "plugin.yaml")
    files = {
        f"{package}/{path.relative_to(package_dir).as_posix()}": path.read_bytes()
        for path in sorted(package_dir.rglob("*"))
        if path.is_file() and is_part(path.relative_to(package_dir).as_posix())
    }
    _refuse_absolute_imports(files, package)
    data = build_zip(files)
    unsigned = Release(
        name=manifest["name"],
        version=str(manifest["version"]),
        api=str(manifest["api"]),
        package=package,
        entry_point=manifest["entryPoint"],
        sha256=hashlib.sha256(data).hexdigest(),
        url=url or f"{manifest['name']}-{manifest['version']}.zip",
        summary=manifest.get("summary", ""),
        config_schema=manifest.get("configSchema", {}),
        failure_policy=manifest.get("failurePolicy", "open"),
        publisher=publisher,
    )
    signature = base64.b64encode(key.sign(signed_bytes(unsigned))).decode()
    return Artefact(msgspec.structs.replace(unsigned, signature=signature), data)


def build_index(artefacts: Sequence[Artefact], former: bytes | None = None) -> bytes:
    """Return the index of these releases, sorted; releases of `former` that are not built anew stay in it.

    Raises `nexus_core.marketplace.IndexInvalid` for a former index or a release that is not well-formed.
    """
    releases = {(each.release.name, each.release.version): each.release for each in artefacts}
    if former is not None:
        for old in parse_index(former, "the former index").releases:
            releases.setdefault((old.name, old.version), old)
    document: dict[str, Any] = {
        "version": INDEX_VERSION,
        "releases": [msgspec.to_builtins(releases[name]) for name in sorted(releases)],
    }
    data = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
    parse_index(data, "the new index")
    return data


def publish_bundled(packages: Sequence[Path], index_dir: Path, key_file: Path, publisher: str) -> None:
    """Write `index.json` and `publisher.pub` of the plugins that ship with Nexus. The key is made when there is none."""
    key = read_key(key_file, create=True)
    artefacts = [build_artefact(package, key, publisher, url="bundled:") for package in packages]
    (index_dir / "index.json").write_bytes(build_index(artefacts))
    (index_dir / "publisher.pub").write_text(public_key(key) + "\n")


def _read_manifest(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise PublishRefused(f"{path} is missing. Write name, version, api and entryPoint into it.") from error
    except yaml.YAMLError as error:
        raise PublishRefused(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise PublishRefused(f"{path} is not an object.")
    missing = sorted({"name", "version", "api", "entryPoint"} - found.keys())
    unknown = sorted(found.keys() - _FIELDS)
    if missing or unknown:
        raise PublishRefused(
            f"{path}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}. Known: {sorted(_FIELDS)}."
        )
    return found


def _refuse_absolute_imports(files: Mapping[str, bytes], package: str) -> None:
    """Raise for `import <own package>`: in the gateway the code runs under a private name, and would find another version."""
    for path, content in files.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(content, path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            if any(name.split(".")[0] == package for name in names):
                raise PublishRefused(
                    f"{path} line {getattr(node, 'lineno', 0)} imports {package} by its absolute name. "
                    "Write a relative import (`from .module import name`)."
                )
