"""Gateways whose routes do the wrong thing (the endpoints of PROTOCOL §3)."""

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
from cmdc_gateway.store.store import AppendMessages, SessionKey
from cmdc_gateway.tenancy.tickets import Tickets
from cmdc_gateway.web.routes import history, sessions, tools

from broken_gateways.mutant import breaks
from broken_gateways.surgery import Answer, after, change_answers, change_arguments, wrap

_SESSION = r"/v1/sessions/[^/]+"


def _change_body(route: str, change: Callable[[dict[str, Any]], object], *, method: str = "GET") -> None:
    """Change the body of a success."""

    def changed(answer: Answer) -> None:
        if answer.status < 300 and isinstance(answer.body, dict):
            change(answer.body)

    change_answers(route, changed, method=method)


# -- GET /healthz, GET /readyz -----------------------------------------------------------------------------------------


@breaks("EP-healthz")
def whole_seconds() -> None:
    """The time in /healthz has no microseconds and no Z."""
    _change_body("/healthz", lambda body: body.update(timestamp=body["timestamp"][:19]))


@breaks("EP-readyz")
def never_ready() -> None:
    """/readyz is 503 although the server serves."""

    def change(answer: Answer) -> None:
        answer.status = 503
        answer.body = {"error": "unavailable", "message": "the server is starting"}
        answer.headers["retry-after"] = "1"

    change_answers("/readyz", change)


# -- POST /v1/sessions -------------------------------------------------------------------------------------------------


@breaks(
    "EP-create.created",
    "EP-capabilities.refused",
    hidden_from_sdk="the client makes nothing of an answer with another status than its own",
)
def created_with_200() -> None:
    """A session that was made is answered with 200."""

    def change(answer: Answer) -> None:
        if answer.status == 201:
            answer.status = 200

    change_answers("/v1/sessions", change, method="POST")


@breaks("EP-create.random-id")
def counted_id() -> None:
    """Sessions are numbered: their ids can be guessed."""
    numbers = itertools.count(1)
    wrap(registry_module, "secrets", lambda original: _Secrets(original, numbers))


class _Secrets:
    def __init__(self, original: Any, numbers: Any) -> None:
        self.choice = original.choice
        self._numbers = numbers

    def token_hex(self, _: int) -> str:
        return f"session-{next(self._numbers)}"


@breaks("EP-create.chosen-id", "HTTP-8.same-id", "EP-session.unknown", "EP-list.newest-first", "EP-list.pages")
def id_of_its_own() -> None:
    """A sessionId that is given is put in lower case, and numbered."""

    def change(given: dict[str, Any]) -> None:
        if given["body"].session_id:
            session_id = given["body"].session_id.lower()[:100] + "-1"
            given["body"] = given["body"].model_copy(update={"session_id": session_id})

    change_arguments(Registry, "create", change)


@breaks("EP-create.exists")
def made_again() -> None:
    """A sessionId that is taken is answered as if a session had been made."""

    def around(original: Any) -> Any:
        async def create(self: Any, caller: Any, body: Any, *rest: Any) -> Any:
            try:
                return await original(self, caller, body, *rest)
            except SessionExists:
                return Reply(SessionCreated(session_id=body.session_id, status="created"), 201)

        return create

    wrap(Registry, "create", around)


@breaks("EP-create.names", "EP-capabilities.refused")
def unknown_tool_left_out() -> None:
    """A tool that is not offered is left out, and the session made without it."""

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
def anywhere() -> None:
    """A workingDir outside the workspace is taken for the workspace."""

    def around(original: Any) -> Any:
        def settle(self: Any, body: Any) -> Any:
            if body.working_dir and (body.working_dir.startswith("/") or ".." in body.working_dir):
                body = body.model_copy(update={"working_dir": "."})
            return original(self, body)

        return settle

    wrap(SessionPolicy, "resolve", around)


@breaks("EP-create.credentials")
def address_of_the_caller() -> None:
    """ProviderOpts with an address or a credential are taken."""
    from cmdc_gateway.providers.registry import ModelRegistry

    def around(original: Any) -> Any:
        def check_options(self: Any, options: dict[str, Any]) -> None:
            original(self, {name: value for name, value in options.items() if not re.search("api|url|head", name)})

        return check_options

    wrap(ModelRegistry, "check_options", around)


@breaks("EP-create.aliases")
def no_aliases() -> None:
    """The original's names of tools are not known."""
    from cmdc_gateway.sessions import settings

    wrap(settings, "canonical_name", lambda original: lambda name: None if "." in name else original(name))


@breaks("EP-create.max-turns")
def tireless() -> None:
    """MaxTurns is taken and not heeded."""
    after(SessionPolicy, "resolve", lambda settled: replace(settled, max_turns=100))


@breaks("EP-create.system-prompt", "HTTP-8.same-id", "EP-create.exists")
def unspoken_system_prompt() -> None:
    """A systemPrompt is not in the history."""

    def change(body: dict[str, Any]) -> None:
        body["messages"] = [message for message in body["messages"] if message["role"] != "system"]

    _change_body(f"{_SESSION}/messages", change)


@breaks("EP-create.metadata")
def metadata_in_ascii() -> None:
    """Metadata comes back without the characters that ASCII lacks."""

    def change(body: dict[str, Any]) -> None:
        body["metadata"] = {name: value.encode("ascii", "ignore").decode() for name, value in body["metadata"].items()}

    _change_body(_SESSION, change)


# -- GET /v1/sessions/{id}, GET /v1/sessions ---------------------------------------------------------------------------


@breaks("EP-session.get", "HTTP-4.nothing-left", "EP-session.state")
def never_rested() -> None:
    """A new session is at work."""

    def change(body: dict[str, Any]) -> None:
        if body["turns"] == 0:
            body["state"] = "working"

    _change_body(_SESSION, change)


@breaks("EP-session.unknown")
def nameless_session() -> None:
    """An unknown session is refused without being named."""

    def around(original: Any) -> Any:
        def init(self: Any, session_id: str) -> None:
            original(self, session_id)
            NotFound.__init__(self, "there is no such session")

        return init

    wrap(SessionNotFound, "__init__", around)


@breaks("EP-session.counts")
def miscounted_calls() -> None:
    """ToolCalls counts the calls that were asked for, run or not."""

    def change(given: dict[str, Any]) -> None:
        unit = given["unit"]
        asked = sum(len(message.tool_calls) for message in given["outcome"].messages)
        unit.row = replace(unit.row, tool_calls=unit.row.tool_calls + asked)

    change_arguments(RunTransitions, "_advance", change)


@breaks("EP-session.state")
def idle_at_work() -> None:
    """A session that works says that it is idle."""

    def change(body: dict[str, Any]) -> None:
        if body["state"] == "working":
            body["state"] = "idle"

    _change_body(_SESSION, change)


@breaks("EP-session.queue")
def queue_backwards() -> None:
    """The prompts that wait are shown in the wrong order."""
    _change_body(_SESSION, lambda body: body["queue"].reverse())


@breaks("EP-session.cursor")
def cursor_behind() -> None:
    """The cursor of a session is one event behind."""

    def change(body: dict[str, Any]) -> None:
        epoch, _, seq = body["cursor"].partition(".")
        body["cursor"] = f"{epoch}.{max(0, int(seq) - 1)}"

    _change_body(_SESSION, change)


@breaks("EP-session.pending")
def nothing_pending() -> None:
    """What waits for a person is not shown."""
    _change_body(_SESSION, lambda body: body.update(pendingApprovals=[], pendingQuestions=[]))


@breaks("EP-list.newest-first")
def oldest_first() -> None:
    """A page of sessions begins with its oldest."""
    _change_body("/v1/sessions", lambda body: body["sessions"].reverse())


@breaks("EP-list.pages")
def page_too_far() -> None:
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
def any_state() -> None:
    """?state= is taken and not heeded."""
    wrap(
        sessions,
        "session_list",
        lambda original: lambda store, tenant, limit, cursor, _: original(store, tenant, limit, cursor, None),
    )


# -- DELETE /v1/sessions/{id} ------------------------------------------------------------------------------------------


@breaks("EP-delete.deleted", "EP-delete.again", "WS-6.deleted")
def undead() -> None:
    """A session without a run is said to be deleted, and is still there."""

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
    """Deleting what is not there any more is a success."""

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
def silent_end() -> None:
    """When a session is deleted its readers are not told why their stream ends."""
    from cmdc_gateway.kernel.effects import StopWork, start

    def around(original: Any) -> Any:
        def aborted(self: Any, signal: Any) -> Any:
            return start(StopWork()) if signal.reason == "session_deleted" else original(self, signal)

        return aborted

    wrap(Turn, "_abort", around)


@breaks("EP-delete.forgets")
def haunted() -> None:
    """A new session of an old one's id begins with its history."""
    buried: dict[SessionKey, list[Any]] = {}

    def around_delete(original: Any) -> Any:
        async def delete(self: Any, key: SessionKey, *rest: Any) -> Any:
            said = await self.services.store.messages(key)
            reply = await original(self, key, *rest)
            buried[key] = said
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
def accepted_for_another() -> None:
    """A prompt that was accepted is answered with another session's id."""
    _change_body(f"{_SESSION}/prompt", lambda body: body.update(sessionId=body["sessionId"][::-1]), method="POST")


@breaks("EP-prompt.empty")
def empty_prompt() -> None:
    """A prompt of no text is accepted."""
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
    """Queued is false, also while another run is active."""
    _change_body(f"{_SESSION}/prompt", lambda body: body.update(queued=False), method="POST")


@breaks("EP-prompt.fifo", "DUR-1.prompts")
def last_in_first_out() -> None:
    """Of the prompts that wait the newest is taken up first."""

    def change(given: dict[str, Any]) -> None:
        live = given["live"]
        if live.turn is None and len(live.queue) > 1:
            live.queue.rotate(1)

    change_arguments(RunTransitions, "begin_next", change)


@breaks("EP-prompt.queue-full")
def endless_queue() -> None:
    """Any number of prompts may wait."""

    def around(original: Any) -> Any:
        def services(*args: Any) -> Any:
            made = original(*args)
            made.queued_prompts = 10**6
            return made

        return services

    wrap(app, "_services", around)


@breaks("EP-prompt.cursor", "EVT-1.grammar")
def cursor_too_far() -> None:
    """The cursor of a prompt that was accepted is beyond the first event of its run."""

    def change(body: dict[str, Any]) -> None:
        epoch, _, seq = body["cursor"].partition(".")
        body["cursor"] = f"{epoch}.{int(seq) + 1}"

    _change_body(f"{_SESSION}/prompt", change, method="POST")


# -- GET …/stats, /v1/usage, …/messages --------------------------------------------------------------------------------


@breaks("EP-stats")
def sums_that_do_not_add_up() -> None:
    """TotalTokens in a session's figures is not the sum of its parts."""
    _change_body(f"{_SESSION}/stats", lambda body: body["tokenUsage"].update(totalTokens=body["totalTokens"] + 1))


@breaks("EP-usage.figures")
def usage_of_no_key() -> None:
    """What is used is counted for the tenant and not for its key."""

    def change(body: dict[str, Any]) -> None:
        for key in body["keys"]:
            key["tokenUsage"] = {"promptTokens": 0, "completionTokens": 0, "totalTokens": 0}
            key["totalTokens"] = 0

    _change_body("/v1/usage", change)


@breaks("EP-usage.key-id", "HTTP-2.leak")
def keys_told() -> None:
    """The keyId of a key has the key in it."""
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
def history_backwards() -> None:
    """The history of two runs without a tool begins with what was said last."""

    def change(body: dict[str, Any]) -> None:
        if [message["role"] for message in body["messages"]] == ["user", "assistant"] * 2:
            body["messages"].reverse()

    _change_body(f"{_SESSION}/messages", change)


@breaks("EP-messages.tools")
def results_of_nothing() -> None:
    """A tool_result names another call than the one it is of."""

    def change(body: dict[str, Any]) -> None:
        for message in body["messages"]:
            if message["role"] == "tool_result":
                message["callId"] = message["callId"][::-1]

    _change_body(f"{_SESSION}/messages", change)


@breaks("EP-messages.aborted")
def partial_text_lost() -> None:
    """What a run had said before it was stopped is not in the history."""

    def around(original: Any) -> Any:
        def left_open(self: Any, sentence: str) -> Any:
            self._text = []
            return original(self, sentence)

        return left_open

    wrap(Turn, "_close_open_calls", around)


@breaks("EP-messages.pages")
def pages_overlap() -> None:
    """The first message of a page was the last of the page before."""

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
    """A run that is aborted says that it was interrupted."""
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
    """The reason that is given with an abort is lost."""
    change_arguments(SessionCommands, "abort", lambda given: given.update(reason=None))


@breaks("EP-abort.idle")
def nothing_is_something() -> None:
    """With nothing active an abort is answered as if there had been something."""

    def around(original: Any) -> Any:
        async def abort(self: Any, *given: Any) -> Any:
            if self._actor.view.snapshot.active is None:
                return Reply(AbortTaken(ok=True), 202)
            return await original(self, *given)

        return abort

    wrap(SessionCommands, "abort", around)


@breaks("EP-abort.queue")
def queue_aborted_too() -> None:
    """An abort throws away the prompts that wait."""

    def change(given: dict[str, Any]) -> None:
        signal = given["signal"]
        if type(signal).__name__ == "Aborted" and signal.reason != "interrupted":
            given["live"].queue.clear()

    change_arguments(RunTransitions, "receive", change)


# -- POST …/tickets ----------------------------------------------------------------------------------------------------


@breaks("EP-tickets.issued")
def long_lived_ticket() -> None:
    """A ticket says that it is good for an hour."""
    _change_body(
        f"{_SESSION}/tickets", lambda body: body.update(expiresAt=body["expiresAt"] + 3_600_000), method="POST"
    )


@breaks("EP-tickets.single-use", "WS-1.ticket")
def ticket_for_life() -> None:
    """A ticket opens as many streams as one likes."""

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
def ticket_for_all() -> None:
    """A ticket opens another session too."""

    def around(original: Any) -> Any:
        def redeem(self: Any, name: str, session_id: str) -> Any:
            ticket = self._tickets.get(name)
            return original(self, name, ticket.session_id if ticket else session_id)

        return redeem

    wrap(Tickets, "redeem", around)


# -- GET …/tools, GET /v1/capabilities, the documents ------------------------------------------------------------------


@breaks("EP-tools.list", "HTTP-2.leak")
def secrets_told() -> None:
    """The list of tools has their secrets in it."""

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
def tool_that_stays() -> None:
    """A tool that was removed is still there."""

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
    """The server says that it speaks another version of the protocol."""
    _change_body("/v1/capabilities", lambda body: body.update(protocol="9.9"))


@breaks("EP-capabilities.refused")
def more_than_declared() -> None:
    """What the server does not declare, it does all the same."""
    _change_body("/v1/capabilities", lambda body: body["extended"].remove("list_sessions"))


@breaks("EP-documents.schemas")
def undescribed_event() -> None:
    """The published event schema lacks an event."""

    def change(answer: Answer) -> None:
        text = json.dumps(answer.body)
        answer.body = json.loads(text.replace("tool_execution_end", "tool_execution_over"))

    change_answers(r"/events\.schema\.json", change)


@breaks("EP-documents.docs")
def page_from_elsewhere() -> None:
    """/docs wants a script from the internet."""
    from cmdc_gateway.web.schema import openapi

    def around(original: Any) -> Any:
        def document(content: bytes, media_type: str) -> Any:
            script = b'<script src="https://cdn.example.com/reference.js"></script>'
            return original(content + script if media_type == "text/html" else content, media_type)

        return document

    wrap(openapi, "_document", around)
