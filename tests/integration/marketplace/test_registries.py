"""A marketplace in the registry that Debian ships, plain and behind a token service."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from nexus_core.snapshot import PluginInstance
from nexus_core.translate.market_access import Access
from nexus_marketplace.downloading import DownloadFailed
from nexus_marketplace.fetching import fetch, fetch_release
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.sources import FileMissing
from nexus_marketplace.sources.oci import (
    MANIFEST,
    TITLE,
    Login,
    Reference,
    Registry,
    files_of,
    find_login,
    marketplace_files,
    parse,
    push,
)
from nexus_marketplace.troubles import MarketplaceTrouble
from nexus_marketplace.trust import Followed

from tests.integration.marketplace.conftest import Site
from tests.integration.marketplace.test_web import PINS, publish

BINARY = shutil.which("docker-registry")
pytestmark = [pytest.mark.connected, pytest.mark.skipif(BINARY is None, reason="docker-registry is not installed")]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a registry that keeps its blobs in a directory."""
    import socket

    assert BINARY is not None
    folder = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def followed(reference: Reference, state: Path) -> Followed:
    return Followed(Registry(reference, plain_http=True), PINS, state)


def test_a_marketplace_is_pushed_followed_and_pushed_again(registry: str, tmp_path: Path) -> None:
    reference = parse(f"{registry}/acme/plugins:v1")
    publish(tmp_path / "market", "1.0")
    (tmp_path / "market" / "notes.txt").write_text("not of the marketplace")
    (tmp_path / "market" / "metadata" / ".timestamp.json.part").write_text("half written")
    pushed = asyncio.run(push(tmp_path / "market", reference, plain_http=True, login=None))
    assert pushed == len(marketplace_files(tmp_path / "market")) == 7
    follower = followed(reference, tmp_path / "state")
    index, _ = follower.update()
    assert [release.version for release in index.releases] == ["1.0"]
    publish(tmp_path / "market", "1.0", "1.1")
    asyncio.run(push(tmp_path / "market", reference, plain_http=True, login=None))
    index, versions = follower.update()
    assert ([release.version for release in index.releases], versions.timestamp) == (["1.0", "1.1"], 2)
    release = index.releases[1]
    instance = PluginInstance(id="shop/demo", source="", release=release, public_key="", base_url=index.origin)
    data = asyncio.run(fetch(instance, tmp_path / "cache"))
    assert hashlib.sha256(data).hexdigest() == release.sha256
    with pytest.raises(FileMissing):
        Registry(reference, plain_http=True).read("metadata/9.root.json", 100)


def test_a_rolled_back_image_is_refused(registry: str, tmp_path: Path) -> None:
    reference = Reference(registry, "acme/rolled")
    publish(tmp_path / "market", "1.0")
    old = Path(shutil.copytree(tmp_path / "market", tmp_path / "old"))
    publish(tmp_path / "market", "1.0", "1.1")
    asyncio.run(push(tmp_path / "market", reference, plain_http=True, login=None))
    follower = followed(reference, tmp_path / "state")
    follower.update()
    asyncio.run(push(old, reference, plain_http=True, login=None))
    with pytest.raises(MarketplaceTrouble) as caught:
        follower.update()
    assert caught.value.reason == "MarketplaceRolledBack"


def test_what_is_not_there_is_told(registry: str, tmp_path: Path) -> None:
    with pytest.raises(MarketplaceTrouble) as caught:
        followed(Reference(registry, "acme/nothing"), tmp_path).update()
    assert caught.value.reason == "MarketplaceUnreachable"
    assert "answered 404" in caught.value.what
    with pytest.raises(MarketplaceTrouble, match="Name a directory that `nexus marketplace build` wrote"):
        asyncio.run(push(tmp_path, Reference(registry, "acme/nothing"), plain_http=True, login=None))


def guard(site: Site, registry: str, login: Login | None) -> None:
    """Make the site a registry that wants a token, in front of the real one. login: who gets a token; None for everybody."""
    token = "t0ken"

    async def tokens(request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        wanted = (
            "" if login is None else "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        )
        if given != wanted:
            return web.Response(status=401)
        assert request.query["service"] == "the registry"
        assert request.query["scope"].startswith("repository:acme/guarded:pull")
        return web.json_response({"token": token, "expires_in": 60})

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {token}":
            scope = "pull" if request.method in ("GET", "HEAD") else "pull,push"
            challenge = (
                f'Bearer realm="{site.url}/token",service="the registry",scope="repository:acme/guarded:{scope}"'
            )
            return web.Response(
                status=401, headers={"WWW-Authenticate": challenge}, text='{"errors": [{"code": "UNAUTHORIZED"}]}'
            )
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        async with ClientSession(auto_decompress=False) as session:
            url = f"http://{registry}{request.raw_path}"
            async with session.request(request.method, url, headers=headers, data=await request.read()) as answer:
                passed = ("location", "content-type", "docker-content-digest")
                kept = {name: value for name, value in answer.headers.items() if name.lower() in passed}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    class Paths(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            return tokens if path == "/token" else guarded

    site.special = Paths()


def test_a_token_is_fetched_where_the_registry_says(registry: str, site: Site, tmp_path: Path) -> None:
    login = Login("acme", "s3cret")
    guard(site, registry, login)
    reference = Reference(site.url.removeprefix("http://"), "acme/guarded")
    publish(tmp_path / "market", "1.0")
    asyncio.run(push(tmp_path / "market", reference, plain_http=True, login=login))
    source = Registry(reference, plain_http=True, login=login)
    assert Followed(source, PINS, tmp_path / "state").update()[1].timestamp == 1
    with pytest.raises(MarketplaceTrouble, match="gave no token: it answered 401") as caught:
        followed(reference, tmp_path / "other").update()
    assert "NEXUS_OCI_USERNAME" in caught.value.fix
    assert "s3cret" not in repr(login) + repr(source)
    guard(site, registry, None)
    assert followed(reference, tmp_path / "anonymous").update()[1].timestamp == 1


def test_the_login_of_a_secret_opens_an_image(registry: str, site: Site, tmp_path: Path) -> None:
    login = Login("acme", "s3cret")
    guard(site, registry, login)
    reference = Reference(site.url.removeprefix("http://"), "acme/named")
    publish(tmp_path / "market", "1.0")
    asyncio.run(push(tmp_path / "market", reference, plain_http=True, login=login))
    access = Access(user="acme", password="s3cret")
    index, _ = Followed(Registry(reference, plain_http=True, access=access), PINS, tmp_path / "state").update()
    data = asyncio.run(fetch_release(index.releases[0], index.origin, tmp_path / "cache", access=access))
    assert hashlib.sha256(data).hexdigest() == index.releases[0].sha256


def test_a_token_is_shown_to_the_registry_and_to_nobody_else(site: Site, tmp_path: Path) -> None:
    publish(tmp_path / "market", "1.0")
    files = {path: (tmp_path / "market" / path).read_bytes() for path in marketplace_files(tmp_path / "market")}
    blobs = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in files.values()}
    layers = [
        {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data), "annotations": {TITLE: path}}
        for path, data in files.items()
    ]

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer t0ken-abc":
            asks = {"WWW-Authenticate": f'Bearer realm="{site.url}/token"'}
            return web.Response(status=401, headers=asks, text=str(request.headers))
        if "/manifests/" in request.path:
            return web.json_response({"layers": layers})
        return web.Response(body=blobs[request.path.rpartition("/")[2]])

    class Paths(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            return answer

    site.special = Paths()
    reference = Reference(site.url.removeprefix("http://"), "acme/x")
    good = Registry(reference, plain_http=True, access=Access(token="t0ken-abc"))
    assert Followed(good, PINS, tmp_path / "state").update()[1].timestamp == 1
    site.asked.clear()
    wrong = Registry(reference, plain_http=True, access=Access(token="wr0ng-one"))
    with pytest.raises(MarketplaceTrouble, match="does not take the token") as caught:
        Followed(wrong, PINS, tmp_path / "other").update()
    assert "wr0ng" not in str(caught.value)
    assert "/token" not in site.asked


def test_a_password_goes_to_nobody_the_registry_names_without_tls(tmp_path: Path, site: Site) -> None:
    """A registry that is asked over TLS cannot send its users elsewhere in the clear."""
    from nexus_marketplace.sources.oci import Client

    client = Client(Reference("registry.test", "acme/x"), plain_http=False, login=Login("a", "b"), total_s=1)
    with pytest.raises(DownloadFailed, match="which is not https"):
        asyncio.run(client._authorize(f'Bearer realm="{site.url}/token"', "GET"))
    assert site.asked == []


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b'{"layers": 1}', b'{"layers": [{"digest": "sha256:x"}]}', b"[" * 9000,
     json.dumps({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1, "annotations": {TITLE: "../x"}}]}).encode()],
)  # fmt: skip
def test_an_image_of_something_else_is_refused(manifest: bytes) -> None:
    with pytest.raises(MarketplaceTrouble, match="not an image with files in it"):
        files_of(manifest, "oci://x/y:z")


def test_a_swapped_blob_is_refused(site: Site, tmp_path: Path) -> None:
    digest = "sha256:" + hashlib.sha256(b"right").hexdigest()
    layer = {"digest": digest, "size": 5, "annotations": {"org.opencontainers.image.title": "metadata/1.root.json"}}

    async def manifest(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept"] == MANIFEST
        return web.json_response({"layers": [layer]})

    async def blob(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"wrong")

    site.special = {"/v2/acme/x/manifests/latest": manifest, f"/v2/acme/x/blobs/{digest}": blob}
    with pytest.raises(MarketplaceTrouble, match="has another digest"):
        followed(Reference(site.url.removeprefix("http://"), "acme/x"), tmp_path).update()


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("ghcr.io/acme/plugins", Reference("ghcr.io", "acme/plugins", "latest")),
        ("oci://localhost:5000/p:1.2", Reference("localhost:5000", "p", "1.2")),
        ("Acme", None), ("ghcr.io/Acme", None), ("ghcr.io/a:", None), ("ghcr.io/a@sha256:0", None), ("x/y z", None),
    ],
)  # fmt: skip
def test_references_are_read(text: str, reference: Reference | None) -> None:
    if reference is not None:
        assert parse(text) == reference
        return
    with pytest.raises(MarketplaceTrouble, match="names no image"):
        parse(text)


def test_logins_are_found_where_docker_leaves_them(tmp_path: Path) -> None:
    auth = base64.b64encode(b"me:pass:word").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"ghcr.io": {"auth": auth}}}))
    found = find_login("ghcr.io", {"DOCKER_CONFIG": str(tmp_path)})
    assert found is not None
    assert (found.user, found.password) == ("me", "pass:word")
    assert find_login("other.io", {"DOCKER_CONFIG": str(tmp_path)}) is None
    named = find_login("other.io", {"NEXUS_OCI_USERNAME": "a", "NEXUS_OCI_PASSWORD": "b"})
    assert named is not None
    assert named.user == "a"
    (tmp_path / "config.json").write_text("{")
    assert find_login("ghcr.io", {"DOCKER_CONFIG": str(tmp_path)}) is None


def test_a_broken_reference_in_an_instance_is_refused(tmp_path: Path) -> None:
    from tests.integration.marketplace.test_fetching import instance

    with pytest.raises(PluginRejected, match="names no image"):
        asyncio.run(fetch(instance("oci://BAD/"), tmp_path))


def test_plugins_are_published_straight_into_an_image(registry: str, tmp_path: Path) -> None:
    """The second one finds the first in the image, and adds to it."""
    from tests.integration.marketplace.test_commands import nexus

    image = f"oci://{registry}/acme/direct:latest"
    for name in ("acme-one", "acme-two"):
        assert nexus("plugin", "new", name, cwd=tmp_path).returncode == 0
        done = nexus(
            "plugin", "publish", name, "--key", "acme.pem", "--publisher", "acme", "--to", image, "--plain-http", cwd=tmp_path
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"oci: {registry}/acme/direct:latest\n    plainHttp: true" in done.stdout
    verified = nexus(
        "marketplace", "verify", image, "--plain-http", "--key", "acme=acme.pem", "-o", "json", cwd=tmp_path
    )
    assert verified.returncode == 0, verified.stderr
    assert [(row["plugin"], row["state"]) for row in json.loads(verified.stdout)] == [
        ("acme-one", "ok"),
        ("acme-two", "ok"),
    ]
