"""`nexus up`."""

from __future__ import annotations

from pathlib import Path

import click

from nexus_cli.options import output_format, output_option

HELP = """Run a directory of manifests on this machine.

Every NexusService with a `process` becomes a supervised local process; the gateway runs beside them and finds them by
their health checks. Gateways and routes of the Gateway API are served as they stand: a listener of HTTP port 80 is where
--listen says, of HTTPS port 443 where --tls-listen does, any other port below 1024 is 8000 higher. What a Kubernetes
Service leads to says an EndpointSlice among the manifests. Edits of the manifests are followed. A process that dies is
started again, after growing pauses.

\b
Examples:
  nexus up examples/shop
  nexus up examples/gateway-api
  nexus up . --listen 127.0.0.1:9000 --admin 127.0.0.1:9001
  nexus up . --consul http://127.0.0.1:8500 --otlp http://127.0.0.1:4318

Ctrl-C drains and stops everything; a second Ctrl-C stops at once.

Exit codes: 0 stopped as asked, 2 it could not start (and why).
"""


@click.command(help=HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDR", help="Where listeners of HTTP port 80 are."
)
@click.option(
    "--tls-listen",
    default="",
    metavar="ADDR",
    help="Where listeners of HTTPS port 443 are. [default: port 8443 beside the other, once there is one]",
)
@click.option("--admin", default="127.0.0.1:8081", show_default=True, metavar="ADDR", help="Where its admin API is.")
@click.option("--consul", default="", metavar="URL", help="Register and find services in this Consul, not in memory.")
@click.option(
    "--otlp", default="", metavar="URL", help="Send traces to this OTLP/HTTP collector (Jaeger), not to memory."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Databases and logs. [default: DIR/.nexus]",
)
@click.option("-q", "--quiet", is_flag=True, help="Keep the services' output out of the terminal; the files have it.")
@output_option
@click.pass_context
def up(
    ctx: click.Context,
    directory: Path,
    listen: str,
    tls_listen: str,
    admin: str,
    consul: str,
    otlp: str,
    data_dir: Path | None,
    quiet: bool,
) -> int:
    from nexus_cli.admin import check_url
    from nexus_cli.errors import UserError
    from nexus_cli.up.run import UpSettings, run

    if not directory.is_dir():
        is_what = "is not a directory" if directory.exists() else "does not exist"
        raise UserError(f"{directory} {is_what}. Name a directory of manifests, such as examples/shop.")
    settings = UpSettings(
        directory=directory,
        listen=listen,
        tls_listen=tls_listen,
        admin=admin,
        consul=check_url(consul, "--consul") if consul else "",
        otlp=check_url(otlp, "--otlp") if otlp else "",
        data_dir=(data_dir or directory / ".nexus").resolve(),
        quiet=quiet,
        as_json=output_format(ctx) == "json",
    )
    return run(settings)
