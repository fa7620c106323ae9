"""The files of a new plugin. Its tests pass, and what it does is there to be replaced."""

from __future__ import annotations

import keyword
import re
import sys

import yaml

from nexus_cli.errors import UserError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_TAKEN = frozenset({"Any", "Mapping", "Plugin", "Reply", "RequestHead", "ResponseHead"})
"""What the plugin's module has by these names already."""


def render(name: str, package: str) -> dict[str, str]:
    """Return content by path below the project's directory. Raises UserError for names that cannot be used."""
    if not _NAME.fullmatch(name) or not isinstance(yaml.safe_load(name), str):  # `true` is none in plugin.yaml
        raise UserError(
            f"{name!r} is no name of a plugin. Use lower-case letters, digits and hyphens, such as acme-headers."
        )
    if name.partition("-")[0] == "nexus":
        raise UserError(f"{name!r} is a name of Nexus itself. Begin it with your own, such as acme-headers.")
    if not package.isidentifier() or not package.isascii() or not package.islower() or keyword.iskeyword(package):
        raise UserError(f"--package {package!r} is no import package. Use lower-case letters, digits and underscores.")
    if package in sys.stdlib_module_names or package.startswith("nexus_"):
        raise UserError(
            f"--package {package!r} is there already, of Python or of Nexus. Choose another, such as acme_headers."
        )
    title = "".join(part.capitalize() for part in name.split("-"))
    if title in _TAKEN or keyword.iskeyword(title):
        title += "Hooks"
    values = {"@NAME@": name, "@PACKAGE@": package, "@CLASS@": title}
    pattern = re.compile("|".join(values))
    return {
        _filled(path, values, pattern): _filled(text.lstrip("\n"), values, pattern) for path, text in _FILES.items()
    }


def _filled(text: str, values: dict[str, str], pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda found: values[found[0]], text)


_FILES = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
description = "A plugin of Nexus."
requires-python = ">=3.11"

# `nexus plugin dev` without a directory finds installed plugins by this.
[project.entry-points."nexus.plugins"]
@NAME@ = "@PACKAGE@.plugin:@CLASS@"

[dependency-groups]
dev = ["nexus-gateway-platform[cli]", "pytest"]

[tool.hatch.build.targets.wheel]
packages = ["@PACKAGE@"]

[tool.pytest.ini_options]
pythonpath = ["."]
""",
    "README.md": """
# @NAME@

Adds a header to responses, and refuses requests without another.

```sh
python -m pytest                                  # its tests, without a gateway; `pip install pytest` if it is not there
nexus plugin dev .                                # a gateway with it, which follows your edits
nexus plugin publish . --key acme.pem --publisher acme --to public
nexus marketplace serve public                    # or any web server, registry, directory or ConfigMap
```

| Setting | Meaning |
|---|---|
| `header` | Header that the response gets. Default `x-@NAME@`. |
| `require` | Header that a request needs. Default: none. |
""",
    ".gitignore": """
*.pem
__pycache__/
dist/
public/
""",
    "@PACKAGE@/__init__.py": '''
"""A plugin of Nexus."""
''',
    "@PACKAGE@/py.typed": "",
    "@PACKAGE@/CHANGELOG.md": """
# 0.1.0

First version.
""",
    "@PACKAGE@/plugin.yaml": """
name: @NAME@
version: 0.1.0
api: ">=1.1,<2"
python: ">=3.11"
entryPoint: @PACKAGE@.plugin:@CLASS@
summary: Adds a header to responses, and refuses requests without another.
# While it cannot run: open lets requests pass without it, closed answers 503.
failurePolicy: open
# Just those that the class has.
hooks: [on_request, on_response]
# Nothing is allowed that is not asked for here and granted by the NexusPlugin.
permissions:
  headers:
    read: ["x-@NAME@*"]
    write: ["x-@NAME@*"]
changelog: CHANGELOG.md
configSchema:
  $schema: https://json-schema.org/draft/2020-12/schema
  type: object
  additionalProperties: false
  properties:
    header:
      type: string
      pattern: "^x-@NAME@[a-z0-9-]{0,32}$"
      default: x-@NAME@
      description: Header that the response gets.
    require:
      type: string
      pattern: "^x-@NAME@[a-z0-9-]{0,32}$"
      description: Header that a request needs.
""",
    "@PACKAGE@/plugin.py": '''
"""The plugin's hooks. Inside the package import relatively: `from .other import name`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, Reply, RequestHead, ResponseHead


class @CLASS@(Plugin):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._header: str = config.get("header", "x-@NAME@")
        self._require: str | None = config.get("require")

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        if self._require is not None and request.header(self._require) is None:
            body = json.dumps({"title": "A header is missing", "status": 400, "detail": f"Send {self._require}."}).encode()
            return Reply(400, (("content-type", "application/problem+json"),), body)
        return request

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        return response.with_header(self._header, "hello")
''',
    "tests/test_@PACKAGE@.py": '''
import asyncio
from pathlib import Path
from typing import Any

import @PACKAGE@
from @PACKAGE@.plugin import @CLASS@
from nexus_sdk.plugin import Reply, RequestHead, ResponseHead
from nexus_sdk.testing import PluginKit

PACKAGE = Path(@PACKAGE@.__file__).parent  # with plugin.yaml, whose permissions and defaults hold in the tests, too


def run(config: dict[str, Any], request: RequestHead) -> tuple[RequestHead | Reply, ResponseHead | Reply]:
    """Return what the plugin makes of a request, and of the response to it."""

    async def both() -> tuple[RequestHead | Reply, ResponseHead | Reply]:
        async with PluginKit(@CLASS@, config, package=PACKAGE) as kit:
            return await kit.request(request), await kit.response(request, ResponseHead(200))

    return asyncio.run(both())


def test_responses_get_the_header() -> None:
    _, response = run({}, RequestHead("GET", "/"))
    assert response.header("x-@NAME@") == "hello"
    _, response = run({"header": "x-@NAME@-other"}, RequestHead("GET", "/"))
    assert response.header("x-@NAME@-other") == "hello"


def test_requests_without_the_required_header_are_refused() -> None:
    refused, _ = run({"require": "x-@NAME@-who"}, RequestHead("GET", "/"))
    assert isinstance(refused, Reply)
    assert refused.status == 400
    passed, _ = run({"require": "x-@NAME@-who"}, RequestHead("GET", "/", headers=(("x-@NAME@-who", "me"),)))
    assert isinstance(passed, RequestHead)
''',
}
