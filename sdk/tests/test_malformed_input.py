"""Any response of a server is parsed into the expected class or raises a CmdcError, never a KeyError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from cmdc_client import ApiError, CmdcError, ProtocolError, operations
from cmdc_client.config import Config
from cmdc_client.events import read_event
from cmdc_client.history import LogPage
from cmdc_client.models import EventPage
from cmdc_client.operations import ApiRequest
from cmdc_client.responses import RawResponse
from cmdc_client.resumable_stream import EventQuery, ResumableStream
from faulty_server import run_of
from hypothesis import given
from hypothesis import strategies as st

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "openapi" / "openapi.json").read_bytes())
EVENTS: dict[str, Any] = json.loads((ROOT / "openapi" / "events.schema.json").read_bytes())

REQUESTS: dict[str, ApiRequest[Any]] = {
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
    """Yield every example of a JSON response: its operation, status and body."""
    for operation in (operation for methods in DOCUMENT["paths"].values() for operation in methods.values()):
        for status, response in operation["responses"].items():
            for reference in response.get("content", {}).get("application/json", {}).get("examples", {}).values():
                body = DOCUMENT["components"]["examples"][reference["$ref"].rpartition("/")[2]]["value"]
                yield operation["operationId"], int(status), body


EXAMPLES = [(REQUESTS[name], status, body) for name, status, body in examples() if name in REQUESTS]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)


@st.composite
def corrupted(draw: st.DrawFn, value: Any) -> Any:
    """This value, with a part of it replaced or omitted."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        members = cast("dict[str, Any]", value)
        name = draw(st.sampled_from(sorted(members)))
        others = {key: held for key, held in members.items() if key != name}
        return others if draw(st.booleans()) else {**others, name: draw(corrupted(members[name]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        items = cast("list[Any]", value)
        return [draw(corrupted(items[0])), *items[1:]]
    return draw(JSON)


def test_every_operation_has_an_example() -> None:
    models = {request.expected.model for request, status, _ in EXAMPLES if status < 300}

    assert models == {request.expected.model for request in REQUESTS.values()}


def outcome(action: Callable[[], T]) -> T | CmdcError:
    """Return the result or the CmdcError; any other exception fails the test."""
    try:
        return action()
    except CmdcError as error:
        return error


def parse(request: ApiRequest[Any], status: int, body: Any) -> Any:
    response = RawResponse(str(request), status, {"content-type": "application/json"}, json.dumps(body).encode())
    value = request.expected.parse(response)
    if isinstance(value, EventPage):
        LogPage.from_model(value, str(request))
    return value


def test_every_published_example_is_parsed() -> None:
    for request, status, body in EXAMPLES:
        parsed = outcome(lambda request=request, status=status, body=body: parse(request, status, body))

        assert isinstance(parsed, request.expected.model if status < 300 else ApiError)


@given(st.data())
def test_a_corrupted_response_is_the_expected_model_or_a_cmdc_error(data: st.DataObject) -> None:
    request, status, body = data.draw(st.sampled_from(EXAMPLES))
    invalid = data.draw(corrupted(body))

    match outcome(lambda: parse(request, status, invalid)):
        case CmdcError() as error:
            assert str(request) in str(error)
        case value:
            assert isinstance(value, request.expected.model)


@given(st.data())
def test_a_corrupted_event_is_an_event_or_a_protocol_error(data: st.DataObject) -> None:
    schema = data.draw(st.sampled_from([*EVENTS["$defs"].values()]))
    name, example = schema["properties"]["event"]["const"], schema["examples"][0]["data"]
    invalid = data.draw(corrupted(example).filter(lambda value: isinstance(value, dict)))
    cursor = data.draw(st.sampled_from([None, "e.1", "x"]))

    match outcome(lambda: read_event(name, invalid, cursor, "here")):
        case ProtocolError() as error:
            assert error.where == "here"
        case CmdcError() as error:
            raise error
        case event:
            assert event.event == name


@given(st.data())
def test_a_corrupted_stream_is_read_in_order_or_raises_a_cmdc_error(data: st.DataObject) -> None:
    stream = bytearray("".join(run_of("a", "b")).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=3))
    reader = ResumableStream(EventQuery("s", "e.0", request_id="r1"), Config("http://h", None), lambda: 0.5)
    reader.on_connected(0)
    seqs: list[int] = []

    def read() -> None:
        for event in reader.feed(bytes(stream)):
            seqs.append(event.seq)  # noqa: PERF401 - the events before an error count too
        if not reader.ended:
            reader.on_disconnected(None, 0)

    outcome(read)

    assert seqs == sorted(set(seqs))
