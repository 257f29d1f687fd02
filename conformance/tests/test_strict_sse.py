"""The strict parser of event streams."""

from __future__ import annotations

import pytest
from cmdc_conformance.wire.sse import Comment, Frame, Malformed, StrictParser
from hypothesis import given
from hypothesis import strategies as st

FRAME = b'id: e.1\nevent: message_delta\ndata: {"delta":"a"}\n\n'


def items(stream: bytes) -> list[Frame | Comment | Malformed]:
    parser = StrictParser()
    return [*parser.feed(stream), *parser.end()]


def malformed(stream: bytes) -> list[str]:
    return [item.kind for item in items(stream) if isinstance(item, Malformed)]


def test_a_frame_is_parsed_with_and_without_an_id() -> None:
    assert items(FRAME) == [Frame("message_delta", '{"delta":"a"}', "e.1")]
    assert items(FRAME.removeprefix(b"id: e.1\n")) == [Frame("message_delta", '{"delta":"a"}', None)]


def test_a_heartbeat_is_a_comment_line() -> None:
    assert items(b": heartbeat\n" + FRAME) == [Comment("heartbeat"), Frame("message_delta", '{"delta":"a"}', "e.1")]


@given(st.lists(st.integers(0, 120)))
def test_a_stream_may_be_split_anywhere(cuts: list[int]) -> None:
    stream = b": heartbeat\n" + FRAME + b":\n" + FRAME
    parser, parsed, start = StrictParser(), list[Frame | Comment | Malformed](), 0
    for cut in [*sorted(cuts), len(stream)]:
        parsed += parser.feed(stream[start:cut])
        start = max(start, cut)

    assert parsed + parser.end() == items(stream)


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b": heartbeat\n\n", "heartbeat"),
        (b"id: e.1\n: heartbeat\nevent: x\ndata: {}\n\n", "heartbeat"),
        (b"\n", "frame"),
        (b"id: e.1\r\nevent: x\r\ndata: {}\r\n\r\n", "frame"),
        (b"event: x\nid: e.1\ndata: {}\n\n", "frame"),
        (b"event: x\ndata: {\ndata: }\n\n", "frame"),
        (b"data: {}\n\n", "frame"),
        (b"retry: 5\n" + FRAME, "frame"),
        (b"event:x\ndata: {}\n\n", "frame"),
        (b"event: x\ndata: \xff\n\n", "frame"),
        (b"event: x\ndata: {}\n", "frame"),
        (b"event: x\ndata: {}", "frame"),
    ],
)
def test_a_deviation_from_the_protocol_is_reported(stream: bytes, kind: str) -> None:
    assert kind in malformed(stream)


def test_a_valid_stream_has_no_deviations() -> None:
    assert malformed(b": heartbeat\n" + FRAME + b": heartbeat\n: heartbeat\n" + FRAME) == []
