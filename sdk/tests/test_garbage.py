"""Whatever a server answers is a value of the promised class or an error of ours: never a KeyError, never None."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from cmdc_client import ApiError, CmdcError, ProtocolError, operations
from cmdc_client.answers import Answer
from cmdc_client.config import Config
from cmdc_client.events import read_event
from cmdc_client.following import Following, Selection
from cmdc_client.history import LogPage
from cmdc_client.models import EventPage
from cmdc_client.operations import Call
from hypothesis import given
from hypothesis import strategies as st
from wayward import run_of

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "openapi" / "openapi.json").read_bytes())
EVENTS: dict[str, Any] = json.loads((ROOT / "openapi" / "events.schema.json").read_bytes())

CALLS: dict[str, Call[Any]] = {
    "create_session": operations.create_session({"model": "m"}),
    "list_sessions": operations.list_sessions(limit=None, cursor=None, state=None),
    "get_session": operations.get_session("s"),
    "delete_session": operations.delete_session("s"),
    "post_prompt": operations.post_prompt("s", "x"),
    "abort_run": operations.abort_run("s", None),
    "issue_ticket": operations.issue_ticket("s", "read"),
    "approve": operations.approve("s", "a", None, None),
    "reject": operations.reject("s", "a", None),
    "respond": operations.respond("s", "a", "x"),
    "get_messages": operations.get_messages("s", limit=None, cursor=None),
    "get_stats": operations.get_stats("s"),
    "get_usage": operations.get_usage(),
    "get_capabilities": operations.get_capabilities(),
    "healthz": operations.healthz(),
    "register_tool": operations.register_tool(
        "s", {"name": "t", "description": "d", "parameters": {}, "callbackUrl": "u"}
    ),
    "list_tools": operations.list_tools("s"),
    "remove_tool": operations.remove_tool("s", "t"),
    "read_events": operations.event_page("s", after=None, limit=None, types=None),
}


def examples() -> Iterator[tuple[str, int, Any]]:
    """Each example of a JSON answer: its operation, status and body."""
    for operation in (operation for methods in DOCUMENT["paths"].values() for operation in methods.values()):
        for status, answer in operation["responses"].items():
            for reference in answer.get("content", {}).get("application/json", {}).get("examples", {}).values():
                body = DOCUMENT["components"]["examples"][reference["$ref"].rpartition("/")[2]]["value"]
                yield operation["operationId"], int(status), body


EXAMPLES = [(CALLS[name], status, body) for name, status, body in examples() if name in CALLS]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """This value, with something in it replaced or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        members = cast("dict[str, Any]", value)
        name = draw(st.sampled_from(sorted(members)))
        others = {key: held for key, held in members.items() if key != name}
        return others if draw(st.booleans()) else {**others, name: draw(spoiled(members[name]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        items = cast("list[Any]", value)
        return [draw(spoiled(items[0])), *items[1:]]
    return draw(JSON)


def test_every_operation_is_tried_here() -> None:
    tried = {call.promise.model for call, status, _ in EXAMPLES if status < 300}

    assert tried == {call.promise.model for call in CALLS.values()}


def outcome(read: Callable[[], T]) -> T | CmdcError:
    """What was read, or the error of ours; any other error is a defect."""
    try:
        return read()
    except CmdcError as error:
        return error


def read(call: Call[Any], status: int, body: Any) -> Any:
    answer = Answer(str(call), status, {"content-type": "application/json"}, json.dumps(body).encode())
    value = call.promise.read(answer)
    if isinstance(value, EventPage):
        LogPage.of(value, str(call))
    return value


def test_every_published_answer_is_read() -> None:
    for call, status, body in EXAMPLES:
        read_as = outcome(lambda call=call, status=status, body=body: read(call, status, body))

        assert isinstance(read_as, call.promise.model if status < 300 else ApiError)


@given(st.data())
def test_an_answer_that_is_spoiled_is_what_was_promised_or_an_error_of_ours(data: st.DataObject) -> None:
    call, status, body = data.draw(st.sampled_from(EXAMPLES))
    spoilt = data.draw(spoiled(body))

    match outcome(lambda: read(call, status, spoilt)):
        case CmdcError() as error:
            assert str(call) in str(error)
        case value:
            assert isinstance(value, call.promise.model)


@given(st.data())
def test_an_event_that_is_spoiled_is_an_event_or_an_error_of_ours(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*EVENTS["$defs"].values()]))
    name, example = kind["properties"]["event"]["const"], kind["examples"][0]["data"]
    spoilt = data.draw(spoiled(example).filter(lambda value: isinstance(value, dict)))
    cursor = data.draw(st.sampled_from([None, "e.1", "x"]))

    match outcome(lambda: read_event(name, spoilt, cursor, "here")):
        case ProtocolError() as error:
            assert error.where == "here"
        case CmdcError() as error:
            raise error
        case event:
            assert event.event == name


@given(st.data())
def test_a_stream_with_bytes_changed_lost_or_added_is_read_in_order_or_an_error_of_ours(data: st.DataObject) -> None:
    stream = bytearray("".join(run_of("a", "b")).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=3))
    following = Following(Selection("s", "e.0", request_id="r1"), Config("http://h", None), lambda: 0.5)
    following.opened(0)
    seqs: list[int] = []

    def follow() -> None:
        for event in following.feed(bytes(stream)):
            seqs.append(event.seq)  # noqa: PERF401 - those before the error count too
        if not following.ended:
            following.lost(None, 0)

    outcome(follow)

    assert seqs == sorted(set(seqs))
