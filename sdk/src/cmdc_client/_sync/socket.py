# Generated from _async/socket.py by derive_sync.py; edit that file instead.
"""The WebSocket of a session: events and actions over one connection.

Theory of operation. No background task reads the connection. Every caller that waits, for an event or for the response to
its action, calls `_read_until`. One of them becomes the reader: it reads one message and hands it, through `_events` or
`_responses`, to the caller it belongs to. The others wait for `_changed`. When they are notified, each checks whether its
own result has arrived; one of those that still wait becomes the next reader. The invariants:

- At most one caller reads at a time (`_reading`). It holds no lock while it reads, so that others can begin to wait.
- A caller checks for its own result while it holds `_changed`, before it becomes the reader. Otherwise it could wait for a
  message that another caller has already received for it.
- A connection error is kept in `_error` and raised to all callers, now and later.
- A caller that is canceled or times out removes its entry from `_responses`; a late response is then dropped.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator, Callable, Mapping
from contextlib import contextmanager
from secrets import token_hex
from time import monotonic
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from cmdc_client._sync.live_events import LiveEvent, to_live_event
from cmdc_client._sync.transport import Transport
from cmdc_client.backends import Condition, WebSocketConnection, wait
from cmdc_client.cursor import Cursor, SequenceCheck
from cmdc_client.errors import ConnectionFailed, ProtocolError, SocketClosed
from cmdc_client.events import read_event
from cmdc_client.models import AbortTaken, DecisionTaken, PromptAccepted, ResponseTaken
from cmdc_client.responses import ExpectedResponse, error_from_members, parse_object

T = TypeVar("T")

_NORMAL = (1000, 1001)


class Socket(Iterator[LiveEvent]):
    """An open WebSocket. Iterate over it for the session's events; each action waits for its acknowledgement.

    Events and actions may be used at the same time, from several tasks. Iterating ends when the server closes the
    connection normally, and raises SocketClosed otherwise. A lost connection is not resumed automatically;
    `session.connect(after=socket.cursor)` does that.
    """

    def __init__(
        self,
        connection: WebSocketConnection,
        where: str,
        *,
        after: Cursor | None,
        timeout: float,
        supports_action_ids: bool,
    ) -> None:
        """`timeout` limits the wait for an acknowledgement, in seconds."""
        self._connection = connection
        self._where = where
        self._timeout = timeout
        self._supports_action_ids = supports_action_ids
        self._sequence = SequenceCheck(after)
        self._events: deque[LiveEvent] = deque()
        self._responses: dict[str, dict[str, Any] | None] = {}
        self._changed = Condition()
        self._reading = False
        self._error: Exception | None = None

    @property
    def cursor(self) -> Cursor | None:
        """The cursor of the last event that was received."""
        return self._sequence.at

    def __next__(self) -> LiveEvent:
        while not self._events:
            try:
                self._read_until(lambda: bool(self._events), None)
            except SocketClosed as closed:
                if closed.close_code in _NORMAL:
                    raise StopIteration from None
                raise
        return self._events.popleft()

    def prompt(self, text: str) -> PromptAccepted:
        """Send a prompt. Its run is delivered as events."""
        return self._act("prompt", {"text": text}, ExpectedResponse(PromptAccepted, defaults={"cursor": ""}))

    def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> DecisionTaken:
        """Approve a tool call, optionally with other arguments.

        `digest` is that of the `ApprovalRequired`; if the call has another one, nothing is decided. Raises
        AlreadyResolved, NotFound or DigestMismatch.
        """
        members = {"approvalId": approval_id, "args": args, "digest": digest}
        return self._act("approve", members, ExpectedResponse(DecisionTaken))

    def reject(self, approval_id: str, *, reason: str | None = None) -> DecisionTaken:
        """Reject a tool call; the agent receives the reason. Raises AlreadyResolved or NotFound."""
        return self._act("reject", {"approvalId": approval_id, "reason": reason}, ExpectedResponse(DecisionTaken))

    def respond(self, ref: str, response: str) -> ResponseTaken:
        """Answer a question of the agent. Raises AlreadyResolved or NotFound."""
        return self._act("respond", {"ref": ref, "response": response}, ExpectedResponse(ResponseTaken))

    def abort(self, *, reason: str | None = None) -> AbortTaken:
        """Abort the active run. Queued prompts are not affected."""
        return self._act("abort", {"reason": reason}, ExpectedResponse(AbortTaken))

    def _act(self, action: str, members: Mapping[str, Any], expected: ExpectedResponse[T]) -> T:
        """Send an action and wait for its response. Raises ApiError, ProtocolError or ConnectionFailed."""
        action_id, where = token_hex(8), f"{self._where}: {action}"
        message = {"action": action, **{name: value for name, value in members.items() if value is not None}}
        deadline = monotonic() + self._timeout
        self._responses[action_id] = None
        try:
            self._connection.send(
                json.dumps({**message, "actionId": action_id} if self._supports_action_ids else message)
            )
            while (response := self._responses[action_id]) is None:
                seconds = deadline - monotonic()
                if seconds <= 0:
                    raise ConnectionFailed(f"{where}: not acknowledged within {self._timeout:g} s")
                self._read_until(lambda: self._responses[action_id] is not None, seconds)
        finally:
            del self._responses[action_id]
        if "error" in response:
            raise error_from_members(response, request=where)
        return expected.parse_members(response, where)

    def _read_until(self, done: Callable[[], bool], seconds: float | None) -> None:
        """Read one message, or wait while another caller reads one, unless `done()`. May return before it is done."""
        with self._changed:
            if done():
                return
            if self._error is not None:
                raise self._error
            if self._reading:
                wait(self._changed, seconds)
                return
            self._reading = True
        try:
            text = self._connection.receive(seconds)
            if text is not None:
                self._dispatch(parse_object(text, f"a message of {self._where}"))
        except (ConnectionFailed, ProtocolError) as error:
            self._error = error
            raise
        finally:
            self._reading = False
            with self._changed:
                self._changed.notify_all()

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._add_event(message)
            return
        action_id = message.pop("actionId", None)
        if action_id is None:  # without action ids, responses come in the order of the actions
            action_id = next((each for each, response in self._responses.items() if response is None), None)
        if action_id is None and "error" in message:
            raise error_from_members(message, request=self._where)
        if isinstance(action_id, str) and action_id in self._responses:
            self._responses[action_id] = message

    def _add_event(self, message: dict[str, Any]) -> None:
        name, data, cursor = message["event"], message.get("data"), message.get("id")
        where = f"event {cursor or name} of {self._where}"
        if not isinstance(name, str) or not isinstance(data, dict) or not isinstance(cursor, str | None):
            raise ProtocolError(where, "an event must be an object with `event`, `data` and `id`")
        if cursor is not None:
            try:
                at = Cursor.parse(cursor)
            except ValueError as error:
                raise ProtocolError(where, str(error)) from None
            if not self._sequence.accept(at, where):
                return
        self._events.append(to_live_event(read_event(name, cast("dict[str, Any]", data), cursor, where), self))


@contextmanager
def open_socket(transport: Transport, session_id: str, after: str | None) -> Generator[Socket]:
    """Open the WebSocket of a session and close it at the end. Raises ApiError, ProtocolError or ConnectionFailed."""
    config = transport.config
    path = f"/v1/sessions/{quote(session_id, safe='')}/ws"
    supports_action_ids = "ws_action_id" in transport.features()
    query = f"?{urlencode({'after': after})}" if after is not None else ""
    at = Cursor.parse(after) if after not in (None, "start", "latest") else None
    connection = WebSocketConnection.open(
        config.websocket_url + path + query, config.credentials, open_timeout=config.timeout, where=f"GET {path}"
    )
    try:
        yield Socket(
            connection, f"GET {path}", after=at, timeout=config.timeout, supports_action_ids=supports_action_ids
        )
    finally:
        connection.close()
