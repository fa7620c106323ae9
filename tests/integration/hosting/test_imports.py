"""What `import` means in a plugin."""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from nexus_core.snapshot.plugins import Library, Permissions, Wheel, WheelNeed
from nexus_hosting import wheels
from nexus_hosting.testing import PUBLIC_KEY, build_wheel, keep_wheel, make_release
from nexus_marketplace.rejections import PluginRejected

from tests.integration.hosting.conftest import Host

DEMO = """
from nexus_sdk.plugin import Plugin
{imports}
class Demo(Plugin):
    def found(self):
        return {found}
"""


async def found(host: Host, imports: str, expression: str, **fields: object) -> object:
    running = await host.start(DEMO.format(imports=imports, found=expression), **fields)
    return running.plugin.found()


@pytest.mark.parametrize(
    ("imports", "expression", "result"),
    [
        ("import json", "json.loads('[1]')", [1]),
        ("from json import loads as read", "read('[1]')", [1]),
        ("import json.decoder", "json.decoder.JSONDecodeError.__name__", "JSONDecodeError"),
        ("import urllib.parse", "urllib.parse.quote('ä')", "%C3%A4"),
        ("from urllib import parse", "parse.quote('ä')", "%C3%A4"),
        ("import urllib.parse as p", "p.quote('ä')", "%C3%A4"),
        ("import collections.abc", "issubclass(list, collections.abc.Sequence)", True),
        ("from collections import abc, OrderedDict", "issubclass(OrderedDict, abc.Mapping)", True),
        ("from email import policy", "policy.default.linesep", "\n"),
        ("from email.message import EmailMessage", "EmailMessage().get_content_type()", "text/plain"),
        ("from http import HTTPStatus", "HTTPStatus.OK.value", 200),
        ("from datetime import datetime", "datetime.strptime('2026', '%Y').year", 2026),
        ("import time", "time.strptime('2026', '%Y').tm_year", 2026),
        ("import copy, decimal", "str(copy.deepcopy(decimal.Decimal('1.5')))", "1.5"),
        ("from zoneinfo import ZoneInfo", "ZoneInfo('UTC').key", "UTC"),
        ("import nexus_sdk.plugin", "nexus_sdk.plugin.Reply(204).status", 204),
        ("from nexus_sdk import plugin as sdk", "sdk.Reply(204).status", 204),
        ("from math import *", "floor(pi)", 3),
        ("import os", "len(os.urandom(4))", 4),
        ("import jmespath", "jmespath.search('a', {'a': 1})", 1),
        ("from jmespath.exceptions import JMESPathError", "JMESPathError.__name__", "JMESPathError"),
        ("import google.protobuf.message", "google.protobuf.message.Message.__name__", "Message"),
        ("from google.protobuf import message", "message.Message.__name__", "Message"),
        ("from .more import VALUE", "VALUE", 7),
        ("from . import more", "more.VALUE", 7),
        ("from .deep.inner import up", "up()", 7),
        ("import demo.more", "demo.more.VALUE", 7),
        ("import demo.more as m", "m.VALUE", 7),
        ("from demo import more as m", "m.VALUE", 7),
        ("from demo.more import VALUE as v", "v", 7),
    ],
)
async def test_what_is_harmless_or_its_own_is_imported(
    host: Host, imports: str, expression: str, result: object
) -> None:
    files = {
        "more.py": "VALUE = 7",
        "deep/__init__.py": "",
        "deep/inner.py": "from ..more import VALUE\ndef up(): return VALUE",
    }
    release = {"host": ("jmespath>=1", "protobuf")}
    assert await found(host, imports, expression, files=files, release=release) == result


REFUSED = {
    "static": ("import socket", "demo/plugin.py line 3 imports socket, which it may not: name 'socket' in permissions.modules"),
    "static from": ("from os import environ", "demo/plugin.py line 3 uses os.environ, which it may not: name 'os'"),
    "static below": ("import urllib.request", "demo/plugin.py line 3 imports urllib.request, which it may not: name 'urllib'"),
    "static from package": ("from urllib import request", "demo/plugin.py line 3 imports urllib.request"),
    "static attribute": ("import os\nos.system('true')", "demo/plugin.py line 4 uses os.system, which it may not: name 'os'"),
    "withheld": ("from io import open", "demo/plugin.py line 3 uses io.open, which it may not: name 'os'"),
    "withheld class": ("import gzip\ngzip.GzipFile('/etc/passwd')", "The plugin uses gzip.GzipFile, which it may not: name 'os'"),
    "withheld switch": ("import logging\nlogging.disable()", "The plugin uses logging.disable, which it may not: name 'os'"),
    "unknown": ("import requests", "demo/plugin.py line 3 imports requests, which is neither its own, nor of a plugin or wheel"),
    "constant": ("__import__('socket')", "demo/plugin.py line 3 imports socket"),
    "dynamic": ("__import__('sock' + 'et')", "demo/plugin.py line 3 imports socket"),
    "importlib": ("import importlib", "demo/plugin.py line 3 imports importlib"),
    "other's module": ("from json import codecs", "demo/plugin.py line 3 imports codecs"),
    "above": ("from .... import sys", "attempted relative import beyond top-level package"),
    "out of the prefix": ("__package__ = 'os'\nfrom . import path", "demo/plugin.py line 4 imports os"),
    "builtin open": ("open('/etc/passwd')", "demo/plugin.py line 3 uses open(), which it may not: name 'os'"),
    "builtin eval": ("print(eval('1'))", "demo/plugin.py line 3 uses eval(), which it may not"),
    "innards": ("(lambda: 0).__globals__", "demo/plugin.py line 3 uses __globals__, which it may not: name 'inspect'"),
    "gateway": ("import nexus_gateway", "demo/plugin.py line 3 imports nexus_gateway, which is neither its own"),
    "core": ("from nexus_core.snapshot import Release", "demo/plugin.py line 3 imports nexus_core.snapshot, which is neither"),
    "another plugin": ("import nexus_plugin_api_key", "demo/plugin.py line 3 imports nexus_plugin_api_key"),
    "a granted one's sibling": ("import sysconfig", "demo/plugin.py line 3 imports sysconfig"),
    "in a function": ("def f():\n    import ctypes", "demo/plugin.py line 4 imports ctypes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_it_may_not_import_is_refused_with_file_and_line(host: Host, name: str) -> None:
    imports, text = REFUSED[name]
    reason, message = await host.refused(DEMO.format(imports=imports, found="1"), granted=Permissions(modules=("sys",)))
    assert text in message
    assert reason == ("PluginLoadFailed" if name == "above" else "PluginNotPermitted")


async def test_what_is_granted_is_there_as_it_is(host: Host) -> None:
    granted = Permissions(modules=("os", "sys", "importlib"))
    assert await found(host, "import sys", "sys.version", granted=granted) == sys.version
    assert await found(host, "import os.path", "os.path.sep", granted=granted) == "/"
    assert await found(host, "import os", "callable(os.system) and callable(open)", granted=granted) is True
    assert await found(host, "import importlib", "importlib.import_module('json').loads('1')", granted=granted) == 1
    imports = "import importlib\nasync def _(): pass"
    running = await host.start(DEMO.format(imports=imports, found="importlib.import_module('socket')"), granted=granted)
    with pytest.raises(ImportError, match="imports socket, which it may not"):
        running.plugin.found()


async def test_an_import_that_it_can_do_without_is_refused_quietly(host: Host) -> None:
    imports = "try:\n    import socket\nexcept ImportError:\n    socket = None"
    assert await found(host, imports, "socket") is None
    checking = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import socket\nelse:\n    socket = 3"
    assert await found(host, checking, "socket") == 3


async def test_a_view_of_a_module_leads_nowhere_else_and_is_its_own(host: Host) -> None:
    code = DEMO.format(
        imports="import json, logging\njson.loads = lambda _: 'mine'", found="json.loads('1'), dir(logging)"
    )
    other = DEMO.format(imports="import json", found="json.loads('1')")
    mine, names = (await host.start(code)).plugin.found()
    assert mine == "mine"
    assert not {"os", "sys", "threading"} & set(names)
    assert (await host.start(other, id="shop/other")).plugin.found() == 1


async def test_whoever_seeds_chance_seeds_its_own(host: Host) -> None:
    """Traces, balancing and retries draw from the process's: a plugin that wants the same numbers each time must not decide theirs."""
    state = random.getstate()
    first = await found(host, "import random\nrandom.seed(7)", "[random.random() for _ in range(3)]")
    assert first == await found(host, "import random\nrandom.seed(7)", "[random.random() for _ in range(3)]")
    other = "random.seed(7), random._inst.seed(7), random.setstate(random.Random(7).getstate()), random.choice([1, 1])"
    assert await found(host, "import random", other) == (None, None, None, 1)
    assert random.getstate() == state
    assert await found(host, "from random import Random, SystemRandom", "Random(7).random()") == first[0]  # type: ignore[index]


async def test_several_versions_live_side_by_side(host: Host) -> None:
    code = "from nexus_sdk.plugin import Plugin\nimport demo.more\n"
    code += "class Demo(Plugin):\n    def found(self):\n        return demo.more.VALUE"
    one = await host.start(code, files={"more.py": "VALUE = 1"})
    two = await host.start(code, files={"more.py": "VALUE = 2"})
    assert (one.plugin.found(), two.plugin.found()) == (1, 2)
    await host.stop(one)
    assert two.plugin.found() == 2


async def test_a_library_is_another_plugins_package(host: Host) -> None:
    core = make_release(
        host.cache, "class Demo: pass", package="core_auth", files={"keys.py": "def check(): return 'checked'"}
    )
    library = Library(core, PUBLIC_KEY)
    assert await found(host, "from core_auth.keys import check", "check()", libraries=(library,)) == "checked"
    forged = Library(
        core.__class__(**{**{f: getattr(core, f) for f in core.__struct_fields__}, "summary": "x"}), PUBLIC_KEY
    )
    reason, _ = await host.refused(DEMO.format(imports="", found="1"), libraries=(forged,))
    assert reason == "PluginSignatureInvalid"
    bad = make_release(host.cache, "import socket\nclass Demo: pass", package="core_bad")
    reason, message = await host.refused(
        DEMO.format(imports="import core_bad.plugin", found="1"), libraries=(Library(bad, PUBLIC_KEY),)
    )
    assert (reason, "core-bad 1.0.0: core_bad/plugin.py line 1 imports socket" in message) == (
        "PluginNotPermitted",
        True,
    )


WHEEL = {
    "dist/__init__.py": b"from dist import inner\nfrom .inner import VALUE\n",
    "dist/inner.py": b"VALUE = 5\n",
    "dist/data/table.txt": b"rows",
    "dist/reads.py": b"import pkgutil\nfrom importlib import resources\n"
    b"A = pkgutil.get_data(__package__, 'data/table.txt')\n"
    b"B = (resources.files('dist') / 'data' / 'table.txt').read_text()\n",
    "dist/socketed.py": b"import socket\n",
    "dist/optional.py": b"try:\n    import socket\nexcept ImportError:\n    socket = None\n",
    "space/only/mod.py": b"X = 9\n",
}  # fmt: skip


async def test_a_wheel_is_imported_from_memory(host: Host) -> None:
    need = keep_wheel(host.cache, "dist", "1.0", *build_wheel("dist", "1.0", WHEEL))
    assert await found(host, "import dist", "dist.VALUE + dist.inner.VALUE", wheels=(need,)) == 10
    assert await found(host, "from space.only import mod", "mod.X", wheels=(need,)) == 9
    assert await found(host, "from dist import optional", "optional.socket", wheels=(need,)) is None
    reading = Permissions(modules=("pkgutil", "importlib.resources"))
    assert await found(host, "from dist import reads", "reads.A, reads.B", wheels=(need,), granted=reading) == (
        b"rows", "rows",
    )  # fmt: skip
    reason, message = await host.refused(DEMO.format(imports="import dist.socketed", found="1"), wheels=(need,))
    assert (reason, "dist/socketed.py line 1 imports socket, which it may not" in message) == (
        "PluginNotPermitted",
        True,
    )
    assert "dist" not in sys.modules


async def test_a_real_wheel_works(host: Host) -> None:
    """jmespath, packed again out of what is installed."""
    paths = [path for path in metadata.files("jmespath") or () if path.parts[0] == "jmespath" and path.suffix == ".py"]
    files = {path.as_posix(): Path(str(path.locate())).read_bytes() for path in paths}
    need = keep_wheel(host.cache, "jmespath", "1.1.0", *build_wheel("jmespath", "1.1.0", files))
    granted = Permissions(modules=("sys", "inspect"))
    assert (
        await found(
            host, "import jmespath", "jmespath.search('a.b[0]', {'a': {'b': [3]}})", wheels=(need,), granted=granted
        )
        == 3
    )
    assert await found(host, "import jmespath", "jmespath.__name__", wheels=(need,), granted=granted) != "jmespath"
    reason, message = await host.refused(DEMO.format(imports="import jmespath", found="1"), wheels=(need,))
    assert (reason, "jmespath/" in message, "which it may not" in message) == ("PluginNotPermitted", True, True)


def native(name: str) -> tuple[str, bytes]:
    """Return an extension module of the standard library, by its file name and content."""
    module = __import__(name)
    path = Path(module.__file__)
    return path.name, path.read_bytes()


async def test_compiled_code_takes_a_grant_and_runs_from_the_cache(host: Host) -> None:
    import packaging.tags

    filename, content = native("_heapq") if hasattr(__import__("_heapq"), "__file__") else native("_testcapi")
    tag = str(next(packaging.tags.sys_tags()))
    wheel, data = build_wheel("fast", "1.0", {"fast/__init__.py": b"", f"fast/{filename}": content}, tag=tag)
    need = keep_wheel(host.cache, "fast", "1.0", wheel, data)
    module = filename.partition(".")[0]
    code = DEMO.format(imports=f"from fast import {module} as m", found="m.__name__")
    reason, message = await host.refused(code, wheels=(need,))
    assert (reason, f"holds compiled code (fast/{filename}), which was not granted" in message) == (
        "PluginNotPermitted",
        True,
    )
    for _ in range(2):
        running = await host.start(code, wheels=(need,), granted=Permissions(native=True))
        assert running.plugin.found().endswith(module)
        [kept] = (host.cache / "native").iterdir()
        assert kept.name == hashlib.sha256(data).hexdigest()
        (kept / "fast" / filename).unlink()  # not written over: it is mapped
        (kept / "fast" / filename).write_bytes(
            b"damaged"
        )  # held against the wheel, and written anew, by the next start
        await host.stop(running)


def evil(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


BAD_WHEELS = {
    "traversal": ({"../evil.py": b""}, {}, "'../evil.py' is not inside"),
    "absolute": ({"/etc/evil.py": b""}, {}, "'/etc/evil.py' is not inside"),
    "windows": ({"dist\\evil.py": b""}, {}, "is not inside"),
    "drive": ({"C:/evil.py": b""}, {}, "'C:/evil.py' is not inside"),
    "within": ({"dist/../../evil.py": b""}, {}, "'dist/../../evil.py' is not inside"),
    "data outside": ({"dist-1.0.data/purelib/../../evil.py": b""}, {}, "is not inside"),
    "data over a module": ({"dist/a.py": b"1", "dist-1.0.data/purelib/dist/a.py": b"2"}, {}, "dist/a.py is in it twice"),
    "no record": ({}, {"dist-1.0.dist-info/RECORD": b""}, "its RECORD has no hash of dist-1.0.dist-info/METADATA"),
    "weak hash": ({}, {"dist-1.0.dist-info/RECORD": b"dist-1.0.dist-info/METADATA,md5=x,1\n"}, "its RECORD has no hash of"),
    "record twice": ({}, {"dist-1.0.dist-info/RECORD": b"a,sha256=x,1\na,sha256=y,1\n"}, "a line that is not `path,hash,size`"),
    "other file": ({"dist/a.py": b"1"}, {"dist/a.py": b"2"}, "dist/a.py is not what its RECORD says"),
    "unlisted": ({}, {"dist/more.py": b""}, "its RECORD has no hash of dist/more.py"),
    "name": ({}, {"dist-1.0.dist-info/METADATA": b"Name: other\nVersion: 1.0\n"}, "METADATA says that it is 'other' '1.0'"),
    "version": ({}, {"dist-1.0.dist-info/METADATA": b"Name: dist\nVersion: 2.0\n"}, "METADATA says that it is 'dist' '2.0'"),
    "two infos": ({"x-1.0.dist-info/METADATA": b""}, {}, "it has 2 folders *.dist-info"),
    "bomb": ({"dist/bomb.py": b"\0" * (65 * 2**20)}, {}, "it unpacks to more than 64 MiB"),
    "many": ({f"dist/m{n}.py": b"" for n in range(5000)}, {}, "at most 4096 are taken"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_WHEELS)
async def test_a_wheel_that_is_not_what_it_says_is_refused(host: Host, name: str) -> None:
    files, extra, text = BAD_WHEELS[name]
    need = keep_wheel(host.cache, "dist", "1.0", *build_wheel("dist", "1.0", files, extra=extra))
    reason, message = await host.refused(DEMO.format(imports="", found="1"), wheels=(need,))
    assert (reason, text in message) == ("WheelInvalid", True), message
    assert "dist-1.0-py3-none-any.whl" in message


def test_two_files_of_one_name_are_refused() -> None:
    """Whoever held the first against RECORD and ran the last ran what nobody had looked at."""
    name, data = build_wheel("dist", "1.0", {"dist/a.py": b"1"})
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("dist/a.py", b"2")
    data = buffer.getvalue()
    file = Wheel(name, hashlib.sha256(data).hexdigest())
    with pytest.raises(PluginRejected, match=r"'dist/a\.py' is in it twice"):
        wheels.read(file, WheelNeed("dist", "1.0", (file,)), data, native=False)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("dist/table.bin", b"\x7fELF\2\1\1"),
        ("dist/notes.py", b"\x7fELF\2\1\1"),
        ("dist/lib.so.6", b""),
        ("dist/fast.pyd", b""),
        ("dist-1.0.data/platlib/dist/fast.so", b""),
        ("dist-1.0.data/scripts/tool", b"\xcf\xfa\xed\xfe"),
    ],
)
async def test_compiled_code_is_found_wherever_it_hides(host: Host, path: str, content: bytes) -> None:
    need = keep_wheel(host.cache, "dist", "1.0", *build_wheel("dist", "1.0", {"dist/__init__.py": b"", path: content}))
    reason, message = await host.refused(DEMO.format(imports="import dist", found="1"), wheels=(need,))
    assert (reason, f"holds compiled code ({path}), which was not granted" in message) == ("PluginNotPermitted", True)


async def test_what_a_wheel_would_have_an_installer_do_is_not_done(host: Host) -> None:
    """Lines in a `.pth` run at the start of an interpreter; scripts and data go where others find them. Archives in it are data."""
    inner = evil(**{"inner/__init__.py": b"X = 1"})
    files = {
        "dist/__init__.py": b"",
        "evil.pth": b"import os; os.environ['EVIL'] = '1'",
        "dist-1.0.data/purelib/pure.py": b"X = 5",
        "dist-1.0.data/purelib/more.pth": b"import os",
        "dist-1.0.data/scripts/tool.py": b"X = 1",
        "dist-1.0.data/data/etc/conf.py": b"X = 1",
        "dist/inner.zip": inner,
    }
    need = keep_wheel(host.cache, "dist", "1.0", *build_wheel("dist", "1.0", files))
    before = sorted(path.name for path in host.cache.rglob("*"))
    assert await found(host, "import pure", "pure.X", wheels=(need,)) == 5
    for name in ("tool", "conf", "etc.conf", "inner", "evil"):
        reason, message = await host.refused(DEMO.format(imports=f"import {name}", found="1"), wheels=(need,))
        assert (reason, f"imports {name.partition('.')[0]}" in message) == ("PluginNotPermitted", True), message
    after = {path.name for path in host.cache.rglob("*")} - set(before)
    assert all(name.endswith(".zip") for name in after), "only the artefacts that this test made"
    assert "EVIL" not in os.environ


async def test_a_wheel_for_other_machines_says_what_there_is(host: Host) -> None:
    files = tuple(Wheel(f"dist-1.0-{tag}.whl", "0" * 64) for tag in ("cp27-none-any", "cp311-cp311-win_amd64"))
    reason, message = await host.refused(DEMO.format(imports="", found="1"), wheels=(WheelNeed("dist", "1.0", files),))
    assert reason == "WheelInvalid"
    assert "There is dist-1.0-cp27-none-any.whl, dist-1.0-cp311-cp311-win_amd64.whl" in message


async def test_a_wheel_of_another_name_is_refused(host: Host) -> None:
    need = WheelNeed("dist", "1.0", (Wheel("other-1.0-py3-none-any.whl", "0" * 64),))
    reason, message = await host.refused(DEMO.format(imports="", found="1"), wheels=(need,))
    assert (reason, "its name is not that of dist 1.0" in message) == ("WheelInvalid", True)


async def test_two_packages_of_one_name_are_refused(host: Host) -> None:
    need = keep_wheel(host.cache, "dist", "1.0", *build_wheel("dist", "1.0", {"demo/x.py": b""}))
    reason, message = await host.refused(DEMO.format(imports="", found="1"), wheels=(need,))
    assert (reason, "has two packages demo" in message) == ("PluginLoadFailed", True)
