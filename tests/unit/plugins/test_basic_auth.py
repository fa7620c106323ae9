"""The plugin `basic-auth`: whose password is taken, what is remembered, and what time and answers give away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import PluginConfigError, Reply, RequestHead
from nexus_plugin_basic_auth import BasicAuth
from nexus_plugin_basic_auth.credentials import Credentials, parse
from nexus_plugin_basic_auth.hashes import BadHash, Hash
from nexus_plugin_basic_auth.hashes import parse as parse_hash
from nexus_plugin_basic_auth.users import Memory, Users


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def scrypt(password: str, ln: int = 14) -> str:
    made = hashlib.scrypt(password.encode(), salt=b"salt" * 4, n=1 << ln, r=8, p=1, maxmem=1 << 26, dklen=32)
    return f"$scrypt$ln={ln},r=8,p=1${b64(b'salt' * 4)}${b64(made)}"


def pbkdf2(password: str) -> str:
    return f"$pbkdf2-sha256$i=100000${b64(b'pepper' * 3)}${b64(hashlib.pbkdf2_hmac('sha256', password.encode(), b'pepper' * 3, 100_000))}"


ANN, BOB = scrypt("secret"), pbkdf2("pässwörd:with:colons")
USERS = {"users": [{"name": "ann", "hash": ANN}, {"name": "bob@shop", "hash": BOB}]}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def head(*values: str, **headers: str) -> RequestHead:
    pairs = [("authorization", value) for value in values]
    return RequestHead(
        "GET", "/", headers=(*pairs, *[(name.replace("_", "-"), value) for name, value in headers.items()])
    )


class Counted(Users):
    """Users that count how often a password is hashed."""

    def __init__(self, users: Users) -> None:
        self.inner = users
        self.checks: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.quick = False

    def check(self, given: Credentials) -> bool:
        self.checks.append(given.user)
        assert self.gate.wait(10)
        return given.password == b"secret" if self.quick else self.inner.check(given)


def kit_of(make: Any, **config: Any) -> tuple[Any, Counted]:
    kit = make(BasicAuth, {**USERS, **config})
    counted = kit.plugin._users = Counted(kit.plugin._users)
    kit.plugin.clock = lambda: kit.now
    kit.plugin.patience_s = 20
    kit.now = 100.0
    return kit, counted


async def answer(make: Any, request: RequestHead, **config: Any) -> RequestHead | Reply:
    async with make(BasicAuth, {**USERS, **config}) as kit:
        kit.plugin.patience_s = 20
        result: RequestHead | Reply = await kit.request(request)
        return result


# ---- who passes


@pytest.mark.parametrize(
    ("value", "consumer"),
    [
        (basic("ann", "secret"), "ann"), (basic("bob@shop", "pässwörd:with:colons"), "bob@shop"),
        (basic("bob@shop", "pa\u0308sswo\u0308rd:with:colons"), "bob@shop"), ("bAsIc   " + basic("ann", "secret")[6:], "ann"),
    ],
)  # fmt: skip
async def test_a_known_user_passes_is_named_and_the_credentials_are_stripped(
    make: Any, value: str, consumer: str
) -> None:
    passed = await answer(make, head(value, x_consumer_name="forged", accept="*/*"))
    assert isinstance(passed, RequestHead)
    assert passed.headers == (("accept", "*/*"), ("x-consumer-name", consumer))


async def test_credentials_go_on_only_where_that_is_wanted(make: Any) -> None:
    value = basic("ann", "secret")
    passed = await answer(make, head(value), passCredentials=True)
    assert isinstance(passed, RequestHead)
    assert passed.header("authorization") == value


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((), "CredentialsMissing"), (("",), "CredentialsMissing"), (("Basic",), "CredentialsMissing"), (("Basic ",), "CredentialsMissing"),
        (("Bearer abc",), "CredentialsMissing"), ((basic("ann", "secret"), basic("ann", "secret")), "CredentialsMissing"),
        (("Basic !!!",), "CredentialsMissing"), (("Basic YW5u",), "CredentialsMissing"), (("Basic YW5u=",), "CredentialsMissing"),
        (("Basic " + base64.b64encode(b"ann:\xff").decode(),), "CredentialsMissing"), ((basic("ann", "secret\n"),), "CredentialsMissing"),
        ((basic("ann", "x" * 3000),), "CredentialsMissing"), ((basic("ann\0", "secret"),), "CredentialsMissing"),
        ((basic("ann", "Secret"),), "CredentialsWrong"), ((basic("ann", ""),), "CredentialsWrong"), ((basic("", ""),), "CredentialsWrong"),
        ((basic("Ann", "secret"),), "CredentialsWrong"), ((basic("eve", "secret"),), "CredentialsWrong"),
        ((basic("ann", ANN),), "CredentialsWrong"),
    ],
)  # fmt: skip
async def test_everything_else_is_refused_with_a_challenge(make: Any, values: tuple[str, ...], reason: str) -> None:
    refusal = await answer(make, head(*values, x_request_id="r1"), realm="the shop")
    assert isinstance(refusal, Reply)
    assert refusal.status == 401
    assert dict(refusal.headers)["www-authenticate"] == 'Basic realm="the shop", charset="UTF-8"'
    body = json.loads(refusal.body)
    assert (body["reason"], body["request_id"]) == (reason, "r1")
    assert b"ann" not in refusal.body


@given(st.text(max_size=80))
def test_no_header_breaks_the_parser(text: str) -> None:
    parse(text)
    given = parse("Basic " + base64.b64encode(text.encode("utf-8", "replace")).decode())
    assert given is None or ":" not in given.user


# ---- what is remembered


async def test_a_password_is_hashed_once_in_a_while_and_then_without_scheduling(make: Any) -> None:
    kit, users = kit_of(make)
    async with kit:
        request = head(basic("ann", "secret"))
        for _ in range(5):
            assert isinstance(await kit.request(request), RequestHead)
        assert users.checks == ["ann"]
        assert isinstance(kit.plugin.on_request(request), RequestHead), "no coroutine"
        kit.now += 300
        await kit.request(request)
        assert users.checks == ["ann", "ann"]


async def test_wrong_credentials_are_remembered_for_ten_seconds(make: Any) -> None:
    kit, users = kit_of(make)
    async with kit:
        for seconds in (0, 9.9, 0.2):
            kit.now += seconds
            assert isinstance(await kit.request(head(basic("eve", "x"))), Reply)
    assert users.checks == ["eve", "eve"]


async def test_nothing_is_remembered_where_that_is_not_wanted(make: Any) -> None:
    kit, users = kit_of(make, rememberSeconds=0)
    async with kit:
        for _ in range(2):
            await kit.request(head(basic("ann", "secret")))
    assert users.checks == ["ann", "ann"]


def test_the_memory_is_bounded_and_holds_no_password() -> None:
    memory = Memory(3)
    keys = [memory.key(Credentials(f"u{number}", b"secret")) for number in range(5)]
    for key in keys:
        memory.put(key, True, 10)
    assert [memory.find(key, 1) for key in keys] == [None, None, True, True, True]
    assert b"secret" not in repr((memory._good, memory._wrong)).encode()
    assert "secret" not in repr(Credentials("u", b"secret"))


def test_guessing_pushes_out_no_one_who_may_pass() -> None:
    memory = Memory(3)
    good = memory.key(Credentials("ann", b"secret"))
    memory.put(good, True, 10)
    guesses = [memory.key(Credentials("ann", b"guess %d" % number)) for number in range(50)]
    for key in guesses:
        memory.put(key, False, 10)
    assert memory.find(good, 1) is True
    assert [memory.find(key, 1) for key in guesses] == [None] * 47 + [False] * 3
    assert memory.find(guesses[-1], 10) is None
    memory.put(good, False, 10)
    assert memory.find(good, 1) is False, "what was found last counts"


async def test_who_may_pass_is_not_hashed_again_because_others_guess(make: Any) -> None:
    kit, users = kit_of(make, rememberUsers=2)
    async with kit:
        await kit.request(head(basic("ann", "secret")))
        for number in range(5):
            await kit.request(head(basic("ann", f"guess {number}")))
        users.checks.clear()
        assert isinstance(await kit.request(head(basic("ann", "secret"))), RequestHead)
    assert users.checks == []


def test_what_is_remembered_tells_user_and_password_apart() -> None:
    memory = Memory(3)
    assert memory.key(Credentials("ab", b"c")) != memory.key(Credentials("a", b"bc"))
    assert memory.key(Credentials("a", b"b")) != Memory(3).key(Credentials("a", b"b"))


# ---- under load


async def test_the_same_credentials_at_once_are_hashed_once(make: Any) -> None:
    kit, users = kit_of(make)
    async with kit:
        answers = await asyncio.gather(*[kit.request(head(basic("ann", "secret"))) for _ in range(10)])
    assert all(isinstance(each, RequestHead) for each in answers)
    assert users.checks == ["ann"]


async def test_the_loop_runs_while_passwords_are_hashed(make: Any) -> None:
    kit, users = kit_of(make)
    async with kit:
        users.gate.clear()
        waiting = asyncio.create_task(kit.request(head(basic("ann", "secret"))))
        for _ in range(3):
            await asyncio.sleep(0)
        assert isinstance(await kit.request(head()), Reply), "others are answered meanwhile"
        assert not waiting.done()
        users.gate.set()
        assert isinstance(await waiting, RequestHead)


async def test_too_many_at_once_are_told_to_come_back(make: Any) -> None:
    kit, users = kit_of(make)
    users.quick = True
    async with kit:
        users.gate.clear()
        waiting = [asyncio.create_task(kit.request(head(basic("ann", str(number))))) for number in range(16)]
        for _ in range(3):
            await asyncio.sleep(0)
        busy = await kit.request(head(basic("ann", "secret")))
        assert isinstance(busy, Reply)
        assert (busy.status, dict(busy.headers)["retry-after"]) == (503, "1")
        assert json.loads(busy.body)["reason"] == "CredentialsBusy"
        users.gate.set()
        assert {each.status for each in await asyncio.gather(*waiting)} == {401}
        assert isinstance(await kit.request(head(basic("ann", "secret"))), RequestHead)


async def test_a_check_that_takes_too_long_is_an_answer_and_its_result_counts_later(make: Any) -> None:
    kit, users = kit_of(make)
    users.quick = True
    async with kit:
        users.gate.clear()
        kit.plugin.patience_s = 0.01
        busy = await kit.request(head(basic("ann", "secret")))
        assert isinstance(busy, Reply)
        assert busy.status == 503
        kit.plugin.patience_s = 20
        users.gate.set()
        assert isinstance(await kit.request(head(basic("ann", "secret"))), RequestHead)
        assert users.checks == ["ann"]
        assert not kit.plugin._checking


def test_unknown_users_cost_as_much_as_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[str, tuple[int, int, int]]] = []

    def is_of(self: Hash, password: bytes) -> bool:
        hashed.append((self.kind, self.cost))
        return False

    monkeypatch.setattr(Hash, "is_of", is_of)
    users = Users({"ann": parse_hash(ANN), "bob": parse_hash(BOB)})
    for _ in range(2):
        for number in range(50):
            assert users.check(Credentials(f"eve{number}", b"x")) is False
    assert set(hashed) == {("scrypt", (14, 8, 1)), ("pbkdf2-sha256", (100_000, 0, 0))}
    assert hashed[:50] == hashed[50:], "a name costs the same each time"


def test_a_hash_of_nobody_takes_no_password() -> None:
    dummy = parse_hash(ANN).like(b"x" * 32)
    assert (dummy.kind, dummy.cost, len(dummy.salt), len(dummy.digest)) == ("scrypt", (14, 8, 1), 16, 32)
    assert not dummy.is_of(b"secret")


# ---- hashes and configuration


@pytest.mark.parametrize(
    "text",
    [
        "secret", "", "$2y$10$abcdefghijklmnopqrstuv", "$scrypt$ln=13,r=8,p=1$c2FsdHNhbHQ$" + "A" * 43,
        "$scrypt$ln=18,r=8,p=1$c2FsdHNhbHQ$" + "A" * 43,
        "$scrypt$ln=17,r=16,p=1$c2FsdHNhbHQ$" + "A" * 43, "$scrypt$ln=15,r=8,p=0$c2FsdHNhbHQ$" + "A" * 43, "$scrypt$ln=15,r=8,p=1$$",
        "$scrypt$ln=15,r=8,p=1$c2FsdHNhbHQ$" + "A" * 45, "$pbkdf2-sha256$i=99999$c2FsdHNhbHQ$" + "A" * 43,
        "$pbkdf2-sha256$i=100000$c2FsdHNhbHQ$AA",
        "$pbkdf2-sha256$i=9999999$c2FsdHNhbHQ$" + "A" * 43, "$pbkdf2-sha1$i=100000$c2FsdHNhbHQ$" + "A" * 43,
    ],
)  # fmt: skip
def test_what_is_no_good_hash_is_refused(text: str) -> None:
    with pytest.raises(BadHash):
        parse_hash(text)


async def test_users_may_come_as_lines_from_a_secret(make: Any) -> None:
    lines = f"# our users\nann:{ANN}\r\n\n  carl:{pbkdf2('third')}  \n"
    passed = await answer(make, head(basic("carl", "third")), users=[], htpasswd=lines)
    assert isinstance(passed, RequestHead)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"users": []}, r"there is no user"), ({"htpasswd": "ann:" + ANN}, r"config\.htpasswd line 1: there is a user ann already"),
        ({"htpasswd": "\nx y:" + ANN}, r"config\.htpasswd line 2: the name"), ({"htpasswd": "carl:secret"}, r"line 1: The hash is neither"),
        ({"htpasswd": "carl"}, r"config\.htpasswd line 1: The hash"), ({"htpasswd": "ü:" + ANN}, r"the name"),
        ({"users": [{"name": "a", "hash": "$scrypt$x"}]}, r"config\.users\[0\]: The hash"),
    ],
)  # fmt: skip
def test_users_that_cannot_be_are_refused_with_their_place(make: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message) as caught:
        make(BasicAuth, {**USERS, **config})
    assert "secret" not in str(caught.value)


def test_the_schema_takes_no_passwords(refused: Any) -> None:
    assert refused(BasicAuth, {"users": [{"name": "a", "hash": "secret"}]})
    assert refused(BasicAuth, {"users": [], "realm": 'a" b'})
    assert refused(BasicAuth, USERS) == ""


async def test_the_command_on_the_page_makes_a_hash_that_works(make: Any) -> None:
    page = (Path(__file__).parents[3] / "plugins/basic-auth/README.md").read_text()
    match = re.search(r"python3 -c '\n(.*?)'\n```", page, re.DOTALL)
    assert match is not None
    code = match[1].replace("getpass.getpass()", repr("s€cret"))
    made = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    passed = await answer(make, head(basic("dora", "s€cret")), users=[{"name": "dora", "hash": made.stdout.strip()}])
    assert isinstance(passed, RequestHead)
