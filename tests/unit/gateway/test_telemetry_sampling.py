"""Which requests are kept for a replay, and what of them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from nexus_core.snapshot.samples import HIDDEN, Sample
from nexus_gateway.telemetry.sampling import (
    EPOCH_S,
    MAX_HEADERS_CHARS,
    MAX_SAMPLE_BYTES,
    Redaction,
    Reservoir,
    truncate_address,
)

KEY = b"k" * 32


def sample(
    headers: dict[str, str] | None = None, path: str = "/", query: str = "", client: str = "10.1.2.3"
) -> Sample | None:
    return Redaction(KEY).sample(
        "GET", "shop.example", path, query, (headers or {}).items(), client,
        route="r", rule="r/0", plugins=("shop/api-key",), status=200,
    )  # fmt: skip


def run(reservoir: Reservoir, numbers: range, now: float = 0.0) -> int:
    """Let requests pass; return how many were taken."""
    taken = 0
    for number in numbers:
        reservoir.left -= 1
        if reservoir.left < 0:
            reservoir.keep(Sample("GET", "", f"/{number}"), now)
            taken += 1
    return taken


def test_each_request_is_as_likely_to_be_kept_as_any_other() -> None:
    """1,000 reservoirs of 10 out of 200: each request is kept 50 times of 1,000, within five standard deviations."""
    seen: Counter[str] = Counter()
    rng = random.Random(11)
    for _ in range(1000):
        reservoir = Reservoir(10, rng, 0.0)
        run(reservoir, range(200))
        assert len(reservoir.samples) == 10
        seen.update(each.path for each in reservoir.samples)
    assert len(seen) == 200
    assert all(abs(count - 50) < 5 * 7 for count in seen.values())


def test_few_are_taken_once_it_is_full() -> None:
    reservoir = Reservoir(100, random.Random(3), 0.0)
    assert run(reservoir, range(100)) == 100, "it fills first"
    taken = run(reservoir, range(100, 100_000))
    assert 500 < taken < 900, "100 * ln(1000) = 691 are expected"
    assert reservoir.passed == 100_000


def test_old_requests_make_room_when_an_epoch_is_over() -> None:
    reservoir = Reservoir(50, random.Random(5), 0.0)
    run(reservoir, range(100_000))
    run(reservoir, range(200_000, 300_000), EPOCH_S)
    young = sum(int(each.path[1:]) >= 200_000 for each in reservoir.samples)
    assert young > 45


def test_size_0_takes_none() -> None:
    reservoir = Reservoir(0, random.Random(1), 0.0)
    assert run(reservoir, range(1000)) == 0
    assert reservoir.samples == ()


def test_what_cannot_be_kept_takes_no_place() -> None:
    reservoir = Reservoir(2, random.Random(1), 0.0)
    reservoir.left -= 1
    reservoir.keep(None, 0.0)
    reservoir.left -= 1
    reservoir.keep(Sample("GET", "", "/", headers=(("x", "é" * MAX_SAMPLE_BYTES),)), 0.0)
    reservoir.left -= 1
    reservoir.keep(Sample("GET", "", "/\udcff"), 0.0)
    assert reservoir.samples == ()
    assert reservoir.held_bytes == 0


def test_secret_values_are_replaced_and_their_presence_stays() -> None:
    found = sample(
        {"authorization": "Bearer HUSH", "cookie": "a=HUSH", "x-forwarded-for": "1.2.3.4", "accept": "*/*"},
        query="token=HUSH&page=2",
    )
    assert found is not None
    headers = dict(found.headers)
    assert headers["accept"] == "*/*"
    assert all(headers[name].startswith(HIDDEN) for name in ("authorization", "cookie", "x-forwarded-for"))
    assert found.query == "token=[redacted]&page=2"
    assert "HUSH" not in repr(found)
    assert "1.2.3.4" not in repr(found)


def test_equal_secrets_look_alike_within_one_process_and_not_beyond() -> None:
    one, two = sample({"cookie": "a"}), sample({"cookie": "a"})
    assert one == two != sample({"cookie": "b"})
    other = Redaction(b"o" * 32).sample(
        "GET", "shop.example", "/", "", [("cookie", "a")], "10.1.2.3",
        route="r", rule="r/0", plugins=("shop/api-key",), status=200,
    )  # fmt: skip
    assert other != one


def test_a_request_takes_a_bounded_place() -> None:
    found = sample({f"x-{n}": "v" * 100 for n in range(100)}, query="&".join(f"p{n}=1" for n in range(500)))
    assert found is not None
    assert sum(len(name) + len(value) for name, value in found.headers) <= MAX_HEADERS_CHARS
    assert len(found.query) <= 512
    assert found.query.endswith("=1"), "parameters are whole"
    long = sample({"user-agent": "v" * 4000, "accept": "x"})
    assert long is not None
    assert long.headers == (("user-agent", HIDDEN), ("accept", "x"))
    assert sample(path="/" + "a" * 1024) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.1.2.3", "10.1.2.0/24"), ("2001:db8:1:2::5", "2001:db8:1::/48"), ("::ffff:10.1.2.3", "10.1.2.0/24"),
     ("fe80::1%eth0", "fe80::/48"), ("", ""), ("unix", "")],
)  # fmt: skip
def test_addresses_are_cut_to_their_network(address: str, network: str) -> None:
    assert truncate_address(address) == network
