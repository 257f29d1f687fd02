"""When a request is retried, and after which delay."""

import pytest
from cmdc_client.config import Config
from cmdc_client.errors import ApiError, ErrorResponse, RateLimited, Unavailable
from cmdc_client.retry import RequestRetries


def retries_of(*, max_retries: int, reconnect_timeout: float = 60.0) -> RequestRetries:
    config = Config.resolve(
        "http://127.0.0.1:4000",
        "k",
        timeout=1,
        max_retries=max_retries,
        reconnect_timeout=reconnect_timeout,
        idle_timeout=1,
        environ={},
    )
    return RequestRetries(config, lambda: 0.0)


def error_of(error_class: type[ApiError], code: str, *, retry_after: float) -> ApiError:
    return error_class(
        ErrorResponse("POST /v1/sessions", error_class.expected_status, code, "not now", retry_after=retry_after)
    )


def test_a_failure_is_retried_at_most_max_retries_times() -> None:
    retries, down = retries_of(max_retries=2), error_of(Unavailable, "unavailable", retry_after=1)

    assert [retries.delay_after(down), retries.delay_after(down)] == [1, 1]
    with pytest.raises(Unavailable):
        retries.delay_after(down)


def test_waiting_for_a_rate_limit_is_bounded_by_the_reconnect_timeout_alone() -> None:
    retries, limited = (
        retries_of(max_retries=1, reconnect_timeout=60),
        error_of(RateLimited, "rate_limited", retry_after=10),
    )

    delays = [retries.delay_after(limited) for _ in range(6)]

    assert delays == [10] * 6
    with pytest.raises(RateLimited):
        retries.delay_after(limited)


def test_without_retries_even_a_rate_limit_is_raised() -> None:
    with pytest.raises(RateLimited):
        retries_of(max_retries=0).delay_after(error_of(RateLimited, "rate_limited", retry_after=1))
