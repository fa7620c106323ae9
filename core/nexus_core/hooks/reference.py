"""`python -m nexus_core.hooks.reference FILE [--check]`: the reference page of the hooks, made of their specs."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from nexus_core.hooks.http import API_VERSION
from nexus_core.hooks.plugin import Plugin
from nexus_core.hooks.specs import HOOKS, HookSpec

_TITLES = {
    "everywhere": "Its life, wherever it runs",
    "gateway": "In the gateway",
    "events": "In the event hub",
    "graphql": "In the GraphQL gateway",
    "operator": "Where manifests are translated",
}

_HEAD = f"""# Plugin hooks

API version {API_VERSION}.
This page is generated from `nexus_core.hooks.specs`; `make generate` rewrites it.

A plugin is a class in a Python package, below `nexus_sdk.plugin.Plugin`; `nexus_sdk.testing.PluginKit` drives every hook in tests.
How to make, sign and install one is in [Write a plugin](../how-to/write-a-plugin.md).

- **Only what you override is called.** The hooks that a class overrides are listed in its `plugin.yaml`; a misspelt, missing or unlisted one keeps the plugin from being loaded, and the message says which.
- **Values, not objects to change.** A hook gets values and returns a changed copy (`request.with_header("x-a", "1")`). Returning what it got changes nothing and costs least.
- **Plain functions run at once**, without a task or a switch. Coroutines may await within their budget and are cut off after it. A plain function that holds the event loop longer than `budgets.blockSeconds` is interrupted by an exception.
- **A failure** is an exception (`SystemExit` too), a result of the wrong type or one that cannot be sent, or a call out of time. What it means for the request is below, by the `failurePolicy` of the NexusPlugin: *open* or *closed*. Too many of them disable the plugin for a while (`budgets`), and its condition says why.
- **Notes.** `request.notes` is a dict in which a plugin keeps things of one request for its later hooks, under its own name (`self.context.plugin`; two NexusPlugins of one plugin may see the same request): all copies of the head share it, also in `on_done` and in a WebSocket's messages, and it ends with them. It is the one thing of a head that is changed in place.
- **The context.** `self.context` has what a plugin may use of its process: calls to granted hosts and services, granted secrets, Consul keys, Redis, background work and its log. It is there before `__init__`.
- Where a message ends is the gateway's business: `content-length`, `transfer-encoding`, `connection`, `upgrade` and the other headers of one connection are visible but not changed by a hook. So are a request's trace context and deadlines (`traceparent`, `tracestate`, `b3`, `x-b3-…`, `uber-trace-id`, `grpc-timeout`, `x-request-timeout`), which the gateway writes anew for each attempt.

| hook | where | since | coroutine | returns |
|---|---|---|---|---|
"""

_FOOT = """## How a plugin is loaded

1. The signature of the release is verified with the key that the NexusMarketplace pins for its publisher. Nothing unsigned is fetched.
2. Its API and Python ranges must contain this gateway's, what it asks for must be granted, and its configuration must fit its JSON Schema; defaults are filled in before.
3. The artefact is taken from the cache, the installed package (`bundled:`), Consul or the marketplace, and must have the digest that was signed; so must wheels.
4. Its code is imported from memory under a private name, so that several versions run side by side; what it imports is checked before and while it runs.
5. It is constructed in a thread of its own (so no constructor needs the event loop, and a slow one holds no request), and started. A new version takes a share of the requests first, and takes over or is rolled back by itself. The one before stops after its last request.

What it may import without asking: its own package, the plugins and wheels it depends on, `nexus_sdk.plugin`, and the modules of the standard library that reach neither files, network, processes nor the interpreter. Everything else is asked for in `permissions.modules`. This makes a plugin's permissions worth reading; it is no jail for code that means harm: install plugins of publishers you trust.
"""


def render() -> str:
    """Return the page."""
    lines = [_HEAD.rstrip("\n")]
    for hook in HOOKS:
        returns = " or ".join(f"`{kind}`" for kind in hook.returns)
        can = "yes" if hook.awaits else "no"
        lines.append(f"| [`{hook.name}`](#{hook.name}) | {hook.where} | {hook.since} | {can} | {returns} |")
    where = ""
    for hook in HOOKS:
        if hook.where != where:
            where = hook.where
            lines += ["", f"# {_TITLES[where]}"]
        lines += ["", *_section(hook)]
    return "\n".join([*lines, "", _FOOT])


def _section(hook: HookSpec) -> list[str]:
    member = getattr(Plugin, hook.name)
    names = ", ".join(inspect.signature(member).parameters)
    arguments = ", ".join(f"`{name}`: `{kind}`" for name, kind in hook.arguments)
    lines = [
        f"## `{hook.name}`",
        "",
        f"`{hook.name}({names})`" + (f" with {arguments}." if arguments else "."),
        hook.when,
        hook.result,
        "",
        "| | |",
        "|---|---|",
        f"| returns | {' or '.join(f'`{kind}`' for kind in hook.returns)} |",
        f"| may be a coroutine | {'yes' if hook.awaits else 'no'} |",
        f"| budget | {hook.budget} |",
        f"| when it fails, open | {hook.open} |",
        f"| when it fails, closed | {hook.closed} |",
    ]
    if hook.asks:
        lines.append(f"| asked before | `{hook.asks}`: {_first(getattr(Plugin, hook.asks).__doc__)} |")
    return lines


def _first(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def main(arguments: list[str]) -> int:
    """Write the page, or say with `--check` whether it is up to date."""
    path, text = Path(arguments[0]), render()
    if "--check" in arguments[1:]:
        return int(path.read_text() != text)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
