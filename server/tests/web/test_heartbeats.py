"""SSE-10: how long a client may make no progress, measured with the test's own clock."""

from cmdc_gateway.web.streaming.heartbeats import Heartbeats, WatchedStream


class Client:
    """A client that has `unsent` bytes left to read."""

    def __init__(self, heartbeats: Heartbeats, unsent: int) -> None:
        self.unsent = unsent
        self.aborted_at: float | None = None
        self.now = 0.0
        self._heartbeats = heartbeats
        stream = WatchedStream(
            wake=lambda: None,
            abort=self._abort,
            buffered_bytes=lambda: self.unsent,
            clock=lambda: self.now,
            wrote_at=0.0,
        )
        stream.begin_write()
        heartbeats.watch(stream)

    def _abort(self) -> None:
        if self.aborted_at is None:
            self.aborted_at = self.now

    def wait(self, seconds: int) -> None:
        """Advance the clock, with a check every second."""
        for _ in range(seconds):
            self.now += 1
            self._heartbeats._check_all(self.now, 1)  # pyright: ignore[reportPrivateUsage]


def test_a_client_that_reads_nothing_is_disconnected_after_30_seconds() -> None:
    client = Client(Heartbeats(15), unsent=100_000)

    client.wait(60)

    assert client.aborted_at == 30


def test_data_that_moves_into_system_buffers_extends_the_time_only_once() -> None:
    """They take a part of each write; the first check notices it, and the time counts from there."""
    client = Client(Heartbeats(15), unsent=100_000)
    client.unsent = 60_000

    client.wait(60)

    assert client.aborted_at == 31


def test_a_client_that_reads_a_little_now_and_then_stays_connected() -> None:
    client = Client(Heartbeats(15), unsent=100_000)

    for _ in range(10):
        client.wait(29)
        client.unsent -= 1
    client.wait(1)

    assert client.aborted_at is None


def test_data_that_is_added_is_no_progress_and_hides_none() -> None:
    """Pongs are added to what a WebSocket's client has not read yet."""
    client = Client(Heartbeats(15), unsent=100_000)
    client.wait(20)
    client.unsent += 5_000
    client.wait(5)
    assert client.aborted_at is None
    client.unsent -= 1_000
    client.wait(29)
    assert client.aborted_at is None

    client.wait(5)

    assert client.aborted_at == 56
