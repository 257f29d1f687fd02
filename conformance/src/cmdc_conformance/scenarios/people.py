"""People: approvals and questions."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from cmdc_conformance.case import Case, WaitingCall
from cmdc_conformance.check import EVERY, RAW, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import NotExercised, expect, need, owed
from cmdc_conformance.scenarios.runs import names


def _result(events: Any, name: str = "tool_execution_end") -> dict[str, Any]:
    """The data of the one event of this name."""
    found = [event.data for event in events if event.name == name]
    expect(len(found) == 1, f"there is not one {name}, but {len(found)}")
    return found[0]


@check("APP-1.waits", faces=EVERY)
async def a_call_waits(case: Case) -> None:
    """The run stands still in state waiting_approval, and the tool is not called."""
    async with case.waiting_call() as waiting:
        with owed():
            await waiting.session.state("waiting_approval")
        # A fence: what was answered after the state was reached would come after a call that had been made.
        (await waiting.session.info()).needed(200)
        expect(waiting.hosted is None or not waiting.hosted.calls, "the tool was called before the decision")
        expect(
            names(waiting.run.so_far)[-1] == "approval_required",
            f"after approval_required came {names(waiting.run.so_far)[-1]}",
        )


@check("APP-1.approve", faces=EVERY)
async def an_approved_call_runs(case: Case) -> None:
    """It is answered, told as an event, and the call runs."""
    async with case.waiting_call() as waiting:
        body = (await waiting.session.decide("approve", waiting.approval)).must_be(200)
        wanted = {"ok": True, "action": "approve", "approvalId": waiting.approval}
        expect({name: body.get(name) for name in wanted} == wanted, f"the answer is {body}")
        with owed("after approve"):
            events = await waiting.run.end()
        expect(_result(events, "approval_resolved").get("status") == "approved", "it was not resolved as approved")
        order = [name for name in names(events) if name.startswith(("approval", "tool_execution"))]
        expect(
            order == ["approval_required", "approval_resolved", "tool_execution_start", "tool_execution_end"],
            f"the order was {', '.join(order)}",
        )
        expect(_result(events).get("status") == "ok", f"the call ended with {_result(events)}")


@check("APP-1.reject", faces=EVERY)
async def a_rejected_call(case: Case) -> None:
    """The model gets a result that says so, with the reason, and the run goes on."""
    extended = case.has("approval_timeout")
    reason = {"reason": "not on a Sunday"} if extended else {}
    async with case.waiting_call(then=[reply("Then not.")]) as waiting:
        body = (await waiting.session.decide("reject", waiting.approval, **reason)).must_be(200)
        expect(body.get("action") == "reject" and body.get("ok") is True, f"the answer is {body}")
        with owed("after reject"):
            events = await waiting.run.end()
        expect(_result(events, "approval_resolved").get("status") == "rejected", "it was not resolved as rejected")
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        results = [each for each in await waiting.session.history() if each["role"] == "tool_result"]
        expect(len(results) == 1, f"the history has {len(results)} results for one call")
        expect(not extended or "not on a Sunday" in str(results[0].get("content")), f"the model was told {results[0]}")


@check("APP-2.same", faces=EVERY)
async def the_same_decision_again(case: Case) -> None:
    """It is answered as the first was, and has no effect."""
    async with case.waiting_call() as waiting:
        first = await waiting.session.decide("approve", waiting.approval)
        first.needed(200)
        await waiting.run.end()
        again = await waiting.session.decide("approve", waiting.approval)
        again.must_be(200, why="the same decision")
        expect(_without_id(again.body) == _without_id(first.body), f"the answer was {first.body}, and is {again.body}")
        resolved = [event for event in waiting.run.reader.events if event.name == "approval_resolved"]
        expect(len(resolved) == 1, f"it was resolved {len(resolved)} times")
        expect(waiting.hosted is None or len(waiting.hosted.calls) == 1, "the call ran twice")


def _without_id(body: Any) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "actionId"}


@check("APP-2.other", faces=EVERY)
async def another_decision(case: Case) -> None:
    """It is 409 already_resolved, with what was decided."""
    for first, second, status in (("approve", "reject", "approved"), ("reject", "approve", "rejected")):
        async with case.waiting_call() as waiting:
            (await waiting.session.decide(first, waiting.approval)).needed(200)  # pyright: ignore[reportArgumentType]
            answer = await waiting.session.decide(second, waiting.approval)  # pyright: ignore[reportArgumentType]
            answer.must_be(409, code="already_resolved", why=f"it is {status}")
            expect(answer.body.get("status") == status, f"status is {answer.body.get('status')!r}, not {status!r}")
            await waiting.run.end()


@check("APP-2.unknown", faces=EVERY)
async def an_unknown_approval(case: Case) -> None:
    """An id that never was is 404; the one that waits is not."""
    async with case.waiting_call() as waiting:
        for action in ("approve", "reject"):
            answer = await waiting.session.decide(action, f"{waiting.approval}x")
            answer.must_be(404, code="not_found")
        (await waiting.session.decide("approve", waiting.approval)).needed(200)
        await waiting.run.end()


@check("APP-2.race")
async def decisions_at_the_same_time(case: Case) -> None:
    """Of ten decisions one kind wins, and the log has it once."""
    async with case.waiting_call() as waiting:
        body = {"approvalId": waiting.approval}
        actions = ["approve", "reject"] * 5
        answers = await asyncio.gather(
            *(case.http.post(f"{waiting.session.path}/{action}", body) for action in actions)
        )
        winners = {answer.body.get("action") for answer in answers if answer.status == 200}
        expect(len(winners) == 1, f"the decisions {winners} were both taken")
        for answer in answers:
            if answer.status != 200:
                answer.must_be(409, code="already_resolved")
        events = await waiting.run.end()
        status = _result(events, "approval_resolved").get("status")
        expect(status == {"approve": "approved", "reject": "rejected"}[winners.pop() or ""], f"the log says {status}")


@check("APP-2.expired", faces=RAW)
async def an_approval_expires(case: Case) -> None:
    """At its time limit it expires, and cannot be decided any more."""
    async with case.waiting_call(approval={"tools": ["*"], "timeoutMs": 300}) as waiting:
        data = waiting.required.data
        expect(isinstance(data.get("expiresAt"), int), f"expiresAt is {data.get('expiresAt')!r}")
        with owed("after its time limit"):
            events = await waiting.run.end()
        expect(_result(events, "approval_resolved").get("status") == "expired", "it was not resolved as expired")
        expect("tool_execution_start" not in names(events), "a call whose approval expired has run")
        for action in ("approve", "reject"):
            answer = await waiting.session.decide(action, waiting.approval)
            answer.must_be(409, code="already_resolved", why="it has expired")
            expect(answer.body.get("status") == "expired", f"status is {answer.body.get('status')!r}")


@check("APP-2.cancelled", faces=RAW)
async def a_cancelled_approval(case: Case) -> None:
    """After an abort it cannot be decided any more."""
    async with case.waiting_call() as waiting:
        (await waiting.session.abort()).needed(202)
        await waiting.run.end()
        answer = await waiting.session.decide("approve", waiting.approval)
        answer.must_be(409, code="already_resolved", why="its run was stopped")
        expect(answer.body.get("status") == "cancelled", f"status is {answer.body.get('status')!r}")
        expect(waiting.hosted is None or not waiting.hosted.calls, "a cancelled call has run")


# -- what is approved ----------------------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """The canonical JSON of RFC 8785, for values without fractions."""
    if isinstance(value, dict):
        items: Any = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportUnknownLambdaType, reportUnknownMemberType]
        return "{" + ",".join(f"{canonical(name)}:{canonical(member)}" for name, member in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return json.dumps(value, ensure_ascii=False)


@check("APP-3.digest", faces=RAW)
async def the_digest(case: Case) -> None:
    """The digest is what RFC 8785 and SHA-256 make of the call."""
    args = {"days": 3, "city": 'Malmö "€" \U0001f680 \u2028\n\t\\'}
    async with case.waiting_call(args=args) as waiting:
        data = waiting.required.data
        need(data.get("toolName") == "get_weather", "the target's own tool is used")
        expect(data.get("args") == args, f"the call shown is {data.get('args')}, and the model asked for {args}")
        call = [waiting.session.id, data.get("callId"), data.get("toolName"), data.get("args")]
        wanted = hashlib.sha256(canonical(call).encode()).hexdigest()
        expect(
            data.get("digest") == wanted, f"digest is {data.get('digest')}, and that of {canonical(call)} is {wanted}"
        )


@check("APP-3.mismatch", faces=EVERY)
async def another_digest(case: Case) -> None:
    """With another digest nothing is decided; with its own it is."""
    async with case.waiting_call() as waiting:
        digest = str(waiting.required.data.get("digest"))
        wrong = ("0" if digest[:1] != "0" else "1") + digest[1:]
        (await waiting.session.decide("approve", waiting.approval, digest=wrong)).must_be(409, code="digest_mismatch")
        state = (await waiting.session.info()).needed(200).get("state")
        expect(state == "waiting_approval", f"after a digest that differs the session is {state}")
        (await waiting.session.decide("approve", waiting.approval, digest=digest)).must_be(200, why="its own digest")
        await waiting.run.end()


def _own_tool(waiting: WaitingCall) -> Any:
    if waiting.hosted is None:
        raise NotExercised("the target's own tool takes its own arguments")
    return waiting.hosted


@check("APP-3.edited", faces=EVERY)
async def edited_arguments(case: Case) -> None:
    """What was edited is what the tool gets, and what is told."""
    async with case.waiting_call() as waiting:
        hosted = _own_tool(waiting)
        edited = {"city": "Bergen", "days": 2}
        (await waiting.session.decide("approve", waiting.approval, args=edited)).must_be(200)
        events = await waiting.run.end()
        expect(
            _result(events, "tool_execution_start").get("args") == edited, "tool_execution_start shows other arguments"
        )
        came = hosted.calls[0].json["args"]
        expect(came == edited, f"the tool got {came}, and {edited} was approved")


@check("APP-3.edited-invalid", faces=EVERY)
async def edited_arguments_that_do_not_fit(case: Case) -> None:
    """They are 400, and the call still waits."""
    async with case.waiting_call() as waiting:
        _own_tool(waiting)
        answer = await waiting.session.decide("approve", waiting.approval, args={"town": "Bergen"})
        answer.must_be(400, code="bad_request", why="the schema refuses it")
        state = (await waiting.session.info()).needed(200).get("state")
        expect(state == "waiting_approval", f"after arguments that were refused the session is {state}")
        (await waiting.session.decide("approve", waiting.approval, args={"city": "Bergen"})).must_be(
            200, why="these fit"
        )
        await waiting.run.end()


@check("APP-3.shown-runs", faces=EVERY)
async def what_was_shown_runs(case: Case) -> None:
    """The tool gets what the approval showed."""
    async with case.waiting_call(args={"city": "Ålesund", "days": 7}) as waiting:
        hosted = _own_tool(waiting)
        (await waiting.session.decide("approve", waiting.approval)).needed(200)
        events = await waiting.run.end()
        shown = waiting.required.data
        came = hosted.calls[0].json
        expect(came["args"] == shown["args"], f"shown was {shown['args']}, and the tool got {came['args']}")
        started = _result(events, "tool_execution_start")
        expect(started["args"] == shown["args"], f"shown was {shown['args']}, and started {started['args']}")
        expect(started["callId"] == shown.get("callId", started["callId"]), "another call was started")


@check("APP-3.replaced", faces=RAW)
async def a_tool_is_registered_again(case: Case) -> None:
    """The approval that waits for it is cancelled, and neither tool is called."""
    async with case.waiting_call() as waiting:
        first = _own_tool(waiting)
        second = await case.register(waiting.session, "get_weather")
        with owed("after the tool was registered again"):
            events = await waiting.run.end()
        expect(_result(events, "approval_resolved").get("status") == "cancelled", "the approval was not cancelled")
        expect(not first.calls and not second.calls, "a call whose approval was cancelled has run")


@check("APP-5", faces=RAW)
async def every_tool_but_ask_user(case: Case) -> None:
    """Under * a callback tool waits, and ask_user does not."""
    async with case.session(tools=["ask_user"], approval={"tools": ["*"]}) as session:
        await case.register(session)
        calls: list[tuple[str, Any]] = [("ask_user", {"question": "Well?"}), ("get_weather", {"city": "Oslo"})]
        async with session.run(case.script(reply(calls=calls[:1]), reply(calls=calls[1:]))) as run:
            with owed():
                asked = await run.until("ask_user")
            expect("approval_required" not in names(run.so_far), "ask_user needs an approval under *")
            (await session.respond(str(asked.data["ref"]), "yes")).needed(200)
            with owed():
                required = await run.until("approval_required")
            expect(required.data["toolName"] == "get_weather", f"the approval is for {required.data['toolName']}")


# -- questions -----------------------------------------------------------------------------------------------------------


@check("ASK-1.asks", faces=EVERY)
async def a_question_is_asked(case: Case) -> None:
    """ask_user comes with what was asked, and the run waits."""
    for options in (["red", "blue"], None):
        async with case.question("Which colour?", options) as (session, _, asked):
            data = asked.data
            expect(data.get("question") == "Which colour?", f"question is {data.get('question')!r}")
            expect(data.get("options") == options, f"options is {data.get('options')}, and should be {options}")
            with owed():
                await session.state("waiting_input")


@check("ASK-1.respond", faces=EVERY)
async def the_answer_is_the_result(case: Case) -> None:
    """The answer, word for word, is what the tool gives."""
    async with case.question("Your name?", None) as (session, run, asked):
        ref = str(asked.data["ref"])
        body = (await session.respond(ref, "Ä \u2028 42")).must_be(200)
        wanted = {"ok": True, "action": "respond", "ref": ref}
        expect({name: body.get(name) for name in wanted} == wanted, f"the answer is {body}")
        with owed("after the answer"):
            events = await run.end()
        ended = _result(events)
        expect(ended.get("result") == "Ä \u2028 42" and ended.get("status") == "ok", f"the call ended with {ended}")
        results = [each["content"] for each in await session.history() if each["role"] == "tool_result"]
        expect(results == ["Ä \u2028 42"], f"the history has the results {results}")


@check("ASK-1.options", faces=EVERY)
async def one_of_the_options(case: Case) -> None:
    """An answer that is no option is 400; the question still waits."""
    async with case.question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(ref, "green")).must_be(400, code="bad_request", why="green is no option")
        state = (await session.info()).needed(200).get("state")
        expect(state == "waiting_input", f"after an answer that was refused the session is {state}")
        (await session.respond(ref, "blue")).needed(200)
        await run.end()


@check("ASK-1.same", faces=EVERY)
async def the_same_answer_again(case: Case) -> None:
    """It is 200, and has no effect."""
    async with case.question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(ref, "blue")).needed(200)
        await run.end()
        (await session.respond(ref, "blue")).must_be(200, why="the same answer")
        ends = [event for event in run.reader.events if event.name == "tool_execution_end"]
        expect(len(ends) == 1, f"the call has ended {len(ends)} times")


@check("ASK-1.other", faces=EVERY)
async def another_answer(case: Case) -> None:
    """It is 409 already_resolved, status answered."""
    async with case.question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(ref, "blue")).needed(200)
        answer = await session.respond(ref, "red")
        answer.must_be(409, code="already_resolved", why="blue was answered")
        expect(answer.body.get("status") == "answered", f"status is {answer.body.get('status')!r}")
        await run.end()


@check("ASK-1.unknown", faces=EVERY)
async def an_unknown_question(case: Case) -> None:
    """A ref that never was is 404; the one that waits is not."""
    async with case.question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(f"{ref}x", "blue")).must_be(404, code="not_found")
        (await session.respond(ref, "blue")).needed(200)
        await run.end()
