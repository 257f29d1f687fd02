"""Mutants whose routes have wrong effects or responses (EP)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cmdc_gateway import app
from cmdc_gateway.errors import CreateFailed, NotFound, SessionExists, SessionNotFound
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.sessions import AbortTaken, SessionCreated, SessionDeleted
from cmdc_gateway.sessions import registry as registry_module
from cmdc_gateway.sessions.command import Reply
from cmdc_gateway.sessions.commands import SessionCommands
from cmdc_gateway.sessions.registry import Registry
from cmdc_gateway.sessions.settings import SessionPolicy
from cmdc_gateway.sessions.transitions import RunTransitions
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.writes import AppendMessages
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.web.routes import history, sessions, tools

from broken_gateways.mutant import breaks
from broken_gateways.patching import Response, after, change_arguments, change_responses, wrap

_SESSION = r"/v1/sessions/[^/]+"


def _change_body(route: str, change: Callable[[dict[str, Any]], object], *, method: str = "GET") -> None:
    """Change the body of successful responses."""

    def changed(response: Response) -> None:
        if response.status < 300 and isinstance(response.body, dict):
            change(response.body)

    change_responses(route, changed, method=method)


# -- GET /healthz, GET /readyz -----------------------------------------------------------------------------------------


@breaks("EP-healthz")
def whole_seconds() -> None:
    """The timestamp of /healthz has no microseconds and no Z."""
    _change_body("/healthz", lambda body: body.update(timestamp=body["timestamp"][:19]))


@breaks("EP-readyz")
def never_ready() -> None:
    """/readyz returns 503 although the server is ready."""

    def change(response: Response) -> None:
        response.status = 503
        response.body = {"error": "unavailable", "message": "the server is starting"}
        response.headers["retry-after"] = "1"

    change_responses("/readyz", change)


# -- POST /v1/sessions -------------------------------------------------------------------------------------------------


@breaks(
    "EP-create.created",
    "EP-capabilities.refused",
    hidden_from_sdk="the client rejects a response with an unexpected status",
)
def created_with_200() -> None:
    """Creating a session returns 200."""

    def change(response: Response) -> None:
        if response.status == 201:
            response.status = 200

    change_responses("/v1/sessions", change, method="POST")


@breaks("EP-create.random-id")
def sequential_ids() -> None:
    """Session ids are sequential."""
    numbers = itertools.count(1)
    wrap(registry_module, "secrets", lambda original: _Secrets(original, numbers))


class _Secrets:
    def __init__(self, original: Any, numbers: Any) -> None:
        self.choice = original.choice
        self._numbers = numbers

    def token_hex(self, _: int) -> str:
        return f"session-{next(self._numbers)}"


@breaks("EP-create.chosen-id", "HTTP-8.same-id", "EP-session.unknown", "EP-list.newest-first", "EP-list.pages")
def id_changed() -> None:
    """A given sessionId is lowercased and numbered."""

    def change(given: dict[str, Any]) -> None:
        if given["body"].session_id:
            session_id = given["body"].session_id.lower()[:100] + "-1"
            given["body"] = given["body"].model_copy(update={"session_id": session_id})

    change_arguments(Registry, "create", change)


@breaks("EP-create.exists")
def existing_id_accepted() -> None:
    """An existing sessionId returns 201 without creating a session."""

    def around(original: Any) -> Any:
        async def create(self: Any, caller: Any, body: Any, *rest: Any) -> Any:
            try:
                return await original(self, caller, body, *rest)
            except SessionExists:
                return Reply(SessionCreated(session_id=body.session_id, status="created"), 201)

        return create

    wrap(Registry, "create", around)


@breaks("EP-create.names", "EP-capabilities.refused")
def unavailable_tool_ignored() -> None:
    """An unavailable tool is ignored."""

    def around(original: Any) -> Any:
        def tools_of(self: Any, names: Any) -> Any:
            found: list[str] = []
            for name in names:
                try:
                    found += original(self, [name])
                except CreateFailed:
                    continue
            return tuple(found)

        return tools_of

    wrap(SessionPolicy, "_tools", around)


@breaks("EP-create.working-dir")
def working_dir_ignored() -> None:
    """A workingDir outside the workspace is replaced by the workspace."""

    def around(original: Any) -> Any:
        def settle(self: Any, body: Any) -> Any:
            if body.working_dir and (body.working_dir.startswith("/") or ".." in body.working_dir):
                body = body.model_copy(update={"working_dir": "."})
            return original(self, body)

        return settle

    wrap(SessionPolicy, "resolve", around)


@breaks("EP-create.credentials")
def credentials_accepted() -> None:
    """Addresses and credentials in providerOpts are accepted."""
    from cmdc_gateway.providers.registry import ModelRegistry

    def around(original: Any) -> Any:
        def check_options(self: Any, options: dict[str, Any]) -> None:
            original(self, {name: value for name, value in options.items() if not re.search("api|url|head", name)})

        return check_options

    wrap(ModelRegistry, "check_options", around)


@breaks("EP-create.aliases")
def no_aliases() -> None:
    """The module names of the original implementation are unknown."""
    from cmdc_gateway.sessions import settings

    wrap(settings, "canonical_name", lambda original: lambda name: None if "." in name else original(name))


@breaks("EP-create.max-turns")
def max_turns_ignored() -> None:
    """The field maxTurns is accepted and ignored."""
    after(SessionPolicy, "resolve", lambda settled: replace(settled, max_turns=100))


@breaks("EP-create.system-prompt", "HTTP-8.same-id", "EP-create.exists")
def system_prompt_not_in_history() -> None:
    """A systemPrompt is not in the history."""

    def change(body: dict[str, Any]) -> None:
        body["messages"] = [message for message in body["messages"] if message["role"] != "system"]

    _change_body(f"{_SESSION}/messages", change)


@breaks("EP-create.metadata")
def metadata_in_ascii() -> None:
    """The metadata is returned without its non-ASCII characters."""

    def change(body: dict[str, Any]) -> None:
        body["metadata"] = {name: value.encode("ascii", "ignore").decode() for name, value in body["metadata"].items()}

    _change_body(_SESSION, change)


# -- GET /v1/sessions/{id}, GET /v1/sessions ---------------------------------------------------------------------------


@breaks("EP-session.get", "HTTP-4.nothing-left", "EP-session.state")
def new_session_is_working() -> None:
    """A new session has the state working."""

    def change(body: dict[str, Any]) -> None:
        if body["turns"] == 0:
            body["state"] = "working"

    _change_body(_SESSION, change)


@breaks("EP-session.unknown")
def unnamed_session() -> None:
    """The error for an unknown session does not name it."""

    def around(original: Any) -> Any:
        def init(self: Any, session_id: str) -> None:
            original(self, session_id)
            NotFound.__init__(self, "there is no such session")

        return init

    wrap(SessionNotFound, "__init__", around)


@breaks("EP-session.counts")
def requested_calls_counted() -> None:
    """The figure toolCalls counts requested calls, whether they ran or not."""

    def change(given: dict[str, Any]) -> None:
        unit = given["unit"]
        requested = sum(len(message.tool_calls) for message in given["outcome"].messages)
        unit.row = replace(unit.row, tool_calls=unit.row.tool_calls + requested)

    change_arguments(RunTransitions, "_advance", change)


@breaks("EP-session.state")
def working_session_is_idle() -> None:
    """A working session has the state idle."""

    def change(body: dict[str, Any]) -> None:
        if body["state"] == "working":
            body["state"] = "idle"

    _change_body(_SESSION, change)


@breaks("EP-session.queue")
def queue_reversed() -> None:
    """Queued prompts are listed in reverse order."""
    _change_body(_SESSION, lambda body: body["queue"].reverse())


@breaks("EP-session.cursor")
def cursor_behind() -> None:
    """The cursor is one event before the end of the log."""

    def change(body: dict[str, Any]) -> None:
        epoch, _, seq = body["cursor"].partition(".")
        body["cursor"] = f"{epoch}.{max(0, int(seq) - 1)}"

    _change_body(_SESSION, change)


@breaks("EP-session.pending")
def nothing_pending() -> None:
    """Pending approvals and questions are not listed."""
    _change_body(_SESSION, lambda body: body.update(pendingApprovals=[], pendingQuestions=[]))


@breaks("EP-list.newest-first")
def oldest_first() -> None:
    """A page of sessions starts with the oldest."""
    _change_body("/v1/sessions", lambda body: body["sessions"].reverse())


@breaks("EP-list.pages")
def page_skips_a_session() -> None:
    """The cursor of a page of sessions skips one."""

    def around(original: Any) -> Any:
        async def session_list(store: Any, tenant: str, limit: Any, cursor: Any, state: Any) -> bytes:
            page = json.loads(await original(store, tenant, limit, cursor, state))
            if cursor is not None:
                page["sessions"] = page["sessions"][1:]
            return json.dumps(page).encode()

        return session_list

    wrap(sessions, "session_list", around)


@breaks("EP-list.state")
def state_filter_ignored() -> None:
    """?state= is accepted and ignored."""
    wrap(
        sessions,
        "session_list",
        lambda original: lambda store, tenant, limit, cursor, _: original(store, tenant, limit, cursor, None),
    )


# -- DELETE /v1/sessions/{id} ------------------------------------------------------------------------------------------


@breaks("EP-delete.deleted", "EP-delete.again", "WS-6.deleted")
def session_not_deleted() -> None:
    """Deleting an idle session succeeds without deleting it."""

    def around(original: Any) -> Any:
        async def delete(self: Any, key: SessionKey, *rest: Any) -> Any:
            session = await self.find(key)
            if session.snapshot.active is None and session.snapshot.row.prompts == 0:
                return Reply(SessionDeleted(session_id=key.session_id, status="deleted"))
            return await original(self, key, *rest)

        return delete

    wrap(Registry, "delete", around)


@breaks("EP-delete.again")
def deleted_twice() -> None:
    """Deleting a session again succeeds."""

    def around(original: Any) -> Any:
        gone: set[SessionKey] = set()

        async def delete(self: Any, key: SessionKey, *rest: Any) -> Any:
            try:
                reply = await original(self, key, *rest)
            except SessionNotFound:
                if key not in gone:
                    raise
                return Reply(SessionDeleted(session_id=key.session_id, status="deleted"))
            gone.add(key)
            return reply

        return delete

    wrap(Registry, "delete", around)


@breaks("EP-delete.readers")
def deletion_not_emitted() -> None:
    """Readers of a deleted session receive no agent_abort."""
    from cmdc_gateway.kernel.effects import StopWork, start

    def around(original: Any) -> Any:
        def aborted(self: Any, signal: Any) -> Any:
            return start(StopWork()) if signal.reason == "session_deleted" else original(self, signal)

        return aborted

    wrap(Turn, "_abort", around)


@breaks("EP-delete.forgets")
def old_history_kept() -> None:
    """A new session with the id of a deleted one has the old history."""
    buried: dict[SessionKey, list[Any]] = {}

    def around_delete(original: Any) -> Any:
        async def delete(self: Any, key: SessionKey, *rest: Any) -> Any:
            text = await self.services.store.messages(key)
            reply = await original(self, key, *rest)
            buried[key] = text
            return reply

        return delete

    def around_create(original: Any) -> Any:
        async def create(self: Any, caller: Any, body: Any, *rest: Any) -> Any:
            reply = await original(self, caller, body, *rest)
            key = SessionKey(caller.tenant, body.session_id or "")
            if key in buried:
                await self.services.store.commit([AppendMessages(key, tuple(buried[key]))])
            return reply

        return create

    wrap(Registry, "delete", around_delete)
    wrap(Registry, "create", around_create)


# -- POST …/prompt -----------------------------------------------------------------------------------------------------


@breaks("EP-prompt.accepted")
def prompt_with_wrong_session_id() -> None:
    """A prompt returns another sessionId."""
    _change_body(f"{_SESSION}/prompt", lambda body: body.update(sessionId=body["sessionId"][::-1]), method="POST")


@breaks("EP-prompt.empty")
def empty_prompt_accepted() -> None:
    """An empty prompt is accepted."""
    from cmdc_gateway.web import dependencies

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            if model.__name__ == "PromptBody" and data.get("text") == "":
                data["text"] = " "
            return original(model, data)

        return validated

    wrap(dependencies, "validated", around)


@breaks("EP-prompt.queued")
def never_queued() -> None:
    """The member queued is always false."""
    _change_body(f"{_SESSION}/prompt", lambda body: body.update(queued=False), method="POST")


@breaks("EP-prompt.fifo", "DUR-1.prompts")
def last_in_first_out() -> None:
    """The newest queued prompt runs first."""

    def change(given: dict[str, Any]) -> None:
        live = given["live"]
        if live.turn is None and len(live.queue) > 1:
            live.queue.rotate(1)

    change_arguments(RunTransitions, "begin_next", change)


@breaks("EP-prompt.queue-full")
def unlimited_queue() -> None:
    """Any number of prompts may be queued."""

    def around(original: Any) -> Any:
        def services(*args: Any) -> Any:
            made = original(*args)
            made.queued_prompts = 10**6
            return made

        return services

    wrap(app, "_services", around)


@breaks("EP-prompt.cursor", "EVT-1.grammar")
def cursor_too_far() -> None:
    """The cursor of a prompt is after the first event of its run."""

    def change(body: dict[str, Any]) -> None:
        epoch, _, seq = body["cursor"].partition(".")
        body["cursor"] = f"{epoch}.{int(seq) + 1}"

    _change_body(f"{_SESSION}/prompt", change, method="POST")


# -- GET …/stats, /v1/usage, …/messages --------------------------------------------------------------------------------


@breaks("EP-stats")
def wrong_total() -> None:
    """The figure totalTokens of the stats is not the sum of its parts."""
    _change_body(f"{_SESSION}/stats", lambda body: body["tokenUsage"].update(totalTokens=body["totalTokens"] + 1))


@breaks("EP-usage.figures")
def usage_not_per_key() -> None:
    """Usage is counted for the tenant and not for its key."""

    def change(body: dict[str, Any]) -> None:
        for key in body["keys"]:
            key["tokenUsage"] = {"promptTokens": 0, "completionTokens": 0, "totalTokens": 0}
            key["totalTokens"] = 0

    _change_body("/v1/usage", change)


@breaks("EP-usage.key-id", "HTTP-2.leak")
def key_in_key_id() -> None:
    """A keyId contains its key."""
    from cmdc_gateway.tenancy.keys import KeyRing

    seen: dict[str, str] = {}

    def around(original: Any) -> Any:
        def caller(self: Any, key: str) -> Any:
            found = original(self, key)
            if found is not None:
                seen[found.key_id] = key
            return found

        return caller

    def change(body: dict[str, Any]) -> None:
        for key in body["keys"]:
            key["keyId"] = f"key_{seen.get(key['keyId'], '')}"

    wrap(KeyRing, "principal", around)
    _change_body("/v1/usage", change)


@breaks("EP-messages.history", "EVT-6")
def history_reversed() -> None:
    """The history of two runs without tools is reversed."""

    def change(body: dict[str, Any]) -> None:
        if [message["role"] for message in body["messages"]] == ["user", "assistant"] * 2:
            body["messages"].reverse()

    _change_body(f"{_SESSION}/messages", change)


@breaks("EP-messages.tools")
def result_with_wrong_call_id() -> None:
    """A tool_result has the callId of another call."""

    def change(body: dict[str, Any]) -> None:
        for message in body["messages"]:
            if message["role"] == "tool_result":
                message["callId"] = message["callId"][::-1]

    _change_body(f"{_SESSION}/messages", change)


@breaks("EP-messages.aborted")
def partial_text_lost() -> None:
    """The partial text of an aborted run is not in the history."""

    def around(original: Any) -> Any:
        def left_open(self: Any, sentence: str) -> Any:
            self._text = []
            return original(self, sentence)

        return left_open

    wrap(Turn, "_close_open_calls", around)


@breaks("EP-messages.pages")
def pages_overlap() -> None:
    """Each page of messages starts with the last message of the previous one."""

    def around(original: Any) -> Any:
        async def message_list(store: Any, key: Any, limit: Any, cursor: Any) -> bytes:
            at = str(max(0, int(cursor) - 1)) if cursor and cursor.isdigit() else cursor
            page = json.loads(await original(store, key, limit, at))
            if at != cursor and page.get("nextCursor"):
                page["nextCursor"] = str(int(page["nextCursor"]) + 1)
            return json.dumps(page).encode()

        return message_list

    wrap(history, "message_list", around)


# -- POST …/abort ------------------------------------------------------------------------------------------------------


@breaks("EP-abort.active", "EVT-1.grammar", "WS-3.abort")
def wrong_reason() -> None:
    """An aborted run has the reason interrupted."""
    from cmdc_gateway.kernel.signals import Aborted

    def around(original: Any) -> Any:
        def aborted(self: Any, signal: Any) -> Any:
            if signal.reason == "aborted":
                signal = Aborted("interrupted", signal.error, signal.usage, signal.cost_usd)
            return original(self, signal)

        return aborted

    wrap(Turn, "_abort", around)


@breaks("EP-abort.reason")
def reason_lost() -> None:
    """The reason of an abort is lost."""
    change_arguments(SessionCommands, "abort", lambda given: given.update(reason=None))


@breaks("EP-abort.idle")
def idle_abort_returns_202() -> None:
    """An abort without an active run returns 202."""

    def around(original: Any) -> Any:
        async def abort(self: Any, *given: Any) -> Any:
            if self._actor.view.snapshot.active is None:
                return Reply(AbortTaken(ok=True), 202)
            return await original(self, *given)

        return abort

    wrap(SessionCommands, "abort", around)


@breaks("EP-abort.queue")
def abort_clears_the_queue() -> None:
    """An abort discards queued prompts."""

    def change(given: dict[str, Any]) -> None:
        signal = given["signal"]
        if type(signal).__name__ == "Aborted" and signal.reason != "interrupted":
            given["live"].queue.clear()

    change_arguments(RunTransitions, "receive", change)


# -- POST …/tickets ----------------------------------------------------------------------------------------------------


@breaks("EP-tickets.issued")
def long_lived_ticket() -> None:
    """A ticket expires after an hour."""
    _change_body(
        f"{_SESSION}/tickets", lambda body: body.update(expiresAt=body["expiresAt"] + 3_600_000), method="POST"
    )


@breaks("EP-tickets.single-use", "WS-1.ticket")
def ticket_reusable() -> None:
    """A ticket opens any number of streams."""

    def around(original: Any) -> Any:
        def redeem(self: Any, name: str, session_id: str) -> Any:
            ticket = self._tickets.get(name)
            found = original(self, name, session_id)
            if ticket is not None:
                self._tickets[name] = ticket
            return found

        return redeem

    wrap(Tickets, "redeem", around)


@breaks("EP-tickets.one-session")
def ticket_for_all_sessions() -> None:
    """A ticket opens streams of other sessions."""

    def around(original: Any) -> Any:
        def redeem(self: Any, name: str, session_id: str) -> Any:
            ticket = self._tickets.get(name)
            return original(self, name, ticket.session_id if ticket else session_id)

        return redeem

    wrap(Tickets, "redeem", around)


# -- GET …/tools, GET /v1/capabilities, the documents ------------------------------------------------------------------


@breaks("EP-tools.list", "HTTP-2.leak")
def secrets_listed() -> None:
    """The list of tools contains their secrets."""

    def around(original: Any) -> Any:
        def tool_list(session: Any) -> bytes:
            body = json.loads(original(session))
            for entry in body["tools"]:
                definition = session.toolset.get(entry["name"]).definition
                if definition is not None:
                    entry["description"] += f" {definition.secret}"
            return json.dumps(body).encode()

        return tool_list

    wrap(tools, "tool_list", around)


@breaks("EP-tools.remove")
def tool_not_removed() -> None:
    """Removing a tool succeeds without removing it."""

    def around(original: Any) -> Any:
        async def remove_tool(self: Any, name: str, *rest: Any) -> Any:
            actor = self._actor
            tool = actor.view.snapshot.toolset.get(name)
            reply = await original(self, name, *rest)
            live = actor._live
            live.toolset = live.toolset.with_callback(tool)
            actor.view.snapshot = live.snapshot()
            return reply

        return remove_tool

    wrap(SessionCommands, "remove_tool", around)


@breaks("EP-capabilities.declared", "HTTP-1.fields")
def another_protocol() -> None:
    """The server declares another protocol version."""
    _change_body("/v1/capabilities", lambda body: body.update(protocol="9.9"))


@breaks("EP-capabilities.refused")
def more_than_declared() -> None:
    """The server implements a feature that it does not declare."""
    _change_body("/v1/capabilities", lambda body: body["extended"].remove("list_sessions"))


@breaks("EP-documents.schemas")
def undescribed_event() -> None:
    """An event is missing in the published event schema."""

    def change(response: Response) -> None:
        text = json.dumps(response.body)
        response.body = json.loads(text.replace("tool_execution_end", "tool_execution_over"))

    change_responses(r"/events\.schema\.json", change)


@breaks("EP-documents.docs")
def docs_load_external_script() -> None:
    """/docs loads a script from another host."""
    from cmdc_gateway.web.schema import openapi

    def around(original: Any) -> Any:
        def document(content: bytes, media_type: str) -> Any:
            script = b'<script src="https://cdn.example.com/reference.js"></script>'
            return original(content + script if media_type == "text/html" else content, media_type)

        return document

    wrap(openapi, "_document", around)
