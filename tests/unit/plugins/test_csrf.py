"""The plugin `csrf`: which requests pass, what a stolen, planted or old token is worth, and who gets a cookie."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_plugin_csrf import Csrf
from nexus_plugin_csrf.forms import find_field
from nexus_plugin_csrf.tokens import Tokens

SECRET = "s" * 32
NOW = 1_800_000_000.0
COOKIE = "__Host-csrf-token"
TOKENS = Tokens([SECRET], 43200)
FORM = "application/x-www-form-urlencoded"


def post(*headers: tuple[str, str], path: str = "/orders", method: str = "POST") -> RequestHead:
    return RequestHead(method, path, host="shop.example", headers=(("host", "shop.example"), *headers))


def kit_of(make: Any, now: float = NOW, **config: Any) -> Any:
    kit = make(Csrf, {"secret": SECRET, **config})
    kit.plugin.clock = lambda: now
    return kit


def with_token(token: str, *more: tuple[str, str], session: str = "") -> RequestHead:
    cookies = f"{COOKIE}={token}" + (f"; sid={session}" if session else "")
    return post(("cookie", cookies), ("x-csrf-token", token), *more)


async def reason(kit: Any, request: RequestHead, body: bytes = b"") -> str:
    """Return why the request is refused, empty when it passes."""
    answer = await kit.request(request)
    if isinstance(answer, RequestHead):
        answer = await kit.request_body(answer, body)
    if not isinstance(answer, Reply):
        return ""
    assert answer.status == 403
    found: str = json.loads(answer.body)["reason"]
    return found


async def test_a_referer_that_is_no_url_is_refused_and_fails_nothing(make: Any) -> None:
    token = TOKENS.issue("", NOW)
    assert await reason(kit_of(make), with_token(token, ("referer", "http://["))) == "CsrfOrigin"


# ---- tokens


async def test_a_request_with_its_token_passes_and_without_it_does_not(make: Any) -> None:
    kit = kit_of(make)
    token = TOKENS.issue("", NOW)
    assert await reason(kit, with_token(token)) == ""
    assert await reason(kit, post(("cookie", f"{COOKIE}={token}"))) == "CsrfTokenMissing"
    assert await reason(kit, post(("x-csrf-token", token))) == "CsrfTokenInvalid"
    assert await reason(kit, post(("cookie", f"{COOKIE}={token}"), ("x-csrf-token", ""))) == "CsrfTokenInvalid"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
async def test_safe_methods_need_none(make: Any, method: str) -> None:
    assert await reason(kit_of(make), post(("sec-fetch-site", "cross-site"), method=method)) == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PURGE", "get"])
async def test_all_other_methods_do(make: Any, method: str) -> None:
    assert await reason(kit_of(make), post(method=method)) == "CsrfTokenMissing"


async def test_a_token_of_another_session_is_worth_nothing(make: Any) -> None:
    kit = kit_of(make, sessionCookie="sid")
    mine = TOKENS.issue("mine", NOW)
    assert await reason(kit, with_token(mine, session="mine")) == ""
    assert await reason(kit, with_token(mine, session="theirs")) == "CsrfTokenInvalid"
    assert await reason(kit, with_token(TOKENS.issue("", NOW), session="mine")) == "CsrfTokenInvalid"


async def test_a_planted_second_cookie_is_refused(make: Any) -> None:
    token, other = TOKENS.issue("", NOW), TOKENS.issue("", NOW)
    request = post(("cookie", f"{COOKIE}={other}"), ("cookie", f"{COOKIE}={token}"), ("x-csrf-token", token))
    assert await reason(kit_of(make), request) == "CsrfTokenInvalid"
    same = post(("cookie", f"{COOKIE}={token}"), ("cookie", f"{COOKIE}={token}"), ("x-csrf-token", token))
    assert await reason(kit_of(make), same) == ""


@pytest.mark.parametrize(("age_s", "passes"), [(0, True), (43200, True), (43201, False), (-60, True), (-61, False)])
async def test_tokens_have_a_lifetime(make: Any, age_s: int, passes: bool) -> None:
    assert (await reason(kit_of(make), with_token(TOKENS.issue("", NOW - age_s))) == "") is passes


async def test_tokens_of_the_former_secret_stay_good_while_it_is_named(make: Any) -> None:
    old = Tokens(["o" * 32], 43200).issue("", NOW)
    assert await reason(kit_of(make), with_token(old)) == "CsrfTokenInvalid"
    assert await reason(kit_of(make, previousSecret="o" * 32), with_token(old)) == ""


@given(st.text(max_size=200))
def test_no_text_is_a_token(text: str) -> None:
    assert TOKENS.age(text, "", NOW) is None


@given(st.integers(0, 100), st.sampled_from("aZ0-_.g"))
def test_a_changed_token_is_none(place: int, letter: str) -> None:
    token = TOKENS.issue("s", NOW)
    place %= len(token)
    changed = token[:place] + letter + token[place + 1 :]
    # The last letter of 32 bytes in base64 holds two unused bits; the text is compared, so they count, too.
    assert changed == token or TOKENS.age(changed, "s", NOW) is None


def test_lengths_keep_session_and_nonce_apart() -> None:
    issued, nonce, mac = TOKENS.issue("abc", NOW).split(".")
    assert TOKENS.age(f"{issued}.{nonce}.{mac}", "bc", NOW) is None


# ---- origins


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([("origin", "https://shop.example")], True), ([("origin", "https://SHOP.example:443")], True),
        ([("origin", "http://shop.example")], False), ([("origin", "https://evil.example")], False), ([("origin", "null")], False),
        ([("origin", "")], False), ([("origin", "https://shop.example.evil.example")], False),
        ([("origin", "https://a.shop.example")], False),
        ([("referer", "https://shop.example/page?x=1")], True), ([("referer", "https://evil.example/https://shop.example")], False),
        ([("referer", "https://shop.example@evil.example/")], False), ([("referer", "")], True),
        ([("sec-fetch-site", "same-origin")], True), ([("sec-fetch-site", "none")], True), ([("sec-fetch-site", "cross-site")], False),
        ([("sec-fetch-site", "same-site")], False), ([("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], False),
        ([("sec-fetch-site", "cross-site"), ("origin", "https://shop.example")], False),
        ([("sec-fetch-site", "cross-site"), ("origin", "https://partner.example")], True), ([("origin", "https://partner.example")], True),
        ([], True),
    ],
)  # fmt: skip
async def test_what_browsers_say_of_the_origin_counts_before_the_token(
    make: Any, headers: list[tuple[str, str]], passes: bool
) -> None:
    kit = kit_of(make, trustedOrigins=["https://partner.example:443"])
    assert await reason(kit, with_token(TOKENS.issue("", NOW), *headers)) == ("" if passes else "CsrfOrigin")


async def test_other_hosts_of_the_site_pass_only_where_that_is_wanted(make: Any) -> None:
    request = with_token(TOKENS.issue("", NOW), ("sec-fetch-site", "same-site"), ("origin", "https://a.shop.example"))
    assert await reason(kit_of(make, allowSameSite=True), request) == ""
    assert await reason(kit_of(make), request) == "CsrfOrigin"


async def test_a_port_is_part_of_the_origin_where_the_client_named_one(make: Any) -> None:
    token = TOKENS.issue("", NOW)
    headers = (("host", "shop.example:8443"), ("cookie", f"{COOKIE}={token}"), ("x-csrf-token", token))
    kit = kit_of(make)
    for origin, why in (
        ("https://shop.example:8443", ""),
        ("https://shop.example:9000", "CsrfOrigin"),
        ("https://shop.example", "CsrfOrigin"),
    ):
        assert (
            await reason(kit, RequestHead("POST", "/", host="shop.example", headers=(*headers, ("origin", origin))))
            == why
        )


async def test_a_websocket_from_another_site_is_refused(make: Any) -> None:
    kit = kit_of(make)
    upgrade = ("upgrade", "WebSocket")
    assert await reason(kit, post(upgrade, ("origin", "https://evil.example"), method="GET")) == "CsrfOrigin"
    assert await reason(kit, post(upgrade, ("origin", "https://shop.example"), method="GET")) == ""


@pytest.mark.parametrize(
    ("path", "exempt"),
    [("/hooks/a", True), ("/hooks", False), ("/ping", True), ("/ping/", False), ("/hooks/../orders", False),
     ("/hooks/%2e%2e/orders", False),
     ("/hooks//orders", False), ("/hooks/..;/orders", False), ("/hooks/a%2Fb", False), ("/hooks/a\\b", False), ("/hooks/..", False)],
)  # fmt: skip
async def test_exempt_paths_are_those_that_can_be_read_in_one_way(make: Any, path: str, exempt: bool) -> None:
    kit = kit_of(make, exempt=["/hooks/*", "/ping"])
    assert await reason(kit, post(("origin", "https://evil.example"), path=path)) == ("" if exempt else "CsrfOrigin")


# ---- forms


async def test_a_form_may_carry_the_token_in_a_field(make: Any) -> None:
    kit = kit_of(make)
    token = TOKENS.issue("", NOW)
    cookie = ("cookie", f"{COOKIE}={token}")
    form = post(cookie, ("content-type", FORM + "; charset=utf-8"))
    assert await reason(kit, form, f"a=1&csrf_token={token}".encode()) == ""
    assert await reason(kit, form, b"a=1") == "CsrfTokenMissing"
    assert await reason(kit, form, b"") == "CsrfTokenMissing"
    assert await reason(kit, form, f"csrf_token={token}&csrf_token={token}".encode()) == "CsrfTokenMissing"
    assert await reason(kit, form, b"csrf_token=other") == "CsrfTokenInvalid"
    assert (
        await reason(kit, post(cookie, ("content-type", "text/plain")), f"csrf_token={token}".encode())
        == "CsrfTokenMissing"
    )
    assert await reason(kit_of(make, field=""), form, f"csrf_token={token}".encode()) == "CsrfTokenMissing"


async def test_bodies_are_not_read_when_the_header_is_there_or_the_path_exempt(make: Any) -> None:
    plugin = kit_of(make, exempt=["/hooks/*"]).plugin
    assert not plugin.wants_request_body(post(("x-csrf-token", "t"), ("content-type", FORM)))
    assert not plugin.wants_request_body(post(("content-type", FORM), path="/hooks/a"))
    assert not plugin.wants_request_body(post(("content-type", FORM), method="GET"))
    assert plugin.wants_request_body(post(("content-type", FORM)))


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ('multipart/form-data; boundary="b"', b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\nv\r\n--b--\r\n', "v"),
        ("multipart/form-data; boundary=b", b'pre\r\n--b\r\nX: y\r\ncontent-disposition: form-data; name=t\r\n\r\nv\r\n--b--', "v"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nt=v\r\n--b--', None),
        ("multipart/form-data; boundary=b", b'--b--\r\n--b\r\nContent-Disposition: form-data; name="t"\r\n\r\nv\r\n--b--', None),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; filename="; name=t"; name="x"\r\n\r\n--b--', None),
        ("multipart/form-data", b"--b\r\n", None), ("multipart/form-data; boundary=b", b"", None),
        ("multipart/form-data; boundary=b", b"--b", None),
        (FORM, b"t=v%20w", "v w"), (FORM, b"a&t=&b", ""), (FORM, b"&" * 5000, None), (FORM, b"\xff=1&t=v", "v"),
    ],
)  # fmt: skip
def test_fields_are_found_in_forms_of_both_kinds(content_type: str, body: bytes, value: str | None) -> None:
    assert find_field(content_type, body, "t") == value


@given(
    st.binary(max_size=300),
    st.sampled_from([FORM, "multipart/form-data; boundary=b", 'multipart/form-data; boundary="', ""]),
)
def test_no_body_breaks_the_search_for_a_field(body: bytes, content_type: str) -> None:
    assert isinstance(find_field(content_type, body.replace(b"x", b"\r\n--b"), "t"), str | None)


# ---- cookies


async def issued(kit: Any, request: RequestHead, *headers: tuple[str, str], status: int = 200) -> list[tuple[str, str]]:
    response = ResponseHead(status, headers)
    after = (await kit.response(request, response)).headers
    assert after[: len(headers)] == headers
    return list(after[len(headers) :])


HTML = ("content-type", "text/html; charset=utf-8")


async def test_a_page_sets_a_cookie_that_the_next_request_passes_with(make: Any) -> None:
    kit = kit_of(make, sessionCookie="sid")
    page = RequestHead("GET", "/", host="shop.example", headers=(("cookie", "a=b; sid=one"),))
    (name, value), private = await issued(kit, page, HTML)
    assert (name, private) == ("set-cookie", ("cache-control", "private"))
    match = re.fullmatch(rf"{COOKIE}=([^;]+); Path=/; Max-Age=43200; SameSite=Lax; Secure", value)
    assert match is not None
    assert await reason(kit, with_token(match[1], session="one")) == ""
    assert await reason(kit, with_token(match[1], session="two")) == "CsrfTokenInvalid"


async def test_a_good_cookie_is_kept_until_half_its_life_is_over(make: Any) -> None:
    page = RequestHead("GET", "/", headers=(("cookie", f"{COOKIE}={TOKENS.issue('', NOW)}"),))
    assert await issued(kit_of(make, NOW + 21599), page, HTML) == []
    assert len(await issued(kit_of(make, NOW + 21600), page, HTML)) == 2


async def test_a_response_that_begins_a_session_brings_its_token(make: Any) -> None:
    kit = kit_of(make, sessionCookie="sid")
    added = await issued(kit, post(), ("set-cookie", "sid=old"), ("set-cookie", "sid=new; HttpOnly"), status=303)
    token = added[0][1].partition("=")[2].partition(";")[0]
    assert TOKENS.age(token, "new", NOW) == 0


@pytest.mark.parametrize("headers", [
    [("content-type", "application/json")], [], [HTML, ("cache-control", "public, max-age=60")], [HTML, ("cache-control", "s-maxage=9")],
])  # fmt: skip
async def test_what_is_no_page_or_may_be_shared_gets_none(make: Any, headers: list[tuple[str, str]]) -> None:
    assert await issued(kit_of(make), RequestHead("GET", "/"), *headers) == []


async def test_the_answer_to_a_post_gets_none(make: Any) -> None:
    assert await issued(kit_of(make), post(), HTML) == []


async def test_a_private_page_stays_as_it_is(make: Any) -> None:
    added = await issued(kit_of(make), RequestHead("GET", "/"), HTML, ("cache-control", "no-store"))
    assert [name for name, _ in added] == ["set-cookie"]


async def test_development_over_plain_http_has_a_plain_cookie(make: Any) -> None:
    kit = kit_of(make, insecure=True, sameSite="strict")
    added = await issued(kit, RequestHead("GET", "/"), HTML)
    assert re.fullmatch(r"csrf-token=[^;]+; Path=/; Max-Age=43200; SameSite=Strict", added[0][1])
    token = added[0][1].partition("=")[2].partition(";")[0]
    request = post(("cookie", f"csrf-token={token}"), ("x-csrf-token", token), ("origin", "http://shop.example"))
    assert await reason(kit, request) == ""


def test_the_schema_wants_a_real_secret(refused: Any) -> None:
    assert refused(Csrf, {})
    assert refused(Csrf, {"secret": "short"})
    assert refused(Csrf, {"secret": SECRET, "header": "authorization"})
    assert refused(Csrf, {"secret": SECRET, "cookie": "a; Domain=x"})
    assert refused(Csrf, {"secret": SECRET}) == ""
