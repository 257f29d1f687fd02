"""The parser of event streams: the same frames, however the bytes are cut."""

from time import process_time

import pytest
from cmdc_client.config import Config
from cmdc_client.following import Following, Selection
from cmdc_client.sse import Frame, NotAStream, SseParser
from hypothesis import given
from hypothesis import strategies as st
from wayward import frame, run_of

ENDS = st.sampled_from(["\n", "\r", "\r\n"])
# Text that other readers take for line ends, and text that is cut in the middle of a character.
TEXT = st.text(
    st.one_of(
        st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]),
        st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c"),
    ),
    max_size=20,
)
LINES = st.one_of(
    st.builds("data: {}".format, TEXT),
    st.builds("data:{}".format, TEXT),
    st.builds("event: {}".format, TEXT),
    st.builds("id: {}".format, TEXT),
    st.builds("retry: {}".format, st.integers(0, 99999)),
    st.builds(": {}".format, TEXT),
    st.sampled_from(["", "data", "id", ":", "unknown: x"]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.tuples(LINES, ENDS), max_size=20))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return (mark + "".join(line + end for line, end in lines)).encode()


def parsed(*pieces: bytes) -> list[Frame]:
    parser = SseParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


@given(streams(), st.data())
def test_any_cutting_gives_the_same_frames(whole: bytes, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
    pieces = [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]

    assert parsed(*pieces) == parsed(whole) == parsed(*(whole[at : at + 1] for at in range(len(whole))))


@given(st.lists(TEXT, min_size=1), TEXT, ENDS)
def test_what_was_written_is_read(lines: list[str], name: str, end: str) -> None:
    written = [f"id: e.1{end}", f"event: {name}{end}", *(f"data: {line}{end}" for line in lines), end]

    assert parsed("".join(written).encode()) == [Frame(name or "message", "\n".join(lines), "e.1")]


def test_a_frame_without_data_is_none() -> None:
    assert parsed(b"id: e.1\nevent: x\n\ndata: {}\n\n") == [Frame("message", "{}", None)]


def test_a_heartbeat_is_no_part_of_a_frame() -> None:
    parser = SseParser()

    assert list(parser.feed(b": heartbeat\n")) == []
    assert not parser.in_frame
    assert list(parser.feed(b": half a heart")) == []
    assert not parser.in_frame
    assert list(parser.feed(b"beat\ndata: x")) == []
    assert parser.in_frame


def test_the_reconnection_time_is_noted() -> None:
    parser = SseParser()

    assert list(parser.feed(b"retry: 1500\nretry: soon\nretry: " + b"9" * 5000 + b"\n")) == []
    assert parser.retry == 1500


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(NotAStream, match="not UTF-8"):
        parsed(b"data: \xff\n\n")


def test_a_frame_without_end_is_refused_before_it_fills_the_memory() -> None:
    lines, line = b"data: 0123456789\n" * 100, b"x" * 1001

    for pieces in ([lines], [lines[at : at + 1] for at in range(len(lines))], [line]):
        parser = SseParser(most=1000)
        with pytest.raises(NotAStream, match="longer than 1000 bytes"):
            _ = [list(parser.feed(piece)) for piece in pieces]


def test_events_are_read_faster_than_any_model_speaks() -> None:
    """A figure to look at, with a bound that only a defect can miss."""
    config = Config("http://h", None)
    words = 20_000
    stream = "".join(run_of(*["word "] * words)).encode()
    pieces = [stream[at : at + 16384] for at in range(0, len(stream), 16384)]
    following = Following(Selection("s", "e.0", request_id="r1"), config, lambda: 0.5)
    following.opened(0)

    begun = process_time()
    events = sum(1 for piece in pieces for _ in following.feed(piece))
    seconds = process_time() - begun

    assert events == words + 4
    print(f"{events / seconds:,.0f} events/s")  # noqa: T201
    assert events / seconds > 5_000


def test_frames_are_made_as_the_server_makes_them() -> None:
    assert parsed(frame("agent_start", 2).encode()) == [Frame("agent_start", '{"requestId": "r1"}', "e.2")]
