"""Makes a marketplace: artefacts and a signed index from plugin packages. For publishers; no request passes here."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from nexus_core.marketplace import Index, parse_index, signed_bytes
from nexus_core.marketplace.artefact import build_zip, is_part
from nexus_core.marketplace.index import INDEX_VERSION
from nexus_core.snapshot import Release

from nexus_marketplace.fetching import MAX_ARTEFACT_BYTES
from nexus_marketplace.hooks_of import Sources
from nexus_marketplace.manifests import read_manifest
from nexus_marketplace.refusing import PublishRefused

if TYPE_CHECKING:
    from nexus_marketplace.repository import Keys, Repository


@dataclass(frozen=True, slots=True)
class Artefact:
    """One built release: what the index says of it, and the zip's bytes."""

    release: Release
    data: bytes

    @property
    def file_name(self) -> str:
        """`<name>-<version>.zip`, for a directory of builds."""
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
    """Return the signed release of one import package with a `plugin.yaml`. url: empty names the place in a marketplace.

    Raises `PublishRefused`.
    """
    return sign(build_unsigned(package_dir, publisher, url), key)


def build_unsigned(package_dir: Path, publisher: str, url: str = "") -> Artefact:
    """Return the release of one import package with a `plugin.yaml`, without its signature. Raises `PublishRefused`."""
    package_dir = package_dir.resolve()
    package = package_dir.name
    said = read_manifest(package_dir, publisher)
    files: dict[str, bytes] = {}
    for path in sorted(package_dir.rglob("*")):
        name = path.relative_to(package_dir).as_posix()
        if not is_part(name):
            continue
        if path.is_symlink():
            raise PublishRefused(f"{path} is a symbolic link. Put the file itself there.")
        if path.is_file():
            files[f"{package}/{name}"] = path.read_bytes()
    try:
        sources = Sources(files, package)
    except (SyntaxError, ValueError) as error:
        where = f"{error.filename} line {error.lineno}" if isinstance(error, SyntaxError) else str(package_dir)
        raise PublishRefused(
            f"{where}: it is no Python {sys.version_info[0]}.{sys.version_info[1]}: {error}"
        ) from error
    faults = [*sources.own_imports(), *sources.hook_faults(said.entry_point, said.hooks)]
    if faults:
        raise PublishRefused(f"{package_dir}:\n" + "\n".join(f"  {fault}" for fault in faults))
    data = build_zip(files)
    if len(data) > MAX_ARTEFACT_BYTES:
        raise PublishRefused(
            f"{package_dir} has {len(data)} bytes of code; gateways take {MAX_ARTEFACT_BYTES}. Move data into the configuration, or "
            "libraries into wheels."
        )
    digest = hashlib.sha256(data).hexdigest()
    return Artefact(msgspec.structs.replace(said, sha256=digest, url=url or f"artefacts/{digest}.zip"), data)


def sign(artefact: Artefact, key: Ed25519PrivateKey) -> Artefact:
    """Return the artefact with its release signed."""
    signature = base64.b64encode(key.sign(signed_bytes(artefact.release))).decode()
    return Artefact(msgspec.structs.replace(artefact.release, signature=signature), artefact.data)


def build_index(artefacts: Sequence[Artefact], former: bytes | None = None) -> bytes:
    """Return the index of these releases, sorted; releases of `former` that are not built anew stay in it.

    Raises `nexus_core.marketplace.IndexInvalid` for a former index or a release that is not well-formed, `PublishRefused` for a version
    that is there with other content.
    """
    releases = {(each.release.name, each.release.version): each.release for each in artefacts}
    if former is not None:
        for old in parse_index(former, "the former index").releases:
            new = releases.setdefault((old.name, old.version), old)
            if (new.sha256, new.publisher) != (old.sha256, old.publisher) and "bundled:" not in (old.url, new.url):
                raise PublishRefused(
                    f"{old.name} {old.version} is in the marketplace already, with other content. "
                    "Raise `version` in plugin.yaml: whoever installed it must get what they reviewed."
                )
    document: dict[str, Any] = {
        "version": INDEX_VERSION,
        "releases": [msgspec.to_builtins(releases[name]) for name in sorted(releases)],
    }
    data = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
    parse_index(data, "the new index")
    return data


def add_releases(
    repository: Repository,
    artefacts: Sequence[Artefact],
    keys: Keys,
    now_utc: datetime,
    wheels: Mapping[str, bytes] = MappingProxyType({}),
) -> Index:
    """Put releases into a marketplace, beside those that it has; return its index. wheels: copies to serve, by SHA-256.

    Raises `PublishRefused`, `IndexInvalid`, OSError.
    """
    files = {each.release.url: each.data for each in artefacts if "://" not in each.release.url}
    files |= {f"wheels/{sha256}.whl": data for sha256, data in wheels.items()}
    data = repository.publish(lambda former: build_index(artefacts, former), files, keys, now_utc)
    return parse_index(data, "the new index")


def publish_bundled(packages: Sequence[Path], index_dir: Path, key_file: Path, publisher: str) -> None:
    """Write `index.json` and `publisher.pub` of the plugins that ship with Nexus. The key is made when there is none."""
    key = read_key(key_file, create=True)
    artefacts = [build_artefact(package, key, publisher, url="bundled:") for package in packages]
    (index_dir / "index.json").write_bytes(build_index(artefacts))
    (index_dir / "publisher.pub").write_text(public_key(key) + "\n")
