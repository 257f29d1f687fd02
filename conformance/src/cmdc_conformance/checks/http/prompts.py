"""Sending prompts, queueing them, and aborting runs."""

from __future__ import annotations

import asyncio
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_AND_SDK, RAW_STREAMS, check
from cmdc_conformance.drivers.session import wait_for_state
from cmdc_conformance.findings import Blocked, NotExercised, expect, fails_if_blocked

# -- prompts -------------------------------------------------------------------------------------------------------------


@check("EP-prompt.accepted", variants=ALL_VARIANTS)
async def a_prompt_starts_a_run(ctx: CheckContext) -> None:
    """A prompt returns its requestId, and its run starts."""
    async with ctx.session() as session, session.open_reader() as reader:
        text = ctx.simple_prompt()
        session.announce(text)
        response = await session.prompt(text)
        body = response.expect(202)
        expect(isinstance(body.get("requestId"), str) and body["requestId"], f"requestId is {body.get('requestId')!r}")
        expect(body.get("sessionId") == session.id, f"sessionId is {body.get('sessionId')!r}")
        expect(body.get("queued") is False, f"queued is {body.get('queued')!r}, and no other run is active")
        with fails_if_blocked("after the prompt"):
            events = await reader.wait_for_end()
        expect(events[0].name == "prompt_received", f"the run starts with {events[0].name}")
        expect(events[0].data.get("text") == text, f"the run starts with the text {events[0].data.get('text')!r:.200}")


@check("EP-prompt.empty", variants=RAW_AND_SDK)
async def an_empty_prompt_is_rejected(ctx: CheckContext) -> None:
    """An empty or missing text returns 400 and starts no run."""
    async with ctx.session() as session:
        (await session.prompt("")).expect(400, code="bad_request")
        (await ctx.http.post(f"{session.path}/prompt", {})).expect(400, code="bad_request")
        expect(await session.history() == [], "a rejected prompt is in the history")
        (await session.prompt(ctx.simple_prompt())).require(202)


@check("EP-prompt.queued", variants=RAW_STREAMS)
async def a_prompt_is_queued(ctx: CheckContext) -> None:
    """A prompt during an active run is queued."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        text = ctx.simple_prompt()
        session.announce(text)
        queued = (await session.prompt(text)).expect(202).get("queued")
        expect(queued is True, f"queued is {queued!r} while another run is active")
        paused.release()


@check("EP-prompt.fifo", variants=RAW_STREAMS)
async def prompts_run_in_order(ctx: CheckContext) -> None:
    """Four prompts run one after the other, in order."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        texts = [ctx.simple_prompt(f"{number}.") for number in range(3)]
        for text in texts:
            session.announce(text)
            response = await session.prompt(text)
            response.require(202)
        paused.release()
        with fails_if_blocked("after the first run was released"):
            if ctx.variant.transport == "ws":
                await paused.run.reader.wait(
                    lambda: sum(event.is_terminal for event in paused.run.reader.events) == 4, "four runs did not end"
                )
                texts_in_order = [
                    event.data["text"] for event in paused.run.reader.events if event.name == "prompt_received"
                ]
            else:
                texts_in_order = await user_messages(session.http, session.path, 4)
        expect(
            texts_in_order == [paused.text, *texts],
            f"the prompts ran in the order {[each[:60] for each in texts_in_order]}",
        )


async def user_messages(http: Any, path: str, number: int) -> list[str]:
    """Wait until this many runs are over; return the user messages. Raises Blocked."""
    try:
        async with asyncio.timeout(http.deadline):
            while True:
                await wait_for_state(http, path, "idle")
                messages = (await http.get(f"{path}/messages")).require(200)["messages"]
                texts_in_order = [each["content"] for each in messages if each["role"] == "user"]
                if len(texts_in_order) >= number:
                    return texts_in_order
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked(f"the history did not reach {number} prompts") from None


@check("EP-prompt.queue-full")
async def a_full_queue_rejects_prompts(ctx: CheckContext) -> None:
    """A prompt to a full queue returns 429 queue_full."""
    limit = int(ctx.server.limit("queuedPrompts", ctx.target.limits.queued_prompts))
    if limit > 1000:
        raise NotExercised(f"the queue holds {limit} prompts, too many to fill")
    async with ctx.session() as session, ctx.paused_run(session):
        for _ in range(limit):
            (await session.prompt("Wait.")).require(202)
        response = await ctx.http.post(f"{session.path}/prompt", {"text": "One more."}, retry_rate_limited=False)
        response.expect(429, code="queue_full", why=f"{limit} prompts are queued")
        if ctx.has("capabilities"):
            queue = (await session.info()).require(200).get("queue", [])
            expect(len(queue) == limit, f"{limit} prompts were accepted, and {len(queue)} are queued")


@check("EP-prompt.cursor")
async def the_cursor_of_a_prompt_precedes_its_run(ctx: CheckContext) -> None:
    """A stream after the cursor of a prompt's response starts with its run."""
    async with ctx.session() as session:
        await session.run_to_end(ctx.simple_prompt())
        text = ctx.simple_prompt()
        session.announce(text)
        response = await session.prompt(text)
        cursor = response.expect(202).get("cursor")
        expect(isinstance(cursor, str), f"cursor is {cursor!r}")
        async with ctx.http.events(session.id, session.key, after=str(cursor)) as reader:
            with fails_if_blocked("after the cursor of the prompt"):
                events = await reader.wait_for_end()
        expect(
            events[0].name == "prompt_received" and events[0].data["text"] == text,
            f"the stream starts with {events[0]}",
        )


# -- aborting ------------------------------------------------------------------------------------------------------------


@check("EP-abort.active", variants=ALL_VARIANTS)
async def an_active_run_is_aborted(ctx: CheckContext) -> None:
    """An aborted run ends with agent_abort, reason aborted."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        body = (await session.abort()).expect(202)
        expect(body.get("ok") is True, f"ok is {body.get('ok')!r}")
        with fails_if_blocked("after the abort"):
            last = (await paused.run.wait_for_end())[-1]
        expect(last.name == "agent_abort" and last.data.get("reason") == "aborted", f"the run ended with {last}")


@check("EP-abort.reason", variants=RAW_STREAMS)
async def the_reason_of_an_abort_is_emitted(ctx: CheckContext) -> None:
    """agent_abort has the reason of the abort."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        (await session.abort(reason="changed my mind")).expect(202)
        with fails_if_blocked("after the abort"):
            last = (await paused.run.wait_for_end())[-1]
        expect(last.data.get("reason") == "changed my mind", f"the run ended with {last}")


@check("EP-abort.idle", variants=ALL_VARIANTS)
async def an_abort_without_a_run_has_no_effect(ctx: CheckContext) -> None:
    """An abort without an active run returns 200 with ok false."""
    async with ctx.session() as session:
        response = await session.abort()
        response.expect(200)
        expect(response.body.get("ok") is False, f"ok is {response.body.get('ok')!r}")


@check("EP-abort.queue")
async def the_queue_continues_after_an_abort(ctx: CheckContext) -> None:
    """A queued prompt runs after an abort."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        text = ctx.simple_prompt("Next.")
        session.announce(text)
        (await session.prompt(text)).require(202)
        (await session.abort()).require(202)
        with fails_if_blocked("after the abort"):
            texts_in_order = await user_messages(ctx.http, session.path, 2)
        expect(texts_in_order == [paused.text, text], f"the prompts were {[each[:60] for each in texts_in_order]}")
        last = (await session.history())[-1]
        expect(last.get("content") == "Next.", f"the history ends with {last}")
