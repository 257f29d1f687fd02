"""Getting, listing and deleting sessions."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_AND_SDK, RAW_STREAMS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, fails_if_blocked

# -- getting -----------------------------------------------------------------------------------------------------------


@check("EP-session.get", variants=RAW_AND_SDK)
async def a_new_session_is_idle(ctx: CheckContext) -> None:
    """A new session is idle and has no usage."""
    async with ctx.session() as session:
        body = (await session.info()).expect(200)
        expect(body.get("sessionId") == session.id, f"sessionId is {body.get('sessionId')!r}")
        expect(body.get("state") == "idle", f"state is {body.get('state')!r}")
        counts = {name: body.get(name) for name in ("turns", "toolCalls", "totalTokens")}
        expect(all(value == 0 for value in counts.values()), f"a new session has {counts}")
        uptime = body.get("uptimeMs")
        expect(isinstance(uptime, int) and 0 <= uptime < 600_000, f"uptimeMs is {uptime!r}")


def session_routes(ctx: CheckContext, session: str) -> list[tuple[str, str, Any]]:
    """Every route of a session, with a valid body."""
    path = f"/v1/sessions/{session}"
    base: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("POST", f"{path}/prompt", {"text": "Hi"}),
        ("POST", f"{path}/approve", {"approvalId": "apr_1"}),
        ("POST", f"{path}/reject", {"approvalId": "apr_1"}),
        ("POST", f"{path}/respond", {"ref": "ask_1", "response": "x"}),
        ("POST", f"{path}/tools", ctx.tool("get_weather", "http://127.0.0.1:9/x")),
        ("GET", f"{path}/messages", None),
        ("GET", f"{path}/stats", None),
        ("GET", f"{path}/events", None),
    ]
    more: dict[str, list[tuple[str, str, Any]]] = {
        "abort": [("POST", f"{path}/abort", {})],
        "tickets": [("POST", f"{path}/tickets", {"scope": "read"})],
        "tool_list": [("GET", f"{path}/tools", None), ("DELETE", f"{path}/tools/get_weather", None)],
    }
    base += [each for feature, those in more.items() if ctx.has(feature) for each in those]
    return [*base, ("DELETE", path, None)]


@check("EP-session.unknown")
async def an_unknown_session_is_rejected(ctx: CheckContext) -> None:
    """An unused id returns 404 on every route, with a message that names it."""
    unknown = ctx.unique("never")
    for method, path, body in session_routes(ctx, unknown):
        if path.endswith("/events"):
            response = await ctx.http.try_stream(path)
        else:
            response = await ctx.http.request(method, path, body)
        response.expect(404, code="not_found")
        expect(unknown in response.message, f"{method} {path}: the message does not name the id: {response.message!r}")
    (await ctx.create(sessionId=unknown)).require(201)
    (await ctx.http.get(f"/v1/sessions/{unknown}")).require(200)


@check("EP-session.counts", variants=ALL_VARIANTS)
async def model_calls_and_tool_calls_are_counted(ctx: CheckContext) -> None:
    """After two model calls and one tool call, turns is 2 and toolCalls is 1."""
    async with ctx.session() as session:
        await ctx.register(session)
        call = [("get_weather", {"city": "Oslo"})]
        await session.run_to_end(ctx.script(reply(calls=call, usage=(5, 3)), reply("It snows.", usage=(7, 2))))
        info = (await session.info()).require(200)
        expect(info.get("turns") == 2, f"after two model calls, turns is {info.get('turns')}")
        expect(info.get("toolCalls") == 1, f"after one tool call, toolCalls is {info.get('toolCalls')}")
        expect(info.get("totalTokens") == 17, f"after 17 tokens, totalTokens is {info.get('totalTokens')}")


@check("EP-session.state", variants=RAW_STREAMS)
async def the_state_follows_the_run(ctx: CheckContext) -> None:
    """The state is working during a run and idle after it."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        state = (await session.info()).require(200).get("state")
        expect(state == "working", f"during a tool call, the state is {state!r}")
        paused.release()
        await paused.run.wait_for_end()
        with fails_if_blocked("after the run"):
            await session.wait_for_state("idle")


@check("EP-session.queue")
async def queued_prompts_are_listed(ctx: CheckContext) -> None:
    """The queue lists the queued prompts in order."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        texts = [ctx.simple_prompt("One."), ctx.simple_prompt("Two.")]
        for text in texts:
            session.announce(text)
        accepted = [(await session.prompt(text)).require(202) for text in texts]
        wanted = [{"requestId": each["requestId"], "text": text} for each, text in zip(accepted, texts, strict=True)]
        queue = (await session.info()).require(200).get("queue")
        expect(queue == wanted, f"queue is {queue}, expected {wanted}")
        paused.release()


@check("EP-session.cursor")
async def the_cursor_is_the_end_of_the_log(ctx: CheckContext) -> None:
    """The cursor is the id of the last event."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.simple_prompt())
        cursor = (await session.info()).require(200).get("cursor")
        expect(cursor == events[-1].id, f"cursor is {cursor!r}, and the last event is {events[-1].id}")


@check("EP-session.pending", variants=RAW_STREAMS)
async def pending_decisions_are_listed(ctx: CheckContext) -> None:
    """Both pendingApprovals and pendingQuestions have the data of their events."""
    async with ctx.pending_approval() as approval:
        info = (await approval.session.info()).require(200)
        pending = info.get("pendingApprovals")
        expect(
            pending == [approval.required.data],
            f"pendingApprovals is {pending}, and the event was {approval.required.data}",
        )
    async with ctx.pending_question() as (session, _, asked):
        pending = (await session.info()).require(200).get("pendingQuestions")
        expect(pending == [asked.data], f"pendingQuestions is {pending}, and the event was {asked.data}")


# -- listing -----------------------------------------------------------------------------------------------------------


async def _create_sessions(ctx: CheckContext, number: int) -> list[str]:
    ids: list[str] = []
    for _ in range(number):
        ids.append(ctx.unique("listed"))
        (await ctx.create(sessionId=ids[-1])).require(201)
        await asyncio.sleep(0.005)  # creation times have a resolution of 1 ms
    return ids


async def _listed(ctx: CheckContext, *, limit: int, until: set[str]) -> list[str]:
    """Read the list page by page until it contains these ids; return all ids."""
    listed: list[str] = []
    cursor: str | None = None
    for _ in range(500):
        page = (await ctx.http.get(f"/v1/sessions?limit={limit}{f'&cursor={quote(cursor)}' if cursor else ''}")).expect(
            200
        )
        ids = [each["sessionId"] for each in page["sessions"]]
        expect(len(ids) <= limit, f"a page with limit {limit} has {len(ids)} sessions")
        listed += ids
        cursor = page["nextCursor"]
        if cursor is None or until <= set(listed):
            break
    return listed


@check("EP-list.newest-first")
async def the_newest_sessions_are_first(ctx: CheckContext) -> None:
    """Sessions are listed newest first."""
    ids = await _create_sessions(ctx, 3)
    listed = [each for each in await _listed(ctx, limit=200, until=set(ids)) if each in ids]
    expect(listed == ids[::-1], f"the sessions were created as {ids} and are listed as {listed}")


@check("EP-list.pages")
async def pages_cover_all_sessions(ctx: CheckContext) -> None:
    """Pages with a small limit contain every session once."""
    # Other checks create sessions at the same time. With this many of our own, a skipped one is probably ours.
    ids = await _create_sessions(ctx, 12)
    listed = await _listed(ctx, limit=2, until=set(ids))
    expect(set(ids) <= set(listed), f"the pages do not contain {set(ids) - set(listed)}")
    expect(len(listed) == len(set(listed)), "the pages contain a session twice")


@check("EP-list.state")
async def lists_are_filtered_by_state(ctx: CheckContext) -> None:
    """?state= lists only sessions in this state."""
    async with ctx.session() as idle, ctx.pending_question() as (asking, _, _):
        await asking.wait_for_state("waiting_input")
        page = (await ctx.http.get("/v1/sessions?state=waiting_input&limit=1000")).expect(200)
        ids = [each["sessionId"] for each in page["sessions"]]
        expect(asking.id in ids, "a session that waits for input is not listed")
        expect(idle.id not in ids, "an idle session is listed as waiting_input")
    (await ctx.http.get("/v1/sessions?state=asleep")).expect(400, why="the state is unknown")


# -- deleting ------------------------------------------------------------------------------------------------------------


@check("EP-delete.deleted", variants=RAW_AND_SDK)
async def a_session_is_deleted(ctx: CheckContext) -> None:
    """A deleted session returns 404 on every route."""
    async with ctx.session() as session:
        body = (await ctx.http.delete(session.path)).expect(200)
        expect(body == {"sessionId": session.id, "status": "deleted"}, f"the response is {body}")
        for path in ("", "/messages", "/stats"):
            (await ctx.http.get(session.path + path)).expect(404, code="not_found")


@check("EP-delete.again")
async def deleting_again_is_rejected(ctx: CheckContext) -> None:
    """Deleting a session again returns 404."""
    async with ctx.session() as session:
        (await ctx.http.delete(session.path)).require(200)
        (await ctx.http.delete(session.path)).expect(404, code="not_found")


@check("EP-delete.readers", variants=RAW_STREAMS)
async def readers_see_the_deletion(ctx: CheckContext) -> None:
    """Readers receive agent_abort, reason session_deleted, and then the stream ends."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        (await ctx.http.delete(session.path)).require(200)
        with fails_if_blocked("after the session was deleted"):
            events = await paused.run.wait_for_end()
            expect(
                events[-1].name == "agent_abort" and events[-1].data.get("reason") == "session_deleted",
                f"the run ended with {events[-1].name}, reason {events[-1].data.get('reason')!r}",
            )
            await paused.run.reader.wait_until_closed()


@check("EP-delete.forgets")
async def a_deleted_id_can_be_reused(ctx: CheckContext) -> None:
    """A new session with the id of a deleted one starts empty."""
    same = ctx.unique()
    async with ctx.session(sessionId=same) as session:
        await ctx.register(session)
        await session.run_to_end(ctx.simple_prompt())
    ctx.observer.monitors.forget(session.key)
    async with ctx.session(sessionId=same) as session:
        info = (await session.info()).require(200)
        expect(info.get("turns") == 0, f"a new session with the same id has turns {info.get('turns')}")
        expect(await session.history() == [], "a new session with the same id has the old history")
        if ctx.has("tool_list"):
            tools = (await ctx.http.get(f"{session.path}/tools")).require(200).get("tools")
            expect(tools == [], f"a new session with the same id has the tools {tools}")
        text = ctx.simple_prompt()
        events = await session.run_to_end(text)
        expect(events[0].data.get("text") == text, "a reader of the new session received the old run")
