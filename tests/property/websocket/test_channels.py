"""History and resume against a naive reference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nexus_websocket.channels import Channels

NAMES = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(st.tuples(st.sampled_from(["publish", "subscribe", "unsubscribe", "resume"]), NAMES), max_size=60),
    st.integers(0, 4),
    st.integers(0, 2),
    st.integers(0, 8),
)
def test_what_is_called_recovered_is_complete_and_in_order(
    steps: list[tuple[str, str]], history: int, idle: int, total: int
) -> None:
    channels: Channels[str] = Channels("e", history=history, max_idle=idle, total_bytes=total)
    published: dict[str, list[tuple[int, bytes]]] = {"a": [], "b": [], "c": []}
    subscribers: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    ids = ["e-0"]
    for number, (step, name) in enumerate(steps):
        if step == "publish":
            ids.append(channels.next_id())
            payload = b"%d" % number
            assert list(channels.publish(name, payload)) == subscribers[name]
            published[name].append((int(ids[-1].split("-")[1]), payload))
        elif step == "subscribe":
            ids.append(channels.subscribe(name, "me"))
            if "me" not in subscribers[name]:
                subscribers[name].append("me")
        elif step == "unsubscribe":
            assert channels.unsubscribe(name, "me") == ("me" in subscribers[name])
            subscribers[name] = []
        else:
            for after in ids:
                found, recovered = channels.since(name, after)
                expected = tuple(p for n, p in published[name] if n > int(after.split("-")[1]))
                if recovered:
                    assert found == expected
                else:
                    assert found == ()


def test_a_kept_channel_is_recovered() -> None:
    channels: Channels[int] = Channels("e", history=3)
    start = channels.subscribe("a", 1)
    for number in range(3):
        channels.publish("a", b"%d" % number)
    assert channels.since("a", start) == ((b"0", b"1", b"2"), True)
    channels.publish("a", b"3")
    assert channels.since("a", start) == ((), False)
    assert channels.since("a", "e-1") == ((b"1", b"2", b"3"), True)
    assert channels.since("a", "other-1") == ((), False)


def test_history_is_bounded_in_bytes_and_invented_channels_are_forgotten() -> None:
    channels: Channels[int] = Channels("e", history=100, history_bytes=10, max_idle=5)
    for number in range(50):
        channels.publish(f"invented-{number}", b"x")
        channels.publish("a", b"1234")
    assert len(channels._channels) <= 6
    assert channels.since("a", "e-98") == ((b"1234",), True)
    assert channels.since("a", "e-90") == ((), False)


def test_a_stream_of_invented_channels_is_bounded_in_bytes() -> None:
    channels: Channels[str] = Channels("e", total_bytes=100_000)
    channels.subscribe("first", "me")
    channels.publish("first", b"x" * 1000)
    for number in range(500):
        channels.subscribe(f"c{number}", "me")
        channels.publish(f"c{number}", b"x" * 1000)
    kept = [len(channels.since(f"c{n}", "e-0")[0]) + channels.since(f"c{n}", f"e-{n + 1}")[1] for n in range(500)]
    assert sum(kept) == 100, "the newest hundred; of the others no one is told that nothing is missing"
    assert channels.since("first", "e-0") == ((), False)
