"""A marketplace on a real web server, and on servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.model.plugins import NexusMarketplaceSpec, Source
from nexus_core.snapshot import Release
from nexus_core.translate.market_access import Access, Locked
from nexus_marketplace import sources
from nexus_marketplace.fetching import fetch_release
from nexus_marketplace.publishing import Artefact, build_index, public_key
from nexus_marketplace.repository import Keys, Repository
from nexus_marketplace.sources.web import Web
from nexus_marketplace.troubles import MarketplaceTrouble
from nexus_marketplace.trust import Followed, Pins, pins_of

from tests.integration.marketplace.conftest import Site

KEY = Ed25519PrivateKey.generate()
PINS = Pins((public_key(KEY),))


def publish(root: Path, *versions: str) -> None:
    made = []
    for version in versions:
        data = build_zip({"demo/__init__.py": version.encode()})
        digest = hashlib.sha256(data).hexdigest()
        unsigned = Release(
            name="demo", version=version, api=">=1,<2", package="demo", entry_point="demo.plugin:Demo", sha256=digest,
            url=f"artefacts/{digest}.zip", publisher="me",
        )  # fmt: skip
        signature = base64.b64encode(KEY.sign(signed_bytes(unsigned))).decode()
        made.append(Artefact(msgspec.structs.replace(unsigned, signature=signature), data))
    files = {each.release.url: each.data for each in made}
    Repository(root).publish(build_index(made), files, Keys.one(KEY), datetime.now(UTC))


@pytest.mark.parametrize("tail", ["", "/", "/index.json"])
def test_a_marketplace_is_followed_over_http(site: Site, tmp_path: Path, tail: str) -> None:
    publish(site.root, "1.0", "1.1")
    spec = NexusMarketplaceSpec.model_validate_json(
        msgspec.json.encode(
            {"source": {"url": site.url + tail}, "publishers": [{"name": "me", "publicKey": public_key(KEY)}]}
        )
    )
    followed = Followed(sources.open(spec.source), pins_of(spec), tmp_path / "state")
    index, versions = followed.update()
    assert [release.version for release in index.releases] == ["1.0", "1.1"]
    assert index.origin == f"{site.url}/"
    assert versions.timestamp == 1
    site.asked.clear()
    followed.update()
    assert site.asked == ["/metadata/2.root.json", "/metadata/timestamp.json"], "nothing is fetched twice"


def refused(site: Site, tmp_path: Path, *, total_s: float = 15.0) -> MarketplaceTrouble:
    with pytest.raises(MarketplaceTrouble) as caught:
        Followed(Web(site.url, total_s=total_s), PINS, tmp_path / "state").update()
    return caught.value


def test_endless_data_ends_at_the_bound(site: Site, tmp_path: Path) -> None:
    publish(site.root, "1.0")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65536)
        except ConnectionError:
            return response

    for path in ("/metadata/timestamp.json", "/metadata/2.root.json"):
        site.special = {path: endless}
        trouble = refused(site, tmp_path)
        assert trouble.reason == "MarketplaceNotTrusted"
        assert "more than" in trouble.what


@pytest.mark.parametrize("path", ["/metadata/timestamp.json", "/metadata/1.targets.json"])
def test_a_dripping_server_is_given_up(site: Site, tmp_path: Path, path: str) -> None:
    """A byte now and then keeps any timeout between bytes from running out; the one over all of it does."""
    publish(site.root, "1.0")

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        except ConnectionError:
            return response

    site.special = {path: drip}
    trouble = refused(site, tmp_path, total_s=0.5)
    assert (trouble.reason, trouble.retryable) == ("MarketplaceUnreachable", True)
    assert "did not answer in full within 0.5 s" in trouble.what


def test_compression_is_not_asked_for_and_not_undone(site: Site, tmp_path: Path) -> None:
    import gzip

    publish(site.root, "1.0")

    async def bomb(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})

    site.special = {"/metadata/timestamp.json": bomb}
    assert refused(site, tmp_path).reason == "MarketplaceInvalid"
    assert site.headers[0]["accept-encoding"] == "identity"


def test_redirects_are_followed_three_times_and_never_to_another_kind_of_place(site: Site, tmp_path: Path) -> None:
    publish(site.root, "1.0")

    async def ring(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": str(request.rel_url)})

    async def to_a_file(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "file:///etc/passwd"})

    async def once(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/elsewhere.json"})

    (site.root / "elsewhere.json").write_bytes((site.root / "metadata" / "timestamp.json").read_bytes())
    site.special = {"/metadata/timestamp.json": ring}
    assert "more than 3 times" in refused(site, tmp_path).what
    site.special = {"/metadata/timestamp.json": to_a_file}
    assert "redirects from http to file" in refused(site, tmp_path).what
    site.special = {"/metadata/timestamp.json": once}
    assert Followed(Web(site.url), PINS, tmp_path / "state").update()[1].timestamp == 1


@pytest.mark.parametrize("status", [500, 503, 401])
def test_a_server_in_trouble_is_unreachable_and_not_empty(site: Site, tmp_path: Path, status: int) -> None:
    """A root that cannot be asked for is not a root that does not exist: the newest root may be behind it."""
    publish(site.root, "1.0")
    followed = Followed(Web(site.url), PINS, tmp_path / "state")
    followed.update()

    async def broken(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    site.special = {"/metadata/2.root.json": broken}
    trouble = refused(site, tmp_path)
    assert trouble.reason == "MarketplaceUnreachable"
    assert str(status) in trouble.what
    kept = followed.last()
    assert kept is not None
    assert [release.version for release in kept[0].releases] == ["1.0"]


def test_a_name_and_password_in_an_address_are_sent(site: Site, tmp_path: Path) -> None:
    publish(site.root, "1.0")
    index, _ = Followed(Web(site.url.replace("://", "://reader:pass-word@") + "/"), PINS, tmp_path / "state").update()
    assert index.origin == f"{site.url}/"
    wanted = "Basic " + base64.b64encode(b"reader:pass-word").decode()
    assert {headers.get("authorization") for headers in site.headers} == {wanted}


@pytest.mark.parametrize("access", [Access(token="t0ken-abc"), Access(user="reader", password="pass-word")])
def test_a_login_is_sent_to_the_marketplace_and_to_nobody_else(site: Site, tmp_path: Path, access: Access) -> None:
    publish(site.root, "1.0")
    (tmp_path / "elsewhere").mkdir()

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != access.authorization:
            return web.Response(status=401)
        if request.path == "/metadata/timestamp.json":
            raise web.HTTPFound(f"{other.url}/timestamp.json")
        file = site.root / request.path.lstrip("/")
        return web.Response(body=file.read_bytes()) if file.is_file() else web.Response(status=404)

    class All(dict):  # type: ignore[type-arg]
        def get(self, path: str, default: object = None) -> object:
            return guarded

    site.special = All()
    with Site(tmp_path / "elsewhere") as other:
        (other.root / "timestamp.json").write_bytes((site.root / "metadata" / "timestamp.json").read_bytes())
        index, _ = Followed(Web(site.url, access=access), PINS, tmp_path / "state").update()
        assert other.asked == ["/timestamp.json"]
        assert "authorization" not in other.headers[0]
        [release] = index.releases
        data = asyncio.run(fetch_release(release, index.origin, tmp_path / "cache", access=access))
        assert hashlib.sha256(data).hexdigest() == release.sha256
        # A release at an address of its own: who publishes does not choose who learns the login.
        (other.root / "x.zip").write_bytes(data)
        far = msgspec.structs.replace(release, url=f"{other.url}/x.zip")
        assert asyncio.run(fetch_release(far, index.origin, tmp_path / "cache2", access=access)) == data
        assert "authorization" not in other.headers[1]


@pytest.mark.parametrize("access", [None, Access(token="t0ken-abc")])
def test_a_login_that_is_refused_is_told_and_not_shown(site: Site, tmp_path: Path, access: Access | None) -> None:
    async def refusing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, text=str(request.headers))

    site.special = {"/metadata/1.root.json": refusing}
    with pytest.raises(MarketplaceTrouble) as caught:
        Followed(Web(site.url, access=access), PINS, tmp_path / "state").update()
    assert (caught.value.reason, "answered 401" in caught.value.what) == ("MarketplaceUnreachable", True)
    assert "spec.source.secretRef" in caught.value.fix
    assert "t0ken" not in str(caught.value)


def test_a_place_whose_login_cannot_be_read_is_not_asked(site: Site, tmp_path: Path) -> None:
    publish(site.root, "1.0")
    known, _ = Followed(sources.open(Source(url=site.url)), PINS, tmp_path / "state").update()
    site.asked.clear()
    locked = Followed(
        sources.open(Source(url=site.url), access=Locked("There is no Secret.", "Make it.")), PINS, tmp_path / "state"
    )
    with pytest.raises(MarketplaceTrouble, match=r"There is no Secret\. Make it"):
        locked.update()
    kept = locked.last()
    assert kept is not None
    assert kept[0] == known, "what it said last stays"
    assert site.asked == []


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(MarketplaceTrouble) as caught:
        Followed(Web("http://127.0.0.1:1/"), PINS, tmp_path).update()
    assert (caught.value.reason, caught.value.retryable) == ("MarketplaceUnreachable", True)


def test_a_name_and_password_in_an_address_are_not_told(tmp_path: Path) -> None:
    """Conditions and logs are read by more people than the NexusMarketplace."""
    source = Web("http://reader:pass-word@127.0.0.1:1/plugins/index.json")
    assert source.base_url == "http://127.0.0.1:1/plugins/", "it goes into indexes and Snapshots"
    with pytest.raises(MarketplaceTrouble) as caught:
        Followed(source, PINS, tmp_path / "state").update()
    for text in (str(caught.value), source.for_people):
        assert "…@127.0.0.1:1/plugins/" in text
        assert "pass-word" not in text
