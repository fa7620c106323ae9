"""plugin.yaml and the code beside it: what becomes of them, and what is refused with where, what and how to fix it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import parse_index
from nexus_core.snapshot import Permissions, PluginNeed, Wheel, WheelNeed
from nexus_marketplace.publishing import build_artefact, build_index, build_unsigned, public_key
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.verifying import verify_signature

KEY = Ed25519PrivateKey.generate()
CODE = """
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    def on_request(self, request):
        return request
    async def on_done(self, request, done):
        pass
"""
DIGEST = "a" * 64
FULL: dict[str, Any] = {
    "name": "demo", "version": "1.2.0", "api": ">=1.1,<2", "python": ">=3.11", "entryPoint": "acme_demo.plugin:Demo",
    "summary": "Shows all fields.", "failurePolicy": "closed", "hooks": ["on_request", "on_done"],
    "permissions": {
        "network": ["api.acme.test:443", "config:redis.url", "*.acme.test"], "services": ["shop/orders"], "secrets": ["token"],
        "headers": {"read": ["x-acme-*"], "write": []}, "consul": ["acme/"], "modules": ["os"], "nativeCode": True,
    },
    "plugins": [{"name": "core-auth", "versions": ">=2"}, {"name": "base"}],
    "wheels": [{"name": "Acme_Lib", "version": "3.0", "files": [
        {"filename": "acme_lib-3.0-cp311-cp311-manylinux2014_x86_64.whl", "sha256": DIGEST},
        {"filename": "acme_lib-3.0-py3-none-any.whl", "sha256": DIGEST, "url": "https://files.acme.test/acme_lib-3.0-py3-none-any.whl"},
    ]}],
    "host": ["brotli>=1.1"], "conflicts": [{"name": "old-demo"}], "before": ["cors"], "after": ["request-id"], "channel": "beta",
    "licence": "MIT", "homepage": "https://acme.test/demo", "icon": "https://acme.test/demo.svg",
    "screenshots": ["https://acme.test/1.png"], "changelog": "CHANGELOG.md",
    "configSchema": {
        "type": "object", "additionalProperties": False,
        "properties": {"retries": {"type": "integer", "default": 3}, "token": {"type": "string", "writeOnly": True}},
    },
}  # fmt: skip
"""Every field of plugin.yaml."""


def package(tmp_path: Path, manifest: dict[str, Any] | None = None, code: str = CODE, name: str = "acme_demo") -> Path:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "plugin.yaml").write_text(yaml.safe_dump(manifest if manifest is not None else FULL))
    (folder / "__init__.py").write_text("")
    (folder / "plugin.py").write_text(code)
    (folder / "CHANGELOG.md").write_text("# 1.2.0\n\nFirst.\n")
    return folder


def test_all_fields_become_the_release(tmp_path: Path) -> None:
    artefact = build_artefact(package(tmp_path), KEY, "acme")
    release = artefact.release
    assert release.hooks == ("on_done", "on_request")
    assert release.permissions == Permissions(
        network=("*.acme.test", "api.acme.test:443", "config:redis.url"), services=("shop/orders",), secrets=("token",),
        read_headers=("x-acme-*",), write_headers=(), consul=("acme/",), modules=("os",), native=True,
    )  # fmt: skip
    assert release.plugins == (PluginNeed("base"), PluginNeed("core-auth", ">=2"))
    assert release.wheels == (
        WheelNeed("acme-lib", "3.0", (
            Wheel("acme_lib-3.0-cp311-cp311-manylinux2014_x86_64.whl", DIGEST),
            Wheel("acme_lib-3.0-py3-none-any.whl", DIGEST, "https://files.acme.test/acme_lib-3.0-py3-none-any.whl"),
        )),
    )  # fmt: skip
    assert (release.host, release.conflicts) == (("brotli>=1.1",), (PluginNeed("old-demo"),))
    assert (release.before, release.after) == (("cors",), ("request-id",))
    assert (release.channel, release.licence, release.python, release.failure_policy) == (
        "beta",
        "MIT",
        ">=3.11",
        "closed",
    )
    assert release.changelog == "# 1.2.0\n\nFirst.\n"
    assert release.screenshots == ("https://acme.test/1.png",)
    assert release.url == f"artefacts/{hashlib.sha256(artefact.data).hexdigest()}.zip"
    verify_signature(release, public_key(KEY))
    assert parse_index(build_index([artefact]), "here").releases == (release,)


def test_the_same_source_builds_to_the_same_bytes(tmp_path: Path) -> None:
    first = build_artefact(package(tmp_path / "a"), KEY, "acme")
    second = build_artefact(package(tmp_path / "b"), KEY, "acme")
    assert first == second


def test_what_is_signed_is_everything_but_the_address(tmp_path: Path) -> None:
    import msgspec

    release = build_artefact(package(tmp_path), KEY, "acme").release
    verify_signature(msgspec.structs.replace(release, url="https://mirror.test/x.zip"), public_key(KEY))
    changed: dict[str, Any] = {
        "permissions": Permissions(modules=("os", "socket")),
        "hooks": ("on_request",),
        "wheels": (),
        "channel": "stable",
    }
    for field, value in changed.items():
        with pytest.raises(PluginRejected, match="not signed with the key"):
            verify_signature(msgspec.structs.replace(release, **{field: value}), public_key(KEY))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("name", "Demo", r"\.name: 'Demo' is no name\. Write lower-case"),
        ("name", "nexus-demo", r'\.name: names that begin with "nexus-" are those of Nexus'),
        ("name", "all", r'\.name: "all" is reserved'),
        ("version", 1.0, r"\.version: 1\.0 is no text\. Write three numbers, such as 1\.2\.0"),
        ("version", "1.0", r'"1\.0" is not a semantic version'),
        ("version", "1.0.0.post1", r"not a semantic version"),
        ("version", "1.0.0+local", r"not a semantic version"),
        ("version", "v1", r"not a semantic version"),
        ("version", "one", r'"one" is no version'),
        ("api", "1", r'\.api: "1" is no version range\. Write it like ">=1\.1,<2"'),
        ("api", "", r"\.api: it is empty"),
        ("python", "3.11+", r"\.python: .* is no version range"),
        ("entryPoint", "other.plugin:Demo", r'\.entryPoint: "other\.plugin:Demo" is not module:Class inside acme_demo'),
        ("entryPoint", "acme_demo.nowhere:Demo", r"there is no module acme_demo\.nowhere"),
        ("entryPoint", "acme_demo.plugin:Nobody", r"has no class Nobody"),
        ("failurePolicy", "ajar", r"\.failurePolicy: 'ajar' is none of open, closed"),
        ("hooks", ["on_request", "on_done", "on_reqest"], r'\.hooks\[2\]: "on_reqest" is no hook\. Did you mean on_request'),
        ("hooks", ["on_request"], r"\.hooks: on_done \(acme_demo/plugin\.py line 6\) is not listed"),
        ("hooks", ["on_request", "on_done", "on_response"], r"\.hooks: Demo does not have on_response"),
        ("hooks", ["on_done", "on_done", "on_request"], r"named twice"),
        ("hooks", "on_request", r"\.hooks: 'on_request' is no list"),
        ("permissions", {"network": ["https://x.test"]}, r"\.permissions\.network\[0\]: 'https://x.test' cannot be asked for"),
        ("permissions", {"newtork": []}, r"\.permissions\.newtork: is not known\. Did you mean network"),
        ("permissions", {"services": ["orders"]}, r"\.permissions\.services\[0\]"),
        ("permissions", {"headers": {"read": ["X-User"]}}, r"\.permissions\.headers\.read\[0\]"),
        ("permissions", {"headers": {"see": []}}, r"\.permissions\.headers\.see: is not known"),
        ("permissions", {"modules": ["numpy"]}, r'"numpy" is not of the standard library\. List distributions from PyPI in wheels'),
        ("permissions", {"nativeCode": "yes"}, r"\.permissions\.nativeCode: 'yes' is neither true nor false"),
        ("permissions", {"consul": ["/abs"]}, r"\.permissions\.consul\[0\]"),
        ("permissions", [], r"\.permissions: \[\] is no object"),
        ("plugins", [{"name": "demo"}], r"\.plugins\[0\]\.name: it names itself"),
        ("plugins", [{"name": "x", "versions": "latest"}], r"\.plugins\[0\]\.versions"),
        ("plugins", [{"name": "x", "version": ">=1"}], r"\.plugins\[0\]\.version: is not known\. Did you mean versions"),
        ("plugins", [{"name": "old-demo"}], r'\.conflicts: "old-demo" is needed and excluded at once'),
        ("before", ["request-id"], r'\.before: "request-id" is in after, too'),
        ("host", ["brotli ?? 1"], r"\.host\[0\]: .* is no requirement"),
        ("host", ["brotli @ https://x.test/a.whl"], r"\.host\[0\]: it names an address"),
        ("channel", "Beta!", r"\.channel"),
        ("homepage", "javascript:alert(1)", r'\.homepage: "javascript:alert\(1\)" is no address of a page'),
        ("icon", "https://user:pw@x.test/i.svg", r"\.icon: .* is no address"),
        ("icon", "data:image/svg+xml,<svg onload=alert(1)>", r"\.icon: .* is no address"),
        ("screenshots", ["ftp://x.test"], r"\.screenshots\[0\]"),
        ("changelog", "NOTES.md", r"NOTES\.md is missing"),
        ("summary", "x" * 600, r"\.summary: it has 600 characters\. Write at most 512"),
        ("licence", "a\x00b", r"\.licence: it has control characters"),
        ("colour", "red", r"\.colour: is not known"),
        ("configSchema", [], r"\.configSchema: it is no object"),
        ("configSchema", {"type": "array"}, r"\.configSchema\.type: a configuration is an object"),
        ("configSchema", {"properties": {"a": {"type": "strnig"}}}, r"\.configSchema\.properties\.a\.type"),
        ("configSchema", {"$schema": "http://json-schema.org/draft-07/schema#"}, r"is another draft"),
        ("configSchema", {"properties": {"a": {"$ref": "https://x.test/s.json"}}}, r"properties\.a\.\$ref: .* is elsewhere"),
        ("configSchema", {"properties": {"a": {"type": "integer", "default": "3"}}}, r"properties\.a\.default: it does not follow its own"),
        ("configSchema", {"properties": {"a": {"writeOnly": True, "default": "x"}}}, r"a secret has a default"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_with_its_path(tmp_path: Path, path: str, value: Any, told: str) -> None:
    with pytest.raises(PublishRefused, match=told):
        build_unsigned(package(tmp_path, {**FULL, path: value}), "acme")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "Other"}, r'"acme_lib-3\.0-py3-none-any\.whl" is acme-lib 3\.0'),
        ({"version": "latest"}, r"\.wheels\[0\]\.version: 'latest' is no version"),
        ({"files": []}, r"\.wheels\[0\]\.files: no file is named"),
        ({"files": [{"filename": "acme_lib-3.0.tar.gz", "sha256": DIGEST}]}, r"\.filename: .* is no wheel"),
        ({"files": [{"filename": "acme_lib-3.0-py3-none-any.whl", "sha256": "A" * 64}]}, r"\.sha256: .* is no digest"),
        ({"files": [{"filename": "acme_lib-3.0-py3-none-any.whl"}]}, r"\.sha256: None is no digest"),
    ],
)
def test_a_bad_wheel_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    wheel = {**FULL["wheels"][0], **change}
    with pytest.raises(PublishRefused, match=told):
        build_unsigned(package(tmp_path, {**FULL, "wheels": [wheel]}), "acme")


def test_native_code_has_to_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PublishRefused, match=r"holds compiled code, and permissions\.nativeCode is not asked for"):
        build_unsigned(package(tmp_path, {**FULL, "permissions": {}}), "acme")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(PublishRefused) as caught:
        build_unsigned(package(tmp_path, {"name": "X", "colour": 1}), "acme")
    for where in (".name", ".colour", ".version: is missing", ".api: is missing", ".entryPoint: is missing"):
        assert where in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00", "a: &x [*x]", "!!python/object/apply:os.system [id]"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = package(tmp_path)
    (folder / "plugin.yaml").write_text(text)
    with pytest.raises(PublishRefused):
        build_unsigned(folder, "acme")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("on_reqest(self, request): ...", r"plugin\.py line 4: on_reqest is no hook\. Did you mean on_request"),
        ("wants_body(self, request): ...", r"wants_body is no hook"),
        ("on_request(self): ...", r"on_request is called with \(self, request\)"),
        ("on_request(self, request, more): ...", r"on_request is called with \(self, request\)"),
    ],
)
def test_a_wrong_hook_is_found_in_the_source(tmp_path: Path, code: str, told: str) -> None:
    text = f"from nexus_sdk.plugin import Plugin\nclass Demo(Plugin):\n    x = 1\n    def {code}\n"
    with pytest.raises(PublishRefused, match=told):
        build_unsigned(package(tmp_path, {**FULL, "hooks": []}, text), "acme")


def test_a_coroutine_is_refused_where_none_may_be(tmp_path: Path) -> None:
    text = (
        "from nexus_sdk.plugin import Plugin\nclass Demo(Plugin):\n"
        "    async def on_endpoint(self, request, endpoint): ...\n    def start(self): ...\n"
    )
    with pytest.raises(PublishRefused) as caught:
        build_unsigned(package(tmp_path, {**FULL, "hooks": ["on_endpoint", "start"]}, text), "acme")
    assert "on_endpoint cannot be a coroutine" in str(caught.value)
    assert "start has to be a coroutine" in str(caught.value)


def test_hooks_of_bases_in_other_modules_count(tmp_path: Path) -> None:
    text = "from .base import Base as Below\nclass Demo(Below):\n    def on_request(self, request): ...\n"
    folder = package(tmp_path, {**FULL, "hooks": ["on_request", "on_response"]}, text)
    (folder / "base.py").write_text(
        "from nexus_sdk.plugin import Plugin\nclass Base(Plugin):\n    def on_response(self, request, response): ...\n"
    )
    assert build_unsigned(folder, "acme").release.hooks == ("on_request", "on_response")


def test_releases_of_api_1_0_need_no_list_of_hooks(tmp_path: Path) -> None:
    text = "from nexus_sdk.plugin import Plugin\nclass Demo(Plugin):\n    def on_request(self, request): ...\n"
    plain = {name: FULL[name] for name in ("name", "version", "api", "entryPoint")}
    assert build_unsigned(package(tmp_path, plain, text), "acme").release.hooks == ()


@pytest.mark.parametrize("name", ["json", "acme-demo", "class"])
def test_a_package_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PublishRefused, match=r"Choose another name|is no import package"):
        build_unsigned(package(tmp_path, name=name), "acme")


def test_links_and_broken_code_are_refused(tmp_path: Path) -> None:
    folder = package(tmp_path)
    (folder / "plugin.py").write_text("def (:")
    with pytest.raises(PublishRefused, match=r"plugin\.py line 1: it is no Python"):
        build_unsigned(folder, "acme")
    (folder / "plugin.py").write_text(CODE)
    (folder / "secret.py").symlink_to("/etc/hostname")
    with pytest.raises(PublishRefused, match="is a symbolic link"):
        build_unsigned(folder, "acme")


def test_a_version_cannot_be_published_twice_with_other_content(tmp_path: Path) -> None:
    first = build_index([build_artefact(package(tmp_path / "a"), KEY, "acme")])
    assert build_index([build_artefact(package(tmp_path / "b"), KEY, "acme")], first) == first
    with pytest.raises(PublishRefused, match=r"demo 1\.2\.0 is in the marketplace already"):
        build_index([build_artefact(package(tmp_path / "c", code=CODE + "# changed\n"), KEY, "acme")], first)
