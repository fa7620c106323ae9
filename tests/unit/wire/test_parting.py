"""The end of a connection, tick by tick: a client that reads is waited for, one that does not is not."""

from __future__ import annotations

from dataclasses import dataclass, field

from nexus_wire.parting import Parting

LINGER = 20
MOST = 750


@dataclass
class Transport:
    """Says how much is left in our buffer; there is no socket under it, so the kernel has nothing."""

    left: int = 0
    calls: list[str] = field(default_factory=list)

    def write_eof(self) -> None:
        self.calls.append("eof")

    def get_write_buffer_size(self) -> int:
        return self.left

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.calls.append("abort")

    def close(self) -> None:
        self.calls.append("close")


def over_at(parting: Parting, tick: int, each: object = lambda tick: None) -> int:
    """Return the tick at which nobody waits any more; `each` happens before every look."""
    while True:
        assert callable(each)
        each(tick)
        again = parting.look(tick)
        if not again:
            return tick
        assert again > tick
        tick = again


def test_our_side_is_closed_first_and_a_client_that_has_all_has_a_while_for_its_own() -> None:
    transport = Transport()
    parting = Parting(transport, 100, LINGER, MOST)
    assert transport.calls == ["eof"]
    assert over_at(parting, 100) == 100 + LINGER
    parting.end()
    assert transport.calls == ["eof", "abort"]


def test_the_while_begins_with_the_last_byte_that_it_takes() -> None:
    transport = Transport(left=1000)
    parting = Parting(transport, 100, LINGER, MOST)

    def read(tick: int) -> None:
        if tick >= 300:
            transport.left = 0

    over = over_at(parting, 100, read)
    assert 300 + LINGER <= over <= 305 + LINGER


def test_a_client_that_says_something_is_there_still() -> None:
    parting = Parting(Transport(), 100, LINGER, MOST)

    def say(tick: int) -> None:
        parting.heard = tick < 400

    over = over_at(parting, 100, say)
    assert 395 + LINGER <= over <= 400 + LINGER


def test_nobody_is_waited_for_for_ever() -> None:
    talks = Parting(Transport(), 100, LINGER, MOST)

    def say(tick: int) -> None:
        talks.heard = True

    assert over_at(talks, 100, say) == 100 + MOST
    assert over_at(Parting(Transport(left=1), 100, LINGER, MOST), 100) == 100 + MOST


def test_a_transport_that_cannot_close_one_side_alone_has_its_time_all_the_same() -> None:
    class Whole(Transport):
        def write_eof(self) -> None:
            raise NotImplementedError

    assert over_at(Parting(Whole(), 0, LINGER, MOST), 0) == LINGER
