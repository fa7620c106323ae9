"""Addresses of marketplaces on web servers: as they are fetched, and as everybody may read them."""

from __future__ import annotations

import re

_TAIL = re.compile(r"[?#].*", re.DOTALL)


def directory_url(url: str) -> str:
    """Return the address of the directory, with a `/` at its end. url: of it, or of the `index.json` in it."""
    return url.removesuffix("index.json").rstrip("/") + "/"


def public_url(url: str) -> str:
    """Return an address without its name, password, query and fragment: for Snapshots, which are in Consul and shown to many.

    Never raises, whatever the text is: nobody has looked at it yet.
    """
    scheme, colon, rest = url.partition("://")
    authority, slash, path = _TAIL.sub("", rest if colon else scheme).partition("/")
    host = authority.rpartition("@")[2]
    return f"{scheme}{colon}{host}{slash}{path}" if colon else f"{host}{slash}{path}"
