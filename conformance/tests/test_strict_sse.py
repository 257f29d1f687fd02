"""The strict reader of event streams."""

from __future__ import annotations

import pytest
from cmdc_conformance.sse import Comment, Flaw, Frame, StrictParser
from hypothesis import given
from hypothesis import strategies as st

FRAME = b'id: e.1\nevent: message_delta\ndata: {"delta":"a"}\n\n'


def items(stream: bytes) -> list[Frame | Comment | Flaw]:
    parser = StrictParser()
    return [*parser.feed(stream), *parser.end()]


def flaws(stream: bytes) -> list[str]:
    return [item.kind for item in items(stream) if isinstance(item, Flaw)]


def test_a_frame_with_an_id_and_one_without_are_read() -> None:
    assert items(FRAME) == [Frame("message_delta", '{"delta":"a"}', "e.1")]
    assert items(FRAME.removeprefix(b"id: e.1\n")) == [Frame("message_delta", '{"delta":"a"}', None)]


def test_a_heartbeat_is_a_comment_of_one_line() -> None:
    assert items(b": heartbeat\n" + FRAME) == [Comment("heartbeat"), Frame("message_delta", '{"delta":"a"}', "e.1")]


@given(st.lists(st.integers(0, 120)))
def test_it_does_not_matter_where_a_stream_is_cut(cuts: list[int]) -> None:
    stream = b": heartbeat\n" + FRAME + b":\n" + FRAME
    parser, came, begin = StrictParser(), list[Frame | Comment | Flaw](), 0
    for cut in [*sorted(cuts), len(stream)]:
        came += parser.feed(stream[begin:cut])
        begin = max(begin, cut)

    assert came + parser.end() == items(stream)


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
def test_what_no_server_may_send_is_said(stream: bytes, kind: str) -> None:
    assert kind in flaws(stream)


def test_a_good_stream_has_no_flaws() -> None:
    assert flaws(b": heartbeat\n" + FRAME + b": heartbeat\n: heartbeat\n" + FRAME) == []
