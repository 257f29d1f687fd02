"""Sessions: looking at them, listing and deleting them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, RAW, VIAS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, owed

# -- looking at it -------------------------------------------------------------------------------------------------------


@check("EP-session.get", faces=VIAS)
async def a_session_tells_of_itself(case: Case) -> None:
    """A new session is idle and has done nothing."""
    async with case.session() as session:
        body = (await session.info()).must_be(200)
        expect(body.get("sessionId") == session.id, f"sessionId is {body.get('sessionId')!r}")
        expect(body.get("state") == "idle", f"state is {body.get('state')!r}")
        figures = {name: body.get(name) for name in ("turns", "toolCalls", "totalTokens")}
        expect(all(value == 0 for value in figures.values()), f"a new session has {figures}")
        uptime = body.get("uptimeMs")
        expect(isinstance(uptime, int) and 0 <= uptime < 600_000, f"uptimeMs is {uptime!r}")


def session_routes(case: Case, session: str) -> list[tuple[str, str, Any]]:
    """Every route of a session, with a body that is right in itself."""
    path = f"/v1/sessions/{session}"
    base: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("POST", f"{path}/prompt", {"text": "Hi"}),
        ("POST", f"{path}/approve", {"approvalId": "apr_1"}),
        ("POST", f"{path}/reject", {"approvalId": "apr_1"}),
        ("POST", f"{path}/respond", {"ref": "ask_1", "response": "x"}),
        ("POST", f"{path}/tools", case.tool("get_weather", "http://127.0.0.1:9/x")),
        ("GET", f"{path}/messages", None),
        ("GET", f"{path}/stats", None),
        ("GET", f"{path}/events", None),
    ]
    more: dict[str, list[tuple[str, str, Any]]] = {
        "abort": [("POST", f"{path}/abort", {})],
        "tickets": [("POST", f"{path}/tickets", {"scope": "read"})],
        "tool_list": [("GET", f"{path}/tools", None), ("DELETE", f"{path}/tools/get_weather", None)],
    }
    base += [each for feature, those in more.items() if case.has(feature) for each in those]
    return [*base, ("DELETE", path, None)]


@check("EP-session.unknown")
async def an_unknown_session(case: Case) -> None:
    """An id that was never used is 404 on every route, and the message names it."""
    unknown = case.fresh("never")
    for method, path, body in session_routes(case, unknown):
        if path.endswith("/events"):
            answer = await case.http.refused(path)
        else:
            answer = await case.http.request(method, path, body)
        answer.must_be(404, code="not_found")
        expect(unknown in answer.message, f"{method} {path}: the message does not name the id: {answer.message!r}")
    (await case.create(sessionId=unknown)).needed(201)
    (await case.http.get(f"/v1/sessions/{unknown}")).needed(200)


@check("EP-session.counts", faces=EVERY)
async def turns_and_calls_are_counted(case: Case) -> None:
    """Two steps with one call are turns 2, toolCalls 1."""
    async with case.session() as session:
        await case.register(session)
        call = [("get_weather", {"city": "Oslo"})]
        await session.ran(case.script(reply(calls=call, usage=(5, 3)), reply("It snows.", usage=(7, 2))))
        info = (await session.info()).needed(200)
        expect(info.get("turns") == 2, f"after two model calls turns is {info.get('turns')}")
        expect(info.get("toolCalls") == 1, f"after one tool call toolCalls is {info.get('toolCalls')}")
        expect(info.get("totalTokens") == 17, f"after 17 tokens totalTokens is {info.get('totalTokens')}")


@check("EP-session.state", faces=RAW)
async def the_state_is_told(case: Case) -> None:
    """While a run is active the state is working, and after it idle."""
    async with case.session() as session, case.held(session) as held:
        state = (await session.info()).needed(200).get("state")
        expect(state == "working", f"while a tool runs the state is {state!r}")
        held.release()
        await held.run.end()
        with owed("after the run"):
            await session.state("idle")


@check("EP-session.queue")
async def the_queue_is_told(case: Case) -> None:
    """Prompts that wait are listed in order."""
    async with case.session() as session, case.held(session) as held:
        texts = [case.plain("One."), case.plain("Two.")]
        for text in texts:
            session.noted(text)
        accepted = [(await session.prompt(text)).needed(202) for text in texts]
        wanted = [{"requestId": each["requestId"], "text": text} for each, text in zip(accepted, texts, strict=True)]
        queue = (await session.info()).needed(200).get("queue")
        expect(queue == wanted, f"queue is {queue}, and should be {wanted}")
        held.release()


@check("EP-session.cursor")
async def the_end_of_the_log_is_told(case: Case) -> None:
    """The cursor is the id of the last event."""
    async with case.session() as session:
        events = await session.ran(case.plain())
        cursor = (await session.info()).needed(200).get("cursor")
        expect(cursor == events[-1].id, f"cursor is {cursor!r}, and the last event was {events[-1].id}")


@check("EP-session.pending", faces=RAW)
async def what_waits_is_told(case: Case) -> None:
    """Both pendingApprovals and pendingQuestions have the data of the events."""
    async with case.waiting_call() as waiting:
        info = (await waiting.session.info()).needed(200)
        pending = info.get("pendingApprovals")
        expect(
            pending == [waiting.required.data],
            f"pendingApprovals is {pending}, and the event was {waiting.required.data}",
        )
    async with case.question() as (session, _, asked):
        pending = (await session.info()).needed(200).get("pendingQuestions")
        expect(pending == [asked.data], f"pendingQuestions is {pending}, and the event was {asked.data}")


# -- lists ---------------------------------------------------------------------------------------------------------------


async def _several(case: Case, number: int) -> list[str]:
    ids: list[str] = []
    for _ in range(number):
        ids.append(case.fresh("listed"))
        (await case.create(sessionId=ids[-1])).needed(201)
        await asyncio.sleep(0.005)  # times are told in ms
    return ids


async def _listed(case: Case, *, limit: int, until: set[str]) -> list[str]:
    """The ids of the list, page by page, until those that are looked for have come."""
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(500):
        page = (
            await case.http.get(f"/v1/sessions?limit={limit}{f'&cursor={quote(cursor)}' if cursor else ''}")
        ).must_be(200)
        ids = [each["sessionId"] for each in page["sessions"]]
        expect(len(ids) <= limit, f"a page of {limit} has {len(ids)}")
        seen += ids
        cursor = page["nextCursor"]
        if cursor is None or until <= set(seen):
            break
    return seen


@check("EP-list.newest-first")
async def the_newest_are_first(case: Case) -> None:
    """Sessions are listed from the newest on."""
    ids = await _several(case, 3)
    seen = [each for each in await _listed(case, limit=200, until=set(ids)) if each in ids]
    expect(seen == ids[::-1], f"made in the order {ids}, and listed as {seen}")


@check("EP-list.pages")
async def pages_of_sessions(case: Case) -> None:
    """Small pages have every session once."""
    # Other checks make sessions meanwhile: one that is skipped is hardly ever none of so many.
    ids = await _several(case, 12)
    seen = await _listed(case, limit=2, until=set(ids))
    expect(set(ids) <= set(seen), f"the pages lack {set(ids) - set(seen)}")
    expect(len(seen) == len(set(seen)), "the pages have a session twice")


@check("EP-list.state")
async def sessions_in_one_state(case: Case) -> None:
    """?state= lists those in this state."""
    async with case.session() as idle, case.question() as (asking, _, _):
        await asking.state("waiting_input")
        page = (await case.http.get("/v1/sessions?state=waiting_input&limit=1000")).must_be(200)
        ids = [each["sessionId"] for each in page["sessions"]]
        expect(asking.id in ids, "a session that waits for an answer is not listed as waiting_input")
        expect(idle.id not in ids, "an idle session is listed as waiting_input")
    (await case.http.get("/v1/sessions?state=asleep")).must_be(400, why="there is no such state")


# -- deleting ------------------------------------------------------------------------------------------------------------


@check("EP-delete.deleted", faces=VIAS)
async def a_session_is_deleted(case: Case) -> None:
    """Deleted is gone, on every route."""
    async with case.session() as session:
        body = (await case.http.delete(session.path)).must_be(200)
        expect(body == {"sessionId": session.id, "status": "deleted"}, f"the answer is {body}")
        for path in ("", "/messages", "/stats"):
            (await case.http.get(session.path + path)).must_be(404, code="not_found")


@check("EP-delete.again")
async def a_session_is_deleted_once(case: Case) -> None:
    """Deleting again is 404."""
    async with case.session() as session:
        (await case.http.delete(session.path)).needed(200)
        (await case.http.delete(session.path)).must_be(404, code="not_found")


@check("EP-delete.readers", faces=RAW)
async def readers_are_told(case: Case) -> None:
    """Readers get agent_abort, reason session_deleted, and then the end."""
    async with case.session() as session, case.held(session) as held:
        (await case.http.delete(session.path)).needed(200)
        with owed("after the session was deleted"):
            events = await held.run.end()
            expect(
                events[-1].name == "agent_abort" and events[-1].data.get("reason") == "session_deleted",
                f"the run ended with {events[-1].name}, reason {events[-1].data.get('reason')!r}",
            )
            await held.run.reader.closed()


@check("EP-delete.forgets")
async def nothing_is_left(case: Case) -> None:
    """A new session of the same id begins with nothing."""
    same = case.fresh()
    async with case.session(sessionId=same) as session:
        await case.register(session)
        await session.ran(case.plain())
    case.watch.monitors.forget(session.key)
    async with case.session(sessionId=same) as session:
        info = (await session.info()).needed(200)
        expect(info.get("turns") == 0, f"a new session of the same id has turns {info.get('turns')}")
        expect(await session.history() == [], "a new session of the same id has the old history")
        if case.has("tool_list"):
            tools = (await case.http.get(f"{session.path}/tools")).needed(200).get("tools")
            expect(tools == [], f"a new session of the same id has the tools {tools}")
        text = case.plain()
        events = await session.ran(text)
        expect(events[0].data.get("text") == text, "a reader of the new session gets the old run")
