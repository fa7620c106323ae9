"""`nexus marketplace`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nexus_cli.options import output_format, output_option

Function = TypeVar("Function", bound=Callable[..., Any])

PYPI = "https://pypi.org/simple/"

HELP = """Make, sign, verify and serve a marketplace of plugins: a directory of files, for any web server, registry or volume.

\b
Examples:
  nexus marketplace build my-plugin/acme_auth --key acme.pem --publisher acme --to public
  nexus marketplace serve public --listen 127.0.0.1:9000 --key acme.pem
  nexus marketplace verify http://127.0.0.1:9000 --key acme=4egDPlQr0qdKlmig1NkVcYiCJGSF8wgGH5UrzUFsVfA=

Exit codes: 0 done, 1 something does not verify, 2 not usable as given.
"""

BUILD_HELP = """Build plugins (import packages with a plugin.yaml), add them to the marketplace, sign it, and print its manifest.

Releases that the marketplace has already stay in it. Keys that do not exist are made. One key is enough to begin with; a marketplace
that others depend on has a root key that stays offline, and an online key that `refresh` and `serve` use.

\b
Examples:
  nexus marketplace build my-plugin/acme_auth --key acme.pem --publisher acme --to public
  nexus marketplace build my-plugin/acme_auth --key acme.pem --publisher acme --to public \\
    --root-key root.pem --online-key online.pem --url https://plugins.acme.example
"""

REFRESH_HELP = """Sign the short-lived metadata anew, so that it does not expire. Run it daily, or let `serve --key` do it.

\b
Example:
  nexus marketplace refresh public --key online.pem
"""

ROTATE_HELP = """Change the marketplace's keys. The new root is signed by the old keys and by the new ones, so that who trusts it follows.

\b
Example:
  nexus marketplace rotate-root public --old-key root.pem --root-key new-root.pem --targets-key acme.pem --online-key online.pem
"""

VERIFY_HELP = """Follow a marketplace as a gateway does, and check every release and artefact in it.

\b
Examples:
  nexus marketplace verify public --key acme=4egDPlQr0qdKlmig1NkVcYiCJGSF8wgGH5UrzUFsVfA=
  nexus marketplace verify oci://ghcr.io/acme/plugins:latest --key acme=acme.pub --root-key root.pub
"""

SERVE_HELP = """Serve a marketplace over HTTP, with a page for people at /.

\b
Example:
  nexus marketplace serve public --listen 127.0.0.1:9000 --key acme.pem
"""

PUSH_HELP = """Push a marketplace into an OCI registry, as one image.

The login is NEXUS_OCI_USERNAME and NEXUS_OCI_PASSWORD, or what `docker login` left.

\b
Example:
  nexus marketplace push public oci://ghcr.io/acme/plugins:latest
"""


@click.group(help=HELP)
@output_option
def marketplace() -> None:
    pass


LIFETIMES = tuple(
    click.option(
        f"--{role}-days", type=click.FloatRange(0.01, 3650), default=days, show_default=True, metavar="DAYS", help=text
    )
    for role, days, text in (
        ("timestamp", 30, "For how long the timestamp counts."),
        ("snapshot", 30, "For how long the snapshot counts."),
        ("targets", 180, "For how long the index counts."),
        ("root", 365, "For how long the root counts."),
    )
)


def lifetime_options(function: Function) -> Function:
    """Add for how many days each role's signature counts."""
    for option in LIFETIMES:
        function = option(function)
    return function


def signing_options(function: Function) -> Function:
    """Add the options of whoever writes a marketplace."""
    file = click.Path(path_type=Path)
    for option in (
        click.option("--key", "key_file", required=True, type=file, metavar="FILE", help="Publisher's Ed25519 key, PEM; signs releases."),
        click.option("--publisher", required=True, metavar="NAME", help="Name that the NexusMarketplace pins the key to."),
        click.option("--root-key", "root_keys", multiple=True, type=file, metavar="FILE", help="Of the root role. [default: --key]"),
        click.option("--root-threshold", default=1, show_default=True, metavar="N", help="How many root keys have to sign a new root."),
        click.option("--targets-key", type=file, metavar="FILE", help="Signs the index. [default: --key]"),
        click.option("--online-key", type=file, metavar="FILE", help="Signs timestamp and snapshot. [default: --key]"),
        *LIFETIMES,
        click.option("--copy-wheels", is_flag=True, help="Serve copies of the wheels that the plugins need, for who cannot reach PyPI."),
        click.option("--pypi", default=PYPI, show_default=True, metavar="URL", help="Where --copy-wheels has them from."),
        click.option("--url", default="", metavar="URL", help="Where it will be served, for the manifest that is printed."),
    ):  # fmt: skip
        function = option(function)
    return function


@marketplace.command(help=BUILD_HELP)
@click.argument("packages", metavar="PACKAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Its directory.")
@signing_options
@output_option
def build(packages: tuple[Path, ...], target: Path, **options: Any) -> None:
    from nexus_marketplace import publishing

    from nexus_cli import output
    from nexus_cli.plugins import markets

    with markets.told(target):
        key = publishing.read_key(options["key_file"], create=True)
        artefacts = [publishing.build_artefact(markets.package(each), key, options["publisher"]) for each in packages]
        written = markets.write(target, artefacts, key, options)
    if output_format() == "json":
        output.show_json(written.as_json())
        return
    click.echo(written.as_yaml(), nl=False)


@marketplace.command(help=REFRESH_HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "key_files",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Of the online roles; others sign theirs, too, when half of their time is over.",
)
@lifetime_options
@output_option
def refresh(directory: Path, key_files: tuple[Path, ...], **days: float) -> None:
    from datetime import UTC, datetime

    from nexus_marketplace import publishing

    from nexus_cli import output
    from nexus_cli.plugins import markets

    with markets.told(directory):
        keys = [publishing.read_key(path) for path in key_files]
        roles = markets.repository(directory, days).refresh(keys, datetime.now(UTC))
    if output_format() == "json":
        output.show_json({"directory": str(directory), "signed": list(roles)})
    else:
        click.echo(f"{directory}: signed {', '.join(roles)}. Publish metadata/, timestamp.json last.")


@marketplace.command("rotate-root", help=ROTATE_HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--old-key",
    "old_keys",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Present keys: of the root, and of other roles that get new ones.",
)
@click.option(
    "--root-key", "root_keys", required=True, multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="New ones of the root."
)  # fmt: skip
@click.option("--root-threshold", default=1, show_default=True, metavar="N", help="How many root keys have to sign.")
@click.option("--targets-key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Of the index.")
@click.option(
    "--online-key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Of timestamp and snapshot."
)
@output_option
def rotate_root(
    directory: Path,
    old_keys: tuple[Path, ...],
    root_keys: tuple[Path, ...],
    root_threshold: int,
    targets_key: Path,
    online_key: Path,
) -> None:
    from datetime import UTC, datetime

    from nexus_marketplace import publishing
    from nexus_marketplace.repository import Keys

    from nexus_cli import output
    from nexus_cli.plugins import markets

    with markets.told(directory):
        roots = tuple(publishing.read_key(path, create=True) for path in root_keys)
        targets, online = (publishing.read_key(path, create=True) for path in (targets_key, online_key))
        old = [publishing.read_key(path) for path in old_keys]
        new = Keys(roots, targets, online, root_threshold)
        version = markets.repository(directory, {}).rotate_root(old, new, [], datetime.now(UTC))
    pinned = [publishing.public_key(key) for key in roots]
    if output_format() == "json":
        output.show_json(
            {"directory": str(directory), "root": version, "rootKeys": pinned, "threshold": root_threshold}
        )
        return
    click.echo(f"{directory}: root {version} is signed. Who pinned the old keys follows by itself; new pins:")
    click.echo(f"  trust: {{rootKeys: [{', '.join(pinned)}], threshold: {root_threshold}}}")


@marketplace.command(help=VERIFY_HELP)
@click.argument("where", metavar="DIR|URL|oci://IMAGE")
@click.option(
    "--key", "publishers", multiple=True, required=True, metavar="[NAME=]BASE64|FILE", help="A publisher's public key."
)
@click.option("--root-key", "roots", multiple=True, metavar="BASE64|FILE", help="Pinned. [default: publishers' keys]")
@click.option("--root-threshold", default=1, show_default=True, metavar="N", help="How many of them signed the root.")
@click.option("--plain-http", is_flag=True, help="Ask the registry without TLS.")
@output_option
def verify(
    where: str, publishers: tuple[str, ...], roots: tuple[str, ...], root_threshold: int, plain_http: bool
) -> int:
    from nexus_cli import output
    from nexus_cli.plugins import markets

    keys = markets.read_publishers(publishers)
    pinned = tuple(markets.read_public_key(each, "--root-key") for each in roots) or tuple(keys.values())
    rows = markets.verify(where, keys, pinned, root_threshold, plain_http=plain_http)
    output.show_rows(("plugin", "version", "state", "why"), rows, empty=f"{where} lists no releases.")
    return 1 if any(row[2] == "failed" for row in rows) else 0


@marketplace.command(help=SERVE_HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--listen", default="127.0.0.1:9000", show_default=True, metavar="ADDR", help="Where it is served.")
@click.option(
    "--key", "key_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Signs metadata anew before it expires."
)  # fmt: skip
@click.option("--title", default="Plugins", show_default=True, metavar="TEXT", help="Of the page.")
@output_option
def serve(directory: Path, listen: str, key_files: tuple[Path, ...], title: str) -> None:
    from nexus_marketplace import publishing

    from nexus_cli.plugins import markets

    with markets.told(directory):
        keys = tuple(publishing.read_key(path) for path in key_files)
    markets.serve(directory, listen, keys, title)


@marketplace.command(help=PUSH_HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("image", metavar="oci://IMAGE")
@click.option("--plain-http", is_flag=True, help="Without TLS.")
@output_option
def push(directory: Path, image: str, plain_http: bool) -> None:
    from nexus_cli import output
    from nexus_cli.plugins import markets

    count = markets.push(directory, image, plain_http=plain_http)
    if output_format() == "json":
        output.show_json({"image": image, "files": count})
    else:
        click.echo(f"{image}: {count} files. Name it in spec.source.oci, without oci://.")
