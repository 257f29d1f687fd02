"""A session: prompting the agent, following what it does, deciding what it may do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from types import TracebackType
from typing import Any, Literal, Self

from cmdc_client import operations
from cmdc_client._async.live import AsyncLiveApproval, AsyncLiveEvent, AsyncLiveQuestion
from cmdc_client._async.socket import AsyncSocket, open_socket
from cmdc_client._async.stream import AsyncEvents, AsyncRun, follow
from cmdc_client._async.tools import AsyncSessionTools
from cmdc_client._async.transport import AsyncTransport
from cmdc_client.cursor import Cursor, Place
from cmdc_client.errors import AlreadyResolved, CannotResume, CmdcError, NotFound, ProtocolError, RunAborted
from cmdc_client.events import AgentAbort, AgentEnd
from cmdc_client.following import Selection
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
from cmdc_client.policies import AsyncAnswerer, AsyncPolicy, async_decide, async_reply_to
from cmdc_client.transcript import Reply, Transcript


class AsyncSession:
    """One agent, with its settings, its history and its event log.

    As a context manager it deletes the session at the end; without, the session stays on the server.
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
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.delete()
        except NotFound:  # somebody else has deleted it
            pass
        except CmdcError:
            if failure is None:  # what went wrong inside is what there is to tell
                raise

    # -- prompting -----------------------------------------------------------------------------------------------------

    def run(self, text: str, *, policy: AsyncPolicy | None = None, answer: AsyncAnswerer | None = None) -> AsyncRun:
        """Prompt the agent, and iterate over the events of the run, to its terminal event.

        Connections that are lost are taken up again: each event comes once, and none is missed. That the run was
        aborted is an event too, `AgentAbort`. Calls that need an approval are decided by the `policy`, and questions
        answered by `answer`, after the loop has seen the event; without them the run waits until the loop, or somebody
        else, decides.

        Iterating raises ApiError, ProtocolError or ConnectionFailed; CannotResume where a server of the base protocol
        gives no way to come back.
        """
        transcript = Transcript()
        return AsyncRun(self._drive(text, transcript, policy, answer), transcript)

    async def ask(self, text: str, *, policy: AsyncPolicy | None = None, answer: AsyncAnswerer | None = None) -> Reply:
        """Prompt the agent, and wait for its answer. As `run`, and raises RunAborted where there is no answer."""
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
        """Prompt the agent, and do not wait. Its run can be read from the `cursor` of what this returns."""
        return await self._transport.call(operations.post_prompt(self.id, text))

    async def abort(self, *, reason: str | None = None) -> AbortTaken:
        """End the active run; prompts that wait go on."""
        return await self._transport.call(operations.abort_run(self.id, reason))

    # -- deciding ------------------------------------------------------------------------------------------------------

    async def approve(
        self, approval_id: str, *, args: Mapping[str, Any] | None = None, digest: str | None = None
    ) -> DecisionTaken:
        """Let a tool call run; with `args`, these run instead. Raises AlreadyResolved, NotFound, DigestMismatch."""
        return await self._transport.call(operations.approve(self.id, approval_id, args, digest))

    async def reject(self, approval_id: str, *, reason: str | None = None) -> DecisionTaken:
        """Keep a tool call from running; the agent is told the reason. Raises AlreadyResolved, NotFound."""
        return await self._transport.call(operations.reject(self.id, approval_id, reason))

    async def respond(self, ref: str, response: str) -> ResponseTaken:
        """Answer a question of the agent. Raises AlreadyResolved, NotFound."""
        return await self._transport.call(operations.respond(self.id, ref, response))

    # -- reading -------------------------------------------------------------------------------------------------------

    def events(
        self,
        *,
        after: Place | None = None,
        follow: bool = False,
        request_id: str | None = None,
        types: Collection[str] | None = None,
    ) -> AsyncEvents:
        """Iterate over the session's events, to the next terminal event; with `follow`, without end.

        They begin just after the cursor `after` (`start` is the beginning of the log, `latest` where it ends when the
        first event is asked for); without it, with the run that is active, or that nobody has read yet, or else the
        next one. `request_id` gives exactly the run of that prompt. `types` are the names of the events wanted.
        """
        place = None if after is None else str(after)
        if place not in (None, "start", "latest"):
            Cursor.parse(place or "")  # said at once, not when iterating
        return AsyncEvents(self._read(Selection(self.id, place, follow, request_id, tuple(types) if types else None)))

    async def event_page(
        self, *, after: Place | None = None, limit: int | None = None, types: Sequence[str] | None = None
    ) -> LogPage:
        """A page of the log, from its beginning or after a cursor; at most `limit` events."""
        place = None if after is None else str(after)
        call = operations.event_page(self.id, after=place, limit=limit, types=types)
        return LogPage.of(await self._transport.call(call), str(call))

    def connect(self, *, after: Place | None = None) -> AbstractAsyncContextManager[AsyncSocket]:
        """Open the WebSocket: the session's events from now on (or after a cursor), and actions over the same line."""
        return open_socket(self._transport, self.id, None if after is None else str(after))

    async def info(self) -> SessionInfo:
        """What the session is doing now. A server of the base protocol leaves all from `model` on empty."""
        return await self._transport.call(operations.get_session(self.id))

    async def stats(self) -> SessionStats:
        """What this session used."""
        return await self._transport.call(operations.get_stats(self.id))

    async def messages(self) -> list[MessageEntry]:
        """What was said in this session, in order."""
        return (await self._transport.call(operations.get_messages(self.id, limit=None, cursor=None))).messages

    # ------------------------------------------------------------------------------------------------------------------

    async def ticket(self, scope: Literal["read", "control"] = "read") -> TicketIssued:
        """A credential for one stream of this session, good once and for 30 seconds: for a browser."""
        return await self._transport.call(operations.issue_ticket(self.id, scope))

    async def delete(self) -> SessionDeleted:
        """Stop its run, end its streams, and forget its tools, log and history."""
        return await self._transport.call(operations.delete_session(self.id))

    async def _drive(
        self, text: str, transcript: Transcript, policy: AsyncPolicy | None, answer: AsyncAnswerer | None
    ) -> AsyncGenerator[AsyncLiveEvent]:
        accepted = await self.prompt(text)
        selection, base_run = self._selection_of(accepted)
        async with aclosing(follow(self._transport, self, selection, base_run=base_run)) as events:
            async for event in events:
                transcript.add(event)
                yield event
                with suppress(AlreadyResolved):  # somebody else was faster
                    await _act(event, policy, answer)

    def _selection_of(self, accepted: PromptAccepted) -> tuple[Selection, str | None]:
        """How the run of this prompt is read; the second is its request, where the server knows no cursors."""
        if accepted.cursor:
            try:
                Cursor.parse(accepted.cursor)
            except ValueError as flaw:
                raise ProtocolError(f"POST /v1/sessions/{self.id}/prompt", str(flaw)) from None
            return Selection(self.id, accepted.cursor, request_id=accepted.request_id), None
        if accepted.queued:
            raise CannotResume(
                f"session {self.id}: the prompt was accepted as {accepted.request_id} and waits behind another run, and"
                " this server cannot give one run alone"
            )
        return Selection(self.id), accepted.request_id

    async def _read(self, selection: Selection) -> AsyncGenerator[AsyncLiveEvent]:
        if selection.after == "latest":  # pinned, so that a connection lost before the first event misses none
            selection = Selection(
                self.id, (await self.info()).cursor or "latest", selection.follow, selection.request_id, selection.types
            )
        if selection.request_id is not None and await self._is_past(selection):
            return
        async with aclosing(follow(self._transport, self, selection)) as events:
            async for event in events:
                yield event

    async def _is_past(self, selection: Selection) -> bool:
        """Whether the run asked for has been read to its end already: its stream would tell nothing of it."""
        if selection.after in (None, "start") or selection.after.endswith(".0"):
            return False
        at = Cursor.parse(selection.after)
        page = await self.event_page(after=Cursor(at.epoch, at.seq - 1), limit=1)
        ends = (entry.event for entry in page.entries if isinstance(entry.event, AgentEnd | AgentAbort))
        return any(event.request_id == selection.request_id for event in ends)


async def _act(event: AsyncLiveEvent, policy: AsyncPolicy | None, answer: AsyncAnswerer | None) -> None:
    """Let the policy decide, and the answerer answer, where there is something to."""
    match event:
        case AsyncLiveApproval() if policy is not None:
            if await async_decide(policy, event):
                await event.approve()
            else:
                await event.reject()
        case AsyncLiveQuestion() if answer is not None:
            await event.answer(await async_reply_to(answer, event))
        case _:
            pass
