"""What a reader asks for, gives on and does when its line is lost; no line is needed to know."""

import pytest
from cmdc_client.config import Config
from cmdc_client.errors import (
    CannotResume,
    ConnectionFailed,
    CursorExpired,
    ProtocolError,
    RateLimited,
    Refusal,
)
from cmdc_client.following import Following, Selection
from wayward import frame, run_of

CONFIG = Config("http://h", None, patience=60)
LOST = ConnectionFailed("cut")


def following(selection: Selection | None = None, *, base_run: str | None = None) -> Following:
    """A reader of the run r1, with a connection, and without luck."""
    reader = Following(selection or Selection("s", "e.0", request_id="r1"), CONFIG, lambda: 0.0, base_run=base_run)
    reader.opened(0)
    return reader


def fed(reader: Following, *frames: str) -> list[int]:
    return [event.seq for event in reader.feed("".join(frames).encode())]


def test_it_begins_where_it_is_told_and_goes_on_after_the_last_event() -> None:
    reader = following(Selection("s/1", "start", follow=True))
    assert (reader.path, reader.params) == ("/v1/sessions/s%2F1/events", {"after": "start", "follow": "true"})
    assert "Last-Event-ID" not in reader.headers

    assert fed(reader, frame("agent_start", 7)) == [7]

    assert reader.params == {"follow": "true"}
    assert reader.headers["Last-Event-ID"] == "e.7"


def test_it_ends_with_the_terminal_event_and_gives_nothing_after_it() -> None:
    reader = following()

    assert fed(reader, *run_of("a"), frame("agent_start", 6)) == [1, 2, 3, 4, 5]
    assert reader.ended


def test_events_that_were_there_before_are_dropped() -> None:
    reader = following()
    run = run_of("a", "b")

    assert fed(reader, *run[:4]) == [1, 2, 3, 4]
    reader.lost(LOST, 0)
    reader.opened(1)
    assert fed(reader, *run[1:]) == [5, 6]


def test_a_missing_event_is_told_by_its_place() -> None:
    reader = following()
    run = run_of("a", "b")

    with pytest.raises(ProtocolError, match=r"event e\.4 came after e\.2: what is between them is missing"):
        fed(reader, *run[:2], *run[3:])


def test_the_first_event_after_a_cursor_is_the_next_one() -> None:
    with pytest.raises(ProtocolError, match=r"e\.9 came after e\.7"):
        fed(following(Selection("s", "e.7")), frame("agent_start", 9))


def test_a_run_may_begin_later_than_its_prompt_was_accepted() -> None:
    assert fed(
        following(Selection("s", "e.7", request_id="r1")), frame("agent_start", 12), frame("message_start", 13)
    ) == [12, 13]


def test_an_event_of_another_log_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"f\.3 is of another log than e\.2"):
        fed(following(), frame("agent_start", 2), frame("message_start", 3, "f"))


def test_an_event_of_another_run_is_refused() -> None:
    with pytest.raises(ProtocolError, match="'r2', which is not the one that was asked for"):
        fed(following(), frame("agent_start", 1, requestId="r2"))


def test_types_are_filtered_and_the_end_is_known_all_the_same() -> None:
    reader = following(Selection("s", "e.0", types=("message_delta",)))

    assert reader.params["types"] == "agent_abort,agent_end,message_delta"
    run = run_of("a", "b")
    assert fed(reader, run[3], run[4], run[5]) == [4, 5]
    assert reader.ended


def test_waiting_grows_and_begins_anew_once_events_have_come() -> None:
    reader = following()

    assert [reader.lost(LOST, at) for at in (0, 1, 2, 3)] == [0.25, 0.5, 1.0, 2.0]
    reader.opened(5)
    fed(reader, frame("agent_start", 1))
    assert reader.lost(LOST, 6) == 0.25


def test_patience_ends_when_no_event_comes() -> None:
    reader = following()
    times = [0.0]

    def lose_again() -> None:
        times.append(times[-1] + reader.lost(LOST, times[-1]))
        reader.opened(times[-1])

    with pytest.raises(ConnectionFailed, match="cut"):
        _ = [lose_again() for _ in range(100)]
    assert 45 < times[-1] <= 60


def test_patience_does_not_end_while_connections_hold() -> None:
    reader = following()

    for minute in range(100):  # something on the way ends each line after a minute, and somebody thinks for long
        reader.opened(minute * 60)
        assert reader.lost(LOST, minute * 60 + 59) == 0.25


def test_the_server_says_when_to_come_back() -> None:
    reader = following()
    fed(reader, "retry: 4000\n\n", frame("agent_start", 1))
    assert reader.lost(None, 0) == 4.0

    limited = RateLimited(Refusal("GET", 429, "rate_limited", "slower", retry_after=17))
    assert reader.lost(limited, 1) == 17
    with pytest.raises(RateLimited):
        reader.lost(RateLimited(Refusal("GET", 429, "rate_limited", "slower", retry_after=70)), 20)


def test_a_cursor_that_has_expired_is_told_and_not_tried_again() -> None:
    expired = CursorExpired(Refusal("GET", 410, "cursor_expired", "x", members={"earliest": "e.4", "latest": "e.9"}))

    with pytest.raises(CursorExpired) as told:
        following().lost(expired, 0)

    assert (told.value.earliest, told.value.latest) == ("e.4", "e.9")


def test_a_stream_that_ends_within_a_frame_twice_in_one_place_breaks_the_protocol() -> None:
    reader = following()
    cut = frame("message_start", 2)[:-10]

    fed(reader, frame("agent_start", 1), cut)
    assert reader.lost(None, 0) == 0.25
    reader.opened(1)
    fed(reader, cut)
    with pytest.raises(ProtocolError, match=r"within a frame, after event e\.1"):
        reader.lost(None, 2)


def test_a_base_server_is_read_as_long_as_the_line_holds() -> None:
    reader = following(Selection("s"), base_run="r9")

    events = list(reader.feed("".join(run_of("a", ids=False)).encode()))

    assert [(event.event, event.id, event.request_id) for event in events] == [
        ("prompt_received", "", "r9"),
        ("agent_start", "", "r9"),
        ("message_start", "", "r9"),
        ("message_delta", "", "r9"),
        ("agent_end", "", "r9"),
    ]
    assert reader.ended


def test_a_base_server_that_is_lost_cannot_be_resumed_and_says_why() -> None:
    reader = following(Selection("s"), base_run="r9")
    assert reader.lost(ConnectionFailed("refused", sent=False), 0) == 0.25  # nothing was read, so nothing is lost

    reader.opened(1)
    fed(reader, *run_of("a", ids=False)[:3])

    with pytest.raises(CannotResume, match="gives its events no ids"):
        reader.lost(LOST, 2)


def test_an_event_without_id_among_others_breaks_the_protocol() -> None:
    with pytest.raises(ProtocolError, match=r"has no id, though e\.1 is known"):
        fed(following(), frame("agent_start", 1), frame("message_start"))


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("id: e.1\nevent: agent_start\ndata: {\n\n", "is not JSON"),
        ("id: e.1\nevent: agent_start\ndata: []\n\n", "is not a JSON object"),
        ('id: e.1\nevent: agent_start\ndata: {"requestId": NaN}\n\n', "NaN is no JSON value"),
        ("id: e.1\nevent: agent_start\ndata: " + "[" * 100_000 + "\n\n", "is not JSON"),
        ("id: one\nevent: agent_start\ndata: {}\n\n", "'one' is no cursor"),
        ("id: e.1\nevent: agent_start\ndata: {}\n\n", r"data\.requestId: is missing"),
        (frame("message_delta", 1), r"data\.delta: is missing"),
        (frame("message_delta", 1, delta=3), r"data\.delta: must be a string"),
        (frame("approval_resolved", 1, approvalId="a", status="maybe"), r"data\.status: 'maybe' is none of"),
    ],
)
def test_what_breaks_the_contract_is_told_with_its_place(sent: str, told: str) -> None:
    with pytest.raises(ProtocolError, match=told) as failure:
        fed(following(), sent)

    assert failure.value.where.startswith("event ")
    assert "GET /v1/sessions/s/events" in failure.value.where


def test_an_event_of_the_future_is_given_on_as_it_is() -> None:
    reader = following()

    [event] = reader.feed(frame("telepathy", 1, thought="hm").encode())

    assert (event.event, event.seq, event.request_id) == ("telepathy", 1, "r1")
    assert fed(reader, frame("agent_start", 2)) == [2]
