from nexus_sdk.client.breakers import Breaker, Permit


def allow(breaker: Breaker, now: float) -> Permit:
    permit = breaker.allow(now)
    assert permit is not None
    return permit


def trip(breaker: Breaker, now: float, failures: int = 3) -> None:
    for _ in range(failures):
        breaker.failed(allow(breaker, now), now)


def test_opens_after_failures_in_a_row_and_refuses() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    trip(breaker, now=1.0)
    assert breaker.state == "open"
    assert breaker.allow(now=10.9) is None
    assert breaker.reopens_in_s(now=4.0) == 7.0


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker(failures=3)
    trip(breaker, 0.0, failures=2)
    breaker.succeeded(allow(breaker, 0.0))
    trip(breaker, 0.0, failures=2)
    assert breaker.state == "closed"


def test_lets_one_probe_through_after_reset_s() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    trip(breaker, now=0.0)
    probe = allow(breaker, now=10.0)
    assert breaker.state == "half-open"
    assert breaker.allow(now=10.1) is None
    breaker.succeeded(probe)
    assert breaker.state == "closed"
    assert breaker.allow(now=10.2) is not None


def test_a_failed_probe_opens_it_for_another_reset_s() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    trip(breaker, now=0.0)
    breaker.failed(allow(breaker, now=10.0), now=12.0)
    assert breaker.state == "open"
    assert breaker.allow(now=21.9) is None
    assert breaker.allow(now=22.0) is not None


def test_outcomes_of_attempts_from_before_it_opened_do_not_count() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    early = [allow(breaker, 0.0) for _ in range(2)]
    trip(breaker, now=0.0)
    probe = allow(breaker, now=10.0)
    breaker.succeeded(early[0])
    assert breaker.state == "half-open"
    breaker.failed(early[1], now=10.0)
    assert breaker.state == "half-open"
    breaker.succeeded(probe)
    assert breaker.state == "closed"


def test_an_abandoned_probe_lets_the_next_one_through() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    trip(breaker, now=0.0)
    breaker.abandoned(allow(breaker, now=10.0))
    assert breaker.allow(now=10.1) is not None


def test_a_probe_that_never_reports_does_not_close_the_door_for_ever() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    trip(breaker, now=0.0)
    allow(breaker, now=10.0)
    assert breaker.allow(now=19.9) is None
    assert breaker.allow(now=20.0) is not None


def test_the_first_failure_after_recovery_does_not_open_it() -> None:
    breaker = Breaker(failures=3, reset_s=10)
    trip(breaker, now=0.0)
    breaker.succeeded(allow(breaker, now=10.0))
    trip(breaker, now=11.0, failures=2)
    assert breaker.state == "closed"
    trip(breaker, now=11.0, failures=1)
    assert breaker.state == "open"
