"""The roles of a cluster, each a process: `nexus gateway | operator | events | graphql | websocket`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from nexus_cli.errors import UserError
from nexus_cli.options import output_option

_SERVICE = """
Settings come from the environment: PORT, NEXUS_NAMESPACE, NEXUS_CONSUL_URL, NEXUS_DISCOVERY_FILE, NEXUS_DATA_DIR and
those of the service; docs/reference/ lists them. SIGTERM drains and stops.

\b
Example:
  PORT=9000 nexus {name}

Exit codes: 0 stopped as asked, 1 it could not start, 2 a setting cannot be used.
"""


@click.command(
    help="""Run a gateway alone.

With -f it reads manifests from a directory and follows their edits; without, it takes its configuration from the
Consul of NEXUS_CONSUL_URL, where the operator publishes it. Services are found in Consul, or in the file that
NEXUS_DISCOVERY_FILE names. Every setting of docs/reference/gateway-settings.md can be
given in the environment. SIGTERM drains and stops. With several workers SIGHUP replaces each by a new process, one after
the other, without losing a connection.

\b
Examples:
  nexus gateway -f examples/shop --listen 127.0.0.1:8080
  nexus gateway -f examples/shop --tls-listen 127.0.0.1:8443 --certificates /etc/nexus/tls --workers auto
  NEXUS_CONSUL_URL=http://127.0.0.1:8500 nexus gateway

Exit codes: 0 stopped as asked, 1 it could not start, 2 a setting cannot be used.
"""
)
@click.option(
    "-f", "--filename", "directory", type=click.Path(path_type=Path), metavar="DIR", help="Directory of manifests."
)
@click.option(
    "--listen", default=None, metavar="ADDR", help="Where listeners of HTTP port 80 are. [default: 127.0.0.1:8080]"
)
@click.option(
    "--tls-listen",
    default=None,
    metavar="ADDR",
    help="Where listeners of HTTPS port 443 are. [default: port 8443 beside the other, once there is one]",
)
@click.option(
    "--certificates",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of NAME.crt and NAME.key, for TLS.",
)
@click.option("--admin", default=None, metavar="ADDR", help="Where its admin API is. [default: 127.0.0.1:8081]")
@click.option(
    "--workers", default=None, metavar="N", help="Processes that take requests; `auto`: one a CPU. [default: 1]"
)
@output_option
def gateway(
    directory: Path | None,
    listen: str | None,
    tls_listen: str | None,
    certificates: Path | None,
    admin: str | None,
    workers: str | None,
) -> None:
    from nexus_gateway import app
    from nexus_gateway.settings import GatewaySettings, SettingInvalid
    from nexus_gateway.workers import CannotStart

    from nexus_cli.up import ports

    if directory is not None and not directory.is_dir():
        raise UserError(f"{directory} is not a directory of manifests. Name one with -f, such as examples/shop.")
    try:
        # Through the environment's parser: an option is refused in the same words as its variable.
        given = {"NEXUS_GATEWAY_TLS_LISTEN": tls_listen, "NEXUS_WORKERS": workers}
        environ = {**os.environ, **{name: text for name, text in given.items() if text is not None}}
        settings = GatewaySettings.from_env(environ, listen=listen, admin=admin, tls_certificates=certificates)
    except SettingInvalid as error:
        raise UserError(str(error)) from error
    if directory is None and not settings.consul_url:
        raise UserError("A gateway needs its configuration: name a directory with -f, or set NEXUS_CONSUL_URL.")
    wanted = [(settings.admin, "--admin")]
    if settings.ports == "local":
        wanted.insert(0, (settings.listen, "--listen"))
    if settings.tls_listen and settings.ports == "local":
        wanted.append((settings.tls_listen, "--tls-listen"))
    for address, option in wanted:
        ports.require_free(*ports.parse_address(address, option), option)
    try:
        app.run(settings, directory)
    except SettingInvalid as error:
        raise UserError(str(error)) from error
    except (app.NothingToServe, CannotStart, OSError) as error:
        raise UserError(f"The gateway cannot run: {error}") from error


@click.command(
    help="""Run the Kubernetes operator.

It needs access to the cluster (its service account, or KUBECONFIG) and NEXUS_CONSUL_URL. Its other settings are
environment variables, too; docs/reference/operator.md lists them. Several replicas elect one writer.

\b
Example:
  NEXUS_CONSUL_URL=http://127.0.0.1:8500 nexus operator

Exit codes: 0 stopped as asked, 1 it could not start, 2 a setting cannot be used.
"""
)
@output_option
def operator() -> None:
    from nexus_operator import app
    from nexus_operator.settings import SettingsInvalid, from_environment

    try:
        settings = from_environment(os.environ)
    except SettingsInvalid as error:
        raise UserError(str(error)) from error
    app.run(settings)


@click.command(
    help="Run the event service: CloudEvents in, durable, pushed to subscribers." + _SERVICE.format(name="events")
)
@output_option
def events() -> None:
    from nexus_events.app import run

    _run(run)


@click.command(
    help="Run the GraphQL service: one schema over every service with a contract." + _SERVICE.format(name="graphql")
)
@output_option
def graphql() -> None:
    from nexus_graphql.app import main

    _run(main)


@click.command(help="Run the WebSocket service: channels, fed by events." + _SERVICE.format(name="websocket"))
@output_option
def websocket() -> None:
    from nexus_websocket.app import run

    _run(run)


def _run(start: object) -> None:
    from nexus_sdk.errors import SettingsError

    assert callable(start)
    try:
        start()
    except SettingsError as error:
        raise UserError(str(error)) from error
