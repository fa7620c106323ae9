"""Marketplaces as the commands use them: written, verified, pushed, served; and what goes wrong, in one line."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_cli.errors import StepFailed, UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from nexus_core.model.plugins import Source
    from nexus_marketplace.publishing import Artefact
    from nexus_marketplace.repository import Repository
    from nexus_marketplace.sources import SourcePort


@contextmanager
def told(where: Path | str) -> Iterator[None]:
    """Turn what a marketplace's rooms raise into one line."""
    from nexus_core.marketplace import IndexInvalid
    from nexus_marketplace.downloading import DownloadFailed
    from nexus_marketplace.refusing import PublishRefused
    from nexus_marketplace.rejections import PluginRejected
    from nexus_marketplace.troubles import MarketplaceTrouble

    try:
        yield
    except (PublishRefused, IndexInvalid) as error:
        raise UserError(str(error)) from error
    except (DownloadFailed, MarketplaceTrouble, PluginRejected) as error:
        reason = getattr(error, "reason", "")
        raise StepFailed(f"{error}{f' ({reason})' if reason else ''}") from error
    except OSError as error:
        raise UserError(f"{error.filename or where} cannot be used: {error.strerror or error}.") from error


def package(path: Path) -> Path:
    """Return the import package that a path means: itself, or the only one below it that has a plugin.yaml."""
    if not path.is_dir():
        raise UserError(f"{path} is not a directory. Name the import package of a plugin.")
    if (path / "plugin.yaml").is_file():
        return path.resolve()
    below = sorted(each.parent for each in [*path.glob("*/plugin.yaml"), *path.glob("src/*/plugin.yaml")])
    if len(below) == 1:
        return below[0].resolve()
    found = f"several: {', '.join(str(each) for each in below)}" if below else "none"
    raise UserError(
        f"{path} has no plugin.yaml, and below it there are {found}. Name the import package of one plugin."
    )


def repository(directory: Path, days: Mapping[str, Any]) -> Repository:
    """Return the marketplace in a directory. days: options of lifetimes; absent ones are the default."""
    from nexus_marketplace.repository import Lifetimes, Repository

    names = ("timestamp_days", "snapshot_days", "targets_days", "root_days")
    return Repository(directory, Lifetimes(**{name: days[name] for name in names if name in days}))


@dataclass(frozen=True, slots=True)
class Written:
    """What `build` and `publish` print."""

    directory: Path
    artefacts: tuple[Artefact, ...]
    publisher: str
    public_key: str
    root_keys: tuple[str, ...]
    threshold: int
    url: str
    plain_http: bool = False

    def manifest(self) -> dict[str, Any]:
        """Return the NexusMarketplace to apply."""
        source: dict[str, Any] = {"url": self.url}
        if not self.url:
            source = {"directory": str(self.directory.resolve())}
        elif self.url.startswith("oci://"):
            source = {"oci": self.url.removeprefix("oci://"), **({"plainHttp": True} if self.plain_http else {})}
        spec: dict[str, Any] = {
            "source": source,
            "publishers": [{"name": self.publisher, "publicKey": self.public_key}],
        }
        if self.root_keys != (self.public_key,) or self.threshold != 1:
            spec["trust"] = {"rootKeys": list(self.root_keys), "threshold": self.threshold}
        return {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusMarketplace",
            "metadata": {"name": self.publisher},
            "spec": spec,
        }

    def as_yaml(self) -> str:
        """Return the manifest as YAML, with what was written in comments above it."""
        import yaml

        lines = [
            f"# {self.directory / each.release.url}: {each.release.name} {each.release.version}\n"
            for each in self.artefacts
        ]
        lines.append(f"# Serve {self.directory} as it is, and apply this:\n")
        return "".join(lines) + yaml.safe_dump(self.manifest(), sort_keys=False)

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "directory": str(self.directory),
            "publicKey": self.public_key,
            "rootKeys": list(self.root_keys),
            "releases": [
                {"name": each.release.name, "version": each.release.version, "sha256": each.release.sha256, "file": each.release.url}
                for each in self.artefacts
            ],
            "manifest": self.manifest(),
        }  # fmt: skip


def write(
    target: Path,
    artefacts: Sequence[Artefact],
    key: Ed25519PrivateKey,
    options: Mapping[str, Any],
) -> Written:
    """Add releases to the marketplace in a directory. options: of `signing_options`."""
    from nexus_marketplace import publishing
    from nexus_marketplace.repository import Keys

    roots = tuple(publishing.read_key(path, create=True) for path in options["root_keys"]) or (key,)
    targets, online = (
        publishing.read_key(options[name], create=True) if options[name] is not None else key
        for name in ("targets_key", "online_key")
    )
    keys = Keys(roots, targets, online, int(options["root_threshold"]))
    wheels = asyncio.run(_wheels(artefacts, options["pypi"])) if options["copy_wheels"] else {}
    there = repository(target, options)
    publishing.add_releases(there, artefacts, keys, datetime.now(UTC), wheels)
    root_keys, threshold = there.root_keys()
    return Written(
        target,
        tuple(artefacts),
        options["publisher"],
        publishing.public_key(key),
        root_keys,
        threshold,
        options["url"],
    )


async def _wheels(artefacts: Sequence[Artefact], pypi: str) -> dict[str, bytes]:
    """Return all files of all wheels that releases need, by SHA-256."""
    import msgspec
    from nexus_marketplace.wheels import fetch_wheel, wheel_tags

    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as cache:
        for need in (need for artefact in artefacts for need in artefact.release.wheels):
            for file in need.files:
                one = msgspec.structs.replace(need, files=(file,))
                _, found[file.sha256] = await fetch_wheel(one, Path(cache), pypi=pypi, tags=wheel_tags(file))
    return found


# ---- reading


def read_public_key(text: str, option: str = "--key") -> str:
    """Return a base64 Ed25519 key, given itself, in a file, or as the public half of the private key in a file."""
    path = Path(text)
    found = text
    if len(text) < 256 and path.is_file():
        found = path.read_text(errors="replace").strip()
        if found.startswith("-----BEGIN "):
            from nexus_marketplace import publishing

            with told(path):
                return publishing.public_key(publishing.read_key(path))
    try:
        usable = len(base64.b64decode(found, validate=True)) == 32
    except (binascii.Error, ValueError):
        usable = False
    if not usable:
        raise UserError(f"{option} {text!r} is neither a base64 Ed25519 public key nor a file with one.")
    return found


def read_publishers(texts: Sequence[str]) -> dict[str, str]:
    """Return public keys by publisher; `` for one that is given without a name and counts for all."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, key = text.partition("=")
        # Base64 ends with `=`: a name is followed by something.
        if not equals or not key.strip("=") or "/" in name or "+" in name:
            name, key = "", text
        found[name] = read_public_key(key)
    return found


def source_of(where: str, *, plain_http: bool = False) -> SourcePort:
    """Return the place that an argument names: a directory, the index.json in one, an address, or an image."""
    from nexus_marketplace import sources

    return sources.open(spec_of(where, plain_http=plain_http))


def spec_of(where: str, *, plain_http: bool = False) -> Source:
    """Return `spec.source` for an argument."""
    from nexus_core.model.plugins import Source

    if where.startswith(("http://", "https://")):
        return Source(url=where)
    if where.startswith("oci://"):
        return Source(oci=where.removeprefix("oci://"), plain_http=plain_http)
    path = Path(where)
    folder = path.parent if path.name == "index.json" else path
    if not folder.is_dir():
        raise UserError(f"{where} is neither a directory nor http(s):// nor oci://. Name where the marketplace is.")
    return Source(directory=str(folder.resolve()))


def verify(
    where: str, publishers: Mapping[str, str], roots: Sequence[str], threshold: int, *, plain_http: bool
) -> list[tuple[str, str, str, str]]:
    """Return (plugin, version, `ok` or `failed`, why) for each release; raise StepFailed for metadata that is not to be trusted."""
    from nexus_marketplace.fetching import MAX_ARTEFACT_BYTES
    from nexus_marketplace.rejections import PluginRejected
    from nexus_marketplace.sources import FileMissing, FileTooLarge
    from nexus_marketplace.trust import Followed, Pins
    from nexus_marketplace.verifying import verify_signature

    source = source_of(where, plain_http=plain_http)
    rows = []
    with told(where), tempfile.TemporaryDirectory() as state:
        index, versions = Followed(source, Pins(tuple(roots), threshold), Path(state)).update()
        for release in index.releases:
            why = ""
            key = publishers.get(release.publisher, publishers.get(""))
            try:
                if key is None:
                    raise PluginRejected(
                        "PublisherNotTrusted", f"no --key was given for publisher {release.publisher!r}"
                    )
                verify_signature(release, key)
                if ":" not in release.url:
                    data = source.read(release.url, MAX_ARTEFACT_BYTES)
                    if hashlib.sha256(data).hexdigest() != release.sha256:
                        why = f"{release.url} is not what was signed: its SHA-256 differs"
            except (PluginRejected, FileMissing, FileTooLarge, ValueError) as error:
                why = str(error)
            rows.append((release.name, release.version, "failed" if why else "ok", why))
    click.echo(
        f"root {versions.root}, index {versions.targets}, timestamp {versions.timestamp}; expires {versions.expires_utc}",
        err=True,
    )
    return rows


def push(directory: Path, image: str, *, plain_http: bool) -> int:
    """Push a marketplace into a registry; return how many files it has."""
    from nexus_marketplace.sources import oci

    if not image.startswith("oci://"):
        raise UserError(f"{image!r} names no image. Write it like oci://ghcr.io/acme/plugins:latest.")
    with told(directory):
        reference = oci.parse(image)
        return asyncio.run(oci.push(directory, reference, plain_http=plain_http, login=oci.find_login(reference.host)))


# ---- serving


def serve(directory: Path, listen: str, keys: tuple[Ed25519PrivateKey, ...], title: str) -> None:
    """Serve a marketplace until SIGINT or SIGTERM."""
    from nexus_cli.up.ports import parse_address

    if not (directory / "metadata" / "timestamp.json").is_file():
        raise UserError(
            f"{directory} has no metadata/timestamp.json. Name a directory that `nexus marketplace build` wrote."
        )
    host, port = parse_address(listen, "--listen")
    try:
        asyncio.run(_serve(directory, host, port, keys, title))
    except OSError as error:
        raise UserError(f"--listen {listen} cannot be used: {error.strerror or error}. Choose another port.") from error


async def _serve(directory: Path, host: str, port: int, keys: tuple[Ed25519PrivateKey, ...], title: str) -> None:
    import logging

    from aiohttp import web
    from nexus_marketplace import serving
    from nexus_marketplace.repository import Repository

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(serving.build_app(directory, title), access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        shown = runner.addresses[0]
        click.echo(f"{directory} is served on http://{shown[0]}:{shown[1]}/")
        async with asyncio.TaskGroup() as group:
            fresh = group.create_task(serving.keep_fresh(Repository(directory), keys)) if keys else None
            await stop.wait()
            if fresh is not None:
                fresh.cancel()
    finally:
        await runner.cleanup()
