"""SSE-10: how long a reader may stay without progress, by a clock of the test's own."""

from cmdc_gateway.web.streaming.heartbeats import Heartbeats, WatchedStream


class Reader:
    """A client of which the server knows how much it has yet to take."""

    def __init__(self, pulse: Heartbeats, left: int) -> None:
        self.left = left
        self.closed_at: float | None = None
        self.now = 0.0
        self._pulse = pulse
        beat = WatchedStream(
            wake=lambda: None, abort=self._close, buffered=lambda: self.left, clock=lambda: self.now, wrote_at=0.0
        )
        beat.writing_since, beat.left_before = 0.0, left
        pulse.watch(beat)

    def _close(self) -> None:
        if self.closed_at is None:
            self.closed_at = self.now

    def wait(self, seconds: int) -> None:
        """Let as many seconds pass, with a look at each."""
        for _ in range(seconds):
            self.now += 1
            self._pulse._look_after_all(self.now, 1)  # pyright: ignore[reportPrivateUsage]


def test_a_reader_that_takes_nothing_is_closed_after_30_seconds() -> None:
    reader = Reader(Heartbeats(15), left=100_000)

    reader.wait(60)

    assert reader.closed_at == 30


def test_what_the_system_took_at_once_does_not_give_a_reader_as_much_time_again() -> None:
    """Its own buffers take some of each write: that is seen at the first look, and counts from there."""
    reader = Reader(Heartbeats(15), left=100_000)
    reader.left = 60_000

    reader.wait(60)

    assert reader.closed_at == 31


def test_a_reader_that_takes_a_little_now_and_then_is_not_closed() -> None:
    reader = Reader(Heartbeats(15), left=100_000)

    for _ in range(10):
        reader.wait(29)
        reader.left -= 1
    reader.wait(1)

    assert reader.closed_at is None


def test_what_is_added_meanwhile_is_no_progress_and_hides_none() -> None:
    """Pongs join what a WebSocket's client has yet to take."""
    reader = Reader(Heartbeats(15), left=100_000)
    reader.wait(20)
    reader.left += 5_000
    reader.wait(5)
    assert reader.closed_at is None
    reader.left -= 1_000
    reader.wait(29)
    assert reader.closed_at is None

    reader.wait(5)

    assert reader.closed_at == 56
