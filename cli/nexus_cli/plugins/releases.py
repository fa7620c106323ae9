"""A release between `build` and `publish`: NAME-VERSION.json and the zip beside it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_cli.errors import UserError
from nexus_cli.options import output_format

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from nexus_marketplace.publishing import Artefact

    from nexus_cli.plugins.markets import Written

MAX_RELEASE_BYTES = 2**20


def write(folder: Path, artefact: Artefact) -> None:
    """Write both files."""
    import msgspec
    from nexus_marketplace import durable

    durable.write(folder / artefact.file_name, artefact.data)
    text = msgspec.json.format(msgspec.json.encode(artefact.release), indent=2)
    durable.write((folder / artefact.file_name).with_suffix(".json"), text + b"\n")


def read(file: Path) -> Artefact:
    """Return what `build` wrote, its digest checked. Raises UserError."""
    import msgspec
    from nexus_core.snapshot import Release
    from nexus_marketplace.fetching import MAX_ARTEFACT_BYTES
    from nexus_marketplace.publishing import Artefact

    zipped = file.with_suffix(".zip")
    try:
        release = msgspec.json.decode(_bounded(file, MAX_RELEASE_BYTES), type=Release)
        data = _bounded(zipped, MAX_ARTEFACT_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing. `nexus plugin build` writes both files.") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{file} is no release: {error}. `nexus plugin build` writes one.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != release.sha256:
        raise UserError(f"{zipped} has SHA-256 {digest}, and {file} says {release.sha256}. Build both again.")
    return Artefact(release, data)


def show(folder: Path, artefact: Artefact, what: str) -> None:
    """Print what was done to a release."""
    from nexus_cli import output

    release = artefact.release
    file = (folder / artefact.file_name).with_suffix(".json")
    if output_format() == "json":
        told = {"name": release.name, "version": release.version, "sha256": release.sha256, "file": str(file)}
        output.show_json({**told, "publisher": release.publisher, "signed": bool(release.signature)})
    else:
        click.echo(f"{file}: {what} {release.name} {release.version}, SHA-256 {release.sha256}")


def publish_image(
    image: str, artefact: Artefact, key: Ed25519PrivateKey, options: Mapping[str, Any], *, plain_http: bool
) -> Written:
    """Add a release to a marketplace that is an image: take it down whole, add to it, push it."""
    from dataclasses import replace

    from nexus_marketplace import durable
    from nexus_marketplace.sources import FileMissing
    from nexus_marketplace.sources.oci import Registry, find_login, parse

    from nexus_cli.plugins import markets

    reference = parse(image)
    registry = Registry(reference, plain_http=plain_http, login=find_login(reference.host))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            paths = registry.paths()
        except FileMissing:
            paths = ()  # the first release makes the image
        for path, size in paths:
            durable.write(folder / path, registry.read(path, size))
        written = markets.write(folder, [artefact], key, {**options, "url": options["url"] or image})
        markets.push(folder, image, plain_http=plain_http)
        return replace(written, directory=Path(image), plain_http=plain_http)


def _bounded(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path} has more than {most} bytes. `nexus plugin build` writes smaller ones.")
    return data
