"""The first-party plugins, driven by the SDK's kit; and that the checked-in index is what their code builds to."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.marketplace import parse_index, signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_marketplace.fetching import read_bundled
from nexus_marketplace.publishing import PublishRefused, build_artefact, build_index, public_key, read_key
from nexus_plugin_api_key import ApiKey
from nexus_plugin_request_id import RequestId
from nexus_plugin_request_id.ids import ulid, uuid4
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import PluginKit

ROOT = Path(__file__).parents[3] / "plugins"
PACKAGES = {"api-key": ROOT / "api-key/nexus_plugin_api_key", "request-id": ROOT / "request-id/nexus_plugin_request_id"}
ALL = {path.parts[-3]: path.parent for path in sorted(ROOT.glob("*/nexus_plugin_*/plugin.yaml"))}
DIGEST = hashlib.sha256(b"secret").hexdigest()
KEYS = {"keys": [{"name": "app", "sha256": DIGEST}, {"name": "other", "sha256": hashlib.sha256(b"second").hexdigest()}]}


def head(query: str = "", **headers: str) -> RequestHead:
    return RequestHead(
        "GET", "/", query, "shop", tuple((name.replace("_", "-"), value) for name, value in headers.items())
    )


async def key_answer(config: dict[str, Any], request: RequestHead) -> RequestHead | Reply:
    async with PluginKit(ApiKey, {**KEYS, **config}) as kit:
        return await kit.request(request)


async def test_a_known_key_passes_names_its_consumer_and_is_stripped() -> None:
    answer = await key_answer({}, head(x_api_key="second", x_consumer_name="forged", accept="*/*"))
    assert isinstance(answer, RequestHead)
    assert answer.headers == (("accept", "*/*"), ("x-consumer-name", "other"))


@pytest.mark.parametrize(
    ("request_head", "reason"),
    [(head(), "ApiKeyMissing"), (head(x_api_key=""), "ApiKeyMissing"), (head(x_api_key="wrong"), "ApiKeyUnknown"),
     (head(x_api_key=DIGEST), "ApiKeyUnknown"), (head("key=secret"), "ApiKeyMissing"), (head(x_api_key="a" * 5000), "ApiKeyMissing"),
     (RequestHead("GET", "/", headers=(("x-api-key", "secret"), ("x-api-key", "second"))), "ApiKeyMissing")],
)  # fmt: skip
async def test_everything_else_is_refused_with_401(request_head: RequestHead, reason: str) -> None:
    answer = await key_answer({}, request_head)
    assert isinstance(answer, Reply)
    assert answer.status == 401
    assert dict(answer.headers)["www-authenticate"] == 'ApiKey realm="nexus"'
    assert f'"reason": "{reason}"'.encode() in answer.body
    assert b"secret" not in answer.body


async def test_the_query_parameter_is_taken_and_stripped_only_when_configured() -> None:
    answer = await key_answer({"query": "api_key"}, head("a=1&api_key=secr%65t&b=2"))
    assert isinstance(answer, RequestHead)
    assert (answer.query, answer.header("x-consumer-name")) == ("a=1&b=2", "app")
    both = await key_answer({"query": "api_key"}, head("api_key=secret", x_api_key="wrong"))
    assert isinstance(both, Reply)
    kept = await key_answer({"query": "api_key", "passKey": True}, head("api_key=secret"))
    assert isinstance(kept, RequestHead)
    assert kept.query == "api_key=secret"


def test_a_header_that_the_plugin_sets_itself_is_refused() -> None:
    with pytest.raises(PluginConfigError, match=r"config\.header"):
        ApiKey({**KEYS, "header": "X-Consumer-Name"})


async def test_request_ids_are_kept_made_and_returned() -> None:
    async with PluginKit(RequestId) as kit:
        kept = await kit.request(head(x_request_id="mine"))
        assert isinstance(kept, RequestHead)
        assert kept.header("x-request-id") == "mine"
        assert (await kit.response(kept, ResponseHead(200))).header("x-request-id") == "mine"
        for bad in ("", "a b", "x" * 129, "é"):
            made = await kit.request(head(x_request_id=bad))
            assert isinstance(made, RequestHead)
            assert re.fullmatch(
                r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
                made.header("x-request-id") or "",
            )
    async with PluginKit(
        RequestId, {"header": "X-Own", "format": "ulid", "trustClient": False, "response": False}
    ) as kit:
        made = await kit.request(head(x_own="mine"))
        assert isinstance(made, RequestHead)
        assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", made.header("x-own") or "")
        assert (await kit.response(made, ResponseHead(200))).headers == ()


def test_ids_have_their_formats() -> None:
    assert uuid4(bytes(16)) == "00000000-0000-4000-8000-000000000000"
    assert ulid(0, bytes(10)) == "0" * 26
    assert ulid(2**48 - 1, b"\xff" * 10) == "7" + "Z" * 25
    assert ulid(1, b"\xff" * 10) < ulid(2, bytes(10)), "they sort by time"


@pytest.mark.parametrize("name", PACKAGES)
def test_config_schemas_are_valid_and_refuse_what_they_do_not_know(name: str) -> None:
    manifest = yaml.safe_load((PACKAGES[name] / "plugin.yaml").read_text())
    schema = manifest["configSchema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = KEYS if name == "api-key" else {"format": "ulid"}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "unknown": 1})
    if name == "api-key":
        assert not validator.is_valid({"keys": [{"name": "a", "sha256": "secret"}]})
        assert not validator.is_valid({**good, "realm": 'a" b'})


@pytest.mark.parametrize("name", ALL)
def test_the_checked_in_index_is_what_the_code_builds_to_and_is_signed(name: str) -> None:
    """If this fails after a change of a plugin: raise its version and publish the index anew."""
    index = parse_index((ROOT / "index/nexus_plugins/index.json").read_bytes(), "index.json")
    release = index.by_name[name][0]
    artefact = read_bundled(release.package)
    assert hashlib.sha256(artefact).hexdigest() == release.sha256
    package = ALL[name]
    files = {f"{package.name}/{path.name}": path.read_bytes() for path in package.iterdir() if path.is_file()}
    assert artefact == build_zip(files)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode((ROOT / "index/nexus_plugins/publisher.pub").read_text()))
    key.verify(base64.b64decode(release.signature), signed_bytes(release))
    manifest = yaml.safe_load((package / "plugin.yaml").read_text())
    assert (release.version, release.config_schema, release.url) == (
        manifest["version"],
        manifest["configSchema"],
        "bundled:",
    )


def test_publishing_is_deterministic_and_keeps_former_releases(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    built = [build_artefact(PACKAGES["api-key"], key, "me") for _ in range(2)]
    assert built[0] == built[1]
    assert built[0].file_name == "api-key-1.1.0.zip"
    first = build_index([built[0]])
    both = build_index([build_artefact(PACKAGES["request-id"], key, "me")], former=first)
    assert list(parse_index(both, "x").by_name) == ["api-key", "request-id"]


def test_a_key_is_made_once_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    with pytest.raises(PublishRefused, match="There is no key"):
        read_key(path)
    made = read_key(path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key(read_key(path)) == public_key(made)
    path.write_text("nonsense")
    with pytest.raises(PublishRefused, match="not a private key"):
        read_key(path)


def test_absolute_imports_of_itself_are_refused(tmp_path: Path) -> None:
    package = tmp_path / "demo"
    package.mkdir()
    (package / "plugin.yaml").write_text("{name: demo, version: 1.0.0, api: '>=1', entryPoint: 'demo.x:X'}")
    (package / "__init__.py").write_text("from demo.x import X")
    with pytest.raises(PublishRefused, match=r"demo/__init__.py line 1 imports demo by its absolute name"):
        build_artefact(package, Ed25519PrivateKey.generate(), "me")
