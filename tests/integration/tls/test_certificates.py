"""The certificates clients are shown: by name, through reloads, with sessions resumed. Real clients, real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nexus_gateway.edge.tls.store import Certificates

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@dataclass
class Seen:
    certificate: bytes | None
    session: ssl.SSLSession | None
    resumed: bool
    alpn: str | None
    cipher: str


class Client:
    """A client that verifies nothing: what it is shown is what the tests look at."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.context.minimum_version = self.context.maximum_version = version
        self.context.set_alpn_protocols(["h2", "http/1.1"])

    async def visit(self, port: int, name: str | None, session: ssl.SSLSession | None = None) -> Seen:
        return await asyncio.to_thread(self._visit, port, name, session)

    def _visit(self, port: int, name: str | None, session: ssl.SSLSession | None) -> Seen:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            self.context.wrap_socket(plain, server_hostname=name, session=session) as secure,
        ):
            secure.sendall(b"hello")
            assert secure.recv(16) == b"hello"
            cipher = secure.cipher()
            assert cipher is not None
            return Seen(
                secure.getpeercert(True),
                secure.session,
                bool(secure.session_reused),
                secure.selected_alpn_protocol(),
                cipher[0],
            )


def loaded(folder: Path) -> Certificates:
    made = Certificates(folder)
    made.reload()
    return made


async def test_clients_are_shown_the_certificate_of_the_name_they_ask_for(
    tmp_path: Path, authority: Any, echoing: Any
) -> None:
    shop = authority.write(tmp_path, "shop", "shop.example", "10.0.0.1")
    wild = authority.write(tmp_path, "wild", "*.shop.example")
    first = authority.write(tmp_path, "a", "other.example")
    store = loaded(tmp_path)
    assert store.problems == ()
    async with echoing(store.context) as port:
        for name, expected in [
            ("shop.example", shop), ("SHOP.example", shop), ("www.shop.example", wild), ("a.b.shop.example", first),
            ("unknown.example", first), (None, first), ("other.example", first),
        ]:  # fmt: skip
            seen = await Client().visit(port, name)
            assert seen.certificate == expected, name
            assert seen.alpn == "h2"


async def test_the_pair_named_default_is_shown_to_who_asks_for_nothing_known(
    tmp_path: Path, authority: Any, echoing: Any
) -> None:
    authority.write(tmp_path, "a", "a.example")
    default = authority.write(tmp_path, "default", "z.example")
    async with echoing(loaded(tmp_path).context) as port:
        assert (await Client().visit(port, None)).certificate == default


async def test_secrets_mounted_by_kubernetes_are_found(tmp_path: Path, authority: Any, echoing: Any) -> None:
    """Subdirectories with tls.crt and tls.key, which are links into a directory whose name begins with dots."""
    for name in ("orders", "web"):
        real = tmp_path / name / "..2026_11_21"
        real.mkdir(parents=True)
        certificate, key = authority.issue(f"{name}.example")
        (real / "tls.crt").write_bytes(certificate)
        (real / "tls.key").write_bytes(key)
        (tmp_path / name / "..data").symlink_to(real.name)
        for file in ("tls.crt", "tls.key"):
            (tmp_path / name / file).symlink_to(Path("..data") / file)
    store = loaded(tmp_path)
    assert store.problems == ()
    assert [each.names for each in store.table.certificates] == [("orders.example",), ("web.example",)]
    # Renewal: a new directory, and ..data points there in one rename.
    new = tmp_path / "web" / "..2026_12_21"
    new.mkdir()
    certificate, key = authority.issue("web.example")
    (new / "tls.crt").write_bytes(certificate)
    (new / "tls.key").write_bytes(key)
    (tmp_path / "web" / "..data_tmp").symlink_to(new.name)
    (tmp_path / "web" / "..data_tmp").rename(tmp_path / "web" / "..data")
    assert store.reload()
    async with echoing(store.context) as port:
        seen = await Client().visit(port, "web.example")
        assert seen.certificate == ssl.PEM_cert_to_DER_cert(certificate.decode())


def test_one_pem_may_hold_both_halves(tmp_path: Path, authority: Any) -> None:
    certificate, key = authority.issue("both.example")
    (tmp_path / "both.pem").write_bytes(key + certificate)
    store = loaded(tmp_path)
    assert store.problems == ()
    found = store.table.find("both.example")
    assert found is not None
    assert found.name == "both"


@pytest.mark.parametrize("version", VERSIONS)
async def test_sessions_are_resumed_also_after_another_certificate_changed(
    tmp_path: Path, authority: Any, echoing: Any, version: ssl.TLSVersion
) -> None:
    authority.write(tmp_path, "mine", "mine.example")
    authority.write(tmp_path, "other", "other.example")
    store = loaded(tmp_path)
    client = Client(version)
    async with echoing(store.context) as port:
        first = await client.visit(port, "mine.example")
        again = await client.visit(port, "mine.example", first.session)
        assert (first.resumed, again.resumed) == (False, True)
        authority.write(tmp_path, "other", "other.example")
        authority.write(tmp_path, "third", "third.example")
        assert store.reload()
        assert (await client.visit(port, "mine.example", again.session)).resumed
        # Without a session the renewed one is what others see.
        (tmp_path / "other.crt").unlink()
        (tmp_path / "other.key").unlink()
        assert store.reload()
        assert (await client.visit(port, "mine.example", again.session)).resumed


async def test_a_renewed_certificate_is_shown_without_a_restart_and_open_connections_live_on(
    tmp_path: Path, authority: Any, echoing: Any
) -> None:
    old = authority.write(tmp_path, "shop", "shop.example")
    store = Certificates(tmp_path, poll_s=0.02)
    store.reload()
    watching = asyncio.create_task(store.watch())
    try:
        async with echoing(store.context) as port:
            context = Client().context
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="shop.example"
            )
            new = authority.write(tmp_path, "shop", "shop.example")
            async with asyncio.timeout(10):
                while (await Client().visit(port, "shop.example")).certificate != new:
                    pass  # each visit takes its time
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            assert writer.get_extra_info("ssl_object").getpeercert(True) == old
            writer.close()
            await writer.wait_closed()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_versions_before_1_2_and_weak_ciphers_are_refused(tmp_path: Path, authority: Any, echoing: Any) -> None:
    authority.write(tmp_path, "shop", "shop.example")
    async with echoing(loaded(tmp_path).context) as port:
        for arguments, accepted in [
            (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], False),
            (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"], False),
            (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], False),
            (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], True),
            (["-tls1_3"], True),
        ]:
            done = await asyncio.to_thread(
                subprocess.run,
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "shop.example", *arguments],
                input=b"Q\n", capture_output=True, timeout=10, check=False,
            )  # fmt: skip
            assert (b"BEGIN CERTIFICATE" in done.stdout) is accepted, (arguments, done.stderr)


async def test_without_any_certificate_a_handshake_is_refused_and_the_problem_told(
    tmp_path: Path, authority: Any, echoing: Any
) -> None:
    store = loaded(tmp_path)
    assert [each.reason for each in store.problems] == ["CertificateInvalid"]
    async with echoing(store.context) as port:
        with pytest.raises(ssl.SSLError, match="unrecognized name"):
            await Client().visit(port, "shop.example")
        shop = authority.write(tmp_path, "shop", "shop.example")
        assert store.reload()
        assert (await Client().visit(port, "shop.example")).certificate == shop
        assert store.problems == ()


BREAK = {
    "cut off": lambda folder, _: (folder / "shop.crt").write_bytes((folder / "shop.crt").read_bytes()[:100]),
    "empty": lambda folder, _: (folder / "shop.crt").write_bytes(b""),
    "key gone": lambda folder, _: (folder / "shop.key").unlink(),
    "certificate gone": lambda folder, _: (folder / "shop.crt").unlink(),
    "another's key": lambda folder, authority: (folder / "shop.key").write_bytes(authority.issue("shop.example")[1]),
    "key with a passphrase": lambda folder, authority: (folder / "shop.key").write_bytes(
        authority.issue("shop.example", passphrase=b"secret")[1]
    ),
    "not text": lambda folder, _: (folder / "shop.key").write_bytes(os.urandom(500)),
    "huge": lambda folder, _: (folder / "shop.crt").write_bytes(b"x" * (2**20 + 1)),
    "a directory": lambda folder, _: ((folder / "shop.key").unlink(), (folder / "shop.key").mkdir()),
}


@pytest.mark.parametrize("how", BREAK)
async def test_a_broken_pair_keeps_its_last_good_version_and_costs_no_other(
    tmp_path: Path, authority: Any, echoing: Any, how: str
) -> None:
    good = authority.write(tmp_path, "shop", "shop.example")
    authority.write(tmp_path, "other", "other.example")
    store = loaded(tmp_path)
    BREAK[how](tmp_path, authority)
    new_other = authority.write(tmp_path, "other", "other.example")
    store.reload()
    assert store.problems == (), "one look may meet a moment between two writes"
    store.reload()
    [problem] = store.problems
    assert problem.reason == "CertificateInvalid"
    assert "Its last good version stays in use." in problem.what
    assert problem.where.name == str(tmp_path / "shop")
    assert problem.fix
    assert "secret" not in str(problem)
    async with echoing(store.context) as port:
        assert (await Client().visit(port, "shop.example")).certificate == good
        assert (await Client().visit(port, "other.example")).certificate == new_other
        for path in (tmp_path / "shop.key",):
            if path.is_dir():
                path.rmdir()
        mended = authority.write(tmp_path, "shop", "shop.example")
        assert store.reload()
        assert store.problems == ()
        assert (await Client().visit(port, "shop.example")).certificate == mended


def test_an_expired_certificate_is_shown_only_where_no_better_one_is(tmp_path: Path, authority: Any) -> None:
    from datetime import UTC, datetime, timedelta

    authority.write(tmp_path, "a-old", "shop.example", "old.example", until=datetime.now(UTC) - timedelta(days=1))
    authority.write(tmp_path, "b-new", "shop.example")
    store = loaded(tmp_path)
    shop, old = store.table.find("shop.example"), store.table.find("old.example")
    assert shop is not None
    assert old is not None
    assert (shop.name, old.name) == ("b-new", "a-old")
    [problem] = store.problems
    assert "not valid any more" in problem.what


def test_what_did_not_change_is_not_read_again(tmp_path: Path, authority: Any) -> None:
    """The context stays the same object, also when a file was touched or written with the same bytes."""
    authority.write(tmp_path, "shop", "shop.example")
    store = loaded(tmp_path)
    table = store.table
    content = (tmp_path / "shop.crt").read_bytes()
    (tmp_path / "shop.crt").unlink()
    (tmp_path / "shop.crt").write_bytes(content)
    assert not store.reload()
    assert store.table is table


def test_a_directory_that_is_gone_keeps_what_was_read(tmp_path: Path, authority: Any) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    authority.write(folder, "shop", "shop.example")
    store = loaded(folder)
    folder.rename(tmp_path / "elsewhere")
    store.reload()
    [problem] = store.problems
    assert "cannot be read" in problem.what
    assert store.table.find("shop.example") is not None
