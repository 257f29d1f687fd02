"""The parser of event streams: it returns the same frames for any division into chunks."""

from time import process_time

import pytest
from cmdc_client.config import Config
from cmdc_client.resumable_stream import EventQuery, ResumableStream
from cmdc_client.sse import Frame, InvalidStream, SseParser
from faulty_server import frame, run_of
from hypothesis import given
from hypothesis import strategies as st

ENDS = st.sampled_from(["\n", "\r", "\r\n"])
# Characters that other parsers take for line ends, and characters of several bytes, which chunks can split.
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


def parsed(*chunks: bytes) -> list[Frame]:
    parser = SseParser()
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


@given(streams(), st.data())
def test_the_division_into_chunks_does_not_change_the_frames(whole: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert parsed(*chunks) == parsed(whole) == parsed(*(whole[at : at + 1] for at in range(len(whole))))


@given(st.lists(TEXT, min_size=1), TEXT, ENDS)
def test_a_written_frame_is_parsed_back(lines: list[str], name: str, end: str) -> None:
    written = [f"id: e.1{end}", f"event: {name}{end}", *(f"data: {line}{end}" for line in lines), end]

    assert parsed("".join(written).encode()) == [Frame(name or "message", "\n".join(lines), "e.1")]


def test_a_frame_without_data_is_ignored() -> None:
    assert parsed(b"id: e.1\nevent: x\n\ndata: {}\n\n") == [Frame("message", "{}", None)]


def test_a_comment_is_not_part_of_a_frame() -> None:
    parser = SseParser()

    assert list(parser.feed(b": heartbeat\n")) == []
    assert not parser.in_frame
    assert list(parser.feed(b": half a heart")) == []
    assert not parser.in_frame
    assert list(parser.feed(b"beat\ndata: x")) == []
    assert parser.in_frame


def test_the_reconnection_time_is_kept_and_an_invalid_one_ignored() -> None:
    parser = SseParser()

    assert list(parser.feed(b"retry: 1500\nretry: soon\nretry: " + b"9" * 5000 + b"\n")) == []
    assert parser.retry == 1500


def test_a_line_that_is_not_utf_8_is_rejected() -> None:
    with pytest.raises(InvalidStream, match="not UTF-8"):
        parsed(b"data: \xff\n\n")


def test_a_frame_that_exceeds_the_size_limit_is_rejected() -> None:
    lines, line = b"data: 0123456789\n" * 100, b"x" * 1001

    for chunks in ([lines], [lines[at : at + 1] for at in range(len(lines))], [line]):
        parser = SseParser(max_frame_bytes=1000)
        with pytest.raises(InvalidStream, match="longer than 1000 bytes"):
            _ = [list(parser.feed(chunk)) for chunk in chunks]


def test_at_least_5000_events_per_second_are_parsed() -> None:
    """The bound is low enough that only a defect misses it; the printed figure is the measurement."""
    config = Config("http://h", None)
    words = 20_000
    stream = "".join(run_of(*["word "] * words)).encode()
    chunks = [stream[at : at + 16384] for at in range(0, len(stream), 16384)]
    reader = ResumableStream(EventQuery("s", "e.0", request_id="r1"), config, lambda: 0.5)
    reader.on_connected(0)

    started = process_time()
    events = sum(1 for chunk in chunks for _ in reader.feed(chunk))
    seconds = process_time() - started

    assert events == words + 4
    print(f"{events / seconds:,.0f} events/s")  # noqa: T201
    assert events / seconds > 5_000


def test_the_frames_of_these_tests_have_the_format_of_the_server() -> None:
    assert parsed(frame("agent_start", 2).encode()) == [Frame("agent_start", '{"requestId": "r1"}', "e.2")]
