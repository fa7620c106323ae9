"""Plugins that hang, leak, exit, lie or break: refused or contained, and it is said precisely why."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import zipfile

import msgspec
import pytest
from nexus_hosting import starting
from nexus_hosting.testing import keep, make_release, sign

from tests.integration.hosting.conftest import HEAD, Host

GOOD = HEAD + "class Demo(Plugin):\n    pass\n"


def archive(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("demo/__init__.py", "")
        for name, content in entries.items():
            made.writestr(name, content)
    return buffer.getvalue()


def link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("demo/__init__.py", "")
        info = zipfile.ZipInfo("demo/passwd.py")
        info.external_attr = 0o120777 << 16
        made.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def packed(how: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as made:
        made.writestr("demo/__init__.py", "")
    return buffer.getvalue()


ARTEFACTS = {
    "traversal": (archive(**{"../evil.py": b"x"}), "'../evil.py' is not inside"),
    "traversal within": (archive(**{"demo/../../evil.py": b"x"}), "'demo/../../evil.py' is not inside"),
    "absolute": (archive(**{"/evil.py": b"x"}), "'/evil.py' is not inside"),
    "backslash": (archive(**{"demo\\evil.py": b"x"}), "is not inside"),
    "other package": (archive(**{"other/x.py": b"x"}), "'other/x.py' is not inside the package demo"),
    "drive": (archive(**{"C:evil.py": b"x"}), "'C:evil.py' is not inside"),
    "nothing between": (archive(**{"demo//evil.py": b"x"}), "'demo//evil.py' is not inside"),
    "a name that hides": (archive(**{"demo/a\u202eyp.py": b"x"}), "is not a name of a file"),
    "many": (archive(**{f"demo/m{n}.py": b"" for n in range(300)}), "at most 256 are taken"),
    "odd compression": (packed(zipfile.ZIP_BZIP2), "is compressed in a way that is not taken"),
    "link": (link(), "'demo/passwd.py' is neither a file nor a folder"),
    "bomb": (archive(**{"demo/bomb.py": b"\0" * 2**25}), "it unpacks to more than 16 MiB"),
    "not a zip": (b"no zip", "it is not a readable zip file"),
}


@pytest.mark.parametrize("name", ARTEFACTS)
async def test_an_archive_that_leaves_its_package_is_refused(host: Host, name: str) -> None:
    data, text = ARTEFACTS[name]
    release = msgspec.structs.replace(make_release(host.cache, GOOD), sha256=keep(host.cache, data, "zip"))
    instance = msgspec.structs.replace(host.instance(GOOD), release=sign(release))
    reason, message = await host.refused(instance)
    assert (reason, text in message) == ("PluginArtefactInvalid", True), message


async def test_other_bytes_than_the_releases_are_not_run(host: Host) -> None:
    """A damaged cache is no source; what comes in its place is held against the digest, too."""
    instance = host.instance(GOOD, base_url="http://127.0.0.1:1/index.json")
    (host.cache / f"{instance.release.sha256}.zip").write_bytes(b"other")
    reason, message = await host.refused(instance)
    assert (reason, "127.0.0.1:1" in message) == ("PluginFetchFailed", True)

    async def lies(_: str) -> bytes:
        return b"other"

    with pytest.raises(starting.PluginRejected, match="could not be"):
        await host.starter(artefact=lies).start(instance)


async def test_an_artefact_may_come_from_elsewhere(host: Host) -> None:
    instance = host.instance(GOOD, base_url="http://127.0.0.1:1/index.json")
    kept = host.cache / f"{instance.release.sha256}.zip"
    data = kept.read_bytes()
    kept.unlink()

    async def elsewhere(digest: str) -> bytes | None:
        return data if digest == instance.release.sha256 else None

    running = await host.starter(artefact=elsewhere).start(instance)
    running.acquire()
    await running.release()
    assert kept.read_bytes() == data


FAULTS = {
    "not a plugin": ("class Demo:\n    pass", "PluginLoadFailed", "is Demo, which is no nexus_sdk.plugin.Plugin"),
    "not a class": ("def Demo(config):\n    pass", "PluginLoadFailed", "demo.plugin:Demo is not a class"),
    "missing": ("class Other(Plugin):\n    pass", "PluginLoadFailed", "has no attribute 'Demo'"),
    "syntax": ("class Demo(Plugin:\n    pass", "PluginLoadFailed", "demo/plugin.py line 2 is not Python"),
    "top level": ("raise RuntimeError('boom')", "PluginLoadFailed", "demo/plugin.py line 2: RuntimeError: boom"),
    "top level exit": ("raise SystemExit(3)", "PluginLoadFailed", "demo/plugin.py line 2: SystemExit: 3"),
    "init": ("class Demo(Plugin):\n    def __init__(self, config):\n        raise RuntimeError('boom')", "PluginLoadFailed",
             "cannot be made with this configuration: RuntimeError: boom"),
    "init exit": ("class Demo(Plugin):\n    def __init__(self, config):\n        raise SystemExit(3)", "PluginLoadFailed", "SystemExit: 3"),
    "init config": ("class Demo(Plugin):\n    def __init__(self, config):\n        raise ValueError('n is odd')", "PluginConfigInvalid",
                    "n is odd"),
    "init told": (("from nexus_sdk.plugin import PluginConfigError\nclass Demo(Plugin):\n    def __init__(self, config):\n"
                  "        raise PluginConfigError('config.n: it is odd.')"), "PluginConfigInvalid",
                  "cannot be made with this configuration: config.n: it is odd."),
    "start": ("class Demo(Plugin):\n    async def start(self):\n        raise RuntimeError('boom')", "PluginStartFailed",
              "demo 1.0.0 failed in start: RuntimeError: boom"),
    "start exit": ("class Demo(Plugin):\n    async def start(self):\n        raise SystemExit(3)", "PluginStartFailed", "SystemExit: 3"),
    "start dynamic import": ("class Demo(Plugin):\n    async def start(self):\n        __import__('sock' + 'et')", "PluginNotPermitted",
                             "demo/plugin.py line 4 imports socket, which it may not"),
    "start opens": ("o = open\nclass Demo(Plugin):\n    pass", "PluginNotPermitted", "demo/plugin.py line 2 uses open()"),
    "misspelt": ("class Demo(Plugin):\n    def on_reqest(self, request):\n        return request", "PluginHooksInvalid",
                 "on_reqest: did you mean on_request?"),
    "misspelt asking": ("class Demo(Plugin):\n    def wants_request_bodies(self, request):\n        return True", "PluginHooksInvalid",
                        "wants_request_bodies: did you mean wants_request_body?"),
    "on_start": ("class Demo(Plugin):\n    async def on_start(self):\n        pass", "PluginHooksInvalid", "on_start: did you mean start?"),
    "arguments": ("class Demo(Plugin):\n    def on_request(self):\n        pass", "PluginHooksInvalid",
                  "on_request is called as on_request(self, request), and yours does not take that"),
    "no method": ("class Demo(Plugin):\n    on_request = 5", "PluginHooksInvalid", "on_request is int, not a method"),
    "coroutine": ("class Demo(Plugin):\n    async def on_endpoint(self, request, endpoint):\n        return ()", "PluginHooksInvalid",
                  "on_endpoint is a coroutine; this hook is called without waiting"),
    "coroutine asks": ("class Demo(Plugin):\n    async def wants_request_body(self, request):\n        return True", "PluginHooksInvalid",
                       "wants_request_body is a coroutine"),
    "generator": ("class Demo(Plugin):\n    def on_request(self, request):\n        yield request", "PluginHooksInvalid", "is a generator"),
    "plain start": ("class Demo(Plugin):\n    def start(self):\n        pass", "PluginHooksInvalid", "start is no coroutine"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_what_is_wrong_at_load_is_told(host: Host, name: str) -> None:
    code, reason, text = FAULTS[name]
    assert (found := await host.refused(HEAD + code))[0] == reason
    assert text in found[1]


RELEASES = {
    "lists what it does not have": ({"hooks": ("on_request", "on_response")}, "PluginHooksInvalid",
                                    "lists the hook on_response, which the class does not override"),
    "does not list what it has": ({"hooks": ("on_done",)}, "PluginHooksInvalid", "on_done, which the class does not override"),
    "lists too little": ({"hooks": ("start",)}, "PluginHooksInvalid", "lists the hook start"),
    "unlisted": ({"hooks": ("on_config",)}, "PluginHooksInvalid", "on_config"),
    "python": ({"python": ">=4"}, "PythonIncompatible", "needs Python >=4; this is Python 3."),
    "python unreadable": ({"python": "three"}, "PythonIncompatible", "which is not a range"),
    "host": ({"host": ("no-such-thing>=1",)}, "HostRequirementMissing", "needs no-such-thing>=1, which is not installed here"),
    "host version": ({"host": ("jmespath>=99",)}, "HostRequirementMissing", "needs jmespath>=99; here is jmespath 1."),
    "api": ({"api": ">=9"}, "PluginIncompatible", "needs plugin API >=9"),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASES)
async def test_what_a_release_asks_has_to_hold(host: Host, name: str) -> None:
    fields, reason, text = RELEASES[name]
    code = HEAD + "class Demo(Plugin):\n    def on_request(self, request):\n        return request\n"
    found = await host.refused(code, release=fields)
    assert (found[0], text in found[1]) == (reason, True), found


async def test_just_the_listed_hooks_are_right(host: Host) -> None:
    code = (
        HEAD
        + "class Demo(Plugin):\n    async def start(self): pass\n    def on_request(self, request): return request\n"
    )
    await host.start(code, release={"hooks": ("on_request",)})
    await host.start(code, release={"hooks": ("on_request", "start")}, id="shop/two")
    reason, message = await host.refused(code.replace("on_request", "on_done").replace("self, request", "self, request, done"),
                                         release={"hooks": ("on_request",)})  # fmt: skip
    assert (reason, "lists the hook on_request" in message) == ("PluginHooksInvalid", True)
    both = code + "    def on_done(self, request, done): pass\n"
    reason, message = await host.refused(both, release={"hooks": ("on_request",)})
    assert "it overrides on_done, which the release does not list" in message


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "LOAD_S", 0.3)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("while True:\n    pass", "PluginLoadFailed"),
        (
            "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
            "PluginLoadFailed",
        ),
        (
            "class Demo(Plugin):\n    def __init__(self, config):\n        while True:\n            pass",
            "PluginLoadFailed",
        ),
        (
            "class Demo(Plugin):\n    async def start(self):\n        import asyncio\n        await asyncio.Event().wait()",
            "PluginStartFailed",
        ),
    ],
    ids=["top level", "top level that catches all", "init", "start"],
)
async def test_what_never_ends_is_ended(host: Host, code: str, reason: str) -> None:
    found = await host.refused(HEAD + code)
    assert found[0] == reason
    assert "out of time" in found[1]
    async with asyncio.timeout(20):
        for thread in [each for each in threading.enumerate() if each.name == "plugin"]:
            await asyncio.to_thread(thread.join)


@pytest.mark.usefixtures("brief")
async def test_a_start_that_holds_the_loop_is_interrupted(host: Host) -> None:
    from nexus_core.snapshot.plugins import Budgets

    code = HEAD + "import time\nclass Demo(Plugin):\n    async def start(self):\n        time.sleep(30)"
    reason, message = await host.refused(code, budgets=Budgets(block_s=0.1))
    assert reason == "PluginStartFailed"
    assert "Overran" in message
    assert "demo/plugin.py line 5" in message


async def test_a_failing_stop_is_told_and_left(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    for thrown in ("RuntimeError('x')", "SystemExit(3)", "KeyboardInterrupt", "BaseException"):
        running = await host.start(HEAD + f"class Demo(Plugin):\n    async def stop(self):\n        raise {thrown}")
        await host.stop(running)
    assert caplog.text.count("plugin shop/demo failed in stop") == 4


LEAKS = """
import asyncio
class Demo(Plugin):
    async def start(self):
        self.ended = []
        self.kept = asyncio.create_task(self.wait("created"), name="mine")
        asyncio.ensure_future(self.wait("ensured"))
        self.context.spawn(self.wait("spawned"), "spawned")
        self.group = asyncio.create_task(self.grouped())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    async def grouped(self):
        async with asyncio.TaskGroup() as group:
            group.create_task(self.wait("grouped"))
            await asyncio.gather(self.wait("gathered"), self.wait("gathered too"))
    async def wait(self, name):
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append(name)
    log = []
"""


async def test_tasks_that_are_left_behind_are_cancelled_and_counted(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    running = await host.start(HEAD + LEAKS)
    log = running.plugin.log
    await host.stop(running)
    assert sorted(log) == ["created", "ensured", "gathered", "gathered too", "grouped", "spawned"]
    assert running.leaked == 6, "all but what was spawned, which ends with the plugin"
    assert "plugin shop/demo left 6 tasks running" in caplog.text
    assert asyncio.all_tasks() == before


async def test_a_task_that_does_not_let_itself_be_cancelled_is_told(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus_hosting import owning

    monkeypatch.setattr(owning, "_GRACE_S", 0.1)
    code = HEAD + (
        "import asyncio\nclass Demo(Plugin):\n    async def start(self):\n        self.free = asyncio.Event()\n"
        "        asyncio.create_task(self.stay(self.free), name='stays')\n        await asyncio.sleep(0)\n"
        "    async def stay(self, free):\n        while not free.is_set():\n            try:\n                await free.wait()\n"
        "            except asyncio.CancelledError:\n                pass\n"
    )
    running = await host.start(code)
    free = running.plugin.free
    await host.stop(running)
    assert "stays does not let itself be cancelled" in caplog.text
    free.set()
    await asyncio.sleep(0.01)


async def test_work_in_the_background_is_bounded_and_its_failure_told(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    code = HEAD + (
        "import asyncio\nclass Demo(Plugin):\n    async def wait(self):\n        await asyncio.Event().wait()\n"
        "    async def fail(self):\n        raise RuntimeError('boom')\n"
    )
    running = await host.start(code)
    with caplog.at_level(logging.WARNING):
        running.context.spawn(running.plugin.fail(), "failing")
        await asyncio.sleep(0.01)
    assert [record.name for record in caplog.records if "failing failed: RuntimeError: boom" in record.message] == [
        "nexus.plugin.shop.demo"
    ]
    for number in range(64):
        running.context.spawn(running.plugin.wait(), f"n{number}")
    with pytest.raises(RuntimeError, match="64 pieces of work run already"):
        running.context.spawn(running.plugin.wait(), "one more")
    await host.stop(running)
    assert running.leaked == 0
    with pytest.raises(RuntimeError, match="the plugin has stopped"):
        running.context.spawn(asyncio.sleep(1), "late")


async def test_the_event_loop_is_not_a_plugins(host: Host) -> None:
    code = HEAD + (
        "import asyncio\nclass Demo(Plugin):\n    async def start(self):\n        self.at = asyncio.get_running_loop().time()\n"
        "    def loop(self, name):\n        return getattr(asyncio.get_running_loop(), name)\n"
    )
    running = await host.start(code)
    assert running.plugin.at > 0
    with pytest.raises(AttributeError, match="not run_in_executor"):
        running.plugin.loop("run_in_executor")
    for name in ("open_connection", "create_subprocess_exec", "to_thread", "run", "all_tasks", "new_event_loop"):
        reason, message = await host.refused(HEAD + f"from asyncio import {name}\nclass Demo(Plugin):\n    pass")
        assert (reason, name in message) == ("PluginLoadFailed", True)
