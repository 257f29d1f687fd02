"""When a request is tried again."""

import pytest
from cmdc_client.config import Config
from cmdc_client.errors import ApiError, RateLimited, Refusal, Unavailable
from cmdc_client.retrying import Retries


def retries(*, max_retries: int, patience: float = 60.0) -> Retries:
    config = Config.given(
        "http://127.0.0.1:4000", "k", timeout=1, max_retries=max_retries, patience=patience, silence=1, environ={}
    )
    return Retries(config, lambda: 0.0)


def refused(kind: type[ApiError], code: str, *, retry_after: float) -> ApiError:
    return kind(Refusal("POST /v1/sessions", kind.expected_status, code, "not now", retry_after=retry_after))


def test_a_fault_is_tried_again_as_often_as_was_said() -> None:
    tries, down = retries(max_retries=2), refused(Unavailable, "unavailable", retry_after=1)

    assert [tries.after(down), tries.after(down)] == [1, 1]
    with pytest.raises(Unavailable):
        tries.after(down)


def test_waiting_ones_turn_under_a_rate_limit_is_bounded_by_patience_alone() -> None:
    tries, limited = retries(max_retries=1, patience=60), refused(RateLimited, "rate_limited", retry_after=10)

    waited = [tries.after(limited) for _ in range(6)]

    assert waited == [10] * 6
    with pytest.raises(RateLimited):
        tries.after(limited)


def test_whoever_wants_no_retries_gets_none() -> None:
    with pytest.raises(RateLimited):
        retries(max_retries=0).after(refused(RateLimited, "rate_limited", retry_after=1))
