"""Reading the log: cursors, single runs, event types, pages, and streams opened with a ticket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_SSE, check
from cmdc_conformance.checks.streams.sse import run_unread
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.drivers.session import Session
from cmdc_conformance.findings import Blocked, NotApplicable, NotExercised, expect, fails_if_blocked
from cmdc_conformance.wire.event import Event, names


def _ids(events: Sequence[Event]) -> list[str | None]:
    return [event.id for event in events]


# -- cursors -------------------------------------------------------------------------------------------------------------


async def _two_runs(ctx: CheckContext, session: Session) -> list[Event]:
    return [
        event
        for text in ("One ", "Two ")
        for event in await session.run_to_end(ctx.simple_prompt(text, "and ", "so on."))
    ]


async def _read(ctx: CheckContext, session: Session, *, last: str | None = None, **params: str) -> list[Event]:
    """Read a stream up to its first terminal event."""
    headers = {"Last-Event-ID": last} if last is not None else None
    async with ctx.http.events(session.id, session.key, headers=headers, whole=False, params=params) as reader:
        return await reader.wait_for_end()


def _until_end_of_run(events: Sequence[Event], index: int) -> list[Event]:
    """The events from this index on, up to the first terminal one."""
    for at, event in enumerate(events[index:], index):
        if event.is_terminal:
            return [*events[index : at + 1]]
    return []


async def _resumes_after_cursor(ctx: CheckContext, how: str) -> None:
    async with ctx.session() as session:
        events = await _two_runs(ctx, session)
        positions = {1, 3, len(events) // 2, *ctx.random.sample(range(1, len(events)), 3)}
        for position in sorted(positions):
            cursor = str(events[position - 1].id)
            with fails_if_blocked(f"after {cursor} of {len(events)} events"):
                received = await (
                    _read(ctx, session, last=cursor) if how == "header" else _read(ctx, session, after=cursor)
                )
            wanted = _until_end_of_run(events, position)
            expect(
                _ids(received) == _ids(wanted), f"a stream after {cursor} has {_ids(received)}, expected {_ids(wanted)}"
            )
            expect(
                [each.raw for each in received] == [each.raw for each in wanted],
                f"the events after {cursor} differ in their data",
            )


@check("SSE-6.header", variants=RAW_SSE)
async def last_event_id_resumes(ctx: CheckContext) -> None:
    """From several positions, Last-Event-ID resumes right after that event."""
    await _resumes_after_cursor(ctx, "header")


@check("SSE-6.after", variants=RAW_SSE)
async def the_after_parameter_resumes(ctx: CheckContext) -> None:
    """From several positions, ?after= resumes right after that event."""
    await _resumes_after_cursor(ctx, "parameter")


@check("SSE-6.precedence", variants=RAW_SSE)
async def the_header_takes_precedence(ctx: CheckContext) -> None:
    """Last-Event-ID takes precedence over ?after=."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.simple_prompt("One ", "two."))
        received = await _read(ctx, session, last=str(events[2].id), after=str(events[0].id))
        expect(_ids(received) == _ids(events[3:]), f"a stream after {events[2].id} has {_ids(received)}")


@check("SSE-6.start", variants=RAW_SSE)
async def start_is_the_first_event(ctx: CheckContext) -> None:
    """after=start begins with the first event, even if it was read before."""
    async with ctx.session() as session:
        events = await _two_runs(ctx, session)
        with fails_if_blocked("after=start"):
            received = await _read(ctx, session, after="start")
        expect(_ids(received) == _ids(_until_end_of_run(events, 0)), f"a stream with after=start has {_ids(received)}")


@check("SSE-6.latest", variants=RAW_SSE)
async def latest_is_the_present(ctx: CheckContext) -> None:
    """after=latest delivers no earlier event, even if it was never read."""
    async with ctx.session() as session:
        await run_unread(ctx, session, ctx.simple_prompt("Unread."))
        async with ctx.http.events(session.id, session.key, after="latest") as reader:
            text = ctx.simple_prompt("New.")
            session.announce(text)
            (await session.prompt(text)).require(202)
            with fails_if_blocked("the next run, after=latest"):
                events = await reader.wait_for_end()
        expect(
            events[0].name == "prompt_received" and events[0].data["text"] == text,
            f"the stream starts with {events[0]}",
        )


# The latest event of a paused run.
_PAUSED_AT = "tool_execution_start"


@check("SSE-6.live", variants=RAW_SSE)
async def a_run_is_resumed_midway(ctx: CheckContext) -> None:
    """A reader that reconnects again and again during a run receives every event once."""
    pieces = [f"{number} " for number in range(30)]
    rest = reply(*pieces[20:], delay_ms=10)
    async with ctx.session() as session, ctx.paused_run(session, before=pieces[:20], then=[rest]) as paused:
        received: list[Event] = []
        while not (received and received[-1].is_terminal):
            last = str(received[-1].id) if received else None
            headers = {"Last-Event-ID": last} if last else None
            start = {} if last else {"after": "start"}
            async with ctx.http.events(session.id, session.key, headers=headers, whole=False, params=start) as reader:
                with fails_if_blocked(f"after {last}"):
                    await reader.wait(
                        lambda reader=reader: (
                            len(reader.events) >= 4
                            or any(event.is_terminal or event.name == _PAUSED_AT for event in reader.events)
                        ),
                        "no further events arrived",
                    )
                received += reader.events
            if any(event.name == _PAUSED_AT for event in received):  # so far, every reconnection was during the run
                paused.release()
        whole = await _read(ctx, session, after="start")
        expect(_ids(received) == _ids(whole), f"the reader received {_ids(received)}, and the log is {_ids(whole)}")
        text = "".join(event.data["delta"] for event in received if event.name == "message_delta")
        expect(text == "".join(pieces), f"the reader received the text {text!r}")


@check("SSE-7.foreign", variants=RAW_SSE)
async def a_cursor_of_another_session_is_rejected(ctx: CheckContext) -> None:
    """A cursor of another session returns 410 with the range of this log."""
    async with ctx.session() as one, ctx.session() as other:
        foreign = str((await one.run_to_end(ctx.simple_prompt()))[-1].id)
        own = await other.run_to_end(ctx.simple_prompt())
        responses = [
            await ctx.http.try_stream(f"{other.path}/events?after={foreign}"),
            await ctx.http.try_stream(f"{other.path}/events", headers={"Last-Event-ID": foreign}),
        ]
        for response in responses:
            body = response.expect(410, code="cursor_expired", why="the cursor belongs to another log")
            expect(
                body.get("latest") == own[-1].id,
                f"latest is {body.get('latest')!r}, and the last event is {own[-1].id}",
            )
            earliest = body.get("earliest")
            expect(isinstance(earliest, str), f"earliest is {earliest!r}")
            received = await _read(ctx, other, after=str(earliest))
            expect(_ids(received) == _ids(own), f"a stream after earliest has {_ids(received)}")


@check("SSE-7.malformed", variants=RAW_SSE)
async def malformed_cursors_are_rejected(ctx: CheckContext) -> None:
    """A malformed cursor returns 400 invalid_cursor."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.simple_prompt())
        good = str(events[0].id)
        for bad in (
            "x",
            "7",
            ".7",
            f"{good}.1",
            good.replace(".", ":"),
            f"{good}x",
            f"{good.split('.', maxsplit=1)[0]}.-1",
            "A.1",
            "%20",
        ):
            response = await ctx.http.try_stream(f"{session.path}/events?after={bad}")
            response.expect(400, code="invalid_cursor", why=f"after={bad}")
        response = await ctx.http.try_stream(f"{session.path}/events", headers={"Last-Event-ID": "x"})
        response.expect(400, code="invalid_cursor", why="Last-Event-ID: x")
        received = await _read(ctx, session, after=good)
        expect(_ids(received) == _ids(events[1:]), f"a stream after {good} has {_ids(received)}")


@check("SSE-7.future", variants=RAW_SSE)
async def future_cursors_are_rejected(ctx: CheckContext) -> None:
    """A cursor beyond the last event returns 400 invalid_cursor."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.simple_prompt())
        epoch, _, number = str(events[-1].id).partition(".")
        for ahead in (1, 1000, 10**15):
            response = await ctx.http.try_stream(f"{session.path}/events?after={epoch}.{int(number) + ahead}")
            response.expect(400, code="invalid_cursor", why=f"{ahead} beyond the last event")


@check("SSE-7.zero", variants=RAW_SSE)
async def sequence_number_0_is_the_start(ctx: CheckContext) -> None:
    """<epoch>.0 is the start of the log."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.simple_prompt())
        epoch = str(events[0].id).partition(".")[0]
        with fails_if_blocked(f"after {epoch}.0"):
            received = await _read(ctx, session, after=f"{epoch}.0")
        expect(_ids(received) == _ids(events), f"a stream after {epoch}.0 has {_ids(received)}")


@check("SSE-7.trimmed", variants=RAW_SSE)
async def a_trimmed_cursor_is_rejected(ctx: CheckContext) -> None:
    """A trimmed cursor returns 410, and earliest is the cursor before the first kept event."""
    url = ctx.target.trimmed_url
    kept = ctx.server.limit("replayEvents", None)
    if url is None and kept is None:
        raise NotApplicable("the server keeps the whole log, and the target has no `trimmed_url`")
    http = ctx.http.with_url(url, ctx.http.key) if url else ctx.http
    if url is not None:
        declared: Any = (await http.get("/v1/capabilities")).require(200).get("limits", {})
        kept = declared.get("replayEvents")
    if not isinstance(kept, int) or kept > 500:
        raise NotExercised(f"the server keeps {kept} events, too many for the suite to exceed")
    async with ctx.session(http) as session:
        last = ""
        first = str((await session.run_to_end(ctx.simple_prompt()))[0].id)
        for _ in range(kept // 5 + 3):
            last = str((await session.run_to_end(ctx.simple_prompt("a", "b", "c")))[-1].id)
        for cursor in (first, f"{first.partition('.')[0]}.0"):
            response = await http.try_stream(f"{session.path}/events?after={cursor}")
            body = response.expect(410, code="cursor_expired", why="the event was trimmed")
            expect(body.get("latest") == last, f"latest is {body.get('latest')}, and the last event is {last}")
        earliest = str(body["earliest"])
        async with http.events(session.id, session.key, after=earliest, whole=False) as reader:
            with fails_if_blocked(f"after earliest ({earliest})"):
                event = (await reader.wait_for_count(1))[0]
        expect(event.seq == int(earliest.partition(".")[2]) + 1, f"the event after {earliest} is {event.id}")


# -- single runs and event types ---------------------------------------------------------------------------------------


def _request_of(event: Event) -> str:
    request = event.data.get("requestId")
    if not isinstance(request, str):
        raise Blocked(f"an event has no requestId: {event}")
    return request


@check("SSE-8.run", variants=RAW_SSE)
async def a_single_run_is_read(ctx: CheckContext) -> None:
    """?requestId= delivers a whole run, even if it was read and others followed."""
    async with ctx.session() as session:
        runs = [await session.run_to_end(ctx.simple_prompt(f"{number}.")) for number in range(3)]
        for run in runs:
            request = _request_of(run[0])
            async with ctx.http.events(session.id, session.key, requestId=request) as reader:
                with fails_if_blocked(f"requestId={request}"):
                    received = await reader.wait_until_closed()
            expect(_ids(received) == _ids(run), f"the run is {_ids(run)}, and the stream has {_ids(received)}")


@check("SSE-8.unknown", variants=RAW_SSE)
async def an_unknown_run_is_rejected(ctx: CheckContext) -> None:
    """An unknown requestId returns 404."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.simple_prompt())
        request = _request_of(events[0])
        response = await ctx.http.try_stream(f"{session.path}/events?requestId={request}x")
        response.expect(404, code="not_found")
        async with ctx.http.open_stream(f"{session.path}/events?requestId={request}") as response:
            expect(response.status_code == 200, f"the run's own requestId returned {response.status_code}")


async def _filtered(ctx: CheckContext, session: Session, types: str) -> list[Event]:
    async with ctx.http.events(session.id, session.key, filtered=True, after="start", types=types) as reader:
        return [*await reader.wait_until_closed()]


@check("SSE-8.types", variants=RAW_SSE)
async def types_are_filtered(ctx: CheckContext) -> None:
    """?types= omits other events, and the ids remain those of the full log."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.script(reply("a", "b", thinking=["x"])))
        with fails_if_blocked():
            received = await _filtered(ctx, session, "message_delta,agent_end")
        wanted = [event for event in events if event.name in ("message_delta", "agent_end")]
        expect([*map(str, received)] == [*map(str, wanted)], f"the stream has {[*map(str, received)]}")


@check("SSE-8.types-end", variants=RAW_SSE)
async def a_filtered_terminal_event_ends_the_stream(ctx: CheckContext) -> None:
    """A terminal event ends the stream even if it is filtered out."""
    async with ctx.session() as session:
        await session.run_to_end(ctx.simple_prompt())
        with fails_if_blocked("types=message_delta"):
            received = await _filtered(ctx, session, "message_delta")
        expect(set(names(received)) == {"message_delta"}, f"the stream has {', '.join(names(received))}")


@check("SSE-8.types-unknown", variants=RAW_SSE)
async def unknown_types_are_rejected(ctx: CheckContext) -> None:
    """An unknown event type returns 400."""
    async with ctx.session() as session:
        for types in ("no_such_type", "message_delta,no_such_type", ""):
            response = await ctx.http.try_stream(f"{session.path}/events?types={types}")
            response.expect(400, code="bad_request", why=f"types={types}")


# -- pages and tickets ---------------------------------------------------------------------------------------------------

_PAGE = {"Accept": "application/json"}


@check("SSE-11.page")
async def a_page_equals_the_stream(ctx: CheckContext) -> None:
    """A page has the events of the stream, with their times."""
    async with ctx.session() as session:
        events = await _two_short_runs(ctx, session)
        body = (await ctx.http.get(f"{session.path}/events", headers=_PAGE)).expect(200)
        paged = [(each["id"], each["event"], each["data"]) for each in body["events"]]
        expect(paged == [(event.id, event.name, dict(event.data)) for event in events], f"the page has {paged}")
        times = [each["at"] for each in body["events"]]
        expect(all(isinstance(at, int) for at in times) and times == sorted(times), f"the times are {times}")
        expect(
            body["latest"] == events[-1].id and body["next"] == events[-1].id,
            f"latest is {body['latest']}, and next is {body['next']}",
        )
        expect(body["earliest"] == f"{str(events[0].id).partition('.')[0]}.0", f"earliest is {body['earliest']}")


async def _two_short_runs(ctx: CheckContext, session: Session) -> list[Event]:
    return [event for _ in range(2) for event in await session.run_to_end(ctx.simple_prompt("a", "b"))]


@check("SSE-11.paging")
async def pages_cover_the_log(ctx: CheckContext) -> None:
    """Pages of three events cover the log without gap or repeat, from any cursor."""
    async with ctx.session() as session:
        events = await _two_short_runs(ctx, session)
        for start in (0, 4):
            received: list[str] = []
            cursor = events[start - 1].id if start else None
            for _ in range(20):
                query = f"?limit=3{f'&after={cursor}' if cursor else ''}"
                body = (await ctx.http.get(f"{session.path}/events{query}", headers=_PAGE)).expect(200)
                expect(len(body["events"]) <= 3, f"a page with limit 3 has {len(body['events'])} events")
                if not body["events"]:
                    break
                received += [each["id"] for each in body["events"]]
                cursor = body["next"]
            expect(received == _ids(events[start:]), f"the pages have {received}")
        for limit in ("0", "5001", "x"):
            (await ctx.http.get(f"{session.path}/events?limit={limit}", headers=_PAGE)).expect(
                400, why=f"limit={limit}"
            )


@check("SSE-12.ticket", variants=RAW_SSE)
async def a_ticket_opens_a_stream(ctx: CheckContext) -> None:
    """?ticket= opens a stream without a key; an invalid ticket does not."""
    async with ctx.session() as session:
        ticket = await ctx.ticket(session.path)
        with fails_if_blocked("a stream opened with a ticket"):
            async with ctx.anonymous.events(session.id, session.key, ticket=ticket) as reader:
                text = ctx.simple_prompt()
                session.announce(text)
                (await session.prompt(text)).require(202)
                await reader.wait_for_end()
        (await ctx.anonymous.try_stream(f"{session.path}/events?ticket=wrong")).expect(401, code="unauthorized")


@check("SSE-12.key-in-url", variants=RAW_SSE)
async def a_key_in_the_url_is_rejected(ctx: CheckContext) -> None:
    """A key in the URL returns 400, with or without a key in the headers."""
    async with ctx.session() as session:
        path = f"{session.path}/events?api_key={ctx.target.keys.first}"
        for http in (ctx.http, ctx.anonymous):
            (await http.try_stream(path)).expect(400, code="bad_request", why="the URL contains a key")
        async with ctx.http.open_stream(f"{session.path}/events") as response:
            expect(response.status_code == 200, f"without it, the stream returned {response.status_code}")
