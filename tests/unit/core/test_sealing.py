"""Secrets in Snapshots are sealed: equal ones look equal, and nothing else can be told or put in their place."""

from __future__ import annotations

import base64

import pytest
from nexus_core.certificates import sealing
from nexus_core.certificates.sealing import Opener, Seal, Sealer, SealError, gateway_key, parse_key, process_sealer
from nexus_core.snapshot import Certificate, Holder, Listener, ListenerTls, Snapshot
from nexus_core.snapshot.differences import find_differences
from nexus_core.snapshot.narrowing import of_gateway

KEY = bytes(range(32))
ABOUT = "Secret/shop/tls"


def test_what_was_sealed_comes_back() -> None:
    seal = Seal(KEY)
    for clear in (b"", b"key", bytes(70_000)):
        assert Seal(KEY).unseal(seal.seal(clear, ABOUT), ABOUT) == clear


def test_equal_secrets_give_equal_text_and_others_another_nonce() -> None:
    seal = Seal(KEY)
    assert seal.seal(b"key", ABOUT) == Seal(KEY).seal(b"key", ABOUT)
    texts = {seal.seal(clear, about) for clear in (b"key", b"kez", b"") for about in (ABOUT, "Secret/shop/tl", "")}
    nonces = {base64.b64decode(text[3:])[:12] for text in texts}
    assert len(texts) == len(nonces) == 9
    assert b"key" not in base64.b64decode(seal.seal(b"key", ABOUT)[3:])


@pytest.mark.parametrize(
    "changed", ["another key", "another object", "a changed byte", "cut short", "no base64", "another form"]
)
def test_what_was_changed_is_refused_without_telling_the_secret(changed: str) -> None:
    text = Seal(KEY).seal(b"very secret", ABOUT)
    seal, about = Seal(KEY), ABOUT
    if changed == "another key":
        seal = Seal(bytes(32))
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
        seal.unseal(text, about)
    assert about in str(refused.value)
    assert "very secret" not in str(refused.value)


def test_keys_are_checked() -> None:
    assert parse_key(base64.b64encode(KEY).decode() + "\n") == KEY
    for text in ("", "short", base64.b64encode(KEY[:31]).decode(), "é" * 44):
        with pytest.raises(SealError, match="openssl rand -base64 32"):
            parse_key(text)
    with pytest.raises(SealError, match="31 bytes"):
        Seal(KEY[:31])


def sealed(sealer: Sealer, *gateways: str, clear: bytes = b"very secret", about: str = ABOUT) -> Certificate:
    return Certificate(about, "Secret shop/tls", "a chain", *sealer.seal(clear, about, gateways))


def test_a_key_is_opened_by_every_gateway_that_shows_it_and_by_the_installation() -> None:
    found = sealed(Sealer(KEY), "shop/main", "shop/inside", "shop/main")
    assert [holder.gateway for holder in found.holders] == ["shop/inside", "shop/main"]
    assert Sealer(KEY).unseal(found) == b"very secret"
    for gateway in ("shop/inside", "shop/main"):
        assert Opener(gateway_key(KEY, gateway), gateway).unseal(found) == b"very secret"
        assert Opener(KEY, gateway).unseal(found) == b"very secret"


def test_a_key_is_not_opened_by_the_key_of_another_gateway() -> None:
    """Whatever name it takes, and whichever text it puts where its own would be."""
    sealer = Sealer(KEY)
    found = sealed(sealer, "shop/main", "shop/inside")
    stolen = gateway_key(KEY, "tenant/web")
    own = sealed(sealer, "tenant/web", about="Secret/tenant/tls").holders[0]
    for gateway in ("tenant/web", "shop/main", "shop/inside"):
        for holders in (
            found.holders,
            tuple(Holder(gateway, holder.key) for holder in found.holders),
            (Holder(gateway, own.key),),
        ):
            for opener in (Opener(stolen, gateway), Sealer(stolen)):
                with pytest.raises(SealError) as refused:
                    opener.unseal(Certificate(found.id, found.source, found.chain, found.key, holders))
                assert ABOUT in str(refused.value)
    # Nor by any of the keys that it can make of what it has.
    for key in (stolen, gateway_key(stolen, "shop/main"), gateway_key(stolen, "tenant/web")):
        for text in (found.key, *(holder.key for holder in found.holders)):
            with pytest.raises(SealError):
                Seal(key).unseal(text, ABOUT)


def test_who_held_the_last_key_cannot_open_the_next() -> None:
    sealer = Sealer(KEY)
    before, after = sealed(sealer, "shop/main"), sealed(sealer, "shop/inside", clear=b"another")
    mixed = Certificate(after.id, after.source, after.chain, after.key, before.holders)
    with pytest.raises(SealError):
        Opener(gateway_key(KEY, "shop/main"), "shop/main").unseal(mixed)


def test_keys_of_gateways_differ_and_are_not_the_installations() -> None:
    keys = {gateway_key(KEY, name) for name in ("shop/main", "shop/mai", "nexus/default", "")} | {KEY}
    assert len(keys) == 5
    assert {len(key) for key in keys} == {32}


def test_sealing_again_gives_the_same_and_other_gateways_change_nothing_but_who_can_open() -> None:
    sealer = Sealer(KEY)
    first = sealed(sealer, "shop/a", "shop/b")
    assert sealed(sealer, "shop/b", "shop/a") == first == sealed(Sealer(KEY), "shop/a", "shop/b")
    more = sealed(sealer, "shop/a", "shop/b", "shop/c")
    assert (more.key, more.holders[:2]) == (first.key, first.holders)
    for gateways in (("shop/c",), ("shop/a", "shop/c"), (), ("shop/b", "shop/a")):
        assert sealed(sealer, *gateways) == sealed(Sealer(KEY), *gateways), "what it remembers changes nothing"
    assert b"very secret" not in b"".join(
        base64.b64decode(text[3:]) for text in (first.key, *(holder.key for holder in first.holders))
    )


def test_a_sealer_remembers_a_bounded_number_of_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_REMEMBERED", 3)
    sealer = Sealer(KEY)
    for number in (0, 1, 2, 0, 3, 0, 4, 1):
        about = f"Secret/shop/{number}"
        assert sealed(sealer, "shop/main", about=about) == sealed(Sealer(KEY), "shop/main", about=about)
        assert len(sealer._sealed) <= 3


def test_a_certificate_that_nobody_holds_is_opened_by_nobody() -> None:
    with pytest.raises(SealError, match="for no Gateway"):
        Sealer(KEY).unseal(sealed(Sealer(KEY)))


def test_a_data_plane_keeps_only_what_is_sealed_for_its_gateway() -> None:
    sealer = Sealer(KEY)
    shared = sealed(sealer, "shop/main", "tenant/web")
    own = sealed(sealer, "shop/main", about="Secret/shop/own")
    listeners = tuple(
        Listener(f"{gateway}/https", "Gateway", 443, "", "HTTPS", ListenerTls(certificates=names))
        for gateway, names in (("shop/main", (own.id, shared.id)), ("tenant/web", (shared.id,)))
    )
    world = Snapshot(certificates=(own, shared), listeners=listeners)
    (kept,) = of_gateway(world, "tenant/web").certificates
    assert [holder.gateway for holder in kept.holders] == ["tenant/web"]
    assert Opener(gateway_key(KEY, "tenant/web"), "tenant/web").unseal(kept) == b"very secret"
    assert of_gateway(world, "shop/main").certificates[0] is own


def test_sealing_anew_is_no_difference_between_snapshots() -> None:
    def snapshot(sealer: Sealer, chain: str, *gateways: str) -> Snapshot:
        key, holders = sealer.seal(b"key", "Secret/a/b", gateways)
        return Snapshot(certificates=(Certificate("Secret/a/b", "Secret a/b", chain, key, holders),))

    one, other = Sealer(bytes(32)), Sealer(bytes(range(32)))
    assert snapshot(one, "x", "a/a") != snapshot(other, "x", "a/a")
    assert not find_differences(snapshot(one, "x", "a/a"), snapshot(other, "x", "a/a"))
    assert not find_differences(snapshot(one, "x", "a/a"), snapshot(one, "x", "a/a", "a/b"))
    (found,) = find_differences(snapshot(one, "x", "a/a"), snapshot(other, "y", "a/a"))
    assert found.change == "changed"


def test_a_process_has_one_sealer_of_its_own() -> None:
    assert process_sealer() is process_sealer()
    assert process_sealer().unseal(sealed(process_sealer(), "shop/main")) == b"very secret"
