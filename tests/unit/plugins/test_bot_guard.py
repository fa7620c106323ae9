"""The plugin `bot-guard`: who is refused, doubted and believed, and what a proof of work is worth."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import PluginConfigError, Reply, RequestHead
from nexus_plugin_bot_guard import BotGuard
from nexus_plugin_bot_guard.challenge import Challenges, is_proof, solve
from nexus_plugin_bot_guard.signs import agent_of, points
from nexus_plugin_bot_guard.wandering import Wandering, estimate

NOW = 1_800_000_000.0
SECRET = "s" * 32
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
BROWSER = {
    "user_agent": FIREFOX, "accept": "text/html,*/*", "accept_language": "en", "accept_encoding": "gzip",
    "sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document",
}  # fmt: skip
CHALLENGE = {"challenge": {"enabled": True, "secret": SECRET, "bits": 8}}


def head(path: str = "/", method: str = "GET", client_ip: str = "192.0.2.1", **headers: str) -> RequestHead:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return RequestHead(method, path, host="shop.example", headers=pairs, client_ip=client_ip)


def kit_of(make: Any, **config: Any) -> Any:
    kit = make(BotGuard, config)
    kit.now = NOW
    kit.plugin.clock = lambda: kit.now
    return kit


async def reason(kit: Any, request: RequestHead) -> str:
    """Return why a request is refused; `page` for a challenge, empty when it passes."""
    answer = await kit.request(request)
    if isinstance(answer, RequestHead):
        assert answer is request
        return ""
    assert answer.status == 403
    headers = dict(answer.headers)
    assert headers["cache-control"] == "no-store"
    if headers["content-type"].startswith("text/html"):
        return "page"
    found: str = json.loads(answer.body)["reason"]
    return found


# ---- names


@pytest.mark.parametrize(
    "agent", ["sqlmap/1.7", "Mozilla/5.0 (compatible; SemrushBot/7~bl)", "NIKTO", "x" * 400 + "nuclei"]
)
async def test_known_bad_bots_are_refused_by_name(make: Any, agent: str) -> None:
    request = head(**{**BROWSER, "user_agent": agent})
    assert await reason(kit_of(make), request) == "BotRefused"
    assert await reason(kit_of(make, knownBadBots=False), request) == ""
    assert await reason(kit_of(make, knownBadBots=False, denyAgents=[agent[-6:].upper()]), request) == "BotRefused"


async def test_a_browser_passes(make: Any) -> None:
    assert await reason(kit_of(make, **CHALLENGE), head(**BROWSER)) == ""


async def test_words_are_texts_and_no_expressions(make: Any) -> None:
    kit = kit_of(make, denyAgents=["a.c(", ".*"])
    assert await reason(kit, head(**{**BROWSER, "user_agent": "abc"})) == ""
    assert await reason(kit, head(**{**BROWSER, "user_agent": "xA.C(x"})) == "BotRefused"


@pytest.mark.parametrize(("policy", "why"), [("pass", ""), ("suspect", "BotSuspected"), ("refuse", "AgentMissing")])
async def test_requests_without_a_user_agent(make: Any, policy: str, why: str) -> None:
    for agent in ({}, {"user_agent": "  "}):
        assert await reason(kit_of(make, emptyAgent=policy), head(**agent)) == why


@pytest.mark.parametrize(
    ("networks", "client_ip", "passes"),
    [
        ([], "203.0.113.9", True), (["192.0.2.0/24"], "192.0.2.7", True), (["192.0.2.0/24"], "::ffff:192.0.2.7", True),
        (["192.0.2.0/24"], "203.0.113.9", False), (["192.0.2.0/24", "2001:db8::/32"], "2001:db8::1", True), (["192.0.2.0/24"], "", False),
    ],
)  # fmt: skip
async def test_good_bots_pass_from_where_they_should_be(
    make: Any, networks: list[str], client_ip: str, passes: bool
) -> None:
    kit = kit_of(make, allowAgents=["Googlebot"], allowNetworks=networks, refuseAt=3)
    assert (await reason(kit, head(client_ip=client_ip, user_agent="googlebot/2.1")) == "") is passes


async def test_exempt_paths_are_not_looked_at(make: Any) -> None:
    kit = kit_of(make, exempt=["/api/*", "/ping"], emptyAgent="refuse")
    assert [await reason(kit, head(path)) for path in ("/api/a", "/ping", "/ping/a", "/apix")] == [
        "",
        "",
        "AgentMissing",
        "AgentMissing",
    ]


# ---- signs


@pytest.mark.parametrize(
    ("changed", "score"),
    [
        ({}, 0), ({"accept": ""}, 1), ({"accept_language": ""}, 1), ({"accept_encoding": ""}, 1), ({"sec_fetch_dest": "script"}, 2),
        ({"sec_fetch_mode": "cors"}, 2), ({"user_agent": "curl/8"}, 0), ({"sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, 0),
    ],
)  # fmt: skip
def test_what_browsers_send_and_is_not_there_gives_points(changed: dict[str, str], score: int) -> None:
    request = head(**{**BROWSER, **changed})
    assert points(request, agent_of(request)) == score


@pytest.mark.parametrize(
    ("agent", "score"),
    [
        ("Firefox/130.0", 5),
        ("Firefox/89.0", 3),
        ("Chrome/120.0", 5),
        ("Chrome/79.0", 3),
        ("HeadlessChrome/120", 5),
        ("Edg/120", 5),
        ("Safari/605", 3),
        ("", 3),
    ],
)
def test_browsers_that_should_say_where_they_come_from(agent: str, score: int) -> None:
    assert points(head(), agent.lower()) == score


@given(st.text(max_size=700))
def test_no_user_agent_breaks_anything(text: str) -> None:
    request = head(user_agent=text)
    assert 0 <= points(request, agent_of(request)) <= 7


async def test_scores_refuse_challenge_or_let_pass(make: Any) -> None:
    script = head(user_agent="python-requests/2.32")
    assert await reason(kit_of(make), script) == "", "without challenges doubt is not enough"
    assert await reason(kit_of(make, refuseAt=3), script) == "BotSuspected"
    assert await reason(kit_of(make, **CHALLENGE), script) == "page"
    assert await reason(kit_of(make, heuristics=False, **CHALLENGE), script) == ""


# ---- wandering


async def test_a_client_that_tries_very_many_paths_is_doubted(make: Any) -> None:
    kit = kit_of(make, pathsPerWindow=100, refuseAt=4)
    said = [await reason(kit, head(f"/{number}", **BROWSER)) for number in range(300)]
    assert said[:80] == [""] * 80
    assert said[-150:] == ["BotSuspected"] * 150
    assert await reason(kit, head("/a", client_ip="192.0.2.2", **BROWSER)) == ""
    kit.now += 60
    assert await reason(kit, head("/a", **BROWSER)) == ""


async def test_the_same_paths_again_and_again_are_no_wandering(make: Any) -> None:
    kit = kit_of(make, pathsPerWindow=20, refuseAt=4)
    assert {await reason(kit, head(f"/{number % 10}", **BROWSER)) for number in range(1000)} == {""}


@given(st.integers(0, 3000), st.integers(0, 2**64 - 1))
def test_estimates_are_near_enough(count: int, seed: int) -> None:
    wandering = Wandering(60, 10, seed)
    found = 0
    for number in range(count):
        found = wandering.add("c", f"/{number}", NOW)
    assert abs(found - count) <= 10 + count * 0.3


def test_full_maps_and_many_clients_are_bounded() -> None:
    assert estimate((1 << 1024) - 1) == 8192
    wandering = Wandering(60, 50, 1)
    for number in range(500):
        wandering.add(str(number), "/", NOW)
    assert len(wandering) == 50


# ---- proof of work


def doubted(cookie: str = "", **changed: str) -> RequestHead:
    headers = {"user_agent": "script/1", **({"cookie": cookie} if cookie else {}), **changed}
    client_ip = headers.pop("client_ip", "192.0.2.1")
    return head(client_ip=client_ip, **headers)


async def solved(kit: Any, bits: int = 8) -> str:
    answer = await kit.request(doubted())
    assert isinstance(answer, Reply)
    match = re.search(r'solve\("([^"]+)", (\d+)\)', answer.body.decode())
    assert match is not None
    assert int(match[2]) == bits
    return solve(match[1], bits)


async def test_whoever_did_the_work_passes_until_it_expires(make: Any) -> None:
    kit = kit_of(make, **CHALLENGE)
    cookie = "__Host-nexus-guard=" + await solved(kit)
    assert await reason(kit, doubted("a=b; " + cookie)) == ""
    kit.now += 86400
    assert await reason(kit, doubted(cookie)) == ""
    kit.now += 1
    assert await reason(kit, doubted(cookie)) == "page"


async def test_a_proof_is_good_for_its_client_alone(make: Any) -> None:
    kit = kit_of(make, **CHALLENGE)
    cookie = "__Host-nexus-guard=" + await solved(kit)
    assert await reason(kit, doubted(cookie, client_ip="192.0.2.2")) == "page"
    assert await reason(kit, doubted(cookie, user_agent="script/2")) == "page"
    assert await reason(kit, doubted(f"{cookie}; {cookie}")) == "page"
    other = kit_of(make, challenge={**CHALLENGE["challenge"], "secret": "o" * 32})
    assert await reason(other, doubted(cookie)) == "page"


async def test_work_that_was_not_done_is_seen(make: Any) -> None:
    kit = kit_of(make, **CHALLENGE)
    good = await solved(kit)
    challenge = good.rpartition(".")[0]
    lazy = next(f"{challenge}.{number}" for number in range(1000) if not is_proof(f"{challenge}.{number}", 8))
    issued, rest = good.split(".", 1)
    for cookie in (lazy, challenge, f"{int(issued, 16) + 1:x}.{rest}", good + "0" * 12, "", "x", "é.x.y.1"):
        assert await reason(kit, doubted("__Host-nexus-guard=" + cookie)) == "page"


async def test_a_proof_does_not_excuse_a_scanner(make: Any) -> None:
    kit = kit_of(make, **CHALLENGE)
    cookie = "__Host-nexus-guard=" + await solved(kit)
    assert await reason(kit, doubted(cookie, user_agent="sqlmap")) == "BotRefused"
    for number in range(400):
        await kit.request(head(f"/{number}", user_agent="script/1", cookie=cookie))
    kit.plugin._refuse_at = 3
    assert await reason(kit, doubted(cookie)) == "BotSuspected"


async def test_what_cannot_show_a_page_is_refused(make: Any) -> None:
    kit = kit_of(make, **CHALLENGE)
    assert await reason(kit, head(method="POST", user_agent="script/1")) == "ChallengeUnsolved"
    assert await reason(kit, head(user_agent="x", accept="application/json")) == ""
    assert (
        await reason(kit_of(make, challengeAt=1, **CHALLENGE), head(user_agent="x", accept="application/json"))
        == "ChallengeUnsolved"
    )


async def test_the_page_runs_its_own_script_and_nothing_else(make: Any) -> None:
    answer = await kit_of(make, **CHALLENGE).request(doubted())
    policy, page = dict(answer.headers)["content-security-policy"], answer.body.decode()
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
    assert nonce is not None
    assert "default-src 'none'" in policy
    assert re.findall(r"<(?:script|style) nonce=\"([^\"]+)\"", page) == [nonce[1]] * 2
    assert not re.search(r"src=|href=|https?:|script/1", page)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_pages_script_finds_what_python_checks() -> None:
    challenges = Challenges(SECRET, 12, 60)
    page, _ = challenges.page("client", NOW, "c", secure=True)
    script = (
        page.decode().partition('">const')[0]
        and "const" + page.decode().split("\nconst", 1)[1].partition("setTimeout")[0]
    )
    challenge = re.search(r'solve\("([^"]+)"', page.decode())
    assert challenge is not None
    hexes = ".map((x) => (x >>> 0).toString(16).padStart(8, '0')).join(''));"
    program = script + f'\nconsole.log(solve("{challenge[1]}", 12));'
    for text in ('"abc"', '"a".repeat(119)'):
        program += f"\nconsole.log([...sha256({text})]" + hexes
    made = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert challenges.is_solved(made[0], "client", NOW)
    assert made[0] == solve(challenge[1], 12)
    assert made[1:] == [hashlib.sha256(text).hexdigest() for text in (b"abc", b"a" * 119)]


async def test_development_over_plain_http_has_a_plain_cookie(make: Any) -> None:
    kit = kit_of(make, challenge={**CHALLENGE["challenge"], "insecure": True})
    answer = await kit.request(doubted())
    assert b'"nexus-guard="' in answer.body
    assert b"Secure" not in answer.body
    assert await reason(kit, doubted("nexus-guard=" + await solved(kit))) == ""


def test_configurations_that_cannot_work_are_refused(make: Any, refused: Any) -> None:
    with pytest.raises(PluginConfigError, match=r"config\.challenge\.secret"):
        make(BotGuard, {"challenge": {"enabled": True}})
    with pytest.raises(PluginConfigError, match=r"config\.allowNetworks\[0\]"):
        make(BotGuard, {"allowNetworks": ["10.0.0.1/8"]})
    assert refused(BotGuard, {"challenge": {"secret": "short"}})
    assert refused(BotGuard, {"denyAgents": [""]})
    assert refused(BotGuard, {"emptyAgent": "block"})
    assert refused(BotGuard, {}) == ""
