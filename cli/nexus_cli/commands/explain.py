"""`nexus explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nexus_cli.options import DEFAULT_ADMIN, output_format, output_option

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")

HELP = """Say where a request goes and why, or what an error reason means.

METHOD URL asks the gateway at --admin, or with -f the manifests themselves, without sending the request.
The URL's scheme and port choose the listener, as declared or as it is bound: http, https, grpc and grpcs of
grpc://HOST/SERVICE/METHOD, and for connections tls (the host is the name asked for), tcp and udp. METHOD may be left out.
With --live the request is sent for real, with a debug token signed with the gateway's NEXUS_DEBUG_KEY, and what is shown is
what happened to it.
REASON is what a condition or `nexus validate` printed, such as PathConflict.

\b
Examples:
  nexus explain POST http://127.0.0.1:8080/orders
  nexus explain GET /catalog/items -f examples/shop
  nexus explain grpcs://calls.example.test/example.Greeter/Hello -f examples/gateway-api
  nexus explain tls://vault.example.test:443 -f examples/gateway-api
  nexus explain --live GET https://shop.example/orders --key-file debug.key
  nexus explain PathConflict

Exit codes: 0 explained, 1 no route takes the request or no such reason, 2 not usable as given.
"""


@click.command(help=HELP)
@click.argument("what", metavar="[METHOD] URL|REASON")
@click.argument("url", required=False)
@click.option(
    "-f", "--filename", "paths", multiple=True, type=click.Path(path_type=Path), metavar="PATH", help="Manifests."
)
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the request.")
@click.option(
    "--client", "client_ip", default="", metavar="ADDRESS", help="The client's address, for hashing by source."
)
@click.option(
    "--admin", default=DEFAULT_ADMIN, show_default=True, metavar="URL", help="Admin API of a running gateway."
)
@click.option("--live", is_flag=True, help="Send the request and show what happened to it.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="With --live: holds NEXUS_DEBUG_KEY.",
)
@output_option
@click.pass_context
def explain(
    ctx: click.Context,
    what: str,
    url: str | None,
    paths: tuple[Path, ...],
    headers: tuple[str, ...],
    client_ip: str,
    admin: str,
    live: bool,
    key_file: Path | None,
) -> int:
    from nexus_cli import output
    from nexus_cli.errors import UserError

    if url is None and "://" in what:
        what, url = ("POST" if what.lower().startswith("grpc") else "GET"), what
    if url is None:
        return _explain_reason(what, as_json=output_format(ctx) == "json")
    if what.upper() not in METHODS:
        raise UserError(f"{what!r} is not a method. Write `nexus explain GET {url}`.")
    for line in headers:
        if ":" not in line:
            raise UserError(f"--header {line!r} is not 'NAME: VALUE'.")
    method = what.upper()
    if live:
        return _live(method, url, headers, key_file, as_json=output_format(ctx) == "json")
    found = (
        _offline(method, url, headers, client_ip, paths) if paths else _online(method, url, headers, client_ip, admin)
    )
    if output_format(ctx) == "json":
        output.show_json(found)
    else:
        from nexus_cli.explained import render

        click.echo(render(found))
    return 0 if found["route"] else 1


def _online(method: str, url: str, headers: tuple[str, ...], client_ip: str, admin: str) -> dict[str, Any]:
    from urllib.parse import urlencode

    from nexus_cli.admin import get

    query = urlencode(
        [("method", method), ("url", url), *(("header", line) for line in headers), ("client", client_ip)]
    )
    found: dict[str, Any] = get(admin, f"/explain?{query}")
    return found


def _offline(
    method: str, url: str, headers: tuple[str, ...], client_ip: str, paths: tuple[Path, ...]
) -> dict[str, Any]:
    from nexus_cli import manifests, output
    from nexus_cli.offline import explain_request, translate

    loaded = manifests.load(paths)
    translation = translate(loaded)
    if translation.problems:
        output.note(
            f"The manifests have {len(translation.problems)} problem(s), which may be why; see `nexus validate`."
        )
    return explain_request(translation.snapshot, method, url, headers, client_ip)


def _live(method: str, url: str, headers: tuple[str, ...], key_file: Path | None, *, as_json: bool) -> int:
    from nexus_cli import output
    from nexus_cli.errors import UserError
    from nexus_cli.live import ask, read_key, render

    if key_file is None:
        raise UserError("--live needs the gateway's NEXUS_DEBUG_KEY. Name a file that holds it with --key-file.")
    found = ask(method, url, headers, read_key(key_file))
    if as_json:
        output.show_json(found)
    else:
        click.echo(render(found))
    return 0 if found.get("route") else 1


def _explain_reason(reason: str, *, as_json: bool) -> int:
    import difflib

    from nexus_core.problems.catalogue import REASONS

    from nexus_cli import output
    from nexus_cli.errors import StepFailed
    from nexus_cli.pages import page_of

    info = REASONS.get(reason)
    if info is None:
        near = difflib.get_close_matches(reason, REASONS, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(sorted(REASONS))}."
        raise StepFailed(f"There is no reason {reason!r}.{hint} For a request, write METHOD and URL.")
    if as_json:
        output.show_json(
            {"reason": reason, "condition": info.condition, "summary": info.summary, "page": page_of(reason)}
        )
        return 0
    click.echo(f"{reason}: {info.summary}\nCondition: {info.condition}\nPage: {page_of(reason)}")
    return 0
