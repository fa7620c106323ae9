"""Secrets in Snapshots are sealed: equal ones look equal, and nothing else can be told or put in their place."""

from __future__ import annotations

import base64

import pytest
from nexus_core.certificates.sealing import Sealer, SealError, parse_key, process_sealer
from nexus_core.snapshot import Certificate, Snapshot
from nexus_core.snapshot.differences import find_differences

KEY = bytes(range(32))
ABOUT = "Secret/shop/tls"


def test_what_was_sealed_comes_back() -> None:
    sealer = Sealer(KEY)
    for clear in (b"", b"key", bytes(70_000)):
        assert Sealer(KEY).unseal(sealer.seal(clear, ABOUT), ABOUT) == clear


def test_equal_secrets_give_equal_text_and_others_another_nonce() -> None:
    sealer = Sealer(KEY)
    assert sealer.seal(b"key", ABOUT) == Sealer(KEY).seal(b"key", ABOUT)
    texts = {sealer.seal(clear, about) for clear in (b"key", b"kez", b"") for about in (ABOUT, "Secret/shop/tl", "")}
    nonces = {base64.b64decode(text[3:])[:12] for text in texts}
    assert len(texts) == len(nonces) == 9
    assert b"key" not in base64.b64decode(sealer.seal(b"key", ABOUT)[3:])


@pytest.mark.parametrize(
    "changed", ["another key", "another object", "a changed byte", "cut short", "no base64", "another form"]
)
def test_what_was_changed_is_refused_without_telling_the_secret(changed: str) -> None:
    text = Sealer(KEY).seal(b"very secret", ABOUT)
    sealer, about = Sealer(KEY), ABOUT
    if changed == "another key":
        sealer = Sealer(bytes(32))
    elif changed == "another object":
        about = "Secret/shop/other"
    elif changed == "a changed byte":
        raw = bytearray(base64.b64decode(text[3:]))
        raw[-1] ^= 1
        text = "v1:" + base64.b64encode(raw).decode()
    elif changed == "cut short":
        text = text[:12]
    elif changed == "no base64":
        text = "v1:!!"
    else:
        text = "v2:" + text[3:]
    with pytest.raises(SealError) as refused:
        sealer.unseal(text, about)
    assert about in str(refused.value)
    assert "very secret" not in str(refused.value)


def test_keys_are_checked() -> None:
    assert parse_key(base64.b64encode(KEY).decode() + "\n") == KEY
    for text in ("", "short", base64.b64encode(KEY[:31]).decode(), "é" * 44):
        with pytest.raises(SealError, match="openssl rand -base64 32"):
            parse_key(text)
    with pytest.raises(SealError, match="31 bytes"):
        Sealer(KEY[:31])


def test_sealing_anew_is_no_difference_between_snapshots() -> None:
    def snapshot(sealer: Sealer, chain: str) -> Snapshot:
        sealed = sealer.seal(b"key", "Secret/a/b")
        return Snapshot(certificates=(Certificate("Secret/a/b", "Secret a/b", chain, sealed),))

    one, other = Sealer(bytes(32)), Sealer(bytes(range(32)))
    assert snapshot(one, "x") != snapshot(other, "x")
    assert not find_differences(snapshot(one, "x"), snapshot(other, "x"))
    (found,) = find_differences(snapshot(one, "x"), snapshot(other, "y"))
    assert found.change == "changed"


def test_a_process_has_one_sealer_of_its_own() -> None:
    assert process_sealer() is process_sealer()
    assert process_sealer().unseal(process_sealer().seal(b"key", "x"), "x") == b"key"
