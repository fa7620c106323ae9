"""Plugins of a service that does not own its requests as the gateway does: whatever they do, the call ends in time."""

from __future__ import annotations

import asyncio

import pytest
from nexus_core.hooks import Event, Operation, Refusal, Resolved
from nexus_core.snapshot.plugins import Budgets, Permissions
from nexus_hosting.hosted import Hosted, Unavailable

from tests.integration.hosting.conftest import HEAD, Host

EVENT = Event(id="1", source="/shop", type="order.placed", data=b"x")
WAYS = {
    "raises": (False, "raise RuntimeError('x')"),
    "leaves": (False, "raise GeneratorExit"),
    "cancels": (False, "raise asyncio.CancelledError"),
    "exits": (False, "raise SystemExit(3)"),
    "returns nothing": (False, "return None"),
    "blocks": (False, "while True: pass"),
    "leaves later": (True, "await asyncio.sleep(0); raise GeneratorExit"),
    "cancels its caller": (True, "asyncio.current_task().cancel(); await asyncio.sleep(0)"),
    "never ends": (True, "await asyncio.Event().wait()"),
    "never lets go": (
        True,
        "while True:\n            try: await asyncio.Event().wait()\n            except asyncio.CancelledError: pass",
    ),
}


@pytest.mark.parametrize("policy", ["open", "closed"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_call_ends_whatever_the_plugin_does(host: Host, way: str, policy: str) -> None:
    waits, line = WAYS[way]
    kind = "async " if waits else ""
    code = f"{HEAD}import asyncio\nclass Demo(Plugin):\n    {kind}def on_event_accepted(self, event):\n        {line}\n"
    instance = host.instance(
        code,
        failure_policy=policy,
        timeout_s=0.1,
        budgets=Budgets(block_s=0.05),
        release={"hooks": ("on_event_accepted",)},
    )
    told: list[bool] = []
    hosted = Hosted(host.starter(), lambda _plugin, _hook, _seconds, *, failed: told.append(failed))
    assert await hosted.take([instance])
    try:
        for _ in range(2):
            async with asyncio.timeout(5):
                if policy == "closed":
                    with pytest.raises(Unavailable):
                        await hosted.change("on_event_accepted", EVENT, lambda hook, event: hook(event))
                else:
                    found = await hosted.change("on_event_accepted", EVENT, lambda hook, event: hook(event))
                    assert found is EVENT
                    assert not isinstance(found, Refusal)
    finally:
        await hosted.close()
    assert told == [True, True]


async def test_whoever_leaves_takes_the_call_along(host: Host) -> None:
    """A client that is gone is no failure of the plugin that had its event."""
    waiting = "    async def on_event_accepted(self, event):\n        await asyncio.Event().wait()\n"
    code = f"{HEAD}import asyncio\nclass Demo(Plugin):\n{waiting}"
    instance = host.instance(code, release={"hooks": ("on_event_accepted",)})
    hosted = Hosted(host.starter())
    assert await hosted.take([instance])
    asking = asyncio.create_task(hosted.change("on_event_accepted", EVENT, lambda hook, event: hook(event)))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await hosted.close()


async def test_a_plugin_sees_the_headers_of_an_operation_that_it_may_read(host: Host) -> None:
    """And the next one those that it may, whatever the one before it saw."""
    hooks = (
        "    def on_operation_parsed(self, operation):\n"
        "        return operation.with_variables({**operation.variables, self.config['as']: dict(operation.headers)})\n"
        "    def on_operation_resolved(self, operation, result):\n"
        "        return Resolved({**result.data, self.config['as']: dict(operation.headers)})\n"
    )
    code = f"{HEAD}from nexus_sdk.plugin import Resolved\nclass Demo(Plugin):\n{hooks}"
    release = {"hooks": ("on_operation_parsed", "on_operation_resolved")}
    mays = {"first": ("x-user",), "second": ("x-trace", "x-tr*"), "third": ("*",)}
    instances = [
        host.instance(
            code,
            id=f"shop/{name}",
            config={"as": name},
            granted=Permissions(read_headers=may, write_headers=()),
            release=release,
        )
        for name, may in mays.items()
    ]
    hosted = Hosted(host.starter())
    assert await hosted.take(instances)
    sent = {"authorization": "secret", "x-user": "u", "x-trace": "t"}
    operation = Operation("query", "{ a }", headers=tuple(sent.items()))
    expected = {"first": {"x-user": "u"}, "second": {"x-trace": "t"}, "third": sent}
    try:
        parsed = await hosted.change("on_operation_parsed", operation, lambda hook, so_far: hook(so_far))
        assert isinstance(parsed, Operation)
        assert (parsed.variables, parsed.headers) == (expected, operation.headers)
        resolved = await hosted.change(
            "on_operation_resolved", Resolved({}), lambda hook, so_far: hook(operation, so_far)
        )
        assert isinstance(resolved, Resolved)
        assert resolved.data == expected
    finally:
        await hosted.close()


@pytest.mark.parametrize(("release", "seen"), [("the same", {"x-user"}), ("another", {"x-user", "x-trace"})])
async def test_what_is_granted_no_more_is_gone_also_when_nothing_new_starts(
    host: Host, release: str, seen: set[str]
) -> None:
    """A former release goes on with what it asked for itself, of which the grants of another say nothing."""
    code = (
        f"{HEAD}class Demo(Plugin):\n"
        "    def __init__(self, config):\n"
        "        assert config['fine']\n"
        "    def on_operation_parsed(self, operation):\n"
        "        return operation.with_variables(dict(operation.headers))\n"
    )
    hooks = {"hooks": ("on_operation_parsed",)}
    granted = Permissions(read_headers=("x-user", "x-trace"), write_headers=())
    narrowed = Permissions(read_headers=("x-user",), write_headers=())
    hosted = Hosted(host.starter())
    sent = tuple((name, "1") for name in ("authorization", "x-user", "x-trace"))
    try:
        assert await hosted.take([host.instance(code, config={"fine": True}, granted=granted, release=hooks)])
        other = code if release == "the same" else f"{code}# more\n"
        broken = host.instance(other, config={"fine": False}, granted=narrowed, release=hooks)
        assert not await hosted.take([broken])
        assert hosted.reports()["shop/demo"].state == "previous"
        operation = Operation("query", "{ a }", headers=sent)
        parsed = await hosted.change("on_operation_parsed", operation, lambda hook, so_far: hook(so_far))
    finally:
        await hosted.close()
    assert isinstance(parsed, Operation)
    assert parsed.variables.keys() == seen


@pytest.mark.parametrize("release", ["the same", "another"])
async def test_what_may_not_be_called_any_more_is_not_called_when_nothing_new_starts(host: Host, release: str) -> None:
    code = (
        f"{HEAD}from nexus_sdk.plugin import CallFailed, NotGranted\n"
        "class Demo(Plugin):\n"
        "    def __init__(self, config):\n"
        "        assert config['fine']\n"
        "    async def on_operation_parsed(self, operation):\n"
        "        try:\n"
        "            await self.context.call('GET', 'http://127.0.0.1:1/')\n"
        "        except (CallFailed, NotGranted) as error:\n"
        "            return operation.with_variables({'why': type(error).__name__})\n"
    )
    hooks = {"hooks": ("on_operation_parsed",)}
    fine = host.instance(code, config={"fine": True}, granted=Permissions(network=("127.0.0.1",)), release=hooks)
    other = code if release == "the same" else f"{code}# more\n"
    broken = host.instance(other, config={"fine": False}, granted=Permissions(), release=hooks)
    hosted = Hosted(host.starter())
    said = []
    try:
        for instance in (fine, broken, fine):
            await hosted.take([instance])
            parsed = await hosted.change("on_operation_parsed", Operation("query", "{ a }"), lambda hook, o: hook(o))
            assert isinstance(parsed, Operation)
            said.append(parsed.variables["why"])
    finally:
        await hosted.close()
    assert said == ["CallFailed", "NotGranted" if release == "the same" else "CallFailed", "CallFailed"]
