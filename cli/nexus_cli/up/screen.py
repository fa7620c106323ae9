"""What `nexus up` shows: progress while starting, then who runs where and what to try."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_cli.options import DEFAULT_ADMIN, DEFAULT_GATEWAY
from nexus_cli.output import render_rows
from nexus_cli.up import routes
from nexus_cli.up.plans import SCHEMES, ServicePlan
from nexus_cli.up.supervisor import Group, Supervisor

if TYPE_CHECKING:
    from nexus_gateway.edge.listeners.shown import ListenerRow

COLUMNS = ("service", "what", "path", "url", "pid", "state")
"""path: behind the gateway's URL. All of it fits into 80 columns for services with names of usual length."""


def rows(groups: Mapping[str, Group], gateway_url: str, admin_url: str, pid: int) -> list[tuple[str, ...]]:
    """Return the table's rows: the gateway's first, then each replica's, then what is not run here."""
    made: list[tuple[str, ...]] = [
        ("gateway", "gateway", "", gateway_url, str(pid), "ready"),
        ("", "admin API", "", admin_url, str(pid), "ready"),
    ]
    for key, group in sorted(groups.items()):
        plan = group.plan
        made.extend((key, plan.kind, plan.exposed, r.url, str(r.pid or ""), r.state) for r in group.replicas)
        if not group.replicas:
            scheme = SCHEMES.get(plan.kind, "http")
            where = ", ".join(f"{scheme}://{host}:{port}" for host, port in plan.addresses)
            made.append((key, plan.kind, plan.exposed, where, "", "elsewhere" if where else "not run here"))
    return made


def report(supervisor: Supervisor, gateway_url: str, admin_url: str, pid: int) -> dict[str, Any]:
    """Return the same as a value, for `-o json`."""
    services = []
    for key, group in sorted(supervisor.groups.items()):
        replicas = [
            {"name": r.name, "url": r.url, "pid": r.pid, "state": r.state, "restarts": r.restarts, "why": r.why}
            for r in group.replicas
        ]
        services.append(
            {
                "service": key,
                "type": group.plan.kind,
                "path": group.plan.exposed,
                "replicas": replicas,
                "note": group.plan.note,
            }
        )
    return {"gateway": gateway_url, "admin": admin_url, "pid": pid, "ready": supervisor.is_ready, "services": services}


def render_table(made: list[tuple[str, ...]]) -> str:
    """Return the table as text."""
    return render_rows(COLUMNS, made, rich=sys.stdout.isatty())


LISTENER_COLUMNS = ("listener", "address", "host", "port")
"""port: as declared."""


def render_listeners(found: Sequence[ListenerRow]) -> str:
    """Return the table of listeners: where each is really."""
    made = [(row.listener, row.url or "not open", row.hostname or "any", str(row.port)) for row in found]
    return render_rows(LISTENER_COLUMNS, made, rich=sys.stdout.isatty()) if made else ""


ROUTE_COLUMNS = ("route", "host", "address")


def render_routes(found: Sequence[routes.RouteRow]) -> str:
    """Return the table of the Gateway API's routes: where each can be asked."""
    return render_rows(ROUTE_COLUMNS, routes.table(found), rich=sys.stdout.isatty()) if found else ""


def listeners(found: Sequence[ListenerRow]) -> list[dict[str, Any]]:
    """Return the same as values, for `-o json`."""
    return [
        {
            "listener": row.listener,
            "protocol": row.protocol,
            "hostname": row.hostname,
            "port": row.port,
            "url": row.url,
            "problem": row.problem,
        }
        for row in found
    ]


def closed(found: Sequence[ListenerRow]) -> list[str]:
    """Return a line for each listener that is not served as it should be, with why."""
    return [f"listener {row.listener}: {row.problem}" for row in found if row.problem]


def unwell(supervisor: Supervisor) -> list[str]:
    """Return a line for each replica that takes no requests, with why, and for each service that is not run here."""
    lines = []
    for key, group in sorted(supervisor.groups.items()):
        for replica in group.replicas:
            if replica.state != "ready":
                why = replica.why or "it did not say why"
                lines.append(f"{replica.name} of {key} is not ready: {why}. Its log: {replica.log.path}")
        if group.plan.note and not group.plan.addresses:
            lines.append(f"{key} is not run here: {group.plan.note}.")
    return lines


SHOP_ORDER = '{"item": "cup", "quantity": 2, "customer": "Ada"}'
DEFAULTS = (DEFAULT_GATEWAY, DEFAULT_ADMIN)


def next_commands(
    plans: Iterable[ServicePlan],
    directory: Path,
    gateway_url: str,
    admin_url: str,
    found: Sequence[routes.RouteRow] = (),
) -> list[tuple[str, str]]:
    """Return `(command, what it does)` that work by copy and paste in the directory `nexus up` was started in.

    found: routes of the Gateway API. Where these are all there is, plugins and traces are not what comes next.
    """
    exposed = {plan.key: plan for plan in plans if plan.exposed}
    nexus, where = _program(), shlex.quote(str(directory))
    admin = "" if admin_url == DEFAULT_ADMIN else f" --admin {admin_url}"
    made: list[tuple[str, str]] = []
    asked = routes.commands(found, nexus, admin)
    if asked and not exposed:
        return [*asked, (f"curl {admin_url}/listeners", "where each listener is")]
    if {"shop/catalog", "shop/orders"} <= exposed.keys():
        made.append((f"curl {gateway_url}{exposed['shop/catalog'].exposed}/items", "what the shop sells"))
        order = (
            f"curl {gateway_url}{exposed['shop/orders'].exposed} -H 'content-type: application/json' -d '{SHOP_ORDER}'"
        )
        made.append((order, "place an order"))
        if "shop/web" in exposed:
            made.append(("", f"orders, live: open {gateway_url}{exposed['shop/web'].exposed} in a browser"))
        if (gateway_url, admin_url) == DEFAULTS and Path("Makefile").is_file() and where == "examples/shop":
            made.append(("make tour", "the whole journey"))
        else:
            made.append((f"{nexus} tour --gateway {gateway_url}{admin} -f {where}", "the whole journey"))
    else:
        made.extend((f"curl {gateway_url}{plan.exposed}", plan.key) for plan in list(exposed.values())[:3])
        if not exposed:
            made.append((f"curl {admin_url}/listeners", "where each listener is"))
    made.extend(asked)
    made.append((f"{nexus} traces --last 1{admin}", "the way of the last request"))
    made.append((f"{nexus} plugin list -f {where}{admin}", "plugins, and how they are"))
    return made


def render_commands(made: list[tuple[str, str]]) -> str:
    """Return each command in a line of its own below what it does, so that a line can be copied whole."""
    return "".join(f"  # {what}\n" + (f"  {command}\n" if command else "") for command, what in made)


def _program() -> str:
    """Return how `nexus` is called here: by name if that finds this very installation, else by path."""
    here = Path(sys.executable).with_name("nexus")
    found = shutil.which("nexus")
    if found is not None and Path(found).resolve() == here.resolve():
        return "nexus"
    try:
        return str(here.relative_to(Path.cwd()))
    except ValueError:
        return str(here) if here.exists() else "nexus"


def render_progress(ready: int, of: int, waiting: Sequence[str], width: int) -> str:
    """Return one line that is shorter than `width` columns: a longer one wraps, and is not wiped by the next."""
    done = round(20 * ready / max(1, of))
    line = f"{'━' * done}{'╌' * (20 - done)} {ready}/{of} ready"
    line += f", waiting for {', '.join(waiting)}" if waiting else ""
    return line if len(line) < width else line[: max(0, width - 2)] + "…"


class Progress:
    """On a terminal one line that is drawn again; else a line for each service that became ready."""

    def __init__(self) -> None:
        self._drawn = sys.stderr.isatty()
        self._ready: set[str] = set()

    def update(self, supervisor: Supervisor) -> None:
        replicas = supervisor.replicas
        ready = [r for r in replicas if r.state == "ready"]
        if self._drawn:
            waiting = [r.name for r in replicas if r.state != "ready"]
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\033[K{render_progress(len(ready), len(replicas), waiting, width)}")
        else:
            for replica in ready:
                if replica.name not in self._ready:
                    self._ready.add(replica.name)
                    sys.stderr.write(f"{replica.name} is ready at {replica.url}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
