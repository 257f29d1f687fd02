"""A session: sends prompts, reads events, and decides about tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

from cmdc_client import operations
from cmdc_client._async.live_events import AsyncLiveApproval, AsyncLiveEvent, AsyncLiveQuestion
from cmdc_client._async.socket import AsyncSocket, open_socket
from cmdc_client._async.stream import AsyncEvents, AsyncRun, stream_events
from cmdc_client._async.tools import AsyncSessionTools
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.cursor import Cursor, Position
from cmdc_client.errors import AlreadyResolved, CannotResume, CmdcError, NotFound, ProtocolError, RunAborted
from cmdc_client.events import AgentAbort, AgentEnd
from cmdc_client.history import LogPage
from cmdc_client.models import (
    AbortTaken,
    DecisionTaken,
    MessageEntry,
    PromptAccepted,
    ResponseTaken,
    SessionDeleted,
    SessionInfo,
    SessionStats,
    TicketIssued,
)
from cmdc_client.policies import AsyncAnswerer, AsyncPolicy, async_answer_to, async_decide
from cmdc_client.resumable_stream import EventQuery
from cmdc_client.transcript import Reply, Transcript


class AsyncSession:
    """One agent on the server, with its settings, history and event log.

    `id` is the id of the session, and `tools` registers callback tools. As a context manager, it deletes the session at
    the end; otherwise the session stays on the server. Every method that sends a request raises ApiError, ProtocolError
    or ConnectionFailed.
    """

    def __init__(self, transport: AsyncTransport, session_id: str) -> None:
        self.id = session_id
        self.tools = AsyncSessionTools(transport, session_id)
        self._transport = transport

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.delete()
        except NotFound:  # already deleted
            pass
        except CmdcError:
            if exc is None:  # an exception from the body matters more
                raise

    # -- prompts -------------------------------------------------------------------------------------------------------

    def run(self, text: str, *, policy: AsyncPolicy | None = None, answer: AsyncAnswerer | None = None) -> AsyncRun:
        """Send a prompt and iterate over the events of its run, up to the terminal event.

        The iterator resumes lost connections: it yields every event once, in order. An aborted run is not an error; it
        ends with `AgentAbort`. After the loop has processed an event, the `policy` decides about the tool call that
        needs approval, and `answer` answers the question. Without them, the run waits until the loop or another client
        decides.

        Iterating raises ApiError, ProtocolError or ConnectionFailed, and CannotResume if the connection was lost to a
        server of the base protocol.
        """
        transcript = Transcript()
        return AsyncRun(self._run(text, transcript, policy, answer), transcript)

    async def ask(self, text: str, *, policy: AsyncPolicy | None = None, answer: AsyncAnswerer | None = None) -> Reply:
        """Send a prompt and wait for the reply. The arguments are those of `run`.

        Raises RunAborted if the run was aborted, and what iterating over `run` raises.
        """
        async with self.run(text, policy=policy, answer=answer) as run:
            async for event in run:
                match event:
                    case AgentEnd():
                        return Reply.of(run.transcript, event)
                    case AgentAbort(reason=reason):
                        raise RunAborted(reason, run.transcript)
                    case _:
                        pass
        raise AssertionError("a run ends with a terminal event")

    async def prompt(self, text: str) -> PromptAccepted:
        """Send a prompt without waiting for its run.

        The run can be read with `events(request_id=…)`, or from the `cursor` of the result.
        """
        return await self._transport.send(operations.post_prompt(self.id, text))

    async def abort(self, *, reason: str | None = None) -> AbortTaken:
        """Abort the active run. Queued prompts are not affected."""
        return await self._transport.send(operations.abort_run(self.id, reason))

    # -- decisions -----------------------------------------------------------------------------------------------------

    async def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> DecisionTaken:
        """Approve a tool call, optionally with other arguments.

        `digest` is that of the `ApprovalRequired`; if the call has another one, nothing is decided. Raises
        AlreadyResolved, NotFound or DigestMismatch.
        """
        return await self._transport.send(operations.approve(self.id, approval_id, args, digest))

    async def reject(self, approval_id: str, *, reason: str | None = None) -> DecisionTaken:
        """Reject a tool call; the agent receives the reason. Raises AlreadyResolved or NotFound."""
        return await self._transport.send(operations.reject(self.id, approval_id, reason))

    async def respond(self, ref: str, response: str) -> ResponseTaken:
        """Answer a question of the agent. Raises AlreadyResolved or NotFound."""
        return await self._transport.send(operations.respond(self.id, ref, response))

    # -- reading -------------------------------------------------------------------------------------------------------

    def events(
        self,
        *,
        after: Position | None = None,
        follow: bool = False,
        request_id: str | None = None,
        types: Collection[str] | None = None,
    ) -> AsyncEvents:
        """Iterate over the session's events, up to the next terminal event, or without end if `follow` is set.

        Args:
            after: The cursor after which to begin; `start` is the beginning of the log, and `latest` its end at the
                time of the first read. By default, reading begins with the active run, or with the last run if it has
                not been read yet, or else with the next run.
            follow: Whether to continue after a terminal event.
            request_id: The run to read, and no other.
            types: The names of the events to yield.

        Raises:
            ValueError: `after` is not a cursor.
        """
        position = None if after is None else str(after)
        if position not in (None, "start", "latest"):
            Cursor.parse(position or "")  # raises here, and not when iterating
        query = EventQuery(self.id, position, follow, request_id, tuple(types) if types else None)
        return AsyncEvents(self._read(query))

    async def event_page(
        self, *, after: Position | None = None, limit: int | None = None, types: Sequence[str] | None = None
    ) -> LogPage:
        """Read a page of the log, of at most `limit` events, from its beginning or after a cursor."""
        position = None if after is None else str(after)
        request = operations.event_page(self.id, after=position, limit=limit, types=types)
        return LogPage.from_model(await self._transport.send(request), str(request))

    def connect(self, *, after: Position | None = None) -> AbstractAsyncContextManager[AsyncSocket]:
        """Open a WebSocket for events and actions, as a context manager.

        It delivers the session's events from now on, or after a cursor.
        """
        return open_socket(self._transport, self.id, None if after is None else str(after))

    async def info(self) -> SessionInfo:
        """Get the state of the session.

        With a server of the base protocol, `model` and the fields that follow it are empty.
        """
        return await self._transport.send(operations.get_session(self.id))

    async def stats(self) -> SessionStats:
        """Get the usage of the session."""
        return await self._transport.send(operations.get_stats(self.id))

    async def messages(self) -> list[MessageEntry]:
        """List the messages of the session, in order."""
        return (await self._transport.send(operations.get_messages(self.id, limit=None, cursor=None))).messages

    # ------------------------------------------------------------------------------------------------------------------

    async def ticket(self, scope: Literal["read", "control"] = "read") -> TicketIssued:
        """Issue a ticket, with which a browser can open one stream of this session.

        It is valid once and for 30 seconds. A `read` ticket does not allow actions.
        """
        return await self._transport.send(operations.issue_ticket(self.id, scope))

    async def delete(self) -> SessionDeleted:
        """Delete the session: abort its run, end its streams, and delete its tools, log and history."""
        return await self._transport.send(operations.delete_session(self.id))

    async def _run(
        self, text: str, transcript: Transcript, policy: AsyncPolicy | None, answer: AsyncAnswerer | None
    ) -> AsyncGenerator[AsyncLiveEvent]:
        accepted = await self.prompt(text)
        query, base_run = self._query_for(accepted)
        async with aclosing(stream_events(self._transport, self, query, base_run=base_run)) as events:
            async for event in events:
                transcript.add(event)
                yield event
                with suppress(AlreadyResolved):  # another client was faster
                    await _resolve(event, policy, answer)

    def _query_for(self, accepted: PromptAccepted) -> tuple[EventQuery, str | None]:
        """Return how to read the run of a prompt, and its request id if the server speaks the base protocol."""
        if accepted.cursor:
            try:
                Cursor.parse(accepted.cursor)
            except ValueError as error:
                raise ProtocolError(f"POST /v1/sessions/{self.id}/prompt", str(error)) from None
            return EventQuery(self.id, accepted.cursor, request_id=accepted.request_id), None
        if accepted.queued:
            raise CannotResume(
                f"session {self.id}: the prompt {accepted.request_id} is queued behind another run, and this server"
                " cannot stream a single run"
            )
        return EventQuery(self.id), accepted.request_id

    async def _read(self, query: EventQuery) -> AsyncGenerator[AsyncLiveEvent]:
        if query.after == "latest":  # resolved first, so that a connection lost before the first event misses none
            query = replace(query, after=(await self.info()).cursor or "latest")
        if query.request_id is not None and await self._has_ended(query):
            return
        async with aclosing(stream_events(self._transport, self, query)) as events:
            async for event in events:
                yield event

    async def _has_ended(self, query: EventQuery) -> bool:
        """Return whether reading would begin after the end of the requested run, where its stream has no events."""
        if query.after in (None, "start") or query.after.endswith(".0"):
            return False
        at = Cursor.parse(query.after)
        page = await self.event_page(after=Cursor(at.epoch, at.seq - 1), limit=1)
        ends = (entry.event for entry in page.entries if isinstance(entry.event, AgentEnd | AgentAbort))
        return any(event.request_id == query.request_id for event in ends)


async def _resolve(event: AsyncLiveEvent, policy: AsyncPolicy | None, answer: AsyncAnswerer | None) -> None:
    """Apply the policy to an approval, and the answerer to a question."""
    match event:
        case AsyncLiveApproval() if policy is not None:
            if await async_decide(policy, event):
                await event.approve()
            else:
                await event.reject()
        case AsyncLiveQuestion() if answer is not None:
            await event.answer(await async_answer_to(answer, event))
        case _:
            pass
