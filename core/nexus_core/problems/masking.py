"""Secrets, taken out of what is told of failures: statuses and events are read by more people than Secrets are. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, urlsplit

MASK = "[redacted]"
_LEAST = 4
"""Characters. What is shorter is in many a word, and the message would be of no use."""


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return the text with `MASK` in place of each secret, as it is and as addresses, JSON and `repr` have it; of an address that is
    secret, also in place of its password. An error may still tell a secret in a way of its own.
    """
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _LEAST}
    # The longest first: what is left of one of which another is a part would tell the rest.
    for form in sorted(forms, key=lambda each: (-len(each), each)):
        text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> Iterable[str]:
    for each in (secret, secret.strip(), _password(secret)):
        if len(each) >= _LEAST:
            yield from (each, quote(each), quote(each, safe=""), quote_plus(each))
            yield from (json.dumps(each)[1:-1], json.dumps(each, ensure_ascii=False)[1:-1], repr(each)[1:-1])


def _password(secret: str) -> str:
    try:
        return urlsplit(secret).password or ""
    except ValueError:
        return ""  # it is no address
