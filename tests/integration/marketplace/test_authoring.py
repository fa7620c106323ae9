"""`nexus plugin new | build | sign | verify | publish | bundle` as they are typed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from nexus_core.model.load import parse
from nexus_marketplace import bundles
from nexus_marketplace.refusing import PublishRefused

from tests.integration.marketplace.conftest import Site
from tests.integration.marketplace.test_commands import nexus


def done(*arguments: str | Path, cwd: Path) -> str:
    ran = nexus(*arguments, cwd=cwd)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    done("plugin", "new", "acme-headers", cwd=tmp_path)
    return tmp_path / "acme-headers"


def test_a_new_project_has_tests_that_pass_and_builds(project: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (ran.returncode, "2 passed" in ran.stdout) == (0, True), ran.stdout + ran.stderr
    built = json.loads(done("plugin", "build", "acme-headers", "-o", "json", cwd=tmp_path))
    assert (built["name"], built["version"], built["signed"]) == ("acme-headers", "0.1.0", False)
    entry = (project / "pyproject.toml").read_text()
    assert '[project.entry-points."nexus.plugins"]\nacme-headers = "acme_headers_plugin.plugin:AcmeHeaders"' in entry
    (manifest,) = project.glob("*/plugin.yaml")
    asked = yaml.safe_load(manifest.read_text())["permissions"]["headers"]
    assert asked == {"read": ["x-acme-headers*"], "write": ["x-acme-headers*"]}, "what it uses, and no more"
    again = nexus("plugin", "new", "acme-headers", cwd=tmp_path)
    assert (again.returncode, "exists and is not empty" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("Acme",), "is no name of a plugin"),
        (("../x",), "is no name of a plugin"),
        (("true",), "is no name of a plugin"),
        (("x", "--package", "a-b"), "is no import package"),
        (("x", "--package", "class"), "is no import package"),
        (("x", "--package", "json"), "is there already"),
        (("x", "--package", "nexus_sdk"), "is there already"),
        (("nexus-headers",), "is a name of Nexus itself"),
    ],
)
def test_names_that_cannot_be_used_are_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    ran = nexus("plugin", "new", *arguments, cwd=tmp_path)
    assert (ran.returncode, told in ran.stderr) == (2, True), ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["reply", "plugin"])
def test_a_name_whose_class_would_have_anothers_name_makes_a_project_that_builds(tmp_path: Path, name: str) -> None:
    done("plugin", "new", name, cwd=tmp_path)
    done("plugin", "build", name, cwd=tmp_path)
    assert f"class {name.capitalize()}Hooks(Plugin):" in (tmp_path / name / f"{name}_plugin" / "plugin.py").read_text()


def test_a_release_is_built_signed_verified_and_published(project: Path, tmp_path: Path) -> None:
    done("plugin", "build", project, cwd=tmp_path)
    file = "dist/acme-headers-0.1.0.json"
    unsigned = nexus(
        "plugin", "publish", file, "--key", "acme.pem", "--publisher", "acme", "--to", "public", cwd=tmp_path
    )
    assert (unsigned.returncode, "is not signed" in unsigned.stderr) == (2, True)
    done("plugin", "sign", file, "--key", "acme.pem", "--publisher", "acme", cwd=tmp_path)
    printed = done(
        "plugin", "publish", file, "--key", "acme.pem", "--publisher", "acme", "--to", "public", cwd=tmp_path
    )
    manifest = yaml.safe_load(printed)
    assert parse(manifest).problems == ()
    key = manifest["spec"]["publishers"][0]["publicKey"]
    assert "verified acme-headers 0.1.0" in done("plugin", "verify", file, "--key", key, cwd=tmp_path)
    assert "ok" in done("marketplace", "verify", "public", "--key", f"acme={key}", cwd=tmp_path)
    release = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**release, "permissions": {"modules": ["socket"]}}))
    changed = nexus("plugin", "verify", file, "--key", key, cwd=tmp_path)
    assert (changed.returncode, "PluginSignatureInvalid" in changed.stderr) == (1, True)
    (tmp_path / file).write_text(json.dumps(release))
    (tmp_path / "dist" / "acme-headers-0.1.0.zip").write_bytes(b"swapped")
    swapped = nexus("plugin", "verify", file, "--key", key, cwd=tmp_path)
    assert (swapped.returncode, "Build both again" in swapped.stderr) == (2, True)


def test_a_fault_of_the_plugin_is_told_as_it_is(project: Path, tmp_path: Path) -> None:
    path = project / "acme_headers_plugin" / "plugin.py"
    path.write_text(path.read_text().replace("def on_response", "def on_respones"))
    ran = nexus("plugin", "build", project, cwd=tmp_path)
    assert ran.returncode == 2
    assert "on_respones is no hook. Did you mean on_response?" in ran.stderr
    assert ".hooks: AcmeHeaders does not have on_response" in ran.stderr


# ---- bundles


@pytest.fixture
def served(project: Path, site: Site, tmp_path: Path) -> dict[str, Any]:
    """A marketplace on a web server, and manifests that use it."""
    printed = done(
        "plugin", "publish", project, "--key", "acme.pem", "--publisher", "acme", "--to", site.root, "--url", f"{site.url}/", cwd=tmp_path
    )  # fmt: skip
    manifest: dict[str, Any] = yaml.safe_load(printed)
    plugin = {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusPlugin",
        "metadata": {"name": "acme-headers", "namespace": "shop"},
        "spec": {"marketplace": "acme"},
    }
    service = {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusService",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"type": "http", "process": {"command": ["true"], "port": 9001}, "expose": {"path": "/"}},
    }
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "all.yaml").write_text(yaml.safe_dump_all([manifest, plugin, service]))
    return manifest


def test_a_bundle_carries_a_marketplace_over_the_gap(served: dict[str, Any], site: Site, tmp_path: Path) -> None:
    told = done("plugin", "bundle", "export", "-f", "site", "-o", "plugins.tar", cwd=tmp_path)
    assert "acme: acme-headers 0.1.0; 0 wheels" in told
    rows = json.loads(
        done("plugin", "bundle", "import", "plugins.tar", "--to", "there", "-f", "site", "-o", "json", cwd=tmp_path)
    )
    assert [(row["marketplace"], row["plugins"]) for row in rows] == [("acme", "acme-headers 0.1.0")]
    key = served["spec"]["publishers"][0]["publicKey"]
    assert "ok" in done("marketplace", "verify", "there/acme", "--key", f"acme={key}", cwd=tmp_path)
    done("plugin", "bundle", "import", "plugins.tar", "--to", "there", "-f", "site", cwd=tmp_path)
    # A newer one, then the old one again: it is not taken back.
    done("marketplace", "refresh", site.root, "--key", "acme.pem", cwd=tmp_path)
    done("plugin", "bundle", "export", "-f", "site", "-o", "newer.tar", cwd=tmp_path)
    done("plugin", "bundle", "import", "newer.tar", "--to", "there", "-f", "site", cwd=tmp_path)
    ran = nexus("plugin", "bundle", "import", "plugins.tar", "--to", "there", "-f", "site", cwd=tmp_path)
    assert (ran.returncode, "MarketplaceRolledBack" in ran.stderr) == (1, True), ran.stderr


def test_a_bundle_of_a_marketplace_that_asks_for_a_password(served: dict[str, Any], site: Site, tmp_path: Path) -> None:
    file = tmp_path / "site" / "all.yaml"
    file.write_text(file.read_text().replace("http://", "http://reader:pass-word@"))
    site.headers.clear()
    told = done("plugin", "bundle", "export", "-f", "site", "-o", "plugins.tar", cwd=tmp_path)
    assert "acme: acme-headers 0.1.0; 0 wheels" in told
    assert any(path.startswith("/artefacts/") for path in site.asked)
    assert all("authorization" in headers for headers in site.headers), "artefacts are asked for with it, too"
    assert b"pass-word" not in (tmp_path / "plugins.tar").read_bytes()


def test_a_bundle_of_another_marketplace_is_refused(served: dict[str, Any], tmp_path: Path) -> None:
    done("plugin", "bundle", "export", "-f", "site", "-o", "plugins.tar", cwd=tmp_path)
    other = json.loads(json.dumps(served))
    other["spec"]["publishers"][0]["publicKey"] = "A" * 43 + "="
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "m.yaml").write_text(yaml.safe_dump(other))
    ran = nexus("plugin", "bundle", "import", "plugins.tar", "--to", "there", "-f", "other", cwd=tmp_path)
    assert (ran.returncode, "MarketplaceNotTrusted" in ran.stderr) == (1, True), ran.stderr
    assert not (tmp_path / "there").exists()


def remade(tar: Path, change: dict[str, bytes]) -> Path:
    """Return a copy with other members' content, by name."""
    target = tar.with_name("changed.tar")
    with tarfile.open(tar) as old, tarfile.open(target, "w") as new:
        for member in old:
            opened = old.extractfile(member)
            assert opened is not None
            data = change.get(member.name, opened.read())
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def test_a_changed_bundle_is_refused_whole(served: dict[str, Any], tmp_path: Path) -> None:
    done("plugin", "bundle", "export", "-f", "site", "-o", "plugins.tar", cwd=tmp_path)
    with tarfile.open(tmp_path / "plugins.tar") as archive:
        names = archive.getnames()
    artefact = next(name for name in names if "/artefacts/" in name)
    index = next(name for name in names if "/targets/" in name)
    reasons = {
        artefact: "PluginDigestMismatch",
        index: "MarketplaceNotTrusted",
        "acme/metadata/timestamp.json": "MarketplaceInvalid",
    }
    for name, reason in reasons.items():
        changed = remade(tmp_path / "plugins.tar", {name: b"{}"})
        ran = nexus("plugin", "bundle", "import", changed, "--to", "there", "-f", "site", cwd=tmp_path)
        assert (ran.returncode, reason in ran.stderr) == (1, True), (name, ran.stderr)
        assert not (tmp_path / "there").exists()


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


HEAD = (
    tarfile.TarInfo("bundle.json"),
    b'{"format": 1, "marketplaces": {"acme": {"root_keys": [], "threshold": 1, "publishers": {}}}}',
)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "acme/../x", "acme/metadata/../../x", "acme/metadata/x.json", "other/index.json", "acme/.lock",
     "acme/artefacts/x.zip", "acme/metadata\\timestamp.json", "acme//index.json", "acme", "bundle.json"],
)  # fmt: skip
def test_members_with_other_names_are_refused(name: str) -> None:
    with pytest.raises(PublishRefused, match="no file of a marketplace"):
        bundles.unpack(tar_of(HEAD, (tarfile.TarInfo(name), b"x")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files_are_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("acme/index.json")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(PublishRefused, match="no plain file"):
        bundles.unpack(tar_of(HEAD, (info, b"")))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty|cannot be read"),
        (b"x" * 2000, "cannot be read"),
        (tar_of((tarfile.TarInfo("index.json"), b"x")).read(), "begins with 'index.json'"),
        (tar_of((tarfile.TarInfo("bundle.json"), b"[")).read(), "cannot be read"),
        (tar_of((tarfile.TarInfo("bundle.json"), b'{"format": 2, "marketplaces": {}}')).read(), "has format 2"),
        (
            tar_of((tarfile.TarInfo("bundle.json"), HEAD[1].replace(b"acme", b"../acme"))).read(),
            "is no name",
        ),
        (tar_of(HEAD, (tarfile.TarInfo("acme/index.json"), b"x" * 5000)).read()[:3000], "cut off|cannot be read"),
        (tar_of(HEAD, *[(tarfile.TarInfo("acme/index.json"), b"x")] * 2).read(), "twice"),
    ],
)
def test_a_file_that_is_no_bundle_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(PublishRefused, match=told):
        bundles.unpack(io.BytesIO(data))


def test_wheels_are_copied_into_the_marketplace_and_the_bundle(project: Path, site: Site, tmp_path: Path) -> None:
    wheel = b"not opened here"
    digest = hashlib.sha256(wheel).hexdigest()
    name = "acme_lib-3.0-cp39-cp39-win_amd64.whl"
    (site.root / "files").mkdir()
    (site.root / "files" / name).write_bytes(wheel)

    async def page(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"files": [{"filename": name, "url": f"/files/{name}"}]})

    site.special = {"/simple/acme-lib/": page}
    manifest = project / "acme_headers_plugin" / "plugin.yaml"
    said = yaml.safe_load(manifest.read_text())
    said["wheels"] = [{"name": "acme-lib", "version": "3.0", "files": [{"filename": name, "sha256": digest}]}]
    said["permissions"]["nativeCode"] = True
    manifest.write_text(yaml.safe_dump(said))
    common = ("--key", "acme.pem", "--publisher", "acme", "--to", tmp_path / "market", "--pypi", f"{site.url}/simple/")
    printed = done("plugin", "publish", project, *common, "--copy-wheels", cwd=tmp_path)
    assert (tmp_path / "market" / "wheels" / f"{digest}.whl").read_bytes() == wheel
    plugin = {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusPlugin",
        "metadata": {"name": "acme-headers", "namespace": "shop"},
        "spec": {"marketplace": "acme", "grants": {"nativeCode": True}},
    }
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "all.yaml").write_text(yaml.safe_dump_all([yaml.safe_load(printed), plugin]))
    site.special = {}
    ran = nexus(
        "plugin", "bundle", "export", "-f", "site", "-o", "plugins.tar", "--pypi", "http://127.0.0.1:1/", cwd=tmp_path
    )
    assert "acme: acme-headers 0.1.0; 1 wheels" in ran.stdout, ran.stderr
    done("plugin", "bundle", "import", "plugins.tar", "--to", "there", cwd=tmp_path)
    assert (tmp_path / "there" / "acme" / "wheels" / f"{digest}.whl").read_bytes() == wheel
