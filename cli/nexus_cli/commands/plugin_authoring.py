"""`nexus plugin new | dev | build | sign | verify | publish | bundle`: for those who write plugins, and for places without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nexus_cli.commands.marketplace import PYPI, signing_options
from nexus_cli.errors import StepFailed, UserError
from nexus_cli.options import output_format, output_option

_PATH = click.Path(path_type=Path)

NEW_HELP = """Make a project for a new plugin: package, plugin.yaml, tests that pass, README.

\b
Example:
  nexus plugin new acme-headers
"""

DEV_HELP = """Run plugins from their sources in a gateway that follows each save.

DIR is a plugin's project or package; without it, all plugins that are installed (entry points of the group nexus.plugins). Without -f
the gateway has one upstream, which answers with the request that reached it. What does not build or load leaves the last good version
running, and says why.

\b
Examples:
  nexus plugin dev acme-headers
  nexus plugin dev acme-headers --config '{"header": "x-acme"}'
  nexus plugin dev acme-headers -f examples/shop --listen 127.0.0.1:9080
"""

BUILD_HELP = """Build a plugin: NAME-VERSION.zip, always the same bytes, and NAME-VERSION.json, its release without a signature.

\b
Example:
  nexus plugin build acme-headers --to dist
"""

SIGN_HELP = """Sign a release that `build` wrote, perhaps on another machine, where the key is.

\b
Example:
  nexus plugin sign dist/acme-headers-0.1.0.json --key acme.pem --publisher acme
"""

VERIFY_HELP = """Check a release's signature, and that the zip beside it is what was signed.

\b
Example:
  nexus plugin verify dist/acme-headers-0.1.0.json --key 4egDPlQr0qdKlmig1NkVcYiCJGSF8wgGH5UrzUFsVfA=
"""

PUBLISH_HELP = """Publish a plugin in a marketplace: from its sources, or as `build` and `sign` made it.

To a directory, or to an image in a registry, whose present releases stay.

\b
Examples:
  nexus plugin publish acme-headers --key acme.pem --publisher acme --to public
  nexus plugin publish dist/acme-headers-0.1.0.json --key acme.pem --publisher acme --to oci://ghcr.io/acme/plugins:latest
"""

BUNDLE_HELP = """Take marketplaces to a place without a network.

\b
Examples:
  nexus plugin bundle export -f site -o plugins.tar
  nexus plugin bundle import plugins.tar --to /srv/marketplaces -f site
"""

EXPORT_HELP = """Write what manifests need of their marketplaces into one file: signed metadata, artefacts, wheels for all platforms.

\b
Example:
  nexus plugin bundle export -f site -o plugins.tar
"""

IMPORT_HELP = """Verify a bundle and write its marketplaces below a directory, each ready to be served or mounted.

With -f the keys are those that the NexusMarketplaces there pin; without, those that the bundle says, which gateways verify again.

\b
Example:
  nexus plugin bundle import plugins.tar --to /srv/marketplaces -f site
"""


@click.command(help=NEW_HELP)
@click.argument("name")
@click.option("--to", "target", type=_PATH, default=None, metavar="DIR", help="Where. [default: ./NAME]")
@click.option("--package", default=None, metavar="NAME", help="Import package. [default: NAME with _, and _plugin]")
@output_option
def new(name: str, target: Path | None, package: str | None) -> None:
    from nexus_cli import output
    from nexus_cli.plugins import templates

    package = package or f"{name.replace('-', '_')}_plugin"
    files = templates.render(name, package)
    folder = target or Path(name)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{folder} exists and is not empty. Name another directory with --to.")
    try:
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}.") from error
    if output_format() == "json":
        output.show_json({"directory": str(folder), "package": package, "files": sorted(files)})
    else:
        click.echo(
            f"{folder} is there. Next:\n  cd {folder}\n  python -m pytest     # pip install pytest, if it is not there"
        )
        click.echo("  nexus plugin dev .")


@click.command(help=DEV_HELP)
@click.argument("directory", metavar="[DIR]", required=False, type=_PATH)
@click.option(
    "-f", "--filename", "manifests", type=_PATH, metavar="PATH", help="Manifests. [default: an echo upstream]"
)
@click.option("--config", "config_text", default="{}", metavar="JSON", help="The plugins' configuration, without -f.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDR", help="Where the gateway is.")
@click.option("--admin", default="127.0.0.1:8081", show_default=True, metavar="ADDR", help="Where its admin API is.")
@output_option
def dev(directory: Path | None, manifests: Path | None, config_text: str, listen: str, admin: str) -> int:
    import json

    from nexus_cli.plugins import dev as working
    from nexus_cli.up.ports import parse_address

    try:
        config = json.loads(config_text)
    except ValueError as error:
        raise UserError(f'--config is not JSON ({error}). Write it like \'{{"header": "x-acme"}}\'.') from error
    if not isinstance(config, dict):
        raise UserError('--config is not an object. Write it like \'{"header": "x-acme"}\'.')
    if manifests is not None and not manifests.exists():
        raise UserError(f"{manifests} does not exist. Name a directory of manifests, such as examples/shop.")
    for address, option in ((listen, "--listen"), (admin, "--admin")):
        parse_address(address, option)
    return working.run(working.find_packages(directory), manifests, config, listen, admin)


@click.command(help=BUILD_HELP)
@click.argument("directory", metavar="DIR", type=_PATH)
@click.option("--to", "target", type=_PATH, default=Path("dist"), show_default=True, metavar="DIR", help="Where.")
@click.option("--publisher", default="", metavar="NAME", help="Who will sign it. [default: as `sign` says]")
@output_option
def build(directory: Path, target: Path, publisher: str) -> None:
    from nexus_marketplace import publishing

    from nexus_cli.plugins import markets, releases

    with markets.told(directory):
        artefact = publishing.build_unsigned(markets.package(directory), publisher)
        releases.write(target, artefact)
    releases.show(target, artefact, "built")


@click.command(help=SIGN_HELP)
@click.argument("file", metavar="RELEASE.json", type=_PATH)
@click.option(
    "--key", "key_file", required=True, type=_PATH, metavar="FILE", help="Ed25519 key, PEM; made if there is none."
)
@click.option("--publisher", required=True, metavar="NAME", help="Name that the NexusMarketplace pins the key to.")
@output_option
def sign(file: Path, key_file: Path, publisher: str) -> None:
    import msgspec
    from nexus_marketplace import publishing

    from nexus_cli.plugins import markets, releases

    with markets.told(file):
        artefact = releases.read(file)
        named = publishing.Artefact(msgspec.structs.replace(artefact.release, publisher=publisher), artefact.data)
        signed = publishing.sign(named, publishing.read_key(key_file, create=True))
        releases.write(file.parent, signed)
    releases.show(file.parent, signed, "signed")


@click.command(help=VERIFY_HELP)
@click.argument("file", metavar="RELEASE.json", type=_PATH)
@click.option("--key", "public_key", required=True, metavar="BASE64|FILE", help="The publisher's public key.")
@output_option
def verify(file: Path, public_key: str) -> None:
    from nexus_marketplace.verifying import verify_api, verify_signature

    from nexus_cli.plugins import markets, releases

    key = markets.read_public_key(public_key)
    with markets.told(file):
        artefact = releases.read(file)
        verify_signature(artefact.release, key)
        verify_api(artefact.release)
    releases.show(file.parent, artefact, "verified")


@click.command(help=PUBLISH_HELP)
@click.argument("what", metavar="DIR|RELEASE.json", type=_PATH)
@click.option("--to", "target", required=True, metavar="DIR|oci://IMAGE", help="The marketplace.")
@click.option("--plain-http", is_flag=True, help="Ask the registry without TLS.")
@signing_options
@output_option
def publish(what: Path, target: str, plain_http: bool, **options: Any) -> None:
    from nexus_marketplace import publishing

    from nexus_cli import output
    from nexus_cli.plugins import markets, releases

    with markets.told(what):
        key = publishing.read_key(options["key_file"], create=True)
        if what.is_file():
            artefact = releases.read(what)
            if not artefact.release.signature:
                raise UserError(f"{what} is not signed. `nexus plugin sign {what}` signs it.")
            if artefact.release.publisher != options["publisher"]:
                raise UserError(f"{what} is signed as {artefact.release.publisher!r}. Give that as --publisher.")
            from nexus_marketplace.verifying import verify_signature

            verify_signature(artefact.release, publishing.public_key(key))
        else:
            artefact = publishing.build_artefact(markets.package(what), key, options["publisher"])
        if target.startswith("oci://"):
            written = releases.publish_image(target, artefact, key, options, plain_http=plain_http)
        else:
            written = markets.write(Path(target), [artefact], key, options)
    if output_format() == "json":
        output.show_json(written.as_json())
    else:
        click.echo(written.as_yaml(), nl=False)


@click.group(help=BUNDLE_HELP)
@output_option
def bundle() -> None:
    pass


@bundle.command("export", help=EXPORT_HELP)
@click.option("-f", "--filename", "path", required=True, type=_PATH, metavar="PATH", help="Manifests.")
@click.option("-o", "--to", "target", required=True, type=_PATH, metavar="FILE", help="The bundle.")
@click.option("--pypi", default=PYPI, show_default=True, metavar="URL", help="Index of wheels.")
def export_bundle(path: Path, target: Path, pypi: str) -> None:
    from nexus_cli.plugins import bundling, markets

    with markets.told(path):
        told = bundling.export(path, target, pypi)
    for line in told:
        click.echo(line)


@bundle.command("import", help=IMPORT_HELP)
@click.argument("file", metavar="FILE", type=_PATH)
@click.option("--to", "target", required=True, type=_PATH, metavar="DIR", help="Where the marketplaces are written.")
@click.option("-f", "--filename", "path", type=_PATH, metavar="PATH", help="Manifests whose keys count.")
@output_option
def import_bundle(file: Path, target: Path, path: Path | None) -> None:
    from nexus_cli import output
    from nexus_cli.plugins import bundling, markets

    with markets.told(file):
        found = bundling.restore(file, target, path)
    rows = [(each.name, each.directory, ", ".join(each.plugins) or "none", each.versions.expires_utc) for each in found]
    output.show_rows(("marketplace", "directory", "plugins", "expires"), rows, empty=f"{file} holds no marketplaces.")
    if not rows:
        raise StepFailed(f"{file} holds no marketplaces. Export it again.")


COMMANDS: tuple[click.Command, ...] = (new, dev, build, sign, verify, publish, bundle)
"""What the group `nexus plugin` gets."""
