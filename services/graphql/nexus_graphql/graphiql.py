"""The GraphiQL page. Its scripts are not ours and not in this package: they are pinned by version and by hash.

They come from a public CDN, from a URL of your own, or from a directory that this service then serves itself:
`npm install --prefix DIR react@18.3.1 react-dom@18.3.1 graphiql@4.1.2` and NEXUS_GRAPHIQL_ASSETS=DIR/node_modules.
The hashes are of the files in those npm packages; browsers refuse any other content (Subresource Integrity).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from nexus_sdk import SettingsError

CDN = "https://cdn.jsdelivr.net/npm/"


@dataclass(frozen=True, slots=True)
class Asset:
    """package: of npm. path: in it. integrity: as in HTML."""

    package: str
    version: str
    path: str
    integrity: str

    @property
    def file(self) -> str:
        """As CDNs of npm name it: `react@18.3.1/umd/…`."""
        return f"{self.package}@{self.version}/{self.path}"


STYLES = (
    Asset("graphiql", "4.1.2", "graphiql.min.css",
          "sha384-1el1QShFBnnXTx9x/Cprg82hZWKt0ry29OAYIXt05swbi0KcZDFoj0CWguMpopJr"),
)  # fmt: skip
# GraphiQL 4 and React 18 are the last that are plain scripts: 5 and 19 need a bundler or an import map, in which
# nested files have no hashes of their own.
SCRIPTS = (
    Asset("react", "18.3.1", "umd/react.production.min.js",
          "sha384-DGyLxAyjq0f9SPpVevD6IgztCFlnMF6oW/XQGmfe+IsZ8TqEiDrcHkMLKI6fiB/Z"),
    Asset("react-dom", "18.3.1", "umd/react-dom.production.min.js",
          "sha384-gTGxhz21lVGYNMcdJOyq01Edg0jhn/c22nsx0kyqP0TxaV5WVdsSH1fSDUf5YJj1"),
    Asset("graphiql", "4.1.2", "graphiql.min.js",
          "sha384-9XdHu7ajgGJziD4J1zNBKQ842Q/+zZfDv+ib1eMhZWBH6hPAs806x+Jbcf0yNO6B"),
)  # fmt: skip
DEFAULT_QUERY = """\
# Which services is this schema made of?
{
  _services {
    name
    state
    operations
    problem
  }
}
"""


class GraphiqlPage:
    """The page and, when they are in a directory, its assets. Raises SettingsError if those are not the pinned ones."""

    def __init__(self, assets: str = "") -> None:
        """assets: URL, directory, or empty for the CDN."""
        self.files: Mapping[str, bytes] = {}
        origin, base = "", ""
        if not assets or assets.startswith(("http://", "https://")):
            base = f"{(assets or CDN).rstrip('/')}/"
            origin = _origin(base)
        else:
            self.files = _load(Path(assets))
        boot = _boot(base)
        digest = base64.b64encode(hashlib.sha256(boot.encode()).digest()).decode()
        self._html = _text("graphiql.html").replace("@BOOT@", boot).encode()
        self._headers = {
            "content-type": "text/html; charset=utf-8",
            # Styles inline: the editor sizes its parts with style attributes.
            "content-security-policy": (
                f"default-src 'none'; script-src 'self' 'sha256-{digest}' {origin}; "
                f"style-src 'self' 'unsafe-inline' {origin}; font-src 'self' data: {origin}; img-src 'self' data:; "
                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "vary": "accept",
        }

    def answer(self) -> web.Response:
        return web.Response(body=self._html, headers=self._headers)

    async def asset(self, request: web.Request) -> web.Response:
        """Serve one of the files of the directory; 404 for every other name."""
        body = self.files.get(request.match_info["file"])
        if body is None:
            raise web.HTTPNotFound(text="There is no such asset. The page names those there are.")
        kind = "text/css" if request.path.endswith(".css") else "text/javascript"
        headers = {
            "content-type": f"{kind}; charset=utf-8", "cache-control": "public, max-age=31536000, immutable",
            "x-content-type-options": "nosniff",
        }  # fmt: skip
        return web.Response(body=body, headers=headers)


def _boot(base: str) -> str:
    def shown(assets: tuple[Asset, ...]) -> list[dict[str, str]]:
        return [{"file": a.file, "integrity": a.integrity} for a in assets]

    data = {"base": base, "styles": shown(STYLES), "scripts": shown(SCRIPTS), "query": DEFAULT_QUERY}
    # `<` would let a setting end the script element.
    return _text("graphiql.js").replace("@ASSETS@", json.dumps(data).replace("<", "\\u003c"))


def _text(name: str) -> str:
    return importlib.resources.files("nexus_graphql").joinpath(name).read_text(encoding="utf-8")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or set(url) & set(" ;,'\"<>"):
        raise SettingsError(f"Environment variable NEXUS_GRAPHIQL_ASSETS: {url!r} is no URL. Use one such as {CDN}.")
    return f"{parts.scheme}://{parts.netloc}"


def _load(directory: Path) -> Mapping[str, bytes]:
    found = {}
    for asset in (*STYLES, *SCRIPTS):
        # As a CDN's mirror has it, or as npm installs it.
        places = (directory / asset.file, directory / asset.package / asset.path)
        place = next((p for p in places if p.is_file()), None)
        if place is None:
            raise SettingsError(
                f"Environment variable NEXUS_GRAPHIQL_ASSETS: {directory} has no {asset.package}/{asset.path}. "
                f"Install it: npm install --prefix DIR {' '.join(PACKAGES)}, and name DIR/node_modules."
            )
        body = place.read_bytes()
        digest = "sha384-" + base64.b64encode(hashlib.sha384(body).digest()).decode()
        if digest != asset.integrity:
            raise SettingsError(
                f"Environment variable NEXUS_GRAPHIQL_ASSETS: {place} is not that of {asset.package} {asset.version}. "
                f"Install the pinned versions: {' '.join(PACKAGES)}."
            )
        found[asset.file] = body
    return found


PACKAGES = tuple(dict.fromkeys(f"{a.package}@{a.version}" for a in (*SCRIPTS, *STYLES)))
"""What npm has to install for a directory of assets."""
