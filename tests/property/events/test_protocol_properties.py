"""Properties of the CloudEvents codec."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from nexus_events import protocol, verdicts
from nexus_events.ports import Outcome
from nexus_events.protocol import CloudEvent, Limits
from nexus_events.subscriptions import Delivery
from nexus_events.tail import Tail

texts = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs", "Cn", "Cc"]), min_size=1, max_size=30)
names = st.from_regex(r"[a-z][a-z0-9]{0,18}", fullmatch=True).filter(
    lambda n: n not in {*protocol._RESERVED, *protocol._CHECKS}
)
values = texts | st.integers(-(2**31), 2**31 - 1) | st.booleans()
LIMITS = Limits(event_bytes=10**7)


@st.composite
def events(draw: st.DrawFn) -> CloudEvent:
    attributes = draw(st.dictionaries(names, values, max_size=5))
    kind = draw(st.sampled_from(["none", "json", "text", "bytes"]))
    if kind == "json":
        return CloudEvent(
            draw(texts),
            "/s",
            draw(texts),
            {**attributes, "datacontenttype": "application/json"},
            b'{"a": [1, "\xc3\xa4"]}',
        )
    if kind == "text":
        return CloudEvent(
            draw(texts),
            "/s",
            draw(texts),
            {**attributes, "datacontenttype": "text/plain"},
            draw(st.text(max_size=20)).encode(),
            True,
        )
    data = draw(st.binary(min_size=1, max_size=30)) if kind == "bytes" else None
    return CloudEvent(draw(texts), "/s", draw(texts), attributes, data)


@given(events())
def test_structured_form_round_trips_and_is_deterministic(event: CloudEvent) -> None:
    assert protocol.from_json(protocol.to_json(event)) == event
    assert protocol.to_json(protocol.from_json(protocol.to_json(event))) == protocol.to_json(event)


@given(st.lists(events(), max_size=4))
def test_batches_round_trip(several: list[CloudEvent]) -> None:
    assert protocol.parse([("content-type", protocol.BATCH)], protocol.to_batch(several), LIMITS) == tuple(several)


@given(events())
def test_binary_mode_keeps_data_and_the_text_of_attributes(event: CloudEvent) -> None:
    headers, body = protocol.to_binary(event)
    for value in headers.values():
        assert value.isascii()
        assert value.isprintable()
    (back,) = protocol.parse(headers.items(), body, LIMITS)
    assert (back.id, back.source, back.type, back.data or b"") == (
        event.id,
        event.source,
        event.type,
        event.data or b"",
    )
    assert back.attributes == {k: protocol._text(v) for k, v in event.attributes.items()}


@given(
    st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=6),
    st.binary(max_size=200),
    st.sampled_from([protocol.STRUCTURED, protocol.BATCH, "", "application/json"]),
)
def test_any_input_is_parsed_or_refused(headers: dict[str, str], body: bytes, content_type: str) -> None:
    found: tuple[CloudEvent, ...] | protocol.Refused
    try:
        found = protocol.parse([*headers.items(), ("content-type", content_type), ("ce-specversion", "1.0")], body)
    except protocol.Refused as error:
        found = error
    if isinstance(found, protocol.Refused):
        assert found.problems
        assert found.status in (400, 413, 415)
    else:
        assert all(isinstance(event, CloudEvent) for event in found)


@given(st.integers(0, 599), st.integers(1, 20), st.integers(0, 10**6), st.integers(0, 2**32))
def test_every_outcome_ends_or_waits_a_bounded_time(status: int, tries: int, age_s: int, seed: int) -> None:
    outcome, delivery = Outcome(status), Delivery(max_attempts=5, max_age_s=1000)
    failed = tries if verdicts.counts(outcome) else 0
    decision = verdicts.judge(outcome, delivery, failed=failed, tries=tries, age_s=age_s, rng=random.Random(seed))
    if decision.verdict is verdicts.Verdict.RETRY:
        assert 0 < decision.wait_s <= verdicts.LONGEST_WAIT_S
        assert age_s <= 1000
        assert failed < 5
    assert (decision.verdict is verdicts.Verdict.DONE) == (200 <= status < 300)


@given(st.lists(st.integers(1, 3), max_size=20), st.integers(0, 30), st.integers(1, 10), st.integers(1, 8))
def test_the_tail_gives_exactly_what_follows_or_admits_that_it_cannot(
    steps: list[int], after: int, limit: int, size: int
) -> None:
    from nexus_events.ports import Stored

    tail, every, offset = Tail(max_events=size), list[Stored](), 0
    for step in steps:
        offset += step
        every.append(Stored(offset, 0.0, "t", b"x"))
        tail.add(every[-1:])
    found = tail.find(after, limit)
    if found is not None:
        assert list(found) == [e for e in every if e.offset > after][:limit]
