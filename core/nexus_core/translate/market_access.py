"""How marketplaces that ask for a login are read: from the Secrets that NexusMarketplaces name.

Only who fetches needs it; none of it is in a Snapshot, a status or a message. A Secret has to be of a type of its own: whoever may
write NexusMarketplaces would else have any Secret sent to an address of their choice.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nexus_core.marketplace.addresses import directory_url
from nexus_core.model.kubernetes import SecretContent
from nexus_core.model.plugins import LOGIN_KEYS, LOGIN_TYPE, NexusMarketplaceSpec, Source
from nexus_core.model.resources import Resource
from nexus_core.problems.masking import MASK, hide
from nexus_core.translate.plugin_markets import base_url_of

_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """A login: a bearer token, else a name and a password."""

    token: str = ""
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Access({MASK})"

    @property
    def authorization(self) -> str:
        """The value of the header of that name."""
        return f"Bearer {self.token}" if self.token else f"Basic {self._pair()}"

    def hide(self, text: str) -> str:
        """Return a text without the secrets: servers write into their answers what they were sent."""
        pair = "" if self.token else self._pair()
        return hide(text, (self.token, self.password, pair))

    def _pair(self) -> str:
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Locked:
    """A login that cannot be read. what, fix: sentences, without anything of the Secret's content."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Way:
    """How files of a marketplace are fetched. url: of its directory, with what is private in it. access: sent along, None for none."""

    url: str
    access: Access | None = None


def find_accesses(resources: Iterable[Resource]) -> dict[str, Access | Locked]:
    """Return the logins of marketplaces that have one, by marketplace name. resources: the whole world, Secrets too."""
    secrets: dict[tuple[str, str], SecretContent | None] = {}
    sources: dict[str, Source] = {}
    for resource in resources:
        if resource.ref.kind == "Secret":
            content = resource.spec
            secrets[resource.ref.namespace, resource.ref.name] = content if isinstance(content, SecretContent) else None
        elif isinstance(resource.spec, NexusMarketplaceSpec) and resource.spec.source.secret_ref is not None:
            sources[resource.ref.name] = resource.spec.source
    return {name: _read(source, secrets) for name, source in sorted(sources.items())}


def find_ways(sources: Iterable[tuple[Source, Access | Locked | None]]) -> dict[str, Way]:
    """Return how to fetch from marketplaces that are not open to everybody, by the `base_url` that Snapshots have of them.

    Those whose login cannot be read are among them: nobody else can fetch from there either.
    """
    found = {}
    for source, access in sources:
        base_url = base_url_of(source)
        url = directory_url(source.url) if source.url is not None else base_url
        if url != base_url or source.secret_ref is not None:
            found[base_url] = Way(url, access if isinstance(access, Access) else None)
    return found


def _read(source: Source, secrets: Mapping[tuple[str, str], SecretContent | None]) -> Access | Locked:
    ref = source.secret_ref
    assert ref is not None
    named = f'Secret "{ref.name}" in namespace "{ref.namespace}"'
    fix = (
        f"Make it: kubectl -n {ref.namespace} create secret generic {ref.name} --type={LOGIN_TYPE} --from-literal=token=…, or with "
        "username and password."
    )
    content = secrets.get((ref.namespace, ref.name))
    if content is None:
        return Locked(f"There is no {named}, which the marketplace's login is in.", fix)
    if content.type != LOGIN_TYPE:
        return Locked(f"{named} is of type {content.type}, and not for logins of marketplaces.", fix)
    found = {key: _text(content.find(key)) for key in LOGIN_KEYS}
    token, user, password = (found[key] for key in LOGIN_KEYS)
    if token:
        if not _TOKEN.fullmatch(token):
            return Locked(f"The token in {named} has characters that no token has.", fix)
        return Access(token=token)
    if not user or not password:
        return Locked(f"{named} has neither a token nor both username and password.", fix)
    if ":" in user:
        return Locked(f"The username in {named} has a colon, which separates it from the password.", fix)
    return Access(user=user, password=password)


def _text(value: bytes | None) -> str:
    """Secrets that are made of files end with a line feed."""
    try:
        return value.decode().strip("\r\n") if value is not None else ""
    except UnicodeDecodeError:
        return ""
