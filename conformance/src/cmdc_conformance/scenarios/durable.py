"""Crashes: kill -9, and what is there after it. These checks kill the server, so each is made alone."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from cmdc_conformance.case import Case
from cmdc_conformance.check import SSE, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import Blocked, NotExercised, expect, owed
from cmdc_conformance.hooks import Hooks
from cmdc_conformance.monitors import Event
from cmdc_conformance.scenarios.runs import names
from cmdc_conformance.session import Session


async def whole_log(case: Case, session: Session) -> list[Event]:
    """The whole log, once the session is idle."""
    await session.state("idle")
    async with case.http.events(session.id, session.key, follow="true", after="start") as reader:
        cursor = (await session.info()).needed(200)["cursor"]
        try:
            await reader.wait(
                lambda: bool(reader.events) and reader.events[-1].id == cursor, "the log did not come to its end"
            )
        except Blocked as blocked:  # that the cursor is the end of the log is another requirement
            raise NotExercised(f"{blocked}; the session's cursor is {cursor}") from None
        return [*reader.events]


def expect_interrupted(log: Sequence[Event]) -> None:
    """The last run of this log was stopped inside a call, and closed at the next start."""
    ends = names(log)[-3:]
    expect(ends == ["tool_execution_end", "error", "agent_abort"], f"the log ends with {', '.join(ends)}")
    expect(log[-3].data.get("status") == "error", f"the call ended with {log[-3]}")
    expect(log[-1].data.get("reason") == "interrupted", f"the run ended with {log[-1]}")


def _hooks(case: Case) -> Hooks:
    hooks = Hooks(case)
    hooks.need("kill", "start")
    return hooks


@check("DUR-1.prompts", faces=SSE, when="alone")
async def prompts_survive(case: Case) -> None:
    """Prompts that were answered 202 are all taken up, in order."""
    hooks = _hooks(case)
    async with case.session() as session, case.held(session) as held:
        texts = [case.plain(f"{number}.") for number in range(5)]
        for text in texts:
            session.noted(text)
            (await session.prompt(text)).needed(202)
        await hooks.again()
        with owed("after the restart"):
            log = await whole_log(case, session)
        said = [event.data["text"] for event in log if event.name == "prompt_received"]
        expect(said == [held.text, *texts], f"of 6 prompts these were taken up: {[text[:40] for text in said]}")


@check("DUR-1.events", faces=SSE, when="alone")
async def events_survive(case: Case) -> None:
    """Every event that a reader has seen is in the log, the same."""
    hooks = _hooks(case)
    async with case.session() as session:
        text = case.script(reply(*(f"{number} " for number in range(200)), delay_ms=5))
        async with session.run(text) as run:
            await run.reader.count(40)
            await hooks.again()
            seen = [*run.reader.events]
        with owed("after the restart"):
            log = {event.id: event for event in await whole_log(case, session)}
        for event in seen:
            kept = log.get(event.id)
            expect(kept is not None, f"a reader saw {event}, and the log does not have it")
            assert kept is not None
            expect((kept.name, kept.raw) == (event.name, event.raw), f"a reader saw {event}, and it is {kept} now")


@check("DUR-1.decisions", faces=SSE, when="alone")
async def decisions_survive(case: Case) -> None:
    """A decision that was answered 200 holds after a kill."""
    hooks = _hooks(case)
    async with case.waiting_call() as waiting:
        (await waiting.session.decide("reject", waiting.approval)).needed(200)
        await hooks.again()
        answer = await waiting.session.decide("approve", waiting.approval)
        answer.must_be(409, code="already_resolved", why="it was rejected before the kill")
        expect(answer.body.get("status") == "rejected", f"status is {answer.body.get('status')!r}")
        expect(waiting.hosted is None or not waiting.hosted.calls, "a rejected call has run")


@check("DUR-1.tools", faces=SSE, when="alone")
async def tools_survive(case: Case) -> None:
    """A tool that was registered is called after a restart."""
    hooks = _hooks(case)
    async with case.session() as session:
        hosted = await case.register(session)
        await hooks.again()
        with owed("after the restart"):
            await session.ran(case.script(reply(calls=[("get_weather", {"city": "Oslo"})])))
        expect(len(hosted.calls) == 1, "the tool is not called any more")


@check("DUR-2.waiting", faces=SSE, when="alone")
async def waiting_goes_on(case: Case) -> None:
    """A run that waited for a person still waits after a restart."""
    hooks = _hooks(case)
    async with case.waiting_call() as waiting:
        await hooks.again()
        with owed("after the restart"):
            await waiting.session.state("waiting_approval")
        expect(waiting.hosted is None or not waiting.hosted.calls, "the call was made without a decision")
        # A run that is ended after all may say so only now: the decision shows that nothing came in between.
        (await waiting.session.decide("approve", waiting.approval)).must_be(200, why="it still waits")
        with owed("after the decision"):
            log = await whole_log(case, waiting.session)
        came = [event for event in log if event.seq > waiting.required.seq]
        approved = {"approvalId": waiting.approval, "status": "approved"}
        first = {name: came[0].data.get(name) for name in approved} if came else None
        expect(first == approved, f"after the approval was asked for came {', '.join(names(came)) or 'nothing'}")


@check("APP-4", faces=SSE, when="alone")
async def decided_after_a_restart(case: Case) -> None:
    """An approval and a question that waited can be decided after a restart, and their runs end."""
    hooks = _hooks(case)
    async with case.waiting_call() as waiting, case.question() as (session, _, asked):
        await hooks.again()
        (await waiting.session.decide("approve", waiting.approval)).must_be(200, why="it waited before the restart")
        (await session.respond(str(asked.data["ref"]), "blue")).must_be(200, why="it was asked before the restart")
        with owed("after the decisions"):
            for each in (waiting.session, session):
                await each.state("idle")
        for each in (waiting.session, session):
            results = [message for message in await each.history() if message["role"] == "tool_result"]
            expect(len(results) == 1 and results[0].get("isError") is False, f"the history has the results {results}")
        expect(waiting.hosted is None or len(waiting.hosted.calls) == 1, "the approved call was not made once")


@check("DUR-2.interrupted", faces=SSE, when="alone")
async def interrupted(case: Case) -> None:
    """A call that ran when the server was killed is ended with error, and the run with interrupted; it does not run again."""
    hooks = _hooks(case)
    async with case.session() as session, case.held(session) as held:
        await hooks.again()
        begun = monotonic()
        with owed("after the restart"):
            log = await whole_log(case, session)
        seconds = monotonic() - begun
        expect(seconds < 5 * max(1.0, case.target.timing.scale), f"it took {seconds:.0f} s to close the run")
        expect_interrupted(log)
        expect(len(held.tool.calls) == 1, f"the call was made {len(held.tool.calls)} times")


@check("DUR-2.queue", faces=SSE, when="alone")
async def the_queue_goes_on(case: Case) -> None:
    """After an interrupted run the prompt that waited is run."""
    hooks = _hooks(case)
    async with case.session() as session, case.held(session):
        text = case.plain("Next.")
        session.noted(text)
        (await session.prompt(text)).needed(202)
        await hooks.again()
        with owed("after the restart"):
            log = await whole_log(case, session)
        terminal = [(event.name, event.data.get("reason")) for event in log if event.is_terminal]
        expect(terminal == [("agent_abort", "interrupted"), ("agent_end", None)], f"the runs ended with {terminal}")


@check("MTR-1.restart", faces=SSE, when="alone")
async def figures_survive(case: Case) -> None:
    """What was counted is still counted after a kill, and once."""
    hooks = _hooks(case)
    async with case.session() as session:
        await session.ran(case.script(reply("Hi.", usage=(10, 5))))
        before = (await session.stats()).needed(200)
        await hooks.again()
        after = (await session.stats()).must_be(200)
        expect(after == before, f"the figures were {before}, and are {after}")


@check("HTTP-11.restart", when="alone")
async def answers_survive(case: Case) -> None:
    """A stored answer is given again after a kill."""
    hooks = _hooks(case)
    headers = {"Idempotency-Key": case.fresh("idem")}
    first = (await case.http.post("/v1/sessions", case.fields(), headers=headers)).needed(201)
    await hooks.again()
    again = (await case.http.post("/v1/sessions", case.fields(), headers=headers)).must_be(201)
    expect(again == first, f"the answer was {first}, and is {again}")
