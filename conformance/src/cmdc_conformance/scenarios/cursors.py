"""The log, read from any place: cursors, runs, types, pages, and streams by ticket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import SSE, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import Blocked, NotApplicable, NotExercised, expect, owed
from cmdc_conformance.monitors import Event
from cmdc_conformance.scenarios.runs import names
from cmdc_conformance.scenarios.streams import finished
from cmdc_conformance.scenarios.tickets import ticket_of
from cmdc_conformance.session import Session


def _ids(events: Sequence[Event]) -> list[str | None]:
    return [event.id for event in events]


# -- cursors -------------------------------------------------------------------------------------------------------------


async def _two_runs(case: Case, session: Session) -> list[Event]:
    return [event for said in ("One ", "Two ") for event in await session.ran(case.plain(said, "and ", "so on."))]


async def _read(case: Case, session: Session, *, last: str | None = None, **params: str) -> list[Event]:
    """What a stream brings up to its next terminal event."""
    headers = {"Last-Event-ID": last} if last is not None else None
    async with case.http.events(session.id, session.key, headers=headers, whole=False, params=params) as reader:
        return await reader.end()


def _rest(events: Sequence[Event], index: int) -> list[Event]:
    """What comes after this place, up to the end of the run that is read there."""
    for at, event in enumerate(events[index:], index):
        if event.is_terminal:
            return [*events[index : at + 1]]
    return []


async def _continued(case: Case, how: str) -> None:
    async with case.session() as session:
        events = await _two_runs(case, session)
        places = {1, 3, len(events) // 2, *case.random.sample(range(1, len(events)), 3)}
        for place in sorted(places):
            cursor = str(events[place - 1].id)
            with owed(f"after {cursor} of {len(events)} events"):
                came = await (
                    _read(case, session, last=cursor) if how == "header" else _read(case, session, after=cursor)
                )
            wanted = _rest(events, place)
            expect(_ids(came) == _ids(wanted), f"after {cursor} came {_ids(came)}, and should come {_ids(wanted)}")
            expect([each.raw for each in came] == [each.raw for each in wanted], f"after {cursor} the events differ")


@check("SSE-6.header", faces=SSE)
async def last_event_id(case: Case) -> None:
    """From several places, Last-Event-ID brings just what comes after."""
    await _continued(case, "header")


@check("SSE-6.after", faces=SSE)
async def after(case: Case) -> None:
    """From several places, ?after= brings just what comes after."""
    await _continued(case, "parameter")


@check("SSE-6.precedence", faces=SSE)
async def the_header_wins(case: Case) -> None:
    """With both, Last-Event-ID counts."""
    async with case.session() as session:
        events = await session.ran(case.plain("One ", "two."))
        came = await _read(case, session, last=str(events[2].id), after=str(events[0].id))
        expect(_ids(came) == _ids(events[3:]), f"after {events[2].id} came {_ids(came)}")


@check("SSE-6.start", faces=SSE)
async def from_the_beginning(case: Case) -> None:
    """after=start is the first event, though the run was read."""
    async with case.session() as session:
        events = await _two_runs(case, session)
        with owed("after=start"):
            came = await _read(case, session, after="start")
        expect(_ids(came) == _ids(_rest(events, 0)), f"after=start brings {_ids(came)}")


@check("SSE-6.latest", faces=SSE)
async def from_now_on(case: Case) -> None:
    """after=latest brings nothing of what was, though nobody has read it."""
    async with case.session() as session:
        await finished(case, session, case.plain("Unread."))
        async with case.http.events(session.id, session.key, after="latest") as reader:
            text = case.plain("New.")
            session.noted(text)
            (await session.prompt(text)).needed(202)
            with owed("the next run, after=latest"):
                events = await reader.end()
        expect(events[0].name == "prompt_received" and events[0].data["text"] == text, f"it begins with {events[0]}")


# Where a run is that is held.
_HELD = "tool_execution_start"


@check("SSE-6.live", faces=SSE)
async def taken_up_in_the_midst(case: Case) -> None:
    """A reader that loses its connection again and again has in the end what the log has."""
    pieces = [f"{number} " for number in range(30)]
    rest = reply(*pieces[20:], delay_ms=10)
    async with case.session() as session, case.held(session, before=pieces[:20], then=[rest]) as held:
        had: list[Event] = []
        while not (had and had[-1].is_terminal):
            last = str(had[-1].id) if had else None
            headers = {"Last-Event-ID": last} if last else None
            start = {} if last else {"after": "start"}
            async with case.http.events(session.id, session.key, headers=headers, whole=False, params=start) as reader:
                with owed(f"after {last}"):
                    await reader.wait(
                        lambda reader=reader: (
                            len(reader.events) >= 4
                            or any(event.is_terminal or event.name == _HELD for event in reader.events)
                        ),
                        "no further events came",
                    )
                had += reader.events
            if any(event.name == _HELD for event in had):  # until here the run was held, and all of it was in its midst
                held.release()
        whole = await _read(case, session, after="start")
        expect(_ids(had) == _ids(whole), f"the pieces are {_ids(had)}, and the log is {_ids(whole)}")
        said = "".join(event.data["delta"] for event in had if event.name == "message_delta")
        expect(said == "".join(pieces), f"the pieces say {said!r}")


@check("SSE-7.foreign", faces=SSE)
async def a_foreign_cursor(case: Case) -> None:
    """A cursor of another session is 410, and says where this one can be read."""
    async with case.session() as one, case.session() as other:
        foreign = str((await one.ran(case.plain()))[-1].id)
        own = await other.ran(case.plain())
        answers = [
            await case.http.refused(f"{other.path}/events?after={foreign}"),
            await case.http.refused(f"{other.path}/events", headers={"Last-Event-ID": foreign}),
        ]
        for answer in answers:
            body = answer.must_be(410, code="cursor_expired", why="it is of another log")
            expect(
                body.get("latest") == own[-1].id, f"latest is {body.get('latest')!r}, and the last event {own[-1].id}"
            )
            earliest = body.get("earliest")
            expect(isinstance(earliest, str), f"earliest is {earliest!r}")
            came = await _read(case, other, after=str(earliest))
            expect(_ids(came) == _ids(own), f"after earliest comes {_ids(came)}")


@check("SSE-7.malformed", faces=SSE)
async def malformed_cursors(case: Case) -> None:
    """What is no cursor is 400 invalid_cursor."""
    async with case.session() as session:
        events = await session.ran(case.plain())
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
            answer = await case.http.refused(f"{session.path}/events?after={bad}")
            answer.must_be(400, code="invalid_cursor", why=f"after={bad}")
        answer = await case.http.refused(f"{session.path}/events", headers={"Last-Event-ID": "x"})
        answer.must_be(400, code="invalid_cursor", why="Last-Event-ID: x")
        came = await _read(case, session, after=good)
        expect(_ids(came) == _ids(events[1:]), f"after {good} came {_ids(came)}")


@check("SSE-7.future", faces=SSE)
async def cursors_of_the_future(case: Case) -> None:
    """A cursor of an event that has not happened is 400 invalid_cursor."""
    async with case.session() as session:
        events = await session.ran(case.plain())
        epoch, _, number = str(events[-1].id).partition(".")
        for ahead in (1, 1000, 10**15):
            answer = await case.http.refused(f"{session.path}/events?after={epoch}.{int(number) + ahead}")
            answer.must_be(400, code="invalid_cursor", why=f"{ahead} after the last event")


@check("SSE-7.zero", faces=SSE)
async def before_the_first_event(case: Case) -> None:
    """<epoch>.0 is the beginning."""
    async with case.session() as session:
        events = await session.ran(case.plain())
        epoch = str(events[0].id).partition(".")[0]
        with owed(f"after {epoch}.0"):
            came = await _read(case, session, after=f"{epoch}.0")
        expect(_ids(came) == _ids(events), f"after {epoch}.0 came {_ids(came)}")


@check("SSE-7.trimmed", faces=SSE)
async def a_trimmed_cursor(case: Case) -> None:
    """What was trimmed is 410, and earliest is where what was kept begins."""
    url = case.target.trimmed_url
    kept = case.server.limit("replayEvents", None)
    if url is None and kept is None:
        raise NotApplicable("the log is kept whole, and no `trimmed_url` is named")
    http = case.http.at(url, case.http.key) if url else case.http
    if url is not None:
        declared: Any = (await http.get("/v1/capabilities")).needed(200).get("limits", {})
        kept = declared.get("replayEvents")
    if not isinstance(kept, int) or kept > 500:
        raise NotExercised(f"{kept} events are kept: too many to exceed")
    async with case.session(http) as session:
        last = ""
        first = str((await session.ran(case.plain()))[0].id)
        for _ in range(kept // 5 + 3):
            last = str((await session.ran(case.plain("a", "b", "c")))[-1].id)
        for cursor in (first, f"{first.partition('.')[0]}.0"):
            answer = await http.refused(f"{session.path}/events?after={cursor}")
            body = answer.must_be(410, code="cursor_expired", why="it was trimmed")
            expect(body.get("latest") == last, f"latest is {body.get('latest')}, and the last event {last}")
        earliest = str(body["earliest"])
        async with http.events(session.id, session.key, after=earliest, whole=False) as reader:
            with owed(f"after earliest ({earliest})"):
                event = (await reader.count(1))[0]
        expect(event.seq == int(earliest.partition(".")[2]) + 1, f"after {earliest} comes {event.id}")


# -- one run, some types -------------------------------------------------------------------------------------------------


def _request_of(event: Event) -> str:
    request = event.data.get("requestId")
    if not isinstance(request, str):
        raise Blocked(f"an event does not say which request it is of: {event}")
    return request


@check("SSE-8.run", faces=SSE)
async def one_run(case: Case) -> None:
    """?requestId= brings a run whole, though it was read and others came after it."""
    async with case.session() as session:
        runs = [await session.ran(case.plain(f"{number}.")) for number in range(3)]
        for run in runs:
            request = _request_of(run[0])
            async with case.http.events(session.id, session.key, requestId=request) as reader:
                with owed(f"requestId={request}"):
                    came = await reader.closed()
            expect(_ids(came) == _ids(run), f"the run is {_ids(run)}, and there came {_ids(came)}")


@check("SSE-8.unknown", faces=SSE)
async def no_such_run(case: Case) -> None:
    """An unknown requestId is 404."""
    async with case.session() as session:
        events = await session.ran(case.plain())
        request = _request_of(events[0])
        answer = await case.http.refused(f"{session.path}/events?requestId={request}x")
        answer.must_be(404, code="not_found")
        async with case.http.opened(f"{session.path}/events?requestId={request}") as response:
            expect(response.status_code == 200, f"the run's own requestId is answered {response.status_code}")


async def _filtered(case: Case, session: Session, types: str) -> list[Event]:
    async with case.http.events(session.id, session.key, filtered=True, after="start", types=types) as reader:
        return [*await reader.closed()]


@check("SSE-8.types", faces=SSE)
async def some_types(case: Case) -> None:
    """?types= leaves the others out, and the ids are those of the whole log."""
    async with case.session() as session:
        events = await session.ran(case.script(reply("a", "b", thinking=["x"])))
        with owed():
            came = await _filtered(case, session, "message_delta,agent_end")
        wanted = [event for event in events if event.name in ("message_delta", "agent_end")]
        expect([*map(str, came)] == [*map(str, wanted)], f"there came {[*map(str, came)]}")


@check("SSE-8.types-end", faces=SSE)
async def the_end_is_filtered_out(case: Case) -> None:
    """A terminal event that is left out ends the stream all the same."""
    async with case.session() as session:
        await session.ran(case.plain())
        with owed("types=message_delta"):
            came = await _filtered(case, session, "message_delta")
        expect(set(names(came)) == {"message_delta"}, f"there came {', '.join(names(came))}")


@check("SSE-8.types-unknown", faces=SSE)
async def no_such_type(case: Case) -> None:
    """An unknown type is 400."""
    async with case.session() as session:
        for types in ("no_such_type", "message_delta,no_such_type", ""):
            answer = await case.http.refused(f"{session.path}/events?types={types}")
            answer.must_be(400, code="bad_request", why=f"types={types}")


# -- pages and tickets ---------------------------------------------------------------------------------------------------

_PAGE = {"Accept": "application/json"}


@check("SSE-11.page")
async def a_page_of_the_log(case: Case) -> None:
    """A page has the events of the stream, with their times."""
    async with case.session() as session:
        events = await _two_runs_of_sse(case, session)
        body = (await case.http.get(f"{session.path}/events", headers=_PAGE)).must_be(200)
        paged = [(each["id"], each["event"], each["data"]) for each in body["events"]]
        expect(paged == [(event.id, event.name, dict(event.data)) for event in events], f"the page has {paged}")
        times = [each["at"] for each in body["events"]]
        expect(all(isinstance(at, int) for at in times) and times == sorted(times), f"the times are {times}")
        expect(
            body["latest"] == events[-1].id and body["next"] == events[-1].id,
            f"latest is {body['latest']}, next {body['next']}",
        )
        expect(body["earliest"] == f"{str(events[0].id).partition('.')[0]}.0", f"earliest is {body['earliest']}")


async def _two_runs_of_sse(case: Case, session: Session) -> list[Event]:
    return [event for _ in range(2) for event in await session.ran(case.plain("a", "b"))]


@check("SSE-11.paging")
async def pages_of_the_log(case: Case) -> None:
    """Pages of three cover the log once, from any place."""
    async with case.session() as session:
        events = await _two_runs_of_sse(case, session)
        for begin in (0, 4):
            came: list[str] = []
            cursor = events[begin - 1].id if begin else None
            for _ in range(20):
                query = f"?limit=3{f'&after={cursor}' if cursor else ''}"
                body = (await case.http.get(f"{session.path}/events{query}", headers=_PAGE)).must_be(200)
                expect(len(body["events"]) <= 3, f"a page of 3 has {len(body['events'])}")
                if not body["events"]:
                    break
                came += [each["id"] for each in body["events"]]
                cursor = body["next"]
            expect(came == _ids(events[begin:]), f"the pages are {came}")
        for limit in ("0", "5001", "x"):
            (await case.http.get(f"{session.path}/events?limit={limit}", headers=_PAGE)).must_be(
                400, why=f"limit={limit}"
            )


@check("SSE-12.ticket", faces=SSE)
async def a_stream_by_ticket(case: Case) -> None:
    """?ticket= opens a stream without a key; another string does not."""
    async with case.session() as session:
        ticket = await ticket_of(case, session.path)
        with owed("a stream by ticket"):
            async with case.nobody.events(session.id, session.key, ticket=ticket) as reader:
                text = case.plain()
                session.noted(text)
                (await session.prompt(text)).needed(202)
                await reader.end()
        (await case.nobody.refused(f"{session.path}/events?ticket=wrong")).must_be(401, code="unauthorized")


@check("SSE-12.key-in-url", faces=SSE)
async def a_key_in_the_url(case: Case) -> None:
    """A key in the URL is 400, with a key in the headers and without."""
    async with case.session() as session:
        path = f"{session.path}/events?api_key={case.target.keys.first}"
        for http in (case.http, case.nobody):
            (await http.refused(path)).must_be(400, code="bad_request", why="a key is in the URL")
        async with case.http.opened(f"{session.path}/events") as response:
            expect(response.status_code == 200, f"without it the stream is answered {response.status_code}")
