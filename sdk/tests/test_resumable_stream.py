"""`ResumableStream`: what it requests, yields, and does when a connection is lost, without a network."""

import pytest
from cmdc_client.config import Config
from cmdc_client.errors import (
    CannotResume,
    ConnectionFailed,
    CursorExpired,
    ErrorResponse,
    ProtocolError,
    RateLimited,
)
from cmdc_client.resumable_stream import EventQuery, ResumableStream
from faulty_server import frame, run_of

CONFIG = Config("http://h", None, reconnect_timeout=60)
LOST = ConnectionFailed("lost")


def reader_of(query: EventQuery | None = None, *, base_run: str | None = None) -> ResumableStream:
    """A reader of the run r1 with an open connection; its delays have no jitter."""
    reader = ResumableStream(query or EventQuery("s", "e.0", request_id="r1"), CONFIG, lambda: 0.0, base_run=base_run)
    reader.on_connected(0)
    return reader


def feed(reader: ResumableStream, *frames: str) -> list[int]:
    return [event.seq for event in reader.feed("".join(frames).encode())]


def test_it_begins_after_the_given_cursor_and_resumes_after_the_last_event() -> None:
    reader = reader_of(EventQuery("s/1", "start", follow=True))
    assert (reader.path, reader.params) == ("/v1/sessions/s%2F1/events", {"after": "start", "follow": "true"})
    assert "Last-Event-ID" not in reader.headers

    assert feed(reader, frame("agent_start", 7)) == [7]

    assert reader.params == {"follow": "true"}
    assert reader.headers["Last-Event-ID"] == "e.7"


def test_it_ends_with_the_terminal_event() -> None:
    reader = reader_of()

    assert feed(reader, *run_of("a"), frame("agent_start", 6)) == [1, 2, 3, 4, 5]
    assert reader.ended


def test_duplicate_events_are_dropped() -> None:
    reader = reader_of()
    run = run_of("a", "b")

    assert feed(reader, *run[:4]) == [1, 2, 3, 4]
    reader.on_disconnected(LOST, 0)
    reader.on_connected(1)
    assert feed(reader, *run[1:]) == [5, 6]


def test_a_gap_raises_an_error_that_names_it() -> None:
    reader = reader_of()
    run = run_of("a", "b")

    with pytest.raises(ProtocolError, match=r"event e\.4 follows e\.2; the events between them are missing"):
        feed(reader, *run[:2], *run[3:])


def test_the_first_event_after_a_cursor_must_be_the_next_one() -> None:
    with pytest.raises(ProtocolError, match=r"e\.9 follows e\.7"):
        feed(reader_of(EventQuery("s", "e.7")), frame("agent_start", 9))


def test_the_requested_run_may_begin_later_than_its_cursor() -> None:
    assert feed(
        reader_of(EventQuery("s", "e.7", request_id="r1")), frame("agent_start", 12), frame("message_start", 13)
    ) == [12, 13]


def test_an_event_of_another_log_is_rejected() -> None:
    with pytest.raises(ProtocolError, match=r"f\.3 belongs to another log than e\.2"):
        feed(reader_of(), frame("agent_start", 2), frame("message_start", 3, "f"))


def test_an_event_of_another_run_is_rejected() -> None:
    with pytest.raises(ProtocolError, match="the run 'r2', not to the requested one"):
        feed(reader_of(), frame("agent_start", 1, requestId="r2"))


def test_terminal_events_are_requested_even_if_they_are_filtered_out() -> None:
    reader = reader_of(EventQuery("s", "e.0", types=("message_delta",)))

    assert reader.params["types"] == "agent_abort,agent_end,message_delta"
    run = run_of("a", "b")
    assert feed(reader, run[3], run[4], run[5]) == [4, 5]
    assert reader.ended


def test_delays_grow_until_an_event_arrives() -> None:
    reader = reader_of()

    assert [reader.on_disconnected(LOST, at) for at in (0, 1, 2, 3)] == [0.25, 0.5, 1.0, 2.0]
    reader.on_connected(5)
    feed(reader, frame("agent_start", 1))
    assert reader.on_disconnected(LOST, 6) == 0.25


def test_reconnecting_ends_at_the_timeout_without_events() -> None:
    reader = reader_of()
    times = [0.0]

    def reconnect() -> None:
        times.append(times[-1] + reader.on_disconnected(LOST, times[-1]))
        reader.on_connected(times[-1])

    with pytest.raises(ConnectionFailed, match="lost"):
        _ = [reconnect() for _ in range(100)]
    assert 45 < times[-1] <= 60


def test_stable_connections_reset_the_timeout_even_without_events() -> None:
    reader = reader_of()

    for minute in range(100):  # a proxy closes every connection after a minute, and the run waits for a person
        reader.on_connected(minute * 60)
        assert reader.on_disconnected(LOST, minute * 60 + 59) == 0.25


def test_the_server_determines_the_delay() -> None:
    reader = reader_of()
    feed(reader, "retry: 4000\n\n", frame("agent_start", 1))
    assert reader.on_disconnected(None, 0) == 4.0

    limited = RateLimited(ErrorResponse("GET", 429, "rate_limited", "slower", retry_after=17))
    assert reader.on_disconnected(limited, 1) == 17
    with pytest.raises(RateLimited):
        reader.on_disconnected(RateLimited(ErrorResponse("GET", 429, "rate_limited", "slower", retry_after=70)), 20)


def test_an_expired_cursor_is_raised_without_a_retry() -> None:
    expired = CursorExpired(
        ErrorResponse("GET", 410, "cursor_expired", "x", members={"earliest": "e.4", "latest": "e.9"})
    )

    with pytest.raises(CursorExpired) as raised:
        reader_of().on_disconnected(expired, 0)

    assert (raised.value.earliest, raised.value.latest) == ("e.4", "e.9")


def test_a_stream_that_is_truncated_twice_at_the_same_event_violates_the_protocol() -> None:
    reader = reader_of()
    cut = frame("message_start", 2)[:-10]

    feed(reader, frame("agent_start", 1), cut)
    assert reader.on_disconnected(None, 0) == 0.25
    reader.on_connected(1)
    feed(reader, cut)
    with pytest.raises(ProtocolError, match=r"within a frame, after event e\.1"):
        reader.on_disconnected(None, 2)


def test_a_stream_of_the_base_protocol_is_read_while_the_connection_lasts() -> None:
    reader = reader_of(EventQuery("s"), base_run="r9")

    events = list(reader.feed("".join(run_of("a", ids=False)).encode()))

    assert [(event.event, event.id, event.request_id) for event in events] == [
        ("prompt_received", "", "r9"),
        ("agent_start", "", "r9"),
        ("message_start", "", "r9"),
        ("message_delta", "", "r9"),
        ("agent_end", "", "r9"),
    ]
    assert reader.ended


def test_a_stream_of_the_base_protocol_cannot_be_resumed_once_events_were_read() -> None:
    reader = reader_of(EventQuery("s"), base_run="r9")
    assert (
        reader.on_disconnected(ConnectionFailed("refused", sent=False), 0) == 0.25
    )  # no event was read, so none is missed

    reader.on_connected(1)
    feed(reader, *run_of("a", ids=False)[:3])

    with pytest.raises(CannotResume, match="sends no event ids"):
        reader.on_disconnected(LOST, 2)


def test_an_event_without_an_id_after_one_with_an_id_violates_the_protocol() -> None:
    with pytest.raises(ProtocolError, match=r"has no id, although event e\.1 had one"):
        feed(reader_of(), frame("agent_start", 1), frame("message_start"))


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("id: e.1\nevent: agent_start\ndata: {\n\n", "is not JSON"),
        ("id: e.1\nevent: agent_start\ndata: []\n\n", "is not a JSON object"),
        ('id: e.1\nevent: agent_start\ndata: {"requestId": NaN}\n\n', "NaN is not a JSON value"),
        ("id: e.1\nevent: agent_start\ndata: " + "[" * 100_000 + "\n\n", "is not JSON"),
        ("id: one\nevent: agent_start\ndata: {}\n\n", "'one' is not a cursor"),
        ("id: e.1\nevent: agent_start\ndata: {}\n\n", r"data\.requestId: is missing"),
        (frame("message_delta", 1), r"data\.delta: is missing"),
        (frame("message_delta", 1, delta=3), r"data\.delta: must be a string"),
        (frame("approval_resolved", 1, approvalId="a", status="maybe"), r"data\.status: 'maybe' is not one of"),
    ],
)
def test_an_invalid_event_raises_an_error_that_names_it(sent: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as raised:
        feed(reader_of(), sent)

    assert raised.value.where.startswith("event ")
    assert "GET /v1/sessions/s/events" in raised.value.where


def test_an_unknown_event_is_yielded_as_it_is() -> None:
    reader = reader_of()

    [event] = reader.feed(frame("telepathy", 1, thought="hm").encode())

    assert (event.event, event.seq, event.request_id) == ("telepathy", 1, "r1")
    assert feed(reader, frame("agent_start", 2)) == [2]
