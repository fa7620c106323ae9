from typing import Any

import pytest
from nexus_core.discovery import Endpoint
from nexus_sdk.consul.blocking import Cursor, parse_instances, parse_names

A = (Endpoint("10.0.0.1", 1),)
B = (Endpoint("10.0.0.2", 2),)


def answer(cursor: Cursor, index: int, endpoints: tuple[Endpoint, ...], now: float, *, leader: bool = True) -> Any:
    return cursor.note_answer(index, leader, endpoints, now)


def test_shows_what_changed_and_nothing_else() -> None:
    cursor = Cursor()
    assert answer(cursor, 5, A, 0) == A
    assert answer(cursor, 6, A, 1) is None
    assert answer(cursor, 7, B, 2) == B
    assert answer(cursor, 8, (), 3) == ()


def test_an_index_below_the_last_starts_again_from_zero() -> None:
    cursor = Cursor()
    answer(cursor, 50, A, 0)
    answer(cursor, 7, A, 1)
    assert cursor.index == 0


@pytest.mark.parametrize("index", [0, -3])
def test_an_index_below_one_becomes_one_so_that_the_next_query_blocks(index: int) -> None:
    cursor = Cursor()
    answer(cursor, index, (), 0)
    assert cursor.index == 1 if index == 0 else cursor.index == 0


def test_nobody_after_an_index_reset_is_not_believed_for_the_hold() -> None:
    cursor = Cursor(hold_s=30)
    answer(cursor, 50, A, 0)
    assert answer(cursor, 7, (), 9) is None
    assert cursor.asks_leader
    assert answer(cursor, 7, (), 10) is None
    assert answer(cursor, 7, (), 39.9) is None
    assert answer(cursor, 7, (), 40) == ()


def test_nobody_after_consul_was_away_is_not_believed_for_the_hold_even_with_a_higher_index() -> None:
    cursor = Cursor(hold_s=30)
    answer(cursor, 5, A, 0)
    cursor.note_away()
    assert cursor.index == 0
    assert answer(cursor, 9, (), 100) is None
    assert answer(cursor, 10, B, 101) == B
    assert answer(cursor, 11, (), 131) == ()


@pytest.mark.parametrize("away", [False, True])
def test_after_a_loss_the_first_to_come_back_does_not_take_the_load_of_all(away: bool) -> None:
    """Consul restarts with an empty disk, seen at once or after it was away: its indexes begin anew."""
    cursor = Cursor(hold_s=30)
    answer(cursor, 500, (*A, *B), 0)
    if away:
        cursor.note_away()
    else:
        assert answer(cursor, 7, (), 9) is None
    assert cursor.asks_leader
    assert answer(cursor, 7, (), 10) is None
    assert not cursor.asks_leader
    assert answer(cursor, 12, B, 11) is None, "A holds"
    c = Endpoint("10.0.0.3", 3)
    assert answer(cursor, 14, (*B, c), 12) == (*A, *B, c), "who is new takes requests at once"
    assert answer(cursor, 14, (*B, c), 39.9) is None
    assert answer(cursor, 14, (*B, c), 40) == (*B, c), "who did not come back is gone"


def test_the_past_is_not_believed_while_a_restarted_server_reads_its_log() -> None:
    """Its stale answers show instances that are long gone; the leader's says what holds."""
    cursor = Cursor(hold_s=30)
    answer(cursor, 400, A, 0)
    answer(cursor, 500, B, 1)
    assert answer(cursor, 410, A, 2) is None
    assert cursor.asks_leader
    assert answer(cursor, 501, B, 3) is None
    assert answer(cursor, 502, (), 4) == (), "and nothing is held that nobody lost"


def test_the_first_question_may_be_answered_without_a_leader_and_one_after_an_absence_may_not() -> None:
    cursor = Cursor()
    assert not cursor.asks_leader
    answer(cursor, 5, A, 0)
    assert not cursor.asks_leader
    cursor.note_away()
    assert cursor.asks_leader


def test_a_part_is_believed_when_consul_was_merely_away() -> None:
    cursor = Cursor(hold_s=30)
    answer(cursor, 5, (*A, *B), 0)
    cursor.note_away()
    assert answer(cursor, 9, B, 1) == B


def test_nobody_is_believed_when_nothing_was_lost() -> None:
    cursor = Cursor(hold_s=30)
    answer(cursor, 5, A, 0)
    assert answer(cursor, 6, (), 0.1) == ()


def test_a_query_during_a_hold_returns_when_the_hold_ends() -> None:
    cursor = Cursor(hold_s=8)
    answer(cursor, 50, A, 0)
    answer(cursor, 7, (), 9)
    answer(cursor, 7, (), 10)
    assert cursor.wait_s(12) == 6
    assert cursor.wait_s(18) == 30


def test_a_first_empty_answer_without_a_leader_says_nothing() -> None:
    cursor = Cursor()
    assert answer(cursor, 5, (), 0, leader=False) is None
    assert answer(cursor, 5, (), 1, leader=True) == ()


def test_a_blocked_answer_may_lack_a_leader() -> None:
    cursor = Cursor()
    answer(cursor, 5, A, 0)
    assert answer(cursor, 6, (), 1, leader=False) == ()


def instance(
    name: str, address: str, port: int, *, status: str = "passing", node: str = "10.9.9.9", **service: Any
) -> Any:
    return {
        "Node": {"Address": node},
        "Service": {"ID": name, "Address": address, "Port": port, "Meta": {}, "Weights": {"Passing": 1}, **service},
        "Checks": [{"Status": "passing"}, {"Status": status}],
    }


def in_maintenance(given: Any, check: str = "_service_maintenance:x") -> Any:
    given["Checks"].append({"CheckID": check, "Status": "critical"})
    return given


def test_instances_are_sorted_and_unique_and_an_empty_address_is_the_nodes() -> None:
    endpoints, _ = parse_instances([instance("b", "10.0.0.2", 2), instance("a", "", 1), instance("z", "10.0.0.2", 2)])
    assert endpoints == (Endpoint("10.0.0.2", 2, "b"), Endpoint("10.9.9.9", 1, "a"))


@pytest.mark.parametrize(
    "left_out",
    [
        instance("x", "10.0.0.3", 3, status="critical"),
        instance("x", "10.0.0.3", 3, status="warning"),
        in_maintenance(instance("x", "10.0.0.3", 3, status="critical")),
        instance("x", "10.0.0.3", 3, Weights={"Passing": 0}),
        instance("x", "10.0.0.3", 0),
    ],
)
def test_instances_that_shall_take_no_requests_are_left_out(left_out: Any) -> None:
    assert parse_instances([left_out, instance("a", "10.0.0.1", 1)])[0] == (Endpoint("10.0.0.1", 1, "a"),)


@pytest.mark.parametrize(
    "draining",
    [
        instance("x", "10.0.0.3", 3, Meta={"nexus-draining": "true"}),
        instance("x", "10.0.0.3", 3, status="critical", Meta={"nexus-draining": "true"}),
        in_maintenance(instance("x", "10.0.0.3", 3)),
        in_maintenance(instance("x", "10.0.0.3", 3), "_node_maintenance"),
        in_maintenance(in_maintenance(instance("x", "10.0.0.3", 3)), "_node_maintenance"),
    ],
)
def test_instances_in_maintenance_mode_and_those_that_end_are_draining(draining: Any) -> None:
    found = parse_instances([draining, instance("a", "10.0.0.1", 1)])[0]
    assert found == (Endpoint("10.0.0.1", 1, "a"), Endpoint("10.0.0.3", 3, "x", draining=True))


def test_of_two_instances_in_one_place_the_one_that_does_not_drain_counts() -> None:
    old, new = in_maintenance(instance("a-old", "10.0.0.1", 1)), instance("b-new", "10.0.0.1", 1)
    for document in ([old, new], [new, old]):
        assert parse_instances(document)[0] == (Endpoint("10.0.0.1", 1, "b-new"),)


def test_what_tells_an_instance_from_others_is_its_meta_and_zone() -> None:
    meta = {
        "nexus-type": "http",
        "nexus-namespace": "shop",
        "nexus-zone": "eu-1",
        "version": "v2",
        "nexus-version": "1",
    }
    own = instance("a", "10.0.0.1", 1, Meta=meta)
    of_node = instance("b", "10.0.0.2", 2)
    of_node["Node"]["Meta"] = {"nexus-zone": "eu-2"}
    endpoints, shared = parse_instances([own, of_node])
    assert endpoints == (
        Endpoint("10.0.0.1", 1, "a", zone="eu-1", meta=(("nexus-version", "1"), ("version", "v2"))),
        Endpoint("10.0.0.2", 2, "b", zone="eu-2"),
    )
    assert shared == {"nexus-type": "http", "nexus-namespace": "shop", "version": "v2", "nexus-version": "1"}


def test_pods_of_another_cluster_are_left_alone() -> None:
    own = instance("a", "10.0.0.1", 1, Meta={"nexus-installation": "east", "version": "v1"})
    others = instance("b", "10.0.0.2", 2, Meta={"nexus-installation": "west", "version": "v2"})
    machine = instance("c", "10.0.0.3", 3)
    endpoints, shared = parse_instances([others, own, machine], "east")
    assert endpoints == (Endpoint("10.0.0.1", 1, "a", meta=(("version", "v1"),)), Endpoint("10.0.0.3", 3, "c"))
    assert shared == {"version": "v1"}
    assert [each.id for each in parse_instances([others, own, machine])[0]] == ["a", "b", "c"]


def test_meta_is_known_while_no_instance_passes() -> None:
    down = instance("a", "10.0.0.1", 1, status="critical", Meta={"nexus-type": "http", "nexus-draining": "false"})
    assert parse_instances([down]) == ((), {"nexus-type": "http"})


@pytest.mark.parametrize("document", [{}, "no", [1], [{"Node": {}}]])
def test_what_is_not_healths_answer_is_refused(document: Any) -> None:
    with pytest.raises(ValueError):
        parse_instances(document)


def test_names_leave_consul_out() -> None:
    assert list(parse_names({"orders.shop": [], "consul": [], "events.shop": ["x"]})) == ["events.shop", "orders.shop"]
