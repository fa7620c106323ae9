"""`nexus marketplace`."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

import click

from nexus_cli.errors import StepFailed, UserError
from nexus_cli.options import output_format, output_option

HELP = """Build and verify a plugin marketplace: a directory of signed plugins and their index, for any static web server.

\b
Examples:
  nexus marketplace build plugins/*/acme_* --key acme.pem --publisher acme --to public/
  nexus marketplace verify public/index.json --key 8tx4AU151pZQzKjntFZ5JlhHJQnDiU8l6cIkvwIWB0g=

Exit codes: 0 done, 1 a release does not verify, 2 not usable as given.
"""

BUILD_HELP = """Build signed artefacts and the index from plugin packages (directories with a plugin.yaml).

Releases that the index has already stay in it, so that users can pin them. A key that does not exist is made.

\b
Example:
  nexus marketplace build my-plugin/acme_auth --key acme.pem --publisher acme --to public/
"""

VERIFY_HELP = """Check an index and the artefacts beside it: form, digests, and signatures by the publisher's key.

\b
Example:
  nexus marketplace verify public/index.json --key 8tx4AU151pZQzKjntFZ5JlhHJQnDiU8l6cIkvwIWB0g=
"""


@click.group(help=HELP)
@output_option
def marketplace() -> None:
    pass


@marketplace.command(help=BUILD_HELP)
@click.argument("packages", metavar="PACKAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--key", "key_file", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Ed25519 key, PEM."
)
@click.option("--publisher", required=True, metavar="NAME", help="Name that the NexusMarketplace pins the key to.")
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where it is written."
)
@output_option
def build(packages: tuple[Path, ...], key_file: Path, publisher: str, target: Path) -> None:
    from nexus_core.marketplace import IndexInvalid
    from nexus_marketplace import publishing as publish

    from nexus_cli import output

    for package in packages:
        if not package.is_dir():
            raise UserError(f"{package} is not a directory. Name the import package of a plugin.")
    index_file = target / "index.json"
    try:
        key = publish.read_key(key_file, create=True)
        artefacts = [publish.build_artefact(package.resolve(), key, publisher) for package in packages]
        former = index_file.read_bytes() if index_file.exists() else None
        index = publish.build_index(artefacts, former)
        target.mkdir(parents=True, exist_ok=True)
        for artefact in artefacts:
            (target / artefact.file_name).write_bytes(artefact.data)
        index_file.write_bytes(index)
    except (publish.PublishRefused, IndexInvalid) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(
            f"{error.filename or target} cannot be used: {error.strerror}. Check its permissions."
        ) from error
    public = publish.public_key(key)
    if output_format() == "json":
        releases = [{"name": a.release.name, "version": a.release.version, "file": a.file_name} for a in artefacts]
        output.show_json({"index": str(index_file), "publicKey": public, "releases": releases})
        return
    for artefact in artefacts:
        click.echo(f"{target / artefact.file_name}: {artefact.release.name} {artefact.release.version}")
    click.echo(
        f"{index_file}: serve the directory and pin the key:\n  publishers: [{{name: {publisher}, publicKey: {public}}}]"
    )


@marketplace.command(help=VERIFY_HELP)
@click.argument("index_file", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--key", "public_key", required=True, metavar="BASE64|FILE", help="The publisher's public key.")
@output_option
def verify(index_file: Path, public_key: str) -> int:
    from nexus_core.marketplace import IndexInvalid, parse_index
    from nexus_marketplace.rejections import PluginRejected
    from nexus_marketplace.verifying import verify_signature

    from nexus_cli import output

    key = _read_key(public_key)
    try:
        index = parse_index(index_file.read_bytes(), str(index_file))
    except OSError as error:
        raise UserError(f"{index_file} cannot be read: {error.strerror}.") from error
    except IndexInvalid as error:
        raise StepFailed(str(error)) from error
    rows = []
    for release in index.releases:
        why = ""
        try:
            verify_signature(release, key)
            why = _artefact_fault(release.url, release.sha256, index_file.parent)
        except PluginRejected as error:
            why = str(error)
        rows.append((release.name, release.version, "failed" if why else "ok", why))
    output.show_rows(("plugin", "version", "state", "why"), rows, empty=f"{index_file} lists no releases.")
    return 1 if any(row[2] == "failed" for row in rows) else 0


def _read_key(text: str) -> str:
    """Return a base64 Ed25519 key, given itself or in a file."""
    path = Path(text)
    found = path.read_text().strip() if len(text) < 256 and path.is_file() else text
    try:
        usable = len(base64.b64decode(found, validate=True)) == 32
    except (binascii.Error, ValueError):
        usable = False
    if not usable:
        raise UserError(f"--key {text!r} is neither a base64 Ed25519 public key nor a file with one.")
    return found


def _artefact_fault(url: str, sha256: str, directory: Path) -> str:
    """Return what is wrong with an artefact beside its index; empty for a good one or one that is elsewhere."""
    if ":" in url:
        return ""
    path = directory / url
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return "" if digest == sha256 else f"{path} is not what was signed: its SHA-256 differs"
