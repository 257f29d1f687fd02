"""Rate limits per API key (HTTP-9)."""

import pytest
from cmdc_gateway.errors import RateLimited
from cmdc_gateway.tenancy.limits import Quota, RateLimit
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted(limit: RateLimit, key_id: str, tries: int) -> int:
    """The number of `tries` immediate requests that are admitted."""
    count = 0
    for _ in range(tries):
        try:
            limit.spend(key_id)
        except RateLimited:
            continue
        count += 1
    return count


def test_sixty_per_minute_is_a_burst_of_sixty_and_then_one_per_second(clock: Clock) -> None:
    limit = RateLimit(60, clock=clock)

    assert admitted(limit, "k", 100) == 60
    clock.now += 1
    assert admitted(limit, "k", 100) == 1
    clock.now += 3600
    assert admitted(limit, "k", 100) == 60


def test_a_burst_may_be_smaller_or_larger_than_the_requests_per_minute(clock: Clock) -> None:
    assert admitted(RateLimit(60, 5, clock=clock), "k", 100) == 5
    assert admitted(RateLimit(60, 90, clock=clock), "k", 100) == 90


def test_keys_do_not_share_a_bucket(clock: Clock) -> None:
    limit = RateLimit(60, 2, clock=clock)

    assert admitted(limit, "one", 5) == 2
    assert admitted(limit, "two", 5) == 2


@given(rpm=st.integers(1, 1000), tries=st.integers(0, 20), start=st.floats(0, 1e7))
def test_a_client_that_waits_for_retry_after_is_admitted(rpm: int, tries: int, start: float) -> None:
    """HTTP-9: Retry-After is in whole seconds, rounded up."""
    clock = Clock()
    clock.now = start
    limit = RateLimit(rpm, 3, clock=clock)
    admitted(limit, "k", 3 + tries)
    with pytest.raises(RateLimited) as caught:
        limit.spend("k")

    clock.now += caught.value.retry_after

    assert caught.value.retry_after >= 1
    assert limit.spend("k") is not None


def test_without_a_limit_every_request_is_admitted_and_there_is_no_quota(clock: Clock) -> None:
    limit = RateLimit(0, clock=clock)

    assert admitted(limit, "k", 10_000) == 10_000
    assert limit.spend("k") is None
    assert limit.quota("k") is None


def test_a_quota_has_the_remaining_requests_and_the_time_until_it_is_full(clock: Clock) -> None:
    """HTTP-9: the RateLimit header."""
    limit = RateLimit(60, 3, clock=clock)

    assert limit.quota("k") == Quota(limit=3, remaining=3, reset=0)
    assert limit.spend("k") == Quota(limit=3, remaining=2, reset=1)
    assert limit.spend("k") == Quota(limit=3, remaining=1, reset=2)
    assert limit.quota("k") == Quota(limit=3, remaining=1, reset=2)


def test_a_quota_after_a_rejection_has_no_remaining_requests(clock: Clock) -> None:
    limit = RateLimit(60, 1, clock=clock)
    limit.spend("k")
    clock.now += 0.5
    with pytest.raises(RateLimited):
        limit.spend("k")

    assert limit.quota("k") == Quota(limit=1, remaining=0, reset=1)
