"""`nexus marketplace` as it is typed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from nexus_core.marketplace import Index
from nexus_core.model.load import parse
from nexus_core.snapshot import Permissions, Release
from nexus_marketplace import listing
from nexus_marketplace.publishing import public_key, read_key
from nexus_marketplace.repository import Repository
from nexus_marketplace.serving import build_app, keep_fresh

PLUGINS = Path(__file__).parents[3] / "plugins"


def nexus(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nexus_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)


def built(tmp_path: Path, *more: str, plugin: str = "request-id") -> dict[str, object]:
    done = nexus(
        "marketplace", "build", PLUGINS / plugin, "--key", "acme.pem", "--publisher", "nexus", "--to", "public", *more, "-o", "json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made: dict[str, object] = json.loads(done.stdout)
    return made


def test_build_prints_the_manifest_that_trusts_it(tmp_path: Path) -> None:
    done = nexus(
        "marketplace", "build", PLUGINS / "request-id", "--key", "acme.pem", "--publisher", "nexus", "--to", "public",
        "--root-key", "root.pem", "--online-key", "online.pem", "--url", "oci://ghcr.io/acme/plugins:latest", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = yaml.safe_load(done.stdout)
    assert parse(manifest).problems == ()
    assert manifest["spec"]["source"] == {"oci": "ghcr.io/acme/plugins:latest"}
    assert manifest["spec"]["trust"]["rootKeys"] == [public_key(read_key(tmp_path / "root.pem"))]
    assert (tmp_path / "root.pem").stat().st_mode & 0o777 == 0o600


def test_releases_are_added_and_none_is_lost(tmp_path: Path) -> None:
    built(tmp_path)
    made = built(tmp_path, plugin="api-key")
    verified = nexus(
        "marketplace", "verify", "public", "--key", f"nexus={made['publicKey']}", "-o", "json", cwd=tmp_path
    )
    assert verified.returncode == 0, verified.stderr
    assert [(row["plugin"], row["state"]) for row in json.loads(verified.stdout)] == [
        ("api-key", "ok"),
        ("request-id", "ok"),
    ]
    artefact = next((tmp_path / "public" / "artefacts").iterdir())
    artefact.write_bytes(b"swapped")
    verified = nexus("marketplace", "verify", "public/index.json", "--key", str(made["publicKey"]), cwd=tmp_path)
    assert verified.returncode == 1
    assert "is not what was signed" in verified.stdout


def test_keys_are_rotated_and_old_pins_follow(tmp_path: Path) -> None:
    made = built(tmp_path, "--root-key", "root.pem", "--online-key", "online.pem")
    (root,) = made["rootKeys"]  # type: ignore[misc]
    key = ("--key", f"nexus={made['publicKey']}")
    rotated = nexus(
        "marketplace", "rotate-root", "public", "--old-key", "root.pem", "--old-key", "acme.pem", "--old-key", "online.pem",
        "--root-key", "new.pem", "--targets-key", "acme.pem", "--online-key", "online2.pem", cwd=tmp_path,
    )  # fmt: skip
    assert rotated.returncode == 0, rotated.stderr
    new = public_key(read_key(tmp_path / "new.pem"))
    assert new in rotated.stdout
    for pin in (str(root), new):
        verified = nexus("marketplace", "verify", "public", *key, "--root-key", pin, cwd=tmp_path)
        assert verified.returncode == 0, verified.stderr
    refused = nexus("marketplace", "refresh", "public", "--key", "online.pem", cwd=tmp_path)
    assert (refused.returncode, "None of these keys signs timestamp" in refused.stderr) == (2, True)
    refreshed = nexus("marketplace", "refresh", "public", "--key", "online2.pem", cwd=tmp_path)
    assert (refreshed.returncode, "signed snapshot, timestamp" in refreshed.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("build", "nowhere", "--key", "k", "--publisher", "p", "--to", "x"), 2, "nowhere is not a directory"),
        (
            ("build", ".", "--key", "k", "--publisher", "p", "--to", "x"),
            2,
            "has no plugin.yaml, and below it there are none",
        ),
        (("refresh", "nowhere", "--key", "k.pem"), 2, "There is no key at k.pem"),
        (("verify", "nowhere", "--key", "A" * 43 + "="), 2, "neither a directory nor http(s):// nor oci://"),
        (("verify", ".", "--key", "A" * 43 + "="), 1, "is no signed marketplace"),
        (("verify", "http://127.0.0.1:1/", "--key", "A" * 43 + "="), 1, "MarketplaceUnreachable"),
        (("serve", "."), 2, "has no metadata/timestamp.json"),
        (("push", ".", "ghcr.io/x"), 2, "names no image"),
        (("push", ".", "oci://ghcr.io/x"), 1, "Name a directory that `nexus marketplace build` wrote"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = nexus("marketplace", *arguments, cwd=tmp_path)
    assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_it_is_served_and_signed_anew(tmp_path: Path) -> None:
    made = built(tmp_path, "--timestamp-days", "1")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "nexus_cli",
        "marketplace",
        "serve",
        "public",
        "--listen",
        f"127.0.0.1:{port}",
        "--key",
        "acme.pem",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while True:
            verified = nexus(
                "marketplace",
                "verify",
                f"http://127.0.0.1:{port}/",
                "--key",
                f"nexus={made['publicKey']}",
                cwd=tmp_path,
            )
            # The timestamp counts for a day, half of which is less than half of the 30 that `serve` would give it.
            if verified.returncode == 0 and "timestamp 2" in verified.stderr:
                break
            assert process.poll() is None
            assert time.monotonic() < deadline, verified.stderr
            time.sleep(0.1)
        with (
            pytest.raises(urllib.error.HTTPError, match="404"),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/../acme.pem"),
        ):
            pass
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "signed snapshot, timestamp anew" in err


# ---- the server, in this process


async def test_files_are_served_with_ranges_and_validators_and_nothing_else_is(tmp_path: Path) -> None:
    built(tmp_path)
    public = tmp_path / "public"
    (public / "acme.pem").write_text("secret")
    (public / "metadata" / ".x.part").write_text("half written")
    (public / "metadata" / "link.json").symlink_to(tmp_path / "acme.pem")
    async with TestClient(TestServer(build_app(public, "Acme"))) as client:
        name = next((public / "artefacts").iterdir()).name
        async with client.get(f"/artefacts/{name}") as response:
            assert (response.status, response.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            etag, whole = response.headers["ETag"], await response.read()
        async with client.get(f"/artefacts/{name}", headers={"If-None-Match": etag}) as response:
            assert response.status == 304
        async with client.get(f"/artefacts/{name}", headers={"Range": "bytes=2-9"}) as response:
            assert (response.status, await response.read()) == (206, whole[2:10])
        async with client.get("/metadata/timestamp.json") as response:
            assert response.headers["Cache-Control"] == "no-cache"
        for path in ("/acme.pem", "/.lock", "/metadata/.x.part", "/metadata/link.json", "/metadata", "/metadata/", "/%2e%2e/acme.pem",
                     "/metadata/%2e%2e/acme.pem", "/metadata//timestamp.json", "/metadata/..%2facme.pem"):  # fmt: skip
            async with client.get(path) as response:
                assert response.status == 404, path
        async with client.post("/") as response:
            assert response.status == 405


async def test_the_page_shows_plugins_to_people(tmp_path: Path) -> None:
    built(tmp_path)
    async with TestClient(TestServer(build_app(tmp_path / "public", "Acme"))) as client, client.get("/") as response:
        page = await response.text()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "request-id" in page


async def test_a_marketplace_without_an_index_is_told(tmp_path: Path) -> None:
    async with TestClient(TestServer(build_app(tmp_path, "Acme"))) as client, client.get("/") as response:
        assert response.status == 503


def test_nothing_of_an_index_becomes_markup() -> None:
    evil = "\"'><script>alert(1)</script>"
    release = Release(
        name=f"x{evil}", version=f"1{evil}", api=f">=1{evil}", package="x", entry_point="x:X", sha256="", url="", summary=evil,
        publisher=evil, hooks=(evil,), permissions=Permissions(network=(evil,), read_headers=(evil,)), licence=evil, changelog=evil,
        homepage=f"https://x.test/{evil}", icon=f"https://x.test/{evil}", channel=evil, host=(evil,),
        screenshots=(f"https://x.test/{evil}",),
    )  # fmt: skip
    index = Index((release,))
    index.__dict__["by_name"] = {release.name: (release,)}
    page = listing.render(index, evil).decode()
    assert "<script" not in page
    assert not re.search(r"<[^>]*\salert", page)
    assert page.count("&lt;script&gt;") >= 12
    scripted = Release(
        name="x",
        version="1.0.0",
        api=">=1",
        package="x",
        entry_point="x:X",
        sha256="",
        url="",
        icon="javascript:alert(1)",
        screenshots=("javascript:alert(2)", "https://x.test/a.png"),
    )
    page = listing.render(Index((scripted,)), "x").decode()
    assert "javascript:" not in page
    assert '<a href="https://x.test/a.png"' in page
    assert "nexus plugin install x " in page


async def test_metadata_is_signed_anew_when_half_of_its_time_is_over(tmp_path: Path) -> None:
    built(tmp_path)
    repository, key = Repository(tmp_path / "public"), read_key(tmp_path / "acme.pem")
    now = datetime.now(UTC)
    versions = []
    for days in (1, 16, 17, 40):
        task = asyncio.create_task(
            keep_fresh(repository, (key,), every_s=3600, now_utc=lambda days=days: now + timedelta(days=days))
        )  # type: ignore[misc]
        before = (tmp_path / "public" / "metadata" / "timestamp.json").read_bytes()
        for _ in range(50):
            await asyncio.sleep(0.01)
            if (tmp_path / "public" / "metadata" / "timestamp.json").read_bytes() != before:
                break
        task.cancel()
        versions.append(
            json.loads((tmp_path / "public" / "metadata" / "timestamp.json").read_bytes())["signed"]["version"]
        )
    assert versions == [1, 2, 2, 3]
