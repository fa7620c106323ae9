"""The command table and what all commands share: global options, exit codes, errors as one line.

Exit codes: 0 all is well; 1 problems were found (or a step failed); 2 the command was not usable as given.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from nexus_cli.errors import UserError
from nexus_cli.options import output_option

EXIT_OK, EXIT_PROBLEMS, EXIT_USAGE = 0, 1, 2


class Entry(NamedTuple):
    """Where a command lives, and its line in `nexus --help`, so that the help imports none of them."""

    home: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "up": Entry(
        "nexus_cli.commands.up:up", "Run a directory of manifests on this machine: services, gateway, discovery."
    ),
    "gateway": Entry("nexus_cli.commands.roles:gateway", "Run a gateway alone, from manifests or from Consul."),
    "operator": Entry("nexus_cli.commands.roles:operator", "Run the Kubernetes operator."),
    "events": Entry("nexus_cli.commands.roles:events", "Run the event service."),
    "graphql": Entry("nexus_cli.commands.roles:graphql", "Run the GraphQL service."),
    "websocket": Entry("nexus_cli.commands.roles:websocket", "Run the WebSocket service."),
    "validate": Entry("nexus_cli.commands.validate:validate", "Check manifests: every problem with its remedy."),
    "explain": Entry("nexus_cli.commands.explain:explain", "Say where a request goes and why, or what an error means."),
    "diff": Entry(
        "nexus_cli.commands.diff:diff", "Say what manifests would change in a running gateway and to its requests."
    ),
    "tour": Entry("nexus_cli.commands.tour:tour", "Walk the journey against a running system and check each step."),
    "plugin": Entry("nexus_cli.commands.plugin:plugin", "List, install, enable, disable and describe plugins."),
    "marketplace": Entry(
        "nexus_cli.commands.marketplace:marketplace", "Make, sign, verify and serve a marketplace of plugins."
    ),
    "traces": Entry("nexus_cli.commands.traces:traces", "Show the last traces a gateway keeps in memory, as trees."),
    "version": Entry("nexus_cli.commands.version:version", "Print the versions of Nexus and of its interfaces."),
}

HELP = """Nexus: a microservice gateway platform for Kubernetes and for your laptop.

\b
Examples:
  nexus up examples/shop              run the example shop on this machine
  nexus validate examples/shop        check manifests
  nexus explain GET http://127.0.0.1:8080/orders
  nexus plugin enable api-key -f examples/shop

Every option can be set by an environment variable: NEXUS_<COMMAND>_<OPTION>, such as NEXUS_UP_LISTEN.

Exit codes: 0 all is well, 1 problems found, 2 not usable as given.
"""


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-liners, and imports a command when it is run or described."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = dict(entries or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.home.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self._entries, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else " 'nexus --help' lists them."
            raise click.UsageError(f"There is no command '{args[0]}'.{hint}", ctx=ctx) from error


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    help=HELP,
    context_settings={"auto_envvar_prefix": "NEXUS", "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(None, "-V", "--version", package_name="nexus-gateway-platform", prog_name="nexus")
@output_option
def cli() -> None:
    pass


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit. A user's mistake is one line on stderr and exit code 2, never a traceback."""
    try:
        code = cli.main(args=argv, prog_name="nexus", standalone_mode=False)
    except UserError as error:
        sys.stderr.write(f"nexus: {error.format_message()}\n")
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has what it wanted. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_OK
    sys.exit(code if isinstance(code, int) else EXIT_OK)
