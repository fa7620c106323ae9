"""What plugin.yaml says holds in a plugin's tests, as it does in a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from nexus_core.hooks import NotGranted, Operation, Plugin, RequestHead, ResponseHead
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.rejections import PluginRejected
from nexus_sdk.testing import PluginKit

MANIFEST = """
    name: acme
    version: 1.0.0
    api: ">=1.1,<2"
    python: ">=3.11"
    entryPoint: acme.plugin:Acme
    summary: For tests.
    hooks: [on_request, on_response, on_operation_parsed]
    permissions:
      headers:
        read: [x-acme-*]
        write: [x-seen, x-acme-*]
    configSchema:
      type: object
      additionalProperties: false
      properties:
        header: {type: string, default: x-seen}
"""
HEAD = RequestHead("GET", "/", headers=(("authorization", "secret"), ("x-acme-a", "1")))


class Acme(Plugin):
    """Writes down which headers it sees, in the header of its configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.header: str = config["header"]

    def on_request(self, request: RequestHead) -> RequestHead:
        return request.with_header(self.header, " ".join(name for name, _ in request.headers))

    async def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        return response.with_header(self.header, request.header("authorization") or "nothing")

    def on_operation_parsed(self, operation: Operation) -> Operation:
        return operation.with_variables(dict(operation.headers))

    def on_config(self, config: Mapping[str, Any]) -> None:
        self.header = config["header"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "acme"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "plugin.yaml").write_text(dedent(MANIFEST))
    return folder


async def test_hooks_see_the_headers_that_it_asks_for(package: Path) -> None:
    async with PluginKit(Acme, package=package) as kit:
        passed = await kit.request(HEAD)
        assert isinstance(passed, RequestHead)
        assert passed.headers == (*HEAD.headers, ("x-seen", "x-acme-a"))
        response = await kit.response(HEAD, ResponseHead(200))
        assert isinstance(response, ResponseHead)
        assert response.header("x-seen") == "nothing"
        operation = await kit.operation_parsed(Operation("query", "{ a }", headers=HEAD.headers))
        assert isinstance(operation, Operation)
        assert (operation.variables, operation.headers) == ({"x-acme-a": "1"}, HEAD.headers)


async def test_a_header_that_it_does_not_ask_for_is_refused(package: Path) -> None:
    async with PluginKit(Acme, {"header": "x-other"}, package=package) as kit:
        for asked in (lambda: kit.request(HEAD), lambda: kit.response(HEAD, ResponseHead(200))):
            with pytest.raises(NotGranted, match=r"'x-other': permissions\.headers\.write of .*plugin\.yaml has none"):
                await asked()


async def test_its_configuration_is_checked_and_filled(package: Path) -> None:
    with pytest.raises(PluginRejected, match=r"spec\.config\.header: 1 is not of type 'string'"):
        PluginKit(Acme, {"header": 1}, package=package)
    async with PluginKit(Acme, {"header": "x-acme-b"}, package=package) as kit:
        await kit.configure({})
        assert kit.plugin.header == "x-seen"  # type: ignore[attr-defined]
        with pytest.raises(PluginRejected, match=r"'heder' was unexpected"):
            await kit.configure({"heder": "x"})


def test_what_is_wrong_with_its_manifest_is_said(package: Path) -> None:
    (package / "plugin.yaml").write_text("name: acme")
    with pytest.raises(PublishRefused, match="version"):
        PluginKit(Acme, package=package)
