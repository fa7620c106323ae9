"""Plugin code, read before it runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from nexus_hosting.modules import Rules
from nexus_hosting.reading import check
from nexus_marketplace.rejections import PluginRejected


def refusal(code: str, *modules: str) -> str:
    try:
        check(
            {"demo/a.py": code.encode(), "demo/plugin.yaml": b"import socket"},
            frozenset({"demo"}),
            Rules(modules),
            "demo 1.0",
        )
    except PluginRejected as rejected:
        return rejected.message
    return ""


@pytest.mark.parametrize(
    "code",
    [
        "import json, re, asyncio",
        "import demo.b, demo",
        "from . import b",
        "from .. import sys",
        "import xml.etree.ElementTree",
        "try:\n    import socket\nexcept ImportError:\n    pass",
        "try:\n    import socket\nexcept (ImportError, ValueError):\n    pass",
        "import typing\nif typing.TYPE_CHECKING:\n    import socket",
        "def open(path): return path\nopen('x')",
        "from .b import open\nopen('x')",
        "def f(eval): return eval(1)",
        "class A:\n    def open(self): pass\nA().open()",
        "import os\nos.urandom(3)",
        "x = 'import socket'",
        "# import socket",
        "import gzip\ngzip.compress(b'')",
    ],
)
def test_what_is_fine(code: str) -> None:
    assert refusal(code, "xml") == ""


@pytest.mark.parametrize(
    ("code", "line", "what"),
    [
        ("\nimport socket", 2, "imports socket"),
        ("import json, socket", 1, "imports socket"),
        ("import json as j\nimport socket as s", 2, "imports socket"),
        ("from socket import socket", 1, "imports socket"),
        ("from os.path import join", 1, "imports os.path"),
        ("import xml.sax", 1, "imports xml.sax"),
        ("from logging import handlers, FileHandler", 1, "uses logging.FileHandler"),
        ("try:\n    import socket\nexcept ValueError:\n    pass", 2, "imports socket"),
        ("try:\n    pass\nexcept ImportError:\n    import socket", 4, "imports socket"),
        ("if 1:\n    def f():\n        class A:\n            import socket", 4, "imports socket"),
        ("import os as system\nsystem.environ", 2, "uses os.environ"),
        ("f = open", 1, "uses open()"),
        ("exec('1')", 1, "uses exec()"),
        ("compile('1', '', 'exec')", 1, "uses compile()"),
        ("__builtins__", 1, "uses __builtins__"),
        ("().__class__.__subclasses__()", 1, "uses __subclasses__"),
        ("import json\nimport socket\nimport ssl", 2, "imports socket"),
    ],
)
def test_what_is_not(code: str, line: int, what: str) -> None:
    message = refusal(code)
    assert message.startswith(f"demo 1.0: demo/a.py line {line} {what}, which it may not"), message
    assert "permissions.modules of its plugin.yaml, and in spec.grants.modules of the NexusPlugin" in message


def test_what_is_granted_is_fine() -> None:
    assert refusal("import os, socket\nopen('x')\nos.environ\nfrom os import path", "os", "socket") == ""
    assert refusal("f.__globals__", "inspect") == ""
    assert "imports ssl" in refusal("import socket, ssl", "socket")


def test_a_host_requirement_opens_just_its_own_modules() -> None:
    rules = Rules((), ["jmespath>=1", "protobuf", "not-installed"])
    for name, allowed in {
        "jmespath": True, "jmespath.exceptions": True, "google.protobuf.message": True, "google.auth": False, "google": False,
        "requests": False, "jmespathx": False,
    }.items():  # fmt: skip
        assert rules.is_allowed(name) is allowed, name
    assert rules.leads_on("google")
    assert not Rules(()).leads_on("google")


@pytest.mark.parametrize("code", ["def f(:\n  pass", "x = '\0'", "  indented", "(" * 500 + ")" * 500])
def test_what_is_no_python_is_said_to_be(code: str) -> None:
    assert "demo/a.py line" in refusal(code)
    assert "is not Python" in refusal(code)


def test_plugins_are_read_in_several_threads_at_once() -> None:
    """CPython 3.11 fails at random with SystemError when two threads build trees."""
    deep = "\n".join(f"def f{number}(x):\n    return {'(' * 20}x{' + 1)' * 20}\n" for number in range(300))
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(refusal, [deep] * 16)) == {""}
