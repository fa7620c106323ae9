"""`on_manifest` of real plugins, in real processes beside the operator: what they change, refuse, and do to themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource
from nexus_core.snapshot import PluginInstance, Snapshot
from nexus_core.translate import Session, Translation
from nexus_hosting import manifesthooks
from nexus_hosting.manifesthooks import ManifestHooks
from nexus_hosting.testing import make_instance

HEAD = """
    from nexus_sdk.plugin import Manifest, Plugin, Refusal


    class Demo(Plugin):
"""
PREFIXES = (
    HEAD
    + """
        def on_manifest(self, manifest: Manifest) -> Manifest | Refusal:
            if manifest.kind != "NexusService":
                return manifest
            if manifest.name == "forbidden":
                return Refusal("TeamMissing", "Label it with its team.")
            expose = dict(manifest.spec.get("expose") or {})
            expose["path"] = "/v1" + expose.get("path", "/")
            return manifest.with_spec({**manifest.spec, "expose": expose})
"""
)
LOOPS = HEAD + "        def on_manifest(self, manifest):\n            while True:\n                pass\n"
EXITS = HEAD + "        def on_manifest(self, manifest):\n            import os\n            os._exit(3)\n"
RAISES = HEAD + "        def on_manifest(self, manifest):\n            raise RuntimeError('not today')\n"
RETURNS = HEAD + "        def on_manifest(self, manifest):\n            return 'a text'\n"


def service(name: str, namespace: str = "shop") -> Resource:
    return parse({
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {"backend": {"addresses": ["10.0.0.1:80"]}, "expose": {"path": f"/{name}"}},
    })  # fmt: skip


class Hooked:
    """The hooks of an operator whose one plugin is in the cache."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache = tmp_path / "cache"
        self.hooks = ManifestHooks(self.cache)
        self.session = Session()

    def snapshot(self, code: str, **fields: Any) -> Snapshot:
        release = {"hooks": ("on_manifest",), **fields.pop("release", {})}
        instance: PluginInstance = make_instance(self.cache, code, id="shop/demo", release=release, **fields)
        return Snapshot(plugins=(instance,))

    async def translate(self, snapshot: Snapshot, *resources: Resource) -> Translation:
        hooks = await self.hooks.prepare(snapshot, resources)
        return self.session.translate(resources, manifest_hooks=hooks)


@pytest.fixture
async def hooked(tmp_path: Path) -> AsyncIterator[Hooked]:
    found = Hooked(tmp_path)
    yield found
    await found.hooks.close()


def paths(translation: Translation) -> dict[str, str]:
    return {f"{each.ref.namespace}/{each.ref.name}": each.path for each in translation.services}


async def test_objects_of_its_namespace_are_as_it_returns_them(hooked: Hooked) -> None:
    resources = service("a"), service("b", "other")
    translation = await hooked.translate(hooked.snapshot(PREFIXES), *resources)
    assert paths(translation) == {"other/b": "/b", "shop/a": "/v1/a"}
    assert hooked.hooks.problems == ()


async def test_a_refusal_is_the_objects_own_problem(hooked: Hooked) -> None:
    translation = await hooked.translate(hooked.snapshot(PREFIXES), service("forbidden"), service("a"))
    [problem] = [p for p in translation.problems if p.where.name == "forbidden"]
    assert problem.reason == "PluginRefused"
    assert "Label it with its team." in problem.what
    assert paths(translation)["shop/a"] == "/v1/a"


async def test_nobody_is_asked_twice_about_the_same_object(hooked: Hooked) -> None:
    snapshot = hooked.snapshot(PREFIXES)
    one = service("a")
    await hooked.translate(snapshot, one)
    process = hooked.hooks._hosts["shop/demo"].aside
    before = process.pid
    assert before is not None
    await process.close()  # were anybody asked, there would be no answer
    translation = await hooked.translate(snapshot, one)
    assert paths(translation) == {"shop/a": "/v1/a"}
    translation = await hooked.translate(snapshot, service("a"))
    assert paths(translation) == {"shop/a": "/v1/a"}, "another object of the same content"
    assert hooked.hooks.problems == ()


async def test_another_configuration_is_another_plugin(hooked: Hooked) -> None:
    code = HEAD + (
        "        def on_manifest(self, manifest):\n"
        "            return manifest.with_spec({**manifest.spec, 'expose': {'path': self.config['path']}})\n"
    )
    code = code.replace(
        "        def on_manifest",
        "        def __init__(self, config):\n            super().__init__(config)\n            self.config = config\n\n"
        "        def on_manifest",
    )
    one = service("a")
    translation = await hooked.translate(hooked.snapshot(code, config={"path": "/x"}), one)
    assert paths(translation) == {"shop/a": "/x"}
    translation = await hooked.translate(hooked.snapshot(code, config={"path": "/y"}), one)
    assert paths(translation) == {"shop/a": "/y"}


@pytest.mark.parametrize(
    ("code", "grants", "says"),
    [
        (LOOPS, (), "did not answer for 2 objects within 1 s"),
        (EXITS, ("os",), "ended with code 3"),
        (RAISES, (), "It failed at 2 objects: RuntimeError: not today"),
        (RETURNS, (), "it returned str"),
    ],
)
@pytest.mark.parametrize("policy", ["open", "closed"])
async def test_a_plugin_that_fails_follows_its_policy_and_is_told_of(
    hooked: Hooked, monkeypatch: pytest.MonkeyPatch, code: str, grants: tuple[str, ...], says: str, policy: str
) -> None:
    from nexus_core.snapshot.plugins import Permissions

    monkeypatch.setattr(manifesthooks, "BATCH_S", 1.0)
    asked = Permissions(modules=grants)
    snapshot = hooked.snapshot(code, failure_policy=policy, granted=asked, release={"permissions": asked})
    translation = await hooked.translate(snapshot, service("a"), service("b"))
    shown = [each for each in translation.services if each.path]
    assert len(shown) == (2 if policy == "open" else 0)
    [problem] = hooked.hooks.problems
    assert str(problem.where) == "NexusPlugin shop/demo"
    assert says in problem.what, problem.what


async def test_a_plugin_that_cannot_be_started_says_why(hooked: Hooked) -> None:
    translation = await hooked.translate(hooked.snapshot("import socket"), service("a"))
    assert paths(translation) == {"shop/a": "/a"}
    [problem] = hooked.hooks.problems
    assert problem.reason in ("PluginNotPermitted", "PluginLoadFailed")


async def test_what_failed_is_tried_again_after_a_while(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = hooked.snapshot(PREFIXES)
    [kept] = [p for p in hooked.cache.iterdir() if p.suffix == ".zip"]
    data = kept.read_bytes()
    kept.unlink()
    one = service("a")
    translation = await hooked.translate(snapshot, one)
    assert paths(translation) == {"shop/a": "/a"}
    assert hooked.hooks.problems[0].reason == "PluginFetchFailed"
    kept.write_bytes(data)
    translation = await hooked.translate(snapshot, one)
    assert paths(translation) == {"shop/a": "/a"}, "not yet"
    monkeypatch.setattr(manifesthooks, "RETRY_S", 0.0)
    translation = await hooked.translate(snapshot, one)
    assert paths(translation) == {"shop/a": "/v1/a"}
    assert hooked.hooks.problems == ()


async def test_a_plugin_that_is_gone_leaves_no_process(hooked: Hooked) -> None:
    await hooked.translate(hooked.snapshot(PREFIXES), service("a"))
    host = hooked.hooks._hosts["shop/demo"]
    assert host.aside.pid is not None
    assert not hooked.hooks.is_current(Snapshot())
    translation = await hooked.translate(Snapshot(), service("a"))
    assert paths(translation) == {"shop/a": "/a"}
    assert host.aside.pid is None
    assert hooked.hooks.is_current(Snapshot())
