"""Streams: how they begin, go on and end, and what they cost."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from time import monotonic
from urllib.parse import urlsplit

from cmdc_conformance.case import Case
from cmdc_conformance.check import SSE, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import Blocked, Failed, NotExercised, expect, need, owed
from cmdc_conformance.raw import connected, head
from cmdc_conformance.scenarios.runs import names
from cmdc_conformance.session import Session, until_state


async def finished(case: Case, session: Session, text: str) -> None:
    """Prompt, and wait until the run is over, without reading it. Raises Blocked."""
    session.noted(text)
    (await case.http.post(f"{session.path}/prompt", {"text": text})).needed(202)
    try:
        async with asyncio.timeout(case.deadline):
            while True:
                await until_state(case.http, session.path, "idle")
                history = await session.history()
                if [each["role"] for each in history[-2:]] == ["user", "assistant"] and history[-2]["content"] == text:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked("the run did not end") from None


# -- the answer ----------------------------------------------------------------------------------------------------------


@check("SSE-1.headers", faces=SSE)
async def the_answers_headers(case: Case) -> None:
    """What a stream is declared as, and that nobody on the way may hold it back."""
    async with case.session() as session, case.http.opened(f"{session.path}/events") as response:
        expect(response.status_code == 200, f"a stream is answered {response.status_code}")
        kind = response.headers.get("content-type", "").replace(" ", "").lower()
        expect(kind == "text/event-stream;charset=utf-8", f"Content-Type is {kind!r}")
        cache = response.headers.get("cache-control", "")
        expect("no-cache" in cache, f"Cache-Control is {cache!r}")
        buffering = response.headers.get("x-accel-buffering")
        expect(buffering == "no", f"X-Accel-Buffering is {buffering!r}")


@check("SSE-1.at-once", faces=SSE)
async def headers_come_at_once(case: Case) -> None:
    """The headers of a stream come while nothing happens."""
    async with case.session() as session:
        with owed("the headers of a stream, while the session is idle"):
            async with case.http.opened(f"{session.path}/events") as response:
                expect(response.status_code == 200, f"a stream is answered {response.status_code}")


@check("SSE-1.errors", faces=SSE)
async def errors_are_answers(case: Case) -> None:
    """401 and 404 are JSON, not streams."""
    async with case.session() as session:
        for answer, status in (
            (await case.nobody.refused(f"{session.path}/events"), 401),
            (await case.http.refused("/v1/sessions/no-such-session/events"), 404),
        ):
            answer.must_be(status)
            kind = answer.headers.get("content-type", "")
            expect(kind.startswith("application/json"), f"a {status} is declared as {kind!r}")


@check("SSE-2", faces=SSE)
async def frames(case: Case) -> None:
    """Frames of several events; a monitor reads every stream strictly."""
    async with case.session() as session:
        with owed():
            events = await session.ran(case.script(reply("a\n\nb\r", thinking=["x"])))
        need(events, "no events came")


@check("SSE-3.first", faces=SSE)
async def a_first_heartbeat(case: Case) -> None:
    """A comment line comes with the start of the answer, before anything else: not only when the first is due."""
    async with case.session() as session:
        text = case.plain()
        session.noted(text)
        (await session.prompt(text)).needed(202)
        async with case.http.events(session.id, session.key) as reader:
            await reader.end()
            expect(reader.comes_first == "comment", f"the stream begins with a {reader.comes_first}")


@check("SSE-3.heartbeat", faces=SSE, when="slow")
async def heartbeats(case: Case) -> None:
    """While nothing happens comment lines come in time."""
    every = float(case.server.limit("heartbeatMs", case.target.limits.heartbeat_ms)) / 1000
    within = every * 1.5 + 2 * case.target.timing.scale
    async with case.session() as session, case.http.events(session.id, session.key) as reader:
        await reader.wait(lambda: len(reader.comments) > 0, "no comment line came")
        for number in range(2, 4):
            with owed(f"heartbeat {number}, which is due every {every:g} s"):
                await reader.wait(
                    lambda number=number: len(reader.comments) >= number, "no comment line came", within=within
                )


# -- the end -------------------------------------------------------------------------------------------------------------


@check("SSE-4.end", faces=SSE)
async def the_stream_ends(case: Case) -> None:
    """After the terminal event the stream is over."""
    async with case.session() as session, session.run(case.plain()) as run:
        await run.end()
        with owed("after the terminal event"):
            events = await run.reader.closed()
        expect(events[-1].is_terminal, f"the stream ended after {events[-1].name}")


@check("SSE-4.follow", faces=SSE)
async def a_stream_that_follows(case: Case) -> None:
    """?follow=true brings two runs in one stream."""
    async with case.session() as session, case.http.events(session.id, session.key, follow="true") as reader:
        for number in (1, 2):
            text = case.plain()
            session.noted(text)
            (await session.prompt(text)).needed(202)
            with owed(f"run {number} on a stream that follows"):
                await reader.wait(
                    lambda number=number: sum(event.is_terminal for event in reader.events) == number,
                    "no terminal event came",
                )
        expect(not reader.ended, "the stream ended")


# -- the beginning -------------------------------------------------------------------------------------------------------


@check("SSE-5.posted-first", faces=SSE)
async def the_prompt_was_first(case: Case) -> None:
    """A run that is over is read whole by who comes after it."""
    async with case.session() as session:
        text = case.plain("One ", "two.")
        await finished(case, session, text)
        async with case.http.events(session.id, session.key) as reader:
            with owed("a stream opened after the run"):
                events = await reader.end()
        expect(
            names(events)[:2] == ["prompt_received", "agent_start"], f"it begins with {', '.join(names(events)[:2])}"
        )
        expect(events[0].data["text"] == text, f"it begins with another run: {events[0]}")


@check("SSE-5.active", faces=SSE)
async def during_a_run(case: Case) -> None:
    """Who comes during a run reads it from its first event."""
    async with case.session() as session, case.held(session) as held:
        async with case.http.events(session.id, session.key) as reader:
            with owed("a stream opened during the run"):
                first = (await reader.count(1))[0]
            expect(first.name == "prompt_received" and first.data["text"] == held.text, f"it begins with {first}")
            held.release()
            with owed("a stream opened during the run"):
                events = await reader.end()
        here = await held.run.end()
        expect([*map(str, events)] == [*map(str, here)], "two readers of one run got different events")


@check("SSE-5.read-before", faces=SSE)
async def a_run_that_was_read(case: Case) -> None:
    """A run that a reader has had to its end is not read again: the stream waits for the next."""
    async with case.session() as session:
        await session.ran(case.plain("The first."))
        async with case.http.events(session.id, session.key) as reader:
            text = case.plain("The second.")
            session.noted(text)
            # The prompt is the fence: what a stream brings before it is of the first run.
            (await session.prompt(text)).needed(202)
            with owed("the next run"):
                events = await reader.end()
        expect(events[0].name == "prompt_received" and events[0].data["text"] == text, f"it begins with {events[0]}")


@check("SSE-5.queued", faces=SSE)
async def the_newest_run(case: Case) -> None:
    """After one run was read, the next is read whole by who comes after it."""
    async with case.session() as session:
        await session.ran(case.plain("The first."))
        text = case.plain("The second.")
        session.noted(text)
        (await session.prompt(text)).needed(202)
        await session.state("idle")  # an active run is another case
        async with case.http.events(session.id, session.key) as reader:
            with owed("the run that was accepted after one that was read"):
                events = await reader.end()
        expect(events[0].name == "prompt_received" and events[0].data["text"] == text, f"it begins with {events[0]}")


# -- many readers --------------------------------------------------------------------------------------------------------


@check("SSE-9.readers", faces=SSE)
async def many_readers(case: Case) -> None:
    """Six readers of one run get the same events."""
    async with case.session() as session, AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(case.http.events(session.id, session.key)) for _ in range(6)]
        text = case.script(reply(*(f"{number} " for number in range(20))))
        session.noted(text)
        (await session.prompt(text)).needed(202)
        with owed("one of six readers"):
            runs = [await reader.end() for reader in readers]
        for run in runs[1:]:
            expect([*map(str, run)] == [*map(str, runs[0])], f"one reader got {names(runs[0])}, another {names(run)}")


@check("SSE-9.leaving", faces=SSE)
async def a_reader_leaves(case: Case) -> None:
    """The only reader leaves during the run, and the run goes on."""
    async with case.session() as session:
        async with case.held(session, then=[reply("Done ", "without you.")]) as held:
            await held.run.reader.close()
            held.release()
            with owed("after the only reader has left"):
                await session.state("idle")
        last = (await session.history())[-1]
        expect(last.get("content") == "Done without you.", f"the history ends with {last}")


@check("SSE-9.own", faces=SSE)
async def events_of_one_session(case: Case) -> None:
    """Two sessions that run at the same time do not see each other's events."""
    async with case.session() as one, case.session() as other:
        texts = [case.script(reply(*[f"{word} "] * 20, delay_ms=3)) for word in ("red", "blue")]
        runs = await asyncio.gather(one.ran(texts[0]), other.ran(texts[1]))
        for run, text, word in zip(runs, texts, ("red", "blue"), strict=True):
            expect(run[0].data.get("text") in (text, None), f"a reader got the prompt of another session: {run[0]}")
            said = {event.data["delta"].strip() for event in run if event.name == "message_delta"}
            expect(all(set(each.split()) == {word} for each in said), f"a reader of {word} got {said}")


@check("SSE-10.nobody-waits", faces=SSE)
async def a_reader_that_does_not_read(case: Case) -> None:
    """While it does not read, others read the run to its end."""
    async with case.session() as session, connected(case.http, limit=1024) as (_, writer):
        writer.write(head(case.http, "GET", f"{session.path}/events", [("Accept", "text/event-stream")]) + b"\r\n")
        await writer.drain()
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        text = case.script(reply(*["x" * 10_000] * 60))
        with owed("beside a reader that does not read"):
            events = await session.ran(text)
        said = sum(len(event.data["delta"]) for event in events if event.name == "message_delta")
        expect(said == 600_000, f"600,000 characters were said, and {said} came")


@check("SSE-10.closed", faces=SSE, when="slow")
async def a_reader_that_never_reads(case: Case) -> None:
    """It is disconnected after 30 seconds."""
    if not case.has("follow"):
        raise NotExercised("needs a stream that follows: one run does not fill the buffers between")
    within = 30 + 15 * case.target.timing.scale
    # A small window, so that the server is soon the one that holds what is not read.
    small = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    async with case.session() as session:
        parts = urlsplit(case.http.url)
        if parts.scheme != "http" or parts.hostname is None:
            small.close()
            raise NotExercised("needs plain HTTP")
        try:
            await asyncio.get_running_loop().sock_connect(small, (parts.hostname, parts.port or 80))
            asked = (
                head(case.http, "GET", f"{session.path}/events?follow=true", [("Accept", "text/event-stream")])
                + b"\r\n"
            )
            await asyncio.get_running_loop().sock_sendall(small, asked)
            begun = monotonic()
            sent = 0
            for _ in range(5):
                events = await session.ran(case.script(reply(*["x" * 50_000] * 14)))
                sent += sum(len(str(event)) for event in events)
            await asyncio.sleep(max(0.0, begun + within - monotonic()))
            came = 0
            try:
                async with asyncio.timeout(10 * case.target.timing.scale):
                    while piece := await asyncio.get_running_loop().sock_recv(small, 65536):
                        came += len(piece)
            except ConnectionError:
                pass
            except TimeoutError:
                raise Failed(f"after {within:.0f} s without reading the connection is still open") from None
            expect(came < sent, f"all {sent} characters came: the connection was not closed for its slowness")
        except OSError as failure:
            raise Blocked(f"no connection: {failure}") from None
        finally:
            small.close()
