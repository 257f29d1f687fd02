"""The wire forms of events, parsed as clients parse them (SSE-2, WS-2, SSE-11, EVT-5 … EVT-7)."""

import json
import re

import pytest
from cmdc_gateway.protocol.encoding import whole_text
from cmdc_gateway.protocol.events import EVENT_NAMES, MessageDelta, ToolExecutionStart, encode_data
from cmdc_gateway.protocol.frames import HEARTBEAT, Cursor, LoggedEvent, Page
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

ANY_TEXT = st.text(
    st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\r\n\x0b\x0c\x1c\x85\u2028\u2029\0")
)
NASTY = "\r\n\r\ndata: x\n\nid: 9\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0\ud800 e\u0301 👩\u200d👩\ufeff"


def logged(text: str, seq: int = 1) -> LoggedEvent:
    return LoggedEvent("k3x9", seq, "message_delta", 1_700_000_000_000, encode_data(MessageDelta(text), "r1"))


def frames(stream: bytes) -> list[dict[str, str]]:
    """Parse a stream, stricter than the standard: every frame has `id`, `event` and `data`, once each and in this order."""
    *blocks, rest = re.sub(rb"(?m)^:.*\n", b"", stream).decode().split("\n\n")
    assert rest == ""
    parsed: list[dict[str, str]] = []
    for block in blocks:
        names, values = zip(*(line.split(": ", 1) for line in re.split(r"\r\n|\r|\n", block)), strict=True)
        assert names == ("id", "event", "data")
        parsed.append(dict(zip(names, values, strict=True)))
    return parsed


def httpx_sse_events(lines: list[str]) -> list[dict[str, str]]:
    """Parse lines as httpx-sse 0.4.3 does.

    A blank line dispatches an event if any field is set, including an id remembered from the previous event.
    """
    events: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
        elif not line and fields:
            events.append(fields)
            fields = {"id": fields["id"]} if "id" in fields else {}
    return events


@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
@example(texts=[NASTY, "", "plain"])
def test_any_text_survives_a_stream(texts: list[str]) -> None:
    """EVT-6, SSE-2: for strict and lenient parsers, and any definition of a line."""
    stream = HEARTBEAT + HEARTBEAT.join(logged(text, seq).sse for seq, text in enumerate(texts, 1))
    expected = [("message_delta", f"k3x9.{seq}", whole_text(text)) for seq, text in enumerate(texts, 1)]

    lines, lines_by_the_standard = stream.decode().splitlines(), re.split("\r\n|\r|\n", stream.decode())[:-1]
    for read in (frames(stream), httpx_sse_events(lines), httpx_sse_events(lines_by_the_standard)):
        assert [(event["event"], event["id"], json.loads(event["data"])["delta"]) for event in read] == expected


@given(text=ANY_TEXT, name=st.sampled_from(sorted(EVENT_NAMES)), seq=st.integers(1, 2**63))
def test_the_three_wire_forms_have_the_same_members(text: str, name: str, seq: int) -> None:
    """EVT-5, EVT-7."""
    data = encode_data(ToolExecutionStart("t", "c", {text: text}), "r1")
    event = LoggedEvent("0az", seq, name, 17, data)

    (frame,) = frames(event.sse)
    sent = json.loads(event.text)

    assert list(sent) == ["event", "data", "id"]
    assert sent == {"event": name, "data": json.loads(data), "id": f"0az.{seq}"}
    assert sent == {"event": frame["event"], "data": json.loads(frame["data"]), "id": frame["id"]}
    assert json.loads(event.entry) == sent | {"at": 17}
    assert data in event.sse
    assert data in event.text.encode()
    assert data in event.entry


def test_an_event_sent_twice_has_the_same_bytes() -> None:
    """EVT-7."""
    event, same = logged(NASTY), logged(NASTY)

    assert (event.sse, event.text, event.entry) == (event.sse, event.text, event.entry)
    assert (event.sse, event.text, event.entry) == (same.sse, same.text, same.entry)
    assert event == same


def test_an_event_has_a_cursor_and_may_be_terminal() -> None:
    event = logged("x", seq=7)

    assert str(event.cursor) == "k3x9.7"
    assert not event.terminal
    assert LoggedEvent("e", 1, "agent_end", 0, b"{}").terminal
    assert LoggedEvent("e", 1, "agent_abort", 0, b"{}").terminal
    assert not LoggedEvent("e", 1, "error", 0, b"{}").terminal


def test_a_heartbeat_dispatches_no_event() -> None:
    """SSE-3: also after an event, where a blank line would dispatch a second one."""
    stream = HEARTBEAT + logged("x").sse + HEARTBEAT + HEARTBEAT + logged("y", 2).sse + HEARTBEAT

    assert [event["id"] for event in httpx_sse_events(stream.decode().splitlines())] == ["k3x9.1", "k3x9.2"]
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.count(b"\n") == 1


@given(epoch=st.from_regex(r"[0-9a-z]{1,32}", fullmatch=True), seq=st.integers(0, 10**19 - 1))
def test_a_cursor_is_parsed_as_it_was_formatted(epoch: str, seq: int) -> None:
    """EVT-7."""
    cursor = Cursor(epoch, seq)

    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        ".",
        "k3x9",
        "k3x9.",
        ".7",
        "k3x9.7.7",
        "k3x9.07",
        "k3x9.00",
        "k3x9.-1",
        "k3x9.+1",
        "k3x9.1e3",
        "k3x9. 7",
        " k3x9.7",
        "k3x9.7\n",
        "K3X9.7",
        "k3-x9.7",
        "k3x9.٧",
        "é.7",
        "k" * 33 + ".7",
        "k3x9." + "9" * 20,
        "start",
        "latest",
    ],
)
def test_a_malformed_cursor_is_none(garbage: str) -> None:
    """SSE-7."""
    assert Cursor.parse(garbage) is None


@given(text=st.text("ak9.\n ٣-", max_size=8))
def test_a_cursor_has_one_spelling(text: str) -> None:
    """SSE-7."""
    cursor = Cursor.parse(text)

    assert cursor is None or str(cursor) == text


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_a_page_is_one_http_chunk_of_its_frames(texts: list[str]) -> None:
    """SSE-2."""
    page = Page([logged(whole_text(text), seq) for seq, text in enumerate(texts, start=1)])

    size, _, rest = page.chunk.partition(b"\r\n")

    assert rest == b"".join(event.sse for event in page.events) + b"\r\n"
    assert int(size, 16) == len(rest) - 2


@pytest.mark.parametrize("size", [1, 20, 60_000, 70_000])
def test_a_page_has_one_websocket_message_per_event(size: int) -> None:
    """WS-2; parsed by the library that clients use."""
    page = Page([logged("x" * size, seq) for seq in (1, 2)])
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=State.OPEN)

    client.receive_data(page.messages)

    frames = [frame for frame in client.events_received() if isinstance(frame, Frame)]
    assert [(frame.opcode, frame.fin, bytes(frame.data).decode()) for frame in frames] == [
        (Opcode.TEXT, True, event.text) for event in page.events
    ]


def test_a_page_with_a_terminal_event_is_terminal() -> None:
    end = LoggedEvent("k3x9", 2, "agent_end", 1, b"{}")

    assert (Page([logged("a")]).terminal, Page([logged("a"), end]).terminal) == (False, True)
