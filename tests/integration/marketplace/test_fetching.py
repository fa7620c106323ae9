"""Artefacts and wheels: from every place, whatever the place says; and from the cache when there is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import PluginInstance, Release, Wheel, WheelNeed
from nexus_marketplace.cache import Cache
from nexus_marketplace.fetching import MAX_ARTEFACT_BYTES, fetch, read_bundled
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.wheels import fetch_wheel, pick
from packaging.tags import parse_tag

from tests.integration.marketplace.conftest import Site

DATA = build_zip({"demo/__init__.py": b"", "demo/plugin.py": b"class Demo: ..."})
DIGEST = hashlib.sha256(DATA).hexdigest()
WHEEL = b"not opened here"
PURE = Wheel("acme_lib-3.0-py3-none-any.whl", hashlib.sha256(WHEEL).hexdigest())


def instance(
    base_url: str, url: str = f"artefacts/{DIGEST}.zip", sha256: str = DIGEST, package: str = "demo"
) -> PluginInstance:
    release = Release(
        name="demo", version="1.0.0", api=">=1,<2", package=package, entry_point=f"{package}.plugin:Demo", sha256=sha256, url=url
    )  # fmt: skip
    return PluginInstance(
        id="shop/demo", source="NexusPlugin shop/demo", release=release, public_key="", base_url=base_url
    )


def put(site: Site, path: str, data: bytes) -> None:
    (site.root / path).parent.mkdir(parents=True, exist_ok=True)
    (site.root / path).write_bytes(data)


async def refused(what: Any) -> PluginRejected:
    with pytest.raises(PluginRejected) as caught:
        await what
    return caught.value


@pytest.mark.parametrize("tail", ["", "/", "/index.json"])
async def test_an_artefact_is_fetched_once_and_then_kept(site: Site, tmp_path: Path, tail: str) -> None:
    put(site, f"artefacts/{DIGEST}.zip", DATA)
    for _ in range(2):
        assert await fetch(instance(site.url + tail), tmp_path / "cache") == DATA
    assert len(site.asked) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{DIGEST}.zip"]


async def test_with_everything_unreachable_the_cache_is_used(site: Site, tmp_path: Path) -> None:
    Cache(tmp_path).keep(DIGEST, "zip", DATA)

    async def broken(_sha256: str) -> bytes | None:
        raise ConnectionError("Consul is down")

    assert await fetch(instance("http://127.0.0.1:1/"), tmp_path, artefact=broken) == DATA
    assert site.asked == []


async def test_a_damaged_cache_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    put(site, f"artefacts/{DIGEST}.zip", DATA)
    (tmp_path / f"{DIGEST}.zip").write_bytes(DATA[:-1])
    assert await fetch(instance(site.url), tmp_path) == DATA
    assert (tmp_path / f"{DIGEST}.zip").read_bytes() == DATA


async def test_a_swapped_artefact_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    put(site, f"artefacts/{DIGEST}.zip", b"something else")
    error = await refused(fetch(instance(site.url), tmp_path))
    assert (error.reason, error.retryable) == ("PluginDigestMismatch", True), "the right one may be put there"
    assert DIGEST in error.message
    assert list(tmp_path.glob("*.zip")) == []


async def test_another_place_is_asked_before_the_network_and_not_believed(site: Site, tmp_path: Path) -> None:
    put(site, f"artefacts/{DIGEST}.zip", DATA)

    async def right(sha256: str) -> bytes | None:
        return DATA if sha256 == DIGEST else None

    async def wrong(_sha256: str) -> bytes | None:
        return b"forged"

    assert await fetch(instance(site.url), tmp_path / "a", artefact=right) == DATA
    assert site.asked == []
    assert await fetch(instance(site.url), tmp_path / "b", artefact=wrong) == DATA
    assert len(site.asked) == 1
    assert await fetch(instance("configmap://shop/market/"), tmp_path / "c", artefact=right) == DATA
    error = await refused(fetch(instance("configmap://shop/market/"), tmp_path / "d", artefact=wrong))
    assert (error.reason, error.retryable) == ("PluginFetchFailed", True)


async def test_artefacts_come_out_of_directories(tmp_path: Path) -> None:
    (tmp_path / "market dir" / "artefacts").mkdir(parents=True)
    base = (tmp_path / "market dir").as_uri() + "/"
    error = await refused(fetch(instance(base), tmp_path / "cache"))
    assert (error.reason, error.retryable) == ("PluginFetchFailed", True)
    (tmp_path / "market dir" / "artefacts" / f"{DIGEST}.zip").write_bytes(DATA)
    assert await fetch(instance(base), tmp_path / "cache") == DATA
    for url in ("../secret", "/etc/passwd", "artefacts/../../x"):
        (tmp_path / "secret").write_bytes(DATA)
        error = await refused(fetch(instance(base, url=url), tmp_path / "other"))
        assert error.reason == "PluginFetchFailed"


async def test_bundled_plugins_come_from_the_installation(tmp_path: Path) -> None:
    data = read_bundled("nexus_plugin_request_id")
    digest = hashlib.sha256(data).hexdigest()
    assert await fetch(instance("", "bundled:", digest, "nexus_plugin_request_id"), tmp_path) == data
    error = await refused(fetch(instance("", "bundled:", "0" * 64, "nexus_plugin_request_id"), tmp_path))
    assert error.reason == "PluginDigestMismatch"
    assert "not demo 1.0.0 as it was signed" in error.message
    error = await refused(fetch(instance("", "bundled:", "0" * 64, "nexus_plugin_nowhere"), tmp_path))
    assert (error.reason, "not installed" in error.message) == ("PluginFetchFailed", True)

    async def mirror(sha256: str) -> bytes | None:
        return DATA if sha256 == DIGEST else None

    former = await fetch(instance("", "bundled:", DIGEST, "nexus_plugin_request_id"), tmp_path, artefact=mirror)
    assert former == DATA, "a version that another release of Nexus shipped with"


async def test_what_is_too_large_is_not_read(site: Site, tmp_path: Path) -> None:
    put(site, f"artefacts/{DIGEST}.zip", b"x" * (MAX_ARTEFACT_BYTES + 1))
    assert (await refused(fetch(instance(site.url), tmp_path))).reason == "PluginArtefactInvalid"


@pytest.mark.parametrize("base", ["ftp://x.test/", "javascript:", ""])
async def test_other_schemes_are_refused(tmp_path: Path, base: str) -> None:
    error = await refused(fetch(instance(base), tmp_path))
    assert "neither http nor https" in error.message


async def test_room_is_made_by_what_was_used_least(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=250)
    digests = []
    for number in range(3):
        data = bytes([number]) * 100
        digests.append(hashlib.sha256(data).hexdigest())
        if number < 2:
            cache.keep(digests[number], "zip", data)
            os.utime(tmp_path / f"{digests[number]}.zip", (number, number))
    (tmp_path / "index.json").write_bytes(b"x" * 1000)
    assert cache.read(digests[0], "zip") is not None
    cache.keep(digests[2], "zip", bytes([2]) * 100)
    assert [cache.read(each, "zip") is not None for each in digests] == [True, False, True]
    assert (tmp_path / "index.json").exists(), "what is not ours is not counted and stays"


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    """Each writes and reads the same files over and over; none ever sees a part of one."""
    script = (
        "import hashlib, sys; from pathlib import Path; from nexus_marketplace.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]), max_bytes=300_000)\n"
        "for turn in range(60):\n"
        "    data = bytes([turn % 6]) * 100_000; digest = hashlib.sha256(data).hexdigest()\n"
        "    found = cache.read(digest, 'zip')\n"
        "    assert found is None or found == data\n"
        "    cache.keep(digest, 'zip', data)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", script, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in running:
        _, err = process.communicate(timeout=50)
        assert (process.returncode, err) == (0, b"")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 300_000 + 2 * 100_000
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


async def test_a_cache_that_cannot_be_written_costs_nothing_else(site: Site, tmp_path: Path) -> None:
    put(site, f"artefacts/{DIGEST}.zip", DATA)
    (tmp_path / "file").write_text("")
    assert await fetch(instance(site.url), tmp_path / "file" / "cache") == DATA


# ---- wheels


def need(*files: Wheel) -> WheelNeed:
    return WheelNeed("acme-lib", "3.0", files or (PURE,))


def test_the_wheel_that_fits_best_is_picked() -> None:
    native = Wheel("acme_lib-3.0-cp311-cp311-manylinux2014_x86_64.whl", "1" * 64)
    other = Wheel("acme_lib-3.0-cp312-cp312-win_amd64.whl", "2" * 64)
    mine = [*parse_tag("cp311-cp311-manylinux2014_x86_64"), *parse_tag("py3-none-any")]
    assert pick(need(PURE, other, native), mine) == native
    assert pick(need(other, PURE), mine) == PURE
    with pytest.raises(PluginRejected, match="no wheel for this interpreter") as caught:
        pick(need(other), mine)
    assert caught.value.reason == "WheelInvalid"
    for bad in ("acme_lib-3.0.tar.gz", "../x-1-py3-none-any.whl", "else-3.0-py3-none-any.whl"):
        with pytest.raises(PluginRejected, match="is no wheel"):
            pick(need(Wheel(bad, "0" * 64)))


@pytest.mark.parametrize("html", [False, True])
async def test_wheels_come_from_the_index(site: Site, tmp_path: Path, html: bool) -> None:
    put(site, "files/acme_lib-3.0-py3-none-any.whl", WHEEL)
    href = "../../files/acme_lib-3.0-py3-none-any.whl"

    async def page(request: web.Request) -> web.StreamResponse:
        assert "application/vnd.pypi.simple.v1+json" in request.headers["Accept"]
        if html:
            return web.Response(
                text=f'<a href="x">other</a><a href="{href}#sha256=1">{PURE.filename}</a>', content_type="text/html"
            )
        body = {
            "meta": {"api-version": "1.1"},
            "name": "acme-lib",
            "files": [{"filename": PURE.filename, "url": href, "hashes": {}}],
        }
        return web.Response(text=json.dumps(body), content_type="application/vnd.pypi.simple.v1+json")

    site.special = {"/simple/acme-lib/": page}
    wheel, data = await fetch_wheel(need(), tmp_path, pypi=f"{site.url}/simple/")
    assert (wheel, data) == (PURE, WHEEL)
    asked = len(site.asked)
    assert (await fetch_wheel(need(), tmp_path, pypi="http://127.0.0.1:1/"))[1] == WHEEL
    assert len(site.asked) == asked


async def test_the_marketplaces_own_wheels_come_first(site: Site, tmp_path: Path) -> None:
    put(site, f"wheels/{PURE.sha256}.whl", WHEEL)
    assert (await fetch_wheel(need(), tmp_path / "a", base_url=f"{site.url}/", pypi="http://127.0.0.1:1/"))[1] == WHEEL
    put(site, f"wheels/{PURE.sha256}.whl", b"swapped")
    put(site, "direct.whl", WHEEL)
    direct = Wheel(PURE.filename, PURE.sha256, f"{site.url}/direct.whl")
    assert (await fetch_wheel(need(direct), tmp_path / "b", base_url=f"{site.url}/", pypi="http://127.0.0.1:1/"))[
        1
    ] == WHEEL
    put(site, "direct.whl", b"swapped, too")
    error = await refused(
        fetch_wheel(need(direct), tmp_path / "c", base_url=f"{site.url}/", pypi="http://127.0.0.1:1/")
    )
    assert (error.reason, error.retryable) == ("PluginDigestMismatch", True), "the right one may be put there"


async def test_a_wheel_that_is_nowhere_says_where_it_was_looked_for(site: Site, tmp_path: Path) -> None:
    error = await refused(fetch_wheel(need(), tmp_path, base_url=f"{site.url}/", pypi=f"{site.url}/simple/"))
    assert error.reason == "PluginFetchFailed"
    assert f"/wheels/{PURE.sha256}.whl" in error.message
    assert "/simple/acme-lib/" in error.message


def test_the_data_plane_does_not_pay_for_trust() -> None:
    """What a gateway imports to fetch plugins holds neither TUF nor JSON Schema nor cryptography, 0.3 s and 40 MB of them."""
    script = (
        "import sys; import nexus_marketplace.fetching, nexus_marketplace.wheels, nexus_marketplace.sources.oci\n"
        "print(sorted({'tuf', 'securesystemslib', 'pydantic', 'jsonschema', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"
