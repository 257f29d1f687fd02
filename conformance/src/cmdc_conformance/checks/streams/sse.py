"""Event streams: headers, frames, heartbeats, where they start and end, and slow readers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from time import monotonic
from urllib.parse import urlsplit

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_SSE, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.drivers.session import Session, wait_for_state
from cmdc_conformance.findings import Blocked, Failed, NotExercised, expect, fails_if_blocked, require
from cmdc_conformance.wire.event import names
from cmdc_conformance.wire.raw_http import open_connection, request_head


async def run_unread(ctx: CheckContext, session: Session, text: str) -> None:
    """Send a prompt and wait until its run is over, without reading it. Raises Blocked."""
    session.announce(text)
    (await ctx.http.post(f"{session.path}/prompt", {"text": text})).require(202)
    try:
        async with asyncio.timeout(ctx.deadline):
            while True:
                await wait_for_state(ctx.http, session.path, "idle")
                history = await session.history()
                if [each["role"] for each in history[-2:]] == ["user", "assistant"] and history[-2]["content"] == text:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked("the run did not end") from None


# -- headers ----------------------------------------------------------------------------------------------------------


@check("SSE-1.headers", variants=RAW_SSE)
async def streams_have_the_right_headers(ctx: CheckContext) -> None:
    """A stream has the right Content-Type and headers that keep proxies from buffering it."""
    async with ctx.session() as session, ctx.http.open_stream(f"{session.path}/events") as response:
        expect(response.status_code == 200, f"a stream returned {response.status_code}")
        kind = response.headers.get("content-type", "").replace(" ", "").lower()
        expect(kind == "text/event-stream;charset=utf-8", f"Content-Type is {kind!r}")
        cache = response.headers.get("cache-control", "")
        expect("no-cache" in cache, f"Cache-Control is {cache!r}")
        buffering = response.headers.get("x-accel-buffering")
        expect(buffering == "no", f"X-Accel-Buffering is {buffering!r}")


@check("SSE-1.at-once", variants=RAW_SSE)
async def headers_are_sent_immediately(ctx: CheckContext) -> None:
    """The headers of a stream arrive while the session is idle."""
    async with ctx.session() as session:
        with fails_if_blocked("the headers of a stream, while the session is idle"):
            async with ctx.http.open_stream(f"{session.path}/events") as response:
                expect(response.status_code == 200, f"a stream returned {response.status_code}")


@check("SSE-1.errors", variants=RAW_SSE)
async def errors_are_not_streams(ctx: CheckContext) -> None:
    """401 and 404 on the stream route are JSON responses."""
    async with ctx.session() as session:
        for answer, status in (
            (await ctx.anonymous.try_stream(f"{session.path}/events"), 401),
            (await ctx.http.try_stream("/v1/sessions/no-such-session/events"), 404),
        ):
            answer.expect(status)
            kind = answer.headers.get("content-type", "")
            expect(kind.startswith("application/json"), f"a {status} has Content-Type {kind!r}")


@check("SSE-2", variants=RAW_SSE)
async def frames_are_well_formed(ctx: CheckContext) -> None:
    """A run with line ends in its text; monitors parse every stream strictly and with a stock parser."""
    async with ctx.session() as session:
        with fails_if_blocked():
            events = await session.run_to_end(ctx.script(reply("a\n\nb\r", thinking=["x"])))
        require(events, "no events were received")


@check("SSE-3.first", variants=RAW_SSE)
async def the_first_heartbeat_is_immediate(ctx: CheckContext) -> None:
    """A stream starts with a comment line, even if events are available."""
    async with ctx.session() as session:
        text = ctx.simple_prompt()
        session.announce(text)
        (await session.prompt(text)).require(202)
        async with ctx.http.events(session.id, session.key) as reader:
            await reader.wait_for_end()
            expect(reader.first_item == "comment", f"the first item of the stream is a {reader.first_item}")


@check("SSE-3.heartbeat", variants=RAW_SSE, schedule="slow")
async def heartbeats_are_on_time(ctx: CheckContext) -> None:
    """While the session is idle, comment lines arrive within the interval."""
    every = float(ctx.server.limit("heartbeatMs", ctx.target.limits.heartbeat_ms)) / 1000
    within = every * 1.5 + 2 * ctx.target.timing.scale
    async with ctx.session() as session, ctx.http.events(session.id, session.key) as reader:
        await reader.wait(lambda: len(reader.comments) > 0, "no comment line arrived")
        for number in range(2, 4):
            with fails_if_blocked(f"heartbeat {number} at an interval of {every:g} s"):
                await reader.wait(
                    lambda number=number: len(reader.comments) >= number, "no comment line arrived", within=within
                )


# -- the end ----------------------------------------------------------------------------------------------------------


@check("SSE-4.end", variants=RAW_SSE)
async def the_stream_ends_with_its_run(ctx: CheckContext) -> None:
    """The stream ends after the terminal event."""
    async with ctx.session() as session, session.run(ctx.simple_prompt()) as run:
        await run.wait_for_end()
        with fails_if_blocked("after the terminal event"):
            events = await run.reader.wait_until_closed()
        expect(events[-1].is_terminal, f"the stream ended after {events[-1].name}")


@check("SSE-4.follow", variants=RAW_SSE)
async def a_following_stream_stays_open(ctx: CheckContext) -> None:
    """?follow=true delivers two runs in one stream."""
    async with ctx.session() as session, ctx.http.events(session.id, session.key, follow="true") as reader:
        for number in (1, 2):
            text = ctx.simple_prompt()
            session.announce(text)
            (await session.prompt(text)).require(202)
            with fails_if_blocked(f"run {number} on a stream with follow=true"):
                await reader.wait(
                    lambda number=number: sum(event.is_terminal for event in reader.events) == number,
                    "no terminal event arrived",
                )
        expect(not reader.ended, "the stream ended")


# -- the start --------------------------------------------------------------------------------------------------------


@check("SSE-5.posted-first", variants=RAW_SSE)
async def a_finished_run_is_read_completely(ctx: CheckContext) -> None:
    """A stream that is opened after a run delivers the whole run."""
    async with ctx.session() as session:
        text = ctx.simple_prompt("One ", "two.")
        await run_unread(ctx, session, text)
        async with ctx.http.events(session.id, session.key) as reader:
            with fails_if_blocked("a stream opened after the run"):
                events = await reader.wait_for_end()
        expect(
            names(events)[:2] == ["prompt_received", "agent_start"],
            f"the stream starts with {', '.join(names(events)[:2])}",
        )
        expect(events[0].data["text"] == text, f"the stream starts with another run: {events[0]}")


@check("SSE-5.active", variants=RAW_SSE)
async def an_active_run_is_read_from_its_start(ctx: CheckContext) -> None:
    """A stream that is opened during a run starts at the run's first event."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        async with ctx.http.events(session.id, session.key) as reader:
            with fails_if_blocked("a stream opened during the run"):
                first = (await reader.wait_for_count(1))[0]
            expect(
                first.name == "prompt_received" and first.data["text"] == paused.text, f"the stream starts with {first}"
            )
            paused.release()
            with fails_if_blocked("a stream opened during the run"):
                events = await reader.wait_for_end()
        expected = await paused.run.wait_for_end()
        expect([*map(str, events)] == [*map(str, expected)], "two readers of one run received different events")


@check("SSE-5.read-before", variants=RAW_SSE)
async def a_run_that_was_read_is_not_repeated(ctx: CheckContext) -> None:
    """After a run was read to its end, a new stream waits for the next run."""
    async with ctx.session() as session:
        await session.run_to_end(ctx.simple_prompt("The first."))
        async with ctx.http.events(session.id, session.key) as reader:
            text = ctx.simple_prompt("The second.")
            session.announce(text)
            # Events that the stream delivered before the prompt would belong to the first run.
            (await session.prompt(text)).require(202)
            with fails_if_blocked("the next run"):
                events = await reader.wait_for_end()
        expect(
            events[0].name == "prompt_received" and events[0].data["text"] == text,
            f"the stream starts with {events[0]}",
        )


@check("SSE-5.queued", variants=RAW_SSE)
async def a_run_after_one_that_was_read_is_not_skipped(ctx: CheckContext) -> None:
    """After one run was read, a new stream delivers the whole next run, even if it is already over."""
    async with ctx.session() as session:
        await session.run_to_end(ctx.simple_prompt("The first."))
        text = ctx.simple_prompt("The second.")
        session.announce(text)
        (await session.prompt(text)).require(202)
        await session.wait_for_state("idle")  # SSE-5.active covers active runs
        async with ctx.http.events(session.id, session.key) as reader:
            with fails_if_blocked("the run after the one that was read"):
                events = await reader.wait_for_end()
        expect(
            events[0].name == "prompt_received" and events[0].data["text"] == text,
            f"the stream starts with {events[0]}",
        )


# -- several readers --------------------------------------------------------------------------------------------------


@check("SSE-9.readers", variants=RAW_SSE)
async def all_readers_receive_everything(ctx: CheckContext) -> None:
    """Six readers of one run receive the same events."""
    async with ctx.session() as session, AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(ctx.http.events(session.id, session.key)) for _ in range(6)]
        text = ctx.script(reply(*(f"{number} " for number in range(20))))
        session.announce(text)
        (await session.prompt(text)).require(202)
        with fails_if_blocked("one of six readers"):
            runs = [await reader.wait_for_end() for reader in readers]
        for run in runs[1:]:
            expect(
                [*map(str, run)] == [*map(str, runs[0])], f"one reader received {names(runs[0])}, another {names(run)}"
            )


@check("SSE-9.leaving", variants=RAW_SSE)
async def a_run_survives_its_reader(ctx: CheckContext) -> None:
    """A run continues after its only reader disconnects."""
    async with ctx.session() as session:
        async with ctx.paused_run(session, then=[reply("Done ", "without you.")]) as paused:
            await paused.run.reader.close()
            paused.release()
            with fails_if_blocked("after the only reader disconnected"):
                await session.wait_for_state("idle")
        last = (await session.history())[-1]
        expect(last.get("content") == "Done without you.", f"the history ends with {last}")


@check("SSE-9.own", variants=RAW_SSE)
async def readers_only_receive_their_session(ctx: CheckContext) -> None:
    """Readers of two concurrent sessions only receive the events of their own."""
    async with ctx.session() as one, ctx.session() as other:
        texts = [ctx.script(reply(*[f"{word} "] * 20, delay_ms=3)) for word in ("red", "blue")]
        runs = await asyncio.gather(one.run_to_end(texts[0]), other.run_to_end(texts[1]))
        for run, text, word in zip(runs, texts, ("red", "blue"), strict=True):
            expect(
                run[0].data.get("text") in (text, None), f"a reader received the prompt of another session: {run[0]}"
            )
            received = {event.data["delta"].strip() for event in run if event.name == "message_delta"}
            expect(all(set(each.split()) == {word} for each in received), f"a reader of {word} received {received}")


@check("SSE-10.nobody-waits", variants=RAW_SSE)
async def a_stalled_reader_delays_nobody(ctx: CheckContext) -> None:
    """While one reader is stalled, another reads the run to its end."""
    async with ctx.session() as session, open_connection(ctx.http, limit=1024) as (_, writer):
        writer.write(
            request_head(ctx.http, "GET", f"{session.path}/events", [("Accept", "text/event-stream")]) + b"\r\n"
        )
        await writer.drain()
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        text = ctx.script(reply(*["x" * 10_000] * 60))
        with fails_if_blocked("beside a stalled reader"):
            events = await session.run_to_end(text)
        received = sum(len(event.data["delta"]) for event in events if event.name == "message_delta")
        expect(received == 600_000, f"the model sent 600,000 characters, and {received} arrived")


@check("SSE-10.closed", variants=RAW_SSE, schedule="slow")
async def a_stalled_reader_is_disconnected(ctx: CheckContext) -> None:
    """A reader that reads nothing for 30 seconds is disconnected."""
    if not ctx.has("follow"):
        raise NotExercised("needs the feature follow: one run does not fill the buffers")
    within = 30 + 15 * ctx.target.timing.scale
    # A small receive buffer, so that unread data soon accumulates in the server.
    small = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    async with ctx.session() as session:
        parts = urlsplit(ctx.http.url)
        if parts.scheme != "http" or parts.hostname is None:
            small.close()
            raise NotExercised("needs plain HTTP")
        try:
            await asyncio.get_running_loop().sock_connect(small, (parts.hostname, parts.port or 80))
            request = (
                request_head(ctx.http, "GET", f"{session.path}/events?follow=true", [("Accept", "text/event-stream")])
                + b"\r\n"
            )
            await asyncio.get_running_loop().sock_sendall(small, request)
            begun = monotonic()
            sent = 0
            for _ in range(5):
                events = await session.run_to_end(ctx.script(reply(*["x" * 50_000] * 14)))
                sent += sum(len(str(event)) for event in events)
            await asyncio.sleep(max(0.0, begun + within - monotonic()))
            received = 0
            try:
                async with asyncio.timeout(10 * ctx.target.timing.scale):
                    while piece := await asyncio.get_running_loop().sock_recv(small, 65536):
                        received += len(piece)
            except ConnectionError:
                pass
            except TimeoutError:
                raise Failed(f"the connection is still open after {within:.0f} s without reading") from None
            expect(received < sent, f"all {sent} characters arrived, so the reader was not disconnected")
        except OSError as failure:
            raise Blocked(f"cannot connect: {failure}") from None
        finally:
            small.close()
