"""HTTP-9: the token bucket."""

from cmdc_gateway.kernel.bucket import Bucket
from hypothesis import given
from hypothesis import strategies as st

rates = st.floats(0.01, 100)
times = st.floats(0, 1e6)


def test_a_full_bucket_allows_a_burst_and_then_returns_the_time_to_wait() -> None:
    bucket = Bucket(capacity=2, per_second=0.5, tokens=2, updated_at=10)

    bucket, first = bucket.take(10)
    bucket, second = bucket.take(10)
    bucket, third = bucket.take(11)

    assert (first, second, third) == (0, 0, 1)
    assert bucket == Bucket(capacity=2, per_second=0.5, tokens=0.5, updated_at=11)


@given(per_second=rates, gaps=st.lists(st.floats(0, 5)))
def test_a_bucket_gives_no_more_tokens_than_it_received(per_second: float, gaps: list[float]) -> None:
    bucket, now, spent = Bucket(capacity=3, per_second=per_second, tokens=3, updated_at=0), 0.0, 0

    for gap in gaps:
        now += gap
        bucket, wait = bucket.take(now)
        spent += wait == 0

    assert spent <= 3 + now * per_second + 1e-5


@given(per_second=rates, gaps=st.lists(st.floats(0, 5), max_size=10), start=times)
def test_a_client_that_waits_as_long_as_told_gets_a_token(per_second: float, gaps: list[float], start: float) -> None:
    bucket, now = Bucket(capacity=3, per_second=per_second, tokens=3, updated_at=start), start
    for gap in gaps:
        now += gap
        bucket, wait = bucket.take(now)
        if wait:
            now += wait
            bucket, wait = bucket.take(now)
            assert wait == 0


@given(idle=st.floats(0, 1e9))
def test_a_bucket_never_holds_more_than_its_capacity(idle: float) -> None:
    bucket, _ = Bucket(capacity=3, per_second=2, tokens=0, updated_at=0).take(idle)

    assert bucket.tokens <= 2


@given(back=st.floats(0, 100))
def test_a_clock_that_runs_backwards_removes_no_tokens(back: float) -> None:
    bucket, wait = Bucket(capacity=3, per_second=1, tokens=2, updated_at=100).take(100 - back)

    assert (bucket.tokens, wait) == (1, 0)
