"""A marketplace's page for people: what there is, in which versions, and what it asks for. Of text that strangers wrote."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from urllib.parse import urlsplit

from nexus_core.marketplace import Index
from nexus_core.snapshot import Permissions, Release

_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;padding:0 1rem}
article{border-top:1px solid #8886;padding:1rem 0}h2{margin:0;display:flex;gap:.5rem;align-items:center}h2 img{width:2rem;height:2rem}
small,dt{opacity:.75}dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:.5rem 0}
dd{margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:20rem;overflow:auto}code{font-size:.9em}
""".strip()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CSP = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{_STYLE_HASH}'",
        "img-src https: http:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""No script runs on the page whatever an index says, and nothing but pictures is loaded."""
_MAX_CHANGELOG = 4000


def render(index: Index, title: str) -> bytes:
    """Return the page, HTML in UTF-8. index: may be forged; nothing of it becomes markup."""
    plugins = index.by_name
    body = "".join(_plugin(releases) for releases in plugins.values()) or "<p>There are no plugins yet.</p>"
    count = f"{len(plugins)} plugin{'' if len(plugins) == 1 else 's'}"
    names = " · ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in plugins) if len(plugins) > 1 else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        "<p>A NexusMarketplace whose <code>spec.source</code> is the address of this page installs from here. It follows the signed "
        'metadata; this page and <a href="index.json"><code>index.json</code></a> are copies for people.</p>'
        f"<p>{count}{': ' if names else '.'}{names}</p>{body}</body></html>"
    ).encode()


def _plugin(releases: tuple[Release, ...]) -> str:
    newest = releases[0]
    icon = (
        f'<img src="{escape(newest.icon)}" alt="" loading="lazy" referrerpolicy="no-referrer">'
        if _is_page(newest.icon)
        else ""
    )
    name = escape(newest.name)
    heading = (
        f'<a href="{escape(newest.homepage)}" rel="noreferrer nofollow">{name}</a>'
        if _is_page(newest.homepage)
        else name
    )
    rows = [
        ("Install", f"<code>nexus plugin install {name} --marketplace NAME</code>"),
        ("Versions", ", ".join(_version(release) for release in releases)),
        ("Publisher", escape(newest.publisher)),
        ("Needs", _needs(newest)),
        ("Hooks", _codes(newest.hooks)),
        ("Asks for", _permissions(newest.permissions)),
        ("Licence", escape(newest.licence)),
        ("Pictures", _pictures(newest.screenshots)),
        ("When it fails", "requests pass without it" if newest.failure_policy == "open" else "requests are refused"),
    ]
    listed = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in rows if value)
    changes = ""
    if newest.changelog:
        text = newest.changelog[:_MAX_CHANGELOG] + ("…" if len(newest.changelog) > _MAX_CHANGELOG else "")
        changes = f"<details><summary>Changes in {escape(newest.version)}</summary><pre>{escape(text)}</pre></details>"
    return (
        f'<article id="{name}"><h2>{icon}{heading} <small>{escape(newest.version)}</small></h2><p>{escape(newest.summary)}</p>'
        f"<dl>{listed}</dl>{changes}</article>"
    )


def _pictures(urls: Iterable[str]) -> str:
    pages = [url for url in urls if _is_page(url)]
    return ", ".join(
        f'<a href="{escape(url)}" rel="noreferrer nofollow">{number}</a>' for number, url in enumerate(pages, 1)
    )


def _version(release: Release) -> str:
    channel = f" <small>({escape(release.channel)})</small>" if release.channel != "stable" else ""
    return f"<code>{escape(release.version)}</code>{channel}"


def _needs(release: Release) -> str:
    needs = [f"plugin API {release.api}"]
    needs += [f"Python {release.python}"] if release.python else []
    needs += [f"{each.name} {each.versions}".strip() for each in release.plugins]
    needs += [f"{each.name} {each.version}" for each in release.wheels]
    needs += list(release.host)
    return escape(", ".join(needs))


def _permissions(asked: Permissions) -> str:
    parts = [
        ("calls to", asked.network), ("services", asked.services), ("secrets", asked.secrets), ("Consul keys below", asked.consul),
        ("modules", asked.modules),
    ]  # fmt: skip
    told = [f"{label} {_codes(values)}" for label, values in parts if values]
    for label, values in (("reads headers", asked.read_headers), ("writes headers", asked.write_headers)):
        if values:
            told.append(f"{label} {'any' if '*' in values else _codes(values)}")
    told += ["compiled code"] if asked.native else []
    return "; ".join(told)


def _codes(values: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(value)}</code>" for value in values)


def _is_page(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False
