"""A marketplace in an OCI registry: an image manifest whose layers are the files, each titled with its path.

Source: OCI Distribution Specification 1.1; OCI Image Specification 1.1, `org.opencontainers.image.title`; token authentication of the
Docker registry, which all registries have.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from nexus_marketplace.downloading import Answer, DownloadFailed, TooLarge, ask, hidden
from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, check_path
from nexus_marketplace.troubles import MarketplaceTrouble

if TYPE_CHECKING:
    from nexus_core.translate.market_access import Access

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.nexus.marketplace.v1"
LAYER = "application/octet-stream"
TITLE = "org.opencontainers.image.title"
EMPTY = b"{}"
"""The configuration of an image that has none (Image Specification, "Guidance for an empty descriptor")."""
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
MAX_MANIFEST_BYTES = 4 * 2**20
"""What registries take (Distribution Specification: at least that)."""
READ_S = 15.0
_MAX_TOKEN_BYTES = 2**16
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?)/(?P<name>[a-z0-9._-]+(?:/[a-z0-9._-]+)*)(?::(?P<tag>[A-Za-z0-9_][\w.-]{0,127}))?"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reference:
    """`host[:port]/name[:tag]`."""

    host: str
    name: str
    tag: str = "latest"

    def __str__(self) -> str:
        return f"{self.host}/{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Login:
    """User and password for a registry."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r}, [redacted])"


def parse(text: str) -> Reference:
    """Return a reference, with or without `oci://`. Raises `MarketplaceTrouble`."""
    found = _REFERENCE.fullmatch(text.removeprefix("oci://"))
    if found is None:
        raise MarketplaceTrouble(
            "MarketplaceInvalid",
            f"{text!r} names no image.",
            "Write it as registry[:port]/repository[:tag], in lower case.",
        )
    return Reference(found["host"], found["name"], found["tag"] or "latest")


class Registry:
    """The files of one image."""

    signed = True

    def __init__(
        self,
        reference: Reference,
        *,
        plain_http: bool = False,
        login: Login | None = None,
        total_s: float = READ_S,
        access: Access | None = None,
    ) -> None:
        """plain_http: without TLS. login: for registries that ask for one. total_s: for one file, to its last byte. access: instead of
        a login; its token is the registry's own, and no password for the server that gives tokens.
        """
        if access is not None and access.user:
            login = Login(access.user, access.password)
        self._access = access
        self._client = Client(reference, plain_http=plain_http, login=login, total_s=total_s)
        if access is not None and access.token:
            self._client.present(access.token)
        self.base_url = f"oci{'+http' if plain_http else ''}://{reference}/"
        self.for_people = f"oci://{reference}"
        self._files: dict[str, tuple[str, int]] | None = None

    def begin(self) -> None:
        """Read the manifest anew at the next `read`: all files of one manifest are of one state."""
        self._files = None

    def paths(self) -> tuple[tuple[str, int], ...]:
        """Return path and size of each file. Raises `FileMissing` when there is no such image, `MarketplaceTrouble`."""
        try:
            self._files = files_of(asyncio.run(self._client.manifest()), self.for_people)
        except DownloadFailed as error:
            if error.status == 404:
                raise FileMissing(f"There is no image {self.for_people} yet.") from error
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                hidden(error, self._access),
                "Correct the reference or the login.",
                retryable=True,
            ) from error
        return tuple((path, size) for path, (_, size) in sorted(self._files.items()))

    def read(self, path: str, max_bytes: int) -> bytes:
        """See `SourcePort.read`. The bytes have the digest that the manifest gives."""
        return asyncio.run(self.fetch(path, max_bytes))

    async def fetch(self, path: str, max_bytes: int) -> bytes:
        """As `read`, on the running event loop."""
        try:
            if self._files is None:
                self._files = files_of(await self._client.manifest(), self.for_people)
            found = self._files.get(check_path(path))
            if found is None:
                raise FileMissing(f"{self.for_people} has no file {path}.")
            digest, size = found
            if size > max_bytes:
                raise FileTooLarge(f"{path} of {self.for_people} has {size} bytes; at most {max_bytes} are read.")
            return await self._client.blob(digest, max_bytes)
        except TooLarge as error:
            raise FileTooLarge(hidden(error, self._access)) from error
        except DownloadFailed as error:
            fix = "Correct the reference, or push the marketplace there with `nexus marketplace push`; it is tried again by itself."
            if error.status in (401, 403):
                fix = (
                    "Let the image be pulled without a login, or give one: in the Secret that spec.source.secretRef names, or as "
                    "NEXUS_OCI_USERNAME and NEXUS_OCI_PASSWORD."
                )
            raise MarketplaceTrouble(
                "MarketplaceUnreachable", hidden(error, self._access), fix, retryable=True
            ) from error


def files_of(manifest: bytes, origin: str) -> dict[str, tuple[str, int]]:
    """Return digest and size of each file of an image, by path. Raises `MarketplaceTrouble` for what is no image of ours."""
    try:
        found: dict[str, tuple[str, int]] = {}
        for layer in json.loads(manifest)["layers"]:
            title = (layer.get("annotations") or {}).get(TITLE)
            digest = str(layer["digest"])
            if title is None or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                continue
            found[check_path(str(title))] = (digest, int(layer["size"]))
        if not found:
            raise ValueError("no layer has a title")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MarketplaceTrouble(
            "MarketplaceInvalid",
            f"{origin} is not an image with files in it: {type(error).__name__}: {error}.",
            "Push the marketplace with `nexus marketplace push`.",
        ) from error
    return found


def find_login(host: str, environment: Mapping[str, str] = os.environ) -> Login | None:
    """Return the login for a registry: NEXUS_OCI_USERNAME and NEXUS_OCI_PASSWORD, else what `docker login` left in its config.json."""
    user, password = environment.get("NEXUS_OCI_USERNAME"), environment.get("NEXUS_OCI_PASSWORD")
    if user and password:
        return Login(user, password)
    folder = environment.get("DOCKER_CONFIG")
    path = Path(folder) if folder else Path(environment.get("HOME", "/")) / ".docker"
    try:
        known = json.loads((path / "config.json").read_bytes())["auths"][host]["auth"]
        user, _, password = base64.b64decode(known).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Login(user, password)


class Client:
    """A registry's API, for one repository."""

    def __init__(self, reference: Reference, *, plain_http: bool, login: Login | None, total_s: float) -> None:
        self.reference = reference
        self._scheme = "http" if plain_http else "https"
        self._base = f"{self._scheme}://{reference.host}/v2/{reference.name}/"
        self._login = login
        self._total_s = total_s
        self._authorization = ""
        self._is_given = False

    def present(self, token: str) -> None:
        """Send this token, and ask nobody for another one."""
        self._authorization, self._is_given = f"Bearer {token}", True

    async def manifest(self) -> bytes:
        """Return the manifest that the tag means now."""
        return (await self._get(f"manifests/{self.reference.tag}", MAX_MANIFEST_BYTES, {"Accept": MANIFEST})).body

    async def blob(self, digest: str, max_bytes: int) -> bytes:
        """Return a blob, its digest checked. digest: `sha256:<hex>`."""
        data = (await self._get(f"blobs/{digest}", max_bytes, {})).body
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise DownloadFailed(f"The blob {digest} of {self.reference} has another digest.", retryable=True)
        return data

    async def has_blob(self, digest: str) -> bool:
        """Whether the registry has a blob."""
        return (await self._ask("HEAD", urljoin(self._base, f"blobs/{digest}"), 0)).status == 200

    async def push_blob(self, data: bytes) -> str:
        """Put a blob there, in one piece, unless it is there; return its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if await self.has_blob(digest):
            return digest
        url = urljoin(self._base, "blobs/uploads/")
        opened = self._expect(await self._ask("POST", url, _MAX_TOKEN_BYTES, body=b""), url, 202)
        place = urljoin(self._base, opened.headers.get("location", ""))
        if urlsplit(place).netloc != self.reference.host or urlsplit(place).scheme != self._scheme:
            raise DownloadFailed(f"{self.reference.host} wants the upload at {place}, which is not it.")
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        put = await self._ask("PUT", place, _MAX_TOKEN_BYTES, {"Content-Type": LAYER}, data)
        self._expect(put, urljoin(self._base, f"blobs/{digest}"), 201)
        return digest

    async def push_manifest(self, data: bytes) -> None:
        """Put the manifest under the tag: from then on the tag means it."""
        url = urljoin(self._base, f"manifests/{self.reference.tag}")
        self._expect(await self._ask("PUT", url, _MAX_TOKEN_BYTES, {"Content-Type": MANIFEST}, data), url, 201)

    async def _get(self, path: str, max_bytes: int, headers: Mapping[str, str]) -> Answer:
        url = urljoin(self._base, path)
        return self._expect(await self._ask("GET", url, max_bytes, headers), url, 200)

    def _expect(self, answer: Answer, url: str, status: int) -> Answer:
        if answer.status != status:
            said = answer.body[:200].decode(errors="replace").strip()
            raise DownloadFailed(
                f"{url} answered {answer.status}; expected {status}. {said}".strip(), status=answer.status
            )
        return answer

    async def _ask(
        self, method: str, url: str, max_bytes: int, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Ask, and once more with a token when the registry wants one."""
        for again in (True, False):
            sent = dict(headers or {})
            if self._authorization:
                sent["Authorization"] = self._authorization
            # An error's body may be larger than what was asked for.
            answer = await ask(
                method, url, max(max_bytes, _MAX_TOKEN_BYTES), total_s=self._total_s, headers=sent, body=body
            )
            if answer.status != 401 or not again:
                if answer.status == 200 and len(answer.body) > max_bytes:
                    raise TooLarge(f"{url} has {len(answer.body)} bytes; at most {max_bytes} are read.")
                return answer
            if self._is_given:
                raise DownloadFailed(f"{self.reference.host} does not take the token that it was shown.", status=401)
            self._authorization = await self._authorize(answer.headers.get("www-authenticate", ""), method)
        raise AssertionError("unreachable")

    async def _authorize(self, challenge: str, method: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            if self._login is None:
                raise DownloadFailed(f"{self.reference.host} asks for a login.", status=401)
            return self._basic(self._login)
        if scheme.lower() != "bearer":
            raise DownloadFailed(
                f"{self.reference.host} asks for {scheme or 'no'} authentication, which is not known.", status=401
            )
        said = dict(_CHALLENGE.findall(rest))
        realm = said.get("realm", "")
        if urlsplit(realm).scheme not in ({"http", "https"} if self._scheme == "http" else {"https"}):
            raise DownloadFailed(
                f"{self.reference.host} sends for tokens to {realm!r}, which is not https.", status=401
            )
        actions = "pull" if method in ("GET", "HEAD") and self._login is None else "pull,push"
        asked = {"scope": said.get("scope") or f"repository:{self.reference.name}:{actions}"}
        if said.get("service"):
            asked["service"] = said["service"]
        url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(asked, quote_via=quote)
        headers = {"Authorization": self._basic(self._login)} if self._login is not None else {}
        answer = await ask("GET", url, _MAX_TOKEN_BYTES, total_s=self._total_s, headers=headers)
        if answer.status != 200:
            raise DownloadFailed(f"{realm} gave no token: it answered {answer.status}.", status=401)
        try:
            found: dict[str, Any] = json.loads(answer.body)
            token = str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DownloadFailed(f"{realm} answered without a token.", status=401) from error
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise DownloadFailed(f"{realm} answered with a token that is none.", status=401)
        return f"Bearer {token}"

    @staticmethod
    def _basic(login: Login) -> str:
        return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


async def push(
    directory: Path, reference: Reference, *, plain_http: bool, login: Login | None, total_s: float = 60.0
) -> int:
    """Put a marketplace's files into a registry and tag them; return how many. The tag moves last: readers see one state or the other.

    Raises `DownloadFailed`, `MarketplaceTrouble` for a directory that is no marketplace, OSError.
    """
    client = Client(reference, plain_http=plain_http, login=login, total_s=total_s)
    if not (directory / "metadata" / "timestamp.json").is_file():
        raise MarketplaceTrouble(
            "MarketplaceInvalid",
            f"{directory} has no metadata/timestamp.json.",
            "Name a directory that `nexus marketplace build` wrote.",
        )
    layers = []
    # The timestamp first: what it names is there already, whatever a publisher adds meanwhile.
    for path in sorted(marketplace_files(directory), key=lambda each: (each != "metadata/timestamp.json", each)):
        data = await asyncio.to_thread((directory / path).read_bytes)
        digest = await client.push_blob(data)
        layers.append({"mediaType": LAYER, "digest": digest, "size": len(data), "annotations": {TITLE: path}})
    config = await client.push_blob(EMPTY)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": {"mediaType": EMPTY_TYPE, "digest": config, "size": len(EMPTY)},
        "layers": sorted(layers, key=lambda layer: str(layer["annotations"])),
    }
    data = json.dumps(manifest, sort_keys=True).encode()
    if len(data) > MAX_MANIFEST_BYTES:
        raise MarketplaceTrouble(
            "MarketplaceInvalid",
            f"{directory} has too many files for one image ({len(layers)}).",
            "Split the marketplace in two.",
        )
    await client.push_manifest(data)
    return len(layers)


def marketplace_files(directory: Path) -> list[str]:
    """Return the paths of a marketplace's own files: nothing hidden, nothing that was put beside them."""
    found = [
        f"{folder}/{path.name}" for folder in FOLDERS for path in (directory / folder).glob("[!.]*") if path.is_file()
    ]
    if (directory / "index.json").is_file():
        found.append("index.json")
    return sorted(found)


FOLDERS = ("artefacts", "metadata", "targets", "wheels")
