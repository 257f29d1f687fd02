"""Crashes: what survives kill -9. These checks kill the server, so each runs exclusively."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_SSE, check
from cmdc_conformance.checks.server_process import ServerProcess
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.drivers.session import Session
from cmdc_conformance.findings import Blocked, NotExercised, expect, fails_if_blocked
from cmdc_conformance.wire.event import Event, names


async def whole_log(ctx: CheckContext, session: Session) -> list[Event]:
    """Wait until the session is idle, then read its whole log."""
    await session.wait_for_state("idle")
    async with ctx.http.events(session.id, session.key, follow="true", after="start") as reader:
        cursor = (await session.info()).require(200)["cursor"]
        try:
            await reader.wait(
                lambda: bool(reader.events) and reader.events[-1].id == cursor, "the log did not reach its end"
            )
        except Blocked as blocked:  # EP-session.cursor covers that the cursor is the end of the log
            raise NotExercised(f"{blocked}; the session's cursor is {cursor}") from None
        return [*reader.events]


def expect_interrupted(log: Sequence[Event]) -> None:
    """Expect that the last run of this log was interrupted during a call and closed at the next start."""
    ends = names(log)[-3:]
    expect(ends == ["tool_execution_end", "error", "agent_abort"], f"the log ends with {', '.join(ends)}")
    expect(log[-3].data.get("status") == "error", f"the call ended with {log[-3]}")
    expect(log[-1].data.get("reason") == "interrupted", f"the run ended with {log[-1]}")


def _process(ctx: CheckContext) -> ServerProcess:
    process = ServerProcess(ctx)
    process.require("kill", "start")
    return process


@check("DUR-1.prompts", variants=RAW_SSE, schedule="exclusive")
async def accepted_prompts_survive(ctx: CheckContext) -> None:
    """All prompts that were accepted run after a crash, in order."""
    process = _process(ctx)
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        texts = [ctx.simple_prompt(f"{number}.") for number in range(5)]
        for text in texts:
            session.announce(text)
            (await session.prompt(text)).require(202)
        await process.crash_and_restart()
        with fails_if_blocked("after the restart"):
            log = await whole_log(ctx, session)
        texts_in_log = [event.data["text"] for event in log if event.name == "prompt_received"]
        expect(
            texts_in_log == [paused.text, *texts],
            f"of 6 accepted prompts, these ran: {[text[:40] for text in texts_in_log]}",
        )


@check("DUR-1.events", variants=RAW_SSE, schedule="exclusive")
async def visible_events_survive(ctx: CheckContext) -> None:
    """Every event that a reader received is in the log after a crash, unchanged."""
    process = _process(ctx)
    async with ctx.session() as session:
        text = ctx.script(reply(*(f"{number} " for number in range(200)), delay_ms=5))
        async with session.run(text) as run:
            await run.reader.wait_for_count(40)
            await process.crash_and_restart()
            seen = [*run.reader.events]
        with fails_if_blocked("after the restart"):
            log = {event.id: event for event in await whole_log(ctx, session)}
        for event in seen:
            kept = log.get(event.id)
            expect(kept is not None, f"a reader received {event}, and the log does not have it")
            assert kept is not None
            expect((kept.name, kept.raw) == (event.name, event.raw), f"a reader received {event}, and now it is {kept}")


@check("DUR-1.decisions", variants=RAW_SSE, schedule="exclusive")
async def decisions_survive(ctx: CheckContext) -> None:
    """A decision that was accepted is still valid after a crash."""
    process = _process(ctx)
    async with ctx.pending_approval() as approval:
        (await approval.session.decide("reject", approval.id)).require(200)
        await process.crash_and_restart()
        response = await approval.session.decide("approve", approval.id)
        response.expect(409, code="already_resolved", why="it was rejected before the crash")
        expect(response.body.get("status") == "rejected", f"status is {response.body.get('status')!r}")
        expect(approval.hosted is None or not approval.hosted.calls, "a rejected call ran")


@check("DUR-1.tools", variants=RAW_SSE, schedule="exclusive")
async def tools_survive(ctx: CheckContext) -> None:
    """A registered tool is called after a crash."""
    process = _process(ctx)
    async with ctx.session() as session:
        hosted = await ctx.register(session)
        await process.crash_and_restart()
        with fails_if_blocked("after the restart"):
            await session.run_to_end(ctx.script(reply(calls=[("get_weather", {"city": "Oslo"})])))
        expect(len(hosted.calls) == 1, "the tool is no longer called")


@check("DUR-2.waiting", variants=RAW_SSE, schedule="exclusive")
async def a_waiting_run_survives(ctx: CheckContext) -> None:
    """A run that waits for a person still waits after a crash."""
    process = _process(ctx)
    async with ctx.pending_approval() as approval:
        await process.crash_and_restart()
        with fails_if_blocked("after the restart"):
            await approval.session.wait_for_state("waiting_approval")
        expect(approval.hosted is None or not approval.hosted.calls, "the call was made without an approval")
        # A server that ends the run may do so late. The events after the decision show that it did not.
        (await approval.session.decide("approve", approval.id)).expect(200, why="the run still waits")
        with fails_if_blocked("after the decision"):
            log = await whole_log(ctx, approval.session)
        received = [event for event in log if event.seq > approval.required.seq]
        approved = {"approvalId": approval.id, "status": "approved"}
        first = {name: received[0].data.get(name) for name in approved} if received else None
        expect(first == approved, f"the events after approval_required are {', '.join(names(received)) or 'none'}")


@check("APP-4", variants=RAW_SSE, schedule="exclusive")
async def pending_decisions_survive(ctx: CheckContext) -> None:
    """A pending approval and a pending question can be resolved after a crash, and their runs end."""
    process = _process(ctx)
    async with ctx.pending_approval() as approval, ctx.pending_question() as (session, _, asked):
        await process.crash_and_restart()
        (await approval.session.decide("approve", approval.id)).expect(200, why="it was pending before the restart")
        (await session.respond(str(asked.data["ref"]), "blue")).expect(200, why="it was pending before the restart")
        with fails_if_blocked("after the decisions"):
            for each in (approval.session, session):
                await each.wait_for_state("idle")
        for each in (approval.session, session):
            results = [message for message in await each.history() if message["role"] == "tool_result"]
            expect(len(results) == 1 and results[0].get("isError") is False, f"the history has the results {results}")
        expect(
            approval.hosted is None or len(approval.hosted.calls) == 1, "the approved call was not made exactly once"
        )


@check("DUR-2.interrupted", variants=RAW_SSE, schedule="exclusive")
async def an_interrupted_run_is_closed(ctx: CheckContext) -> None:
    """A call that was active at a crash ends with error and its run with interrupted; the call is not repeated."""
    process = _process(ctx)
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        await process.crash_and_restart()
        begun = monotonic()
        with fails_if_blocked("after the restart"):
            log = await whole_log(ctx, session)
        seconds = monotonic() - begun
        expect(seconds < 5 * max(1.0, ctx.target.timing.scale), f"the server took {seconds:.0f} s to close the run")
        expect_interrupted(log)
        expect(len(paused.tool.calls) == 1, f"the call was made {len(paused.tool.calls)} times")


@check("DUR-2.queue", variants=RAW_SSE, schedule="exclusive")
async def the_queue_survives(ctx: CheckContext) -> None:
    """After an interrupted run, the queued prompt runs."""
    process = _process(ctx)
    async with ctx.session() as session, ctx.paused_run(session):
        text = ctx.simple_prompt("Next.")
        session.announce(text)
        (await session.prompt(text)).require(202)
        await process.crash_and_restart()
        with fails_if_blocked("after the restart"):
            log = await whole_log(ctx, session)
        terminal = [(event.name, event.data.get("reason")) for event in log if event.is_terminal]
        expect(terminal == [("agent_abort", "interrupted"), ("agent_end", None)], f"the runs ended with {terminal}")


@check("MTR-1.restart", variants=RAW_SSE, schedule="exclusive")
async def usage_survives(ctx: CheckContext) -> None:
    """The usage of a session is the same after a crash."""
    process = _process(ctx)
    async with ctx.session() as session:
        await session.run_to_end(ctx.script(reply("Hi.", usage=(10, 5))))
        before = (await session.stats()).require(200)
        await process.crash_and_restart()
        after = (await session.stats()).expect(200)
        expect(after == before, f"the stats were {before} and are {after}")


@check("HTTP-11.restart", schedule="exclusive")
async def stored_responses_survive(ctx: CheckContext) -> None:
    """A stored response is replayed after a crash."""
    process = _process(ctx)
    headers = {"Idempotency-Key": ctx.unique("idem")}
    first = (await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)).require(201)
    await process.crash_and_restart()
    again = (await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)).expect(201)
    expect(again == first, f"the response was {first} and is {again}")
