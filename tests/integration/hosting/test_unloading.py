"""What is let go of is gone: code, memory, names; whether or not the heap is frozen, as a gateway's is."""

from __future__ import annotations

import gc
import linecache
import logging
import sys
import weakref
from collections.abc import Iterator

import pytest
from nexus_hosting.letting_go import SWEEP_LEFT, leftovers
from nexus_hosting.memory import resident_bytes
from nexus_hosting.testing import build_wheel, keep_wheel

from tests.integration.hosting.conftest import HEAD, Host

CODE = """
import asyncio, enum, functools, logging
from dataclasses import dataclass
from typing import NamedTuple, Optional
from .more import Helper
import dist
LOG = logging.getLogger(__name__)
BIG = bytes(range(256)) * 4096 + b"{version}"
class Kind(enum.Enum):
    A = 1
class Pair(NamedTuple):
    one: int
    other: Optional["Demo"] = None
@dataclass(frozen=True)
class Value:
    number: int
    kind: Optional[Kind] = None
class Demo(Plugin):
    def __init__(self, config):
        super().__init__(config)
        self.me = self
        self.helper = Helper(self)
        self.table = {{number: Value(number) for number in range(100)}}
        self.bound = functools.partial(self.on_request)
    async def start(self):
        self.task = asyncio.create_task(self.work())
        self.context.log.info("started")
    async def work(self):
        await asyncio.Event().wait()
    async def stop(self):
        self.task.cancel()
    def on_request(self, request):
        return BIG[-1:]
    @functools.lru_cache
    def cached(self):
        return BIG
"""
MORE = "class Helper:\n    def __init__(self, plugin):\n        self.plugin = plugin\n"


@pytest.fixture
def frozen() -> Iterator[None]:
    """A heap as a gateway has it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def plugin_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith("_nexus_plugin_")]


@pytest.mark.usefixtures("frozen")
async def test_200_swaps_leave_nothing_behind(host: Host) -> None:
    """Two versions, a megabyte of constants each, swapped as a gateway does: the next one starts, the heap is frozen, the former goes."""
    need = keep_wheel(
        host.cache, "dist", "1.0", *build_wheel("dist", "1.0", {"dist/__init__.py": b"X = b'x' * 100000"})
    )
    versions = [
        host.instance(HEAD + CODE.format(version=version), files={"more.py": MORE}, wheels=(need,)) for version in "12"
    ]
    finders = len(sys.meta_path)
    running = await host.start(versions[0])
    sizes = []
    for number in range(1, 201):
        fresh = await host.start(versions[number % 2])
        gc.freeze()
        assert running.plugin.on_request(None) == versions_of(number - 1)
        running.plugin.cached()
        await host.stop(running)
        running = fresh
        if leftovers.is_due():
            leftovers.sweep()  # as a loop does a second later
        if number % 25 == 0:
            sizes.append(resident_bytes())
    assert {name.split(".")[0] for name in plugin_modules()} == {running.prefix}
    assert len(sys.meta_path) == finders + 1
    assert [
        name for name in logging.Logger.manager.loggerDict if "_nexus_" in name and running.prefix not in name
    ] == []
    assert [name for name in linecache.cache if "_nexus_plugin_" in name and running.prefix not in name] == []
    assert leftovers.count() < SWEEP_LEFT
    # 200 MB otherwise. What the allocator keeps at hand comes and goes.
    assert max(sizes[1:]) - sizes[1] < 8 * 2**20, [size // 2**10 for size in sizes]


def versions_of(number: int) -> bytes:
    return b"12"[number % 2 :][:1]


@pytest.mark.usefixtures("frozen")
async def test_what_is_large_is_free_at_once(host: Host) -> None:
    """Without any collection: the heap may be frozen, and its next thaw far away."""
    running = await host.start(
        HEAD
        + "class Big:\n    pass\nclass Demo(Plugin):\n    def __init__(self, config):\n        self.big = Big()\n        self.me = self\n"
        "    def on_request(self, request):\n        return self.big\n"
    )
    big = weakref.ref(running.plugin.big)
    gc.freeze()
    gc.disable()
    try:
        await host.stop(running)
        assert big() is None
    finally:
        gc.enable()


async def test_a_failed_load_leaves_nothing_behind(host: Host) -> None:
    for code in (
        "raise RuntimeError",
        "import demo.missing",
        "class Demo(Plugin):\n    async def start(self):\n        1 / 0",
    ):
        await host.refused(HEAD + code)
        assert plugin_modules() == []


async def test_a_release_lets_go_with_its_last_user(host: Host) -> None:
    running = await host.start(
        HEAD + "class Demo(Plugin):\n    stopped = []\n    async def stop(self):\n        self.stopped.append(1)\n"
    )
    stopped = running.plugin.stopped
    running.acquire()
    await running.release()
    assert stopped == []
    await host.stop(running)
    assert stopped == [1]


async def test_classes_of_every_kind_are_let_go(host: Host) -> None:
    """None of them runs code of its own then, and instances that somebody still has go in peace."""
    code = HEAD + (
        "import abc, enum, msgspec\nfrom typing import Generic, NamedTuple, Protocol, TypedDict, TypeVar\nT = TypeVar('T')\n"
        "class Meta(type):\n    def __getattribute__(cls, name):\n        if name == '__dict__':\n            raise RuntimeError('mine')\n"
        "        return super().__getattribute__(name)\n    def __delattr__(cls, name):\n        raise SystemExit\n"
        "    def __hash__(cls):\n        raise SystemExit\n"
        "class Odd(metaclass=Meta):\n    pass\nclass Slotted:\n    __slots__ = ('a', '__weakref__')\n"
        "class Struct(msgspec.Struct):\n    a: int\n    b: 'Struct | None' = None\n"
        "class Base(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\nclass Derived(Base):\n    def f(self): return 1\n"
        "class Box(Generic[T]):\n    pass\nclass Like(Protocol):\n    def f(self): ...\nclass Typed(TypedDict):\n    a: int\n"
        "class Flag(enum.Flag):\n    A = 1\nclass Named(NamedTuple):\n    a: int\nclass Error(Exception):\n    pass\n"
        "class Ends:\n    def __del__(self):\n        raise RuntimeError('late')\n"
        "class Demo(Plugin):\n    class Inner:\n        pass\n    def __init__(self, config):\n"
        "        self.all = [Odd(), Slotted(), Struct(1, Struct(2)), Derived(), Box(), Flag.A, Named(1), Error(), self.Inner(), Ends()]\n"
        "        self.all[1].a = self\n        self.decoder = msgspec.json.Decoder(Struct)\n"
    )
    running = await host.start(code, release={"host": ("msgspec",)})
    kept = running.plugin.all
    await host.stop(running)
    assert plugin_modules() == []
    assert len(kept) == 10
    del kept, running
    gc.collect()
