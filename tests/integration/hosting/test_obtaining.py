"""Where artefacts and wheels come from, and that they are kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from nexus_core.snapshot.plugins import Wheel, WheelNeed
from nexus_hosting.means import Means
from nexus_hosting.obtaining import Obtainer
from nexus_hosting.testing import build_wheel, keep, make_release
from nexus_marketplace.rejections import PluginRejected

NAME, DATA = build_wheel("dist", "1.0", {"dist/__init__.py": b"X = 1"})


class Site:
    """Files by path, and who asked for what."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        self.asked: list[str] = []
        self.url = ""

    async def serve(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path)
        if request.path not in self.files:
            return web.Response(status=404)
        data, kind = self.files[request.path]
        return web.Response(body=data, content_type=kind)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    runner = web.ServerRunner(web.Server(made.serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def need(tmp_path: Path, url: str = "") -> tuple[Wheel, WheelNeed]:
    digest = keep(tmp_path / "elsewhere", DATA, "whl")
    file = Wheel(NAME, digest, url)
    return file, WheelNeed("dist", "1.0", (file,))


def obtainer(tmp_path: Path, site: Site, **means: Any) -> Obtainer:
    return Obtainer(tmp_path / "cache", Means(pypi=f"{site.url}/simple/", **means))


async def test_a_wheel_without_an_address_is_asked_of_the_marketplace_then_of_the_index(
    tmp_path: Path, site: Site
) -> None:
    file, wanted = need(tmp_path)
    page = {"files": [{"filename": NAME, "url": f"../../files/{NAME}#sha256=x"}]}
    site.files["/simple/dist/"] = (json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
    site.files[f"/files/{NAME}"] = (DATA, "application/octet-stream")
    mine = obtainer(tmp_path, site)
    assert await mine.wheel(file, wanted, f"{site.url}/market/index.json") == DATA
    assert site.asked == [f"/market/wheels/{file.sha256}.whl", "/simple/dist/", f"/files/{NAME}"]
    site.files.clear()
    assert await mine.wheel(file, wanted, "") == DATA, "from the cache"
    assert len(site.asked) == 3
    assert (tmp_path / "cache" / f"{file.sha256}.whl").read_bytes() == DATA


async def test_an_index_of_web_pages_will_do(tmp_path: Path, site: Site) -> None:
    file, wanted = need(tmp_path)
    site.files["/simple/dist/"] = (f'<a href="/files/{NAME}#sha256=x">{NAME}</a><a>none</a>'.encode(), "text/html")
    site.files[f"/files/{NAME}"] = (DATA, "application/octet-stream")
    assert await obtainer(tmp_path, site).wheel(file, wanted, "") == DATA


async def test_a_marketplace_that_has_it_is_enough(tmp_path: Path, site: Site) -> None:
    file, wanted = need(tmp_path)
    site.files[f"/wheels/{file.sha256}.whl"] = (DATA, "application/octet-stream")
    assert await obtainer(tmp_path, site).wheel(file, wanted, f"{site.url}/index.json") == DATA
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        (b"other", "PluginDigestMismatch", "but the plugin's publisher pinned"),
        (None, "PluginFetchFailed", "answered 404"),
    ],
)
async def test_other_bytes_or_none_are_refused_and_not_kept(
    tmp_path: Path, site: Site, body: bytes | None, reason: str, text: str
) -> None:
    file, wanted = need(tmp_path, f"{site.url}/dist.whl")
    if body is not None:
        site.files["/dist.whl"] = (body, "application/octet-stream")
    with pytest.raises(PluginRejected) as caught:
        await obtainer(tmp_path, site).wheel(file, wanted, "")
    assert (caught.value.reason, text in caught.value.message) == (reason, True)
    assert not (tmp_path / "cache" / f"{file.sha256}.whl").exists()


async def test_an_index_without_the_file_says_so(tmp_path: Path, site: Site) -> None:
    file, wanted = need(tmp_path)
    site.files["/simple/dist/"] = (b'{"files": []}', "application/vnd.pypi.simple.v1+json")
    with pytest.raises(PluginRejected, match=r"dist-1\.0-py3-none-any\.whl"):
        await obtainer(tmp_path, site).wheel(file, wanted, "")


async def test_elsewhere_is_asked_before_the_network(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    file, wanted = need(tmp_path, f"{site.url}/dist.whl")
    site.files["/dist.whl"] = (DATA, "application/octet-stream")
    answers: list[bytes | Exception | None] = [RuntimeError("no leader"), b"other", None, DATA]

    async def elsewhere(_: str) -> bytes | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    mine = obtainer(tmp_path, site, artefact=elsewhere)
    for asked in (1, 2, 3, 3):
        assert await mine.wheel(file, wanted, "") == DATA
        assert len(site.asked) == asked
        (tmp_path / "cache" / f"{file.sha256}.whl").unlink()
    assert "no leader" in caplog.text
    assert "the other place has something else" in caplog.text


async def test_a_cache_that_cannot_be_written_costs_no_more_than_a_download(tmp_path: Path, site: Site) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    release = make_release(tmp_path / "elsewhere", "class Demo: pass", url="demo.zip")
    site.files["/demo.zip"] = ((tmp_path / "elsewhere" / f"{release.sha256}.zip").read_bytes(), "application/zip")
    mine = obtainer(tmp_path, site)
    for _ in range(2):
        assert len(await mine.artefact(release, f"{site.url}/index.json")) > 100
    assert site.asked == ["/demo.zip", "/demo.zip"]
