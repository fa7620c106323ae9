"""`nexus plugin`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nexus_cli.commands import plugin_authoring
from nexus_cli.commands.plugin_live import logs, top
from nexus_cli.errors import StepFailed, UserError
from nexus_cli.options import DEFAULT_ADMIN, output_format, output_option

if TYPE_CHECKING:
    from nexus_core.marketplace import Index
    from nexus_core.model.resources import Resource
    from nexus_core.problems import Problem
    from nexus_core.snapshot import Release
    from nexus_core.translate.translation import PassedOver

    from nexus_cli.plugins.homes import Home, Installed

Function = TypeVar("Function", bound=Callable[..., Any])
OFFICIAL = "official"
"""The NexusMarketplace of the plugins that ship with Nexus, by custom."""

HELP = """List, install, update, describe, watch and remove plugins.

With -f they are changed in manifests on disk, which a running `nexus up` follows; without, in the cluster of
--kubeconfig and --context. No gateway is restarted.

\b
Examples:
  nexus plugin list -f examples/shop
  nexus plugin enable api-key -f examples/shop
  nexus plugin install request-id -n shop --context my-cluster
  nexus plugin describe api-key -f examples/shop
  nexus plugin top

Exit codes: 0 done, 1 there is no such plugin, 2 not usable as given.
"""


@click.group(help=HELP)
@output_option
def plugin() -> None:
    pass


def _home_options(function: Function) -> Function:
    for option in (
        click.option("-f", "--filename", "path", type=click.Path(path_type=Path), metavar="PATH", help="Manifests."),
        click.option("--kubeconfig", metavar="FILE", help="How to reach the cluster. [default: as kubectl]"),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig. [default: the current one]"),
        output_option,
    ):
        function = option(function)
    return function


def _home(path: Path | None, kubeconfig: str | None, context: str | None) -> Home:
    from nexus_cli.plugins.homes import ClusterHome, FilesHome

    if path is None:
        return ClusterHome(kubeconfig, context)
    if kubeconfig or context:
        raise UserError("-f names manifests and --kubeconfig a cluster. Give one of them.")
    return FilesHome(path)


def _pick(home: Home, name: str, namespace: str | None) -> Installed:
    if "/" in name and namespace is None:
        namespace, _, name = name.partition("/")  # as lists show it
    found = [p for p in home.list() if p.name == name and namespace in (None, p.namespace)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"Several namespaces have {name}: {', '.join(p.namespace for p in found)}. Choose with -n.")
    known = ", ".join(p.id for p in home.list()) or "none"
    raise StepFailed(
        f"There is no NexusPlugin {name!r}. Installed: {known}. `nexus plugin install {name}` installs it."
    )


@plugin.command("list", help="List plugins with their state.\n\n\b\nExample:\n  nexus plugin list -f examples/shop")
@_home_options
@click.option(
    "--admin", default=DEFAULT_ADMIN, show_default=True, metavar="URL", help="Where -f asks for the running state."
)
def list_plugins(path: Path | None, kubeconfig: str | None, context: str | None, admin: str) -> None:
    from nexus_cli import output
    from nexus_cli.plugins.described import told_of

    live = {} if path is None else _live(admin)
    problems = _problems(path, admin, running=live is not None) if path is not None else ()
    rows, values = [], []
    for each in _home(path, kubeconfig, context).list():
        state, version, why = _state(each, live)
        why = why or "; ".join(
            told_of(problem) for problem in problems if str(problem.where) == f"NexusPlugin {each.id}"
        )
        spec = each.spec
        targets = ", ".join(f"{t.kind} {t.name}" for t in spec.target_refs) if spec is not None else ""
        enabled = "" if spec is None else "yes" if spec.enabled else "no"
        rows.append((each.id, version or (spec.version if spec else ""), enabled, state, targets or "all routes", why))
        values.append(
            {
                "namespace": each.namespace,
                "name": each.name,
                "enabled": spec.enabled if spec else None,
                "range": spec.version if spec else None,
                "version": version,
                "state": state,
                "why": why,
                "targets": targets,
                "where": each.where,
            }
        )
    output.show_rows(
        ("plugin", "version", "enabled", "state", "applies to", "why"),
        rows,
        as_json=values,
        empty="No plugins are installed.",
    )


def _live(admin: str) -> dict[str, Any] | None:
    """Return the running plugins by id; None when no gateway answers, which is no error when files are asked for."""
    from nexus_cli.admin import get

    try:
        return {row["id"]: row for row in get(admin, "/plugins")["plugins"]}
    except UserError:
        return None


def _state(each: Installed, live: dict[str, Any] | None) -> tuple[str, str, str]:
    """Return (state, version, why)."""
    from nexus_cli.plugins.described import is_waiting

    if each.spec is None:
        return "broken", each.version, each.why
    if each.where == "cluster":
        return each.state, each.version, each.why
    if live is None:
        return "no gateway runs", "", ""
    row = live.get(each.id)
    if row is None:
        return ("not loaded yet", "", "") if each.spec.enabled else ("disabled", "", "")
    why = f"{row['reason']}: {row['message']}" if row["reason"] else ""
    candidate = row.get("candidate")
    if not why and candidate and is_waiting(candidate):
        why = f"{candidate['reason']}: {candidate['version']} cannot be tried. {candidate['message']}"
    elif not why and candidate and candidate["state"] == "running":
        why = f"{candidate['version']} is tried beside it."
    return str(row["state"]), str(row["running_version"] or row["version"]), why


def _switch(name: str, namespace: str | None, home: Home, enabled: bool) -> None:
    from nexus_cli import output

    found = _pick(home, name, namespace)
    if found.spec is None:
        raise UserError(f"{found.id} in {found.where} is broken: {found.why} Mend it first.")
    where, word = home.set_enabled(found, enabled), "enabled" if enabled else "disabled"
    if output_format() == "json":
        output.show_json(
            {"plugin": found.id, "enabled": enabled, "changed": found.spec.enabled != enabled, "where": where}
        )
    elif found.spec.enabled == enabled:
        click.echo(f"{found.id} was {word} already.")
    else:
        click.echo(f"{found.id} is {word} in {where}. Running gateways follow by themselves.")


@plugin.command(help="Enable a plugin.\n\n\b\nExample:\n  nexus plugin enable api-key -f examples/shop")
@click.argument("name")
@click.option("-n", "--namespace", metavar="NAME", help="Of the NexusPlugin, if several have the name.")
@_home_options
def enable(name: str, namespace: str | None, path: Path | None, kubeconfig: str | None, context: str | None) -> None:
    _switch(name, namespace, _home(path, kubeconfig, context), True)


@plugin.command(
    help="Disable a plugin; its configuration stays.\n\n\b\nExample:\n  nexus plugin disable api-key -f examples/shop"
)
@click.argument("name")
@click.option("-n", "--namespace", metavar="NAME", help="Of the NexusPlugin, if several have the name.")
@_home_options
def disable(name: str, namespace: str | None, path: Path | None, kubeconfig: str | None, context: str | None) -> None:
    _switch(name, namespace, _home(path, kubeconfig, context), False)


INSTALL_HELP = """Install a plugin of a marketplace.

\b
Examples:
  nexus plugin install request-id -n shop -f examples/shop
  nexus plugin install api-key -n shop --target NexusService/orders --config '{"keys": [...]}' --disabled
"""


@plugin.command(help=INSTALL_HELP)
@click.argument("plugin_name", metavar="PLUGIN")
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAME", help="Where it is installed.")
@click.option("--name", metavar="NAME", help="Name of the NexusPlugin. [default: the plugin's]")
@click.option(
    "--marketplace", default=OFFICIAL, show_default=True, metavar="NAME", help="The NexusMarketplace that lists it."
)
@click.option(
    "--version", "version_range", metavar="RANGE", help="PEP 440 range. [default: the newest and compatible ones]"
)
@click.option("--config", "config_text", default="{}", metavar="JSON", help="Its configuration.")
@click.option(
    "--target", "targets", multiple=True, metavar="KIND/NAME", help="What it applies to. [default: all routes]"
)
@click.option("--disabled", is_flag=True, help="Install it switched off.")
@_home_options
def install(
    plugin_name: str,
    namespace: str,
    name: str | None,
    marketplace: str,
    version_range: str | None,
    config_text: str,
    targets: tuple[str, ...],
    disabled: bool,
    path: Path | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    from nexus_core.model.load import parse

    from nexus_cli import output

    manifest = _manifest(plugin_name, namespace, name, marketplace, version_range, config_text, targets, disabled)
    resource = parse(manifest)
    if resource.problems:
        raise UserError("; ".join(str(problem) for problem in resource.problems))
    home = _home(path, kubeconfig, context)
    installed = f"{namespace}/{manifest['metadata']['name']}"
    if any(each.id == installed for each in home.list()):
        raise UserError(f"{installed} is installed already. Choose another --name, or `nexus plugin describe` it.")
    _check_config(resource, home, path)
    where = home.install(manifest)
    if output_format() == "json":
        output.show_json({"plugin": installed, "where": where, "manifest": manifest})
    else:
        click.echo(f"{installed} is installed in {where}. `nexus plugin list` shows when it runs.")


def _check_config(resource: Resource, home: Home, path: Path | None) -> None:
    """Raise UserError for a configuration that the release would refuse, as far as its schema is at hand."""
    from nexus_core.model.plugins import NexusPluginSpec

    from nexus_cli.plugins.configs import find_wrong_in

    spec = resource.spec
    assert isinstance(spec, NexusPluginSpec)
    index = _index(spec.marketplace, home, path)
    problem = find_wrong_in(resource.ref, spec, index) if index is not None else None
    if problem is not None:
        raise UserError(str(problem))


def _index(marketplace: str, home: Home, path: Path | None) -> Index | None:
    """Return a marketplace's index as far as it is at hand, without asking the marketplace. path: of the manifests, if there are some."""
    from nexus_cli.plugins.configs import cache_beside, index_at_hand

    spec = home.marketplace(marketplace)
    return None if spec is None else index_at_hand(marketplace, spec, () if path is None else [cache_beside(path)])


def _releases(plugin_name: str, marketplace: str, home: Home, path: Path | None) -> Sequence[Release]:
    """Return what a marketplace is known to have of a plugin, the newest first."""
    from nexus_cli.offline import bundled_index

    index = _index(marketplace, home, path)
    if index is None and marketplace == OFFICIAL:
        index = bundled_index()
    return () if index is None else index.by_name.get(plugin_name, ())


def _manifest(
    plugin_name: str,
    namespace: str,
    name: str | None,
    marketplace: str,
    version_range: str | None,
    config_text: str,
    targets: tuple[str, ...],
    disabled: bool,
) -> dict[str, Any]:
    import json

    try:
        config = json.loads(config_text)
    except ValueError as error:
        raise UserError(f'--config is not JSON ({error}). Write it like \'{{"header": "x-api-key"}}\'.') from error
    if not isinstance(config, dict):
        raise UserError('--config is not an object. Write it like \'{"header": "x-api-key"}\'.')
    spec: dict[str, Any] = {"marketplace": marketplace}
    if name is not None and name != plugin_name:
        spec["plugin"] = plugin_name
    spec["version"] = version_range if version_range is not None else _newest(plugin_name, marketplace)
    spec["enabled"] = not disabled
    if config:
        spec["config"] = config
    if targets:
        spec["targetRefs"] = [_target(text) for text in targets]
    return {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusPlugin",
        "metadata": {"name": name or plugin_name, "namespace": namespace},
        "spec": spec,
    }


def _target(text: str) -> dict[str, str]:
    kind, slash, name = text.partition("/")
    if not slash or not name:
        raise UserError(f"--target {text!r} is not KIND/NAME. Write it like NexusService/orders.")
    return {"kind": kind, "name": name}


def _newest(plugin_name: str, marketplace: str) -> str:
    """Return the range from the newest bundled release to its next major version; any, for other marketplaces."""
    from packaging.version import Version

    from nexus_cli.offline import bundled_index

    if marketplace != OFFICIAL:
        return ""
    releases = bundled_index().by_name
    if plugin_name not in releases:
        raise StepFailed(f"The plugins that ship with Nexus have no {plugin_name!r}. They are: {', '.join(releases)}.")
    newest = Version(releases[plugin_name][0].version)
    return f">={newest.major}.{newest.minor},<{newest.major + 1}"


DESCRIBE_HELP = """Show all there is to say of a plugin: what runs, precisely why it does not, what is tried, and what it may use.

With -f the gateway at --admin is asked what runs, if there is one; without, the cluster's conditions say it, and with --admin a gateway
of it as well.

\b
Examples:
  nexus plugin describe api-key -f examples/shop
  nexus plugin describe api-key -n shop --context my-cluster
"""


@plugin.command(help=DESCRIBE_HELP)
@click.argument("name")
@click.option("-n", "--namespace", metavar="NAME", help="Of the NexusPlugin, if several have the name.")
@_home_options
@click.option(
    "--admin", metavar="URL", help=f"Where a gateway is asked for the running state. [default with -f: {DEFAULT_ADMIN}]"
)
def describe(
    name: str, namespace: str | None, path: Path | None, kubeconfig: str | None, context: str | None, admin: str | None
) -> None:
    import yaml
    from nexus_core.snapshot import Permissions
    from nexus_core.translate.plugin_instances import grants_of

    from nexus_cli import output
    from nexus_cli.plugins import described

    home = _home(path, kubeconfig, context)
    found = _pick(home, name, namespace)
    live = _live(admin or DEFAULT_ADMIN) if path is not None else _live(admin) if admin else {}
    state, version, _ = _state(found, live)
    plugin_name = (found.spec.plugin if found.spec else None) or found.name
    marketplace = found.spec.marketplace if found.spec else OFFICIAL
    told = described.describe(
        found,
        state=state,
        version=version,
        row=(live or {}).get(found.id),
        releases=_releases(plugin_name, marketplace, home, path),
        problems=[
            each
            for each in (_problems(path, admin or DEFAULT_ADMIN, running=live is not None) if path is not None else ())
            if str(each.where) == f"NexusPlugin {found.id}"
        ],
        grants=grants_of(found.spec) if found.spec is not None else Permissions(),
        passed_over=_passed_over(path, found) if path is not None else (),
    )
    if output_format() == "json":
        output.show_json(told)
    else:
        click.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=120), nl=False)


def _problems(path: Path, admin: str, *, running: bool) -> tuple[Problem, ...]:
    """Return what is wrong with the plugins of manifests: as the gateway that runs them says, or else as they alone show."""
    from nexus_core.problems import ObjectRef, Problem

    from nexus_cli import manifests, offline
    from nexus_cli.admin import get

    if running:
        try:
            told = get(admin, "/problems")["problems"]
        except UserError:
            told = []
        return tuple(
            Problem(ObjectRef.parse(each["where"]), each["path"], each["reason"], each["what"], each["fix"])
            for each in told
            if each["where"].startswith("NexusPlugin ")
        )
    return tuple(
        each for each in offline.translate(manifests.load([path])).problems if each.where.kind == "NexusPlugin"
    )


def _passed_over(path: Path, found: Installed) -> tuple[PassedOver, ...]:
    """Return the newer releases that a plugin of manifests does not get, as far as that shows without asking anyone."""
    from nexus_gateway.edge.sources.locks import LOCKS, LocksFile

    from nexus_cli import manifests, offline
    from nexus_cli.plugins.configs import cache_beside

    cache = cache_beside(path)
    locks = LocksFile(cache.with_name(LOCKS)).read()
    for status in offline.translate(manifests.load([path]), caches=[cache], locks=locks).plugins:
        if f"{status.ref.namespace}/{status.ref.name}" == found.id:
            return status.passed_over
    return ()


UPDATE_HELP = """Have a plugin run another version: it is tried beside the running one first, as spec.canary says.

It writes spec.version; a version is written as `==VERSION`, a range as it is.

\b
Examples:
  nexus plugin update api-key --to 1.4.0 -f examples/shop
  nexus plugin update api-key --to ">=1.4,<2" -n shop
"""


@plugin.command(help=UPDATE_HELP)
@click.argument("name")
@click.option("--to", "versions", required=True, metavar="VERSION", help="A version, or a PEP 440 range.")
@click.option("-n", "--namespace", metavar="NAME", help="Of the NexusPlugin, if several have the name.")
@_home_options
def update(
    name: str, versions: str, namespace: str | None, path: Path | None, kubeconfig: str | None, context: str | None
) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    from nexus_cli import output

    try:
        wanted = f"=={Version(versions)}"
    except InvalidVersion:
        try:
            wanted = str(SpecifierSet(versions))
        except InvalidSpecifier as error:
            raise UserError(f"--to {versions!r} is no version. Write it like 1.4.0, or '>=1.4,<2'.") from error
    home = _home(path, kubeconfig, context)
    found = _pick(home, name, namespace)
    if found.spec is None:
        raise UserError(f"{found.id} in {found.where} is broken: {found.why} Mend it first.")
    where = home.set_version(found, wanted)
    if output_format() == "json":
        output.show_json(
            {"plugin": found.id, "version": wanted, "changed": found.spec.version != wanted, "where": where}
        )
    else:
        click.echo(
            f"{found.id} is to run version {wanted or 'any'}, in {where}. `nexus plugin describe {found.name}` shows how that goes."
        )


@plugin.command(
    help="Take a plugin out, with its configuration; `disable` keeps that.\n\n\b\nExample:\n  nexus plugin uninstall api-key "
    "-f examples/shop"
)
@click.argument("name")
@click.option("-n", "--namespace", metavar="NAME", help="Of the NexusPlugin, if several have the name.")
@_home_options
def uninstall(name: str, namespace: str | None, path: Path | None, kubeconfig: str | None, context: str | None) -> None:
    from nexus_cli import output

    home = _home(path, kubeconfig, context)
    found = _pick(home, name, namespace)
    where = home.uninstall(found)
    if output_format() == "json":
        output.show_json({"plugin": found.id, "where": where})
    else:
        click.echo(f"{found.id} is no longer in {where}. Requests that have it finish with it.")


plugin.add_command(top)
plugin.add_command(logs)
for authoring in plugin_authoring.COMMANDS:
    plugin.add_command(authoring)
