"""Prompts: accepting them, queueing them, and stopping what they have begun."""

from __future__ import annotations

import asyncio
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, RAW, VIAS, check
from cmdc_conformance.findings import Blocked, NotExercised, expect, owed
from cmdc_conformance.session import until_state

# -- prompts -------------------------------------------------------------------------------------------------------------


@check("EP-prompt.accepted", faces=EVERY)
async def a_prompt_is_accepted(case: Case) -> None:
    """A prompt is answered with its requestId, and its run begins."""
    async with case.session() as session, session.reading() as reader:
        text = case.plain()
        session.noted(text)
        answer = await session.prompt(text)
        body = answer.must_be(202)
        expect(isinstance(body.get("requestId"), str) and body["requestId"], f"requestId is {body.get('requestId')!r}")
        expect(body.get("sessionId") == session.id, f"sessionId is {body.get('sessionId')!r}")
        expect(body.get("queued") is False, f"queued is {body.get('queued')!r}, and nothing else runs")
        with owed("after the prompt"):
            events = await reader.end()
        expect(events[0].name == "prompt_received", f"the run begins with {events[0].name}")
        expect(events[0].data.get("text") == text, f"the run begins with the text {events[0].data.get('text')!r:.200}")


@check("EP-prompt.empty", faces=VIAS)
async def an_empty_prompt(case: Case) -> None:
    """No text is 400, and no run."""
    async with case.session() as session:
        (await session.prompt("")).must_be(400, code="bad_request")
        (await case.http.post(f"{session.path}/prompt", {})).must_be(400, code="bad_request")
        expect(await session.history() == [], "a refused prompt is in the history")
        (await session.prompt(case.plain())).needed(202)


@check("EP-prompt.queued", faces=RAW)
async def a_prompt_is_queued(case: Case) -> None:
    """While a run is active a prompt is queued."""
    async with case.session() as session, case.held(session) as held:
        text = case.plain()
        session.noted(text)
        queued = (await session.prompt(text)).must_be(202).get("queued")
        expect(queued is True, f"queued is {queued!r} while another run is active")
        held.release()


@check("EP-prompt.fifo", faces=RAW)
async def prompts_are_taken_up_in_order(case: Case) -> None:
    """Four prompts are four runs, one after the other."""
    async with case.session() as session, case.held(session) as held:
        texts = [case.plain(f"{number}.") for number in range(3)]
        for text in texts:
            session.noted(text)
            answer = await session.prompt(text)
            answer.needed(202)
        held.release()
        with owed("after the queue was let go"):
            if case.face.transport == "ws":
                await held.run.reader.wait(
                    lambda: sum(event.is_terminal for event in held.run.reader.events) == 4, "four runs did not end"
                )
                said = [event.data["text"] for event in held.run.reader.events if event.name == "prompt_received"]
            else:
                said = await user_messages(session.http, session.path, 4)
        expect(said == [held.text, *texts], f"the runs came in the order {[each[:60] for each in said]}")


async def user_messages(http: Any, path: str, number: int) -> list[str]:
    """What the user said, once so many prompts were taken up and their runs are over."""
    try:
        async with asyncio.timeout(http.deadline):
            while True:
                await until_state(http, path, "idle")
                messages = (await http.get(f"{path}/messages")).needed(200)["messages"]
                said = [each["content"] for each in messages if each["role"] == "user"]
                if len(said) >= number:
                    return said
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked(f"the history did not come to {number} prompts") from None


@check("EP-prompt.queue-full")
async def the_queue_is_full(case: Case) -> None:
    """One more than may wait is 429 queue_full."""
    most = int(case.server.limit("queuedPrompts", case.target.limits.queued_prompts))
    if most > 1000:
        raise NotExercised(f"{most} prompts may wait: too many to try")
    async with case.session() as session, case.held(session) as held:
        for _ in range(most):
            (await session.prompt("Wait.")).needed(202)
        answer = await case.http.post(f"{session.path}/prompt", {"text": "One too many."}, patient=False)
        answer.must_be(429, code="queue_full", why=f"{most} wait already")
        if case.has("capabilities"):
            queue = (await session.info()).needed(200).get("queue", [])
            expect(len(queue) == most, f"{most} prompts were accepted, and {len(queue)} wait")
        del held


@check("EP-prompt.cursor")
async def the_cursor_of_a_prompt(case: Case) -> None:
    """Reading from the cursor of the answer begins with the run."""
    async with case.session() as session:
        await session.ran(case.plain())
        text = case.plain()
        session.noted(text)
        answer = await session.prompt(text)
        cursor = answer.must_be(202).get("cursor")
        expect(isinstance(cursor, str), f"cursor is {cursor!r}")
        async with case.http.events(session.id, session.key, after=str(cursor)) as reader:
            with owed("after the cursor of the prompt"):
                events = await reader.end()
        expect(events[0].name == "prompt_received" and events[0].data["text"] == text, f"it begins with {events[0]}")


# -- aborting ------------------------------------------------------------------------------------------------------------


@check("EP-abort.active", faces=EVERY)
async def a_run_is_stopped(case: Case) -> None:
    """An active run ends with agent_abort, reason aborted."""
    async with case.session() as session, case.held(session) as held:
        body = (await session.abort()).must_be(202)
        expect(body.get("ok") is True, f"ok is {body.get('ok')!r}")
        with owed("after the abort"):
            end = (await held.run.end())[-1]
        expect(end.name == "agent_abort" and end.data.get("reason") == "aborted", f"the run ended with {end}")


@check("EP-abort.reason", faces=RAW)
async def a_run_is_stopped_for_a_reason(case: Case) -> None:
    """The reason that was given is the event's."""
    async with case.session() as session, case.held(session) as held:
        (await session.abort(reason="changed my mind")).must_be(202)
        with owed("after the abort"):
            end = (await held.run.end())[-1]
        expect(end.data.get("reason") == "changed my mind", f"the run ended with {end}")


@check("EP-abort.idle", faces=EVERY)
async def nothing_is_stopped(case: Case) -> None:
    """Where nothing is active nothing is stopped."""
    async with case.session() as session:
        answer = await session.abort()
        answer.must_be(200)
        expect(answer.body.get("ok") is False, f"ok is {answer.body.get('ok')!r}")


@check("EP-abort.queue")
async def the_queue_goes_on(case: Case) -> None:
    """The prompt that waited runs after the abort."""
    async with case.session() as session, case.held(session) as held:
        text = case.plain("Next.")
        session.noted(text)
        (await session.prompt(text)).needed(202)
        (await session.abort()).needed(202)
        with owed("after the abort"):
            said = await user_messages(case.http, session.path, 2)
        expect(said == [held.text, text], f"the prompts were {[each[:60] for each in said]}")
        last = (await session.history())[-1]
        expect(last.get("content") == "Next.", f"the history ends with {last}")
