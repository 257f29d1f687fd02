"""Human input: approvals of tool calls, and questions to the user."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from cmdc_conformance.checks.context import CheckContext, PendingApproval
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_STREAMS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import NotExercised, expect, fails_if_blocked, require
from cmdc_conformance.wire.event import names


def _only(events: Any, name: str = "tool_execution_end") -> dict[str, Any]:
    """The data of the only event of this name."""
    found = [event.data for event in events if event.name == name]
    expect(len(found) == 1, f"expected one {name}, found {len(found)}")
    return found[0]


@check("APP-1.waits", variants=ALL_VARIANTS)
async def a_call_waits_for_approval(ctx: CheckContext) -> None:
    """The run stops in state waiting_approval, and the tool is not called."""
    async with ctx.pending_approval() as approval:
        with fails_if_blocked():
            await approval.session.wait_for_state("waiting_approval")
        # By the time a later request is answered, a call that was made would have arrived.
        (await approval.session.info()).require(200)
        expect(approval.hosted is None or not approval.hosted.calls, "the tool was called before the approval")
        expect(
            names(approval.run.events_so_far)[-1] == "approval_required",
            f"after approval_required, the run emitted {names(approval.run.events_so_far)[-1]}",
        )


@check("APP-1.approve", variants=ALL_VARIANTS)
async def an_approved_call_runs(ctx: CheckContext) -> None:
    """An approval is acknowledged and emitted as an event, and the call runs."""
    async with ctx.pending_approval() as approval:
        body = (await approval.session.decide("approve", approval.id)).expect(200)
        wanted = {"ok": True, "action": "approve", "approvalId": approval.id}
        expect({name: body.get(name) for name in wanted} == wanted, f"the response is {body}")
        with fails_if_blocked("after approve"):
            events = await approval.run.wait_for_end()
        expect(
            _only(events, "approval_resolved").get("status") == "approved", "the approval was not resolved as approved"
        )
        order = [name for name in names(events) if name.startswith(("approval", "tool_execution"))]
        expect(
            order == ["approval_required", "approval_resolved", "tool_execution_start", "tool_execution_end"],
            f"the order of the events is {', '.join(order)}",
        )
        expect(_only(events).get("status") == "ok", f"the call ended with {_only(events)}")


@check("APP-1.reject", variants=ALL_VARIANTS)
async def a_rejected_call_has_a_result(ctx: CheckContext) -> None:
    """A rejected call has a result with the reason, and the run continues."""
    extended = ctx.has("approval_timeout")
    reason = {"reason": "not on a Sunday"} if extended else {}
    async with ctx.pending_approval(then=[reply("All right.")]) as approval:
        body = (await approval.session.decide("reject", approval.id, **reason)).expect(200)
        expect(body.get("action") == "reject" and body.get("ok") is True, f"the response is {body}")
        with fails_if_blocked("after reject"):
            events = await approval.run.wait_for_end()
        expect(
            _only(events, "approval_resolved").get("status") == "rejected", "the approval was not resolved as rejected"
        )
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        results = [each for each in await approval.session.history() if each["role"] == "tool_result"]
        expect(len(results) == 1, f"the history has {len(results)} results of one call")
        expect(not extended or "not on a Sunday" in str(results[0].get("content")), f"the result is {results[0]}")


@check("APP-2.same", variants=ALL_VARIANTS)
async def a_repeated_decision_is_accepted(ctx: CheckContext) -> None:
    """The same decision again returns the same response and has no effect."""
    async with ctx.pending_approval() as approval:
        first = await approval.session.decide("approve", approval.id)
        first.require(200)
        await approval.run.wait_for_end()
        again = await approval.session.decide("approve", approval.id)
        again.expect(200, why="the same decision")
        expect(
            _without_id(again.body) == _without_id(first.body),
            f"the first response is {first.body}, and the second is {again.body}",
        )
        resolved = [event for event in approval.run.reader.events if event.name == "approval_resolved"]
        expect(len(resolved) == 1, f"the approval was resolved {len(resolved)} times")
        expect(approval.hosted is None or len(approval.hosted.calls) == 1, "the call ran twice")


def _without_id(body: Any) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "actionId"}


@check("APP-2.other", variants=ALL_VARIANTS)
async def a_different_decision_is_rejected(ctx: CheckContext) -> None:
    """A different decision returns 409 already_resolved with the status of the approval."""
    for first, second, status in (("approve", "reject", "approved"), ("reject", "approve", "rejected")):
        async with ctx.pending_approval() as approval:
            (await approval.session.decide(first, approval.id)).require(200)  # pyright: ignore[reportArgumentType]
            response = await approval.session.decide(second, approval.id)  # pyright: ignore[reportArgumentType]
            response.expect(409, code="already_resolved", why=f"the approval is {status}")
            expect(response.body.get("status") == status, f"status is {response.body.get('status')!r}, not {status!r}")
            await approval.run.wait_for_end()


@check("APP-2.unknown", variants=ALL_VARIANTS)
async def an_unknown_approval_is_rejected(ctx: CheckContext) -> None:
    """A decision on an unknown approval returns 404."""
    async with ctx.pending_approval() as approval:
        for action in ("approve", "reject"):
            response = await approval.session.decide(action, f"{approval.id}x")
            response.expect(404, code="not_found")
        (await approval.session.decide("approve", approval.id)).require(200)
        await approval.run.wait_for_end()


@check("APP-2.race")
async def one_of_concurrent_decisions_wins(ctx: CheckContext) -> None:
    """Of ten concurrent decisions, either the approvals or the rejections win, and the log has one."""
    async with ctx.pending_approval() as approval:
        body = {"approvalId": approval.id}
        actions = ["approve", "reject"] * 5
        responses = await asyncio.gather(
            *(ctx.http.post(f"{approval.session.path}/{action}", body) for action in actions)
        )
        winners = {response.body.get("action") for response in responses if response.status == 200}
        expect(len(winners) == 1, f"both of {winners} were accepted")
        for response in responses:
            if response.status != 200:
                response.expect(409, code="already_resolved")
        events = await approval.run.wait_for_end()
        status = _only(events, "approval_resolved").get("status")
        expect(status == {"approve": "approved", "reject": "rejected"}[winners.pop() or ""], f"the log has {status}")


@check("APP-2.expired", variants=RAW_STREAMS)
async def an_approval_expires(ctx: CheckContext) -> None:
    """An approval expires at its timeout and can no longer be decided."""
    async with ctx.pending_approval(approval={"tools": ["*"], "timeoutMs": 300}) as approval:
        data = approval.required.data
        expect(isinstance(data.get("expiresAt"), int), f"expiresAt is {data.get('expiresAt')!r}")
        with fails_if_blocked("after the timeout"):
            events = await approval.run.wait_for_end()
        expect(
            _only(events, "approval_resolved").get("status") == "expired", "the approval was not resolved as expired"
        )
        expect("tool_execution_start" not in names(events), "a call ran although its approval expired")
        for action in ("approve", "reject"):
            response = await approval.session.decide(action, approval.id)
            response.expect(409, code="already_resolved", why="the approval has expired")
            expect(response.body.get("status") == "expired", f"status is {response.body.get('status')!r}")


@check("APP-2.cancelled", variants=RAW_STREAMS)
async def a_cancelled_approval_cannot_be_decided(ctx: CheckContext) -> None:
    """After an abort, the approval is cancelled and can no longer be decided."""
    async with ctx.pending_approval() as approval:
        (await approval.session.abort()).require(202)
        await approval.run.wait_for_end()
        response = await approval.session.decide("approve", approval.id)
        response.expect(409, code="already_resolved", why="the run was aborted")
        expect(response.body.get("status") == "cancelled", f"status is {response.body.get('status')!r}")
        expect(approval.hosted is None or not approval.hosted.calls, "a cancelled call ran")


# -- digests and edited arguments ---------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """Canonical JSON according to RFC 8785, for values without fractions."""
    if isinstance(value, dict):
        items: Any = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportUnknownLambdaType, reportUnknownMemberType]
        return "{" + ",".join(f"{canonical(name)}:{canonical(member)}" for name, member in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return json.dumps(value, ensure_ascii=False)


@check("APP-3.digest", variants=RAW_STREAMS)
async def the_digest_is_correct(ctx: CheckContext) -> None:
    """The digest is the SHA-256 of the call in canonical JSON (RFC 8785)."""
    args = {"days": 3, "city": 'Malmö "€" \U0001f680 \u2028\n\t\\'}
    async with ctx.pending_approval(args=args) as approval:
        data = approval.required.data
        require(data.get("toolName") == "get_weather", "the target uses a tool of its own")
        expect(data.get("args") == args, f"the event has the arguments {data.get('args')}, and the model sent {args}")
        call = [approval.session.id, data.get("callId"), data.get("toolName"), data.get("args")]
        wanted = hashlib.sha256(canonical(call).encode()).hexdigest()
        expect(
            data.get("digest") == wanted,
            f"digest is {data.get('digest')}, and the SHA-256 of {canonical(call)} is {wanted}",
        )


@check("APP-3.mismatch", variants=ALL_VARIANTS)
async def a_different_digest_is_rejected(ctx: CheckContext) -> None:
    """A decision with a different digest has no effect; one with the right digest does."""
    async with ctx.pending_approval() as approval:
        digest = str(approval.required.data.get("digest"))
        wrong = ("0" if digest[:1] != "0" else "1") + digest[1:]
        (await approval.session.decide("approve", approval.id, digest=wrong)).expect(409, code="digest_mismatch")
        state = (await approval.session.info()).require(200).get("state")
        expect(state == "waiting_approval", f"after a decision with a different digest, the session is {state}")
        (await approval.session.decide("approve", approval.id, digest=digest)).expect(200, why="the digest is correct")
        await approval.run.wait_for_end()


def _own_tool(approval: PendingApproval) -> Any:
    if approval.hosted is None:
        raise NotExercised("needs a callback tool, and the target uses a tool of its own")
    return approval.hosted


@check("APP-3.edited", variants=ALL_VARIANTS)
async def edited_arguments_are_used(ctx: CheckContext) -> None:
    """The tool and tool_execution_start receive the edited arguments."""
    async with ctx.pending_approval() as approval:
        hosted = _own_tool(approval)
        edited = {"city": "Bergen", "days": 2}
        (await approval.session.decide("approve", approval.id, args=edited)).expect(200)
        events = await approval.run.wait_for_end()
        expect(
            _only(events, "tool_execution_start").get("args") == edited, "tool_execution_start has different arguments"
        )
        received = hosted.calls[0].json["args"]
        expect(received == edited, f"the tool received {received}, and {edited} was approved")


@check("APP-3.edited-invalid", variants=ALL_VARIANTS)
async def invalid_edited_arguments_are_rejected(ctx: CheckContext) -> None:
    """Edited arguments that violate the schema return 400, and the call still waits."""
    async with ctx.pending_approval() as approval:
        _own_tool(approval)
        response = await approval.session.decide("approve", approval.id, args={"town": "Bergen"})
        response.expect(400, code="bad_request", why="the arguments violate the schema")
        state = (await approval.session.info()).require(200).get("state")
        expect(state == "waiting_approval", f"after invalid arguments, the session is {state}")
        (await approval.session.decide("approve", approval.id, args={"city": "Bergen"})).expect(
            200, why="the arguments are valid"
        )
        await approval.run.wait_for_end()


@check("APP-3.shown-runs", variants=ALL_VARIANTS)
async def the_approved_arguments_are_used(ctx: CheckContext) -> None:
    """The tool receives the arguments that approval_required showed."""
    async with ctx.pending_approval(args={"city": "Ålesund", "days": 7}) as approval:
        hosted = _own_tool(approval)
        (await approval.session.decide("approve", approval.id)).require(200)
        events = await approval.run.wait_for_end()
        shown = approval.required.data
        received = hosted.calls[0].json
        expect(
            received["args"] == shown["args"],
            f"approval_required has {shown['args']}, and the tool received {received['args']}",
        )
        started = _only(events, "tool_execution_start")
        expect(
            started["args"] == shown["args"],
            f"approval_required has {shown['args']}, and tool_execution_start has {started['args']}",
        )
        expect(
            started["callId"] == shown.get("callId", started["callId"]), "tool_execution_start has a different callId"
        )


@check("APP-3.replaced", variants=RAW_STREAMS)
async def registering_a_tool_again_cancels_its_approval(ctx: CheckContext) -> None:
    """Registering a tool again cancels its pending approval, and neither tool is called."""
    async with ctx.pending_approval() as approval:
        first = _own_tool(approval)
        second = await ctx.register(approval.session, "get_weather")
        with fails_if_blocked("after the tool was registered again"):
            events = await approval.run.wait_for_end()
        expect(_only(events, "approval_resolved").get("status") == "cancelled", "the approval was not cancelled")
        expect(not first.calls and not second.calls, "a call ran although its approval was cancelled")


@check("APP-5", variants=RAW_STREAMS)
async def a_wildcard_excludes_ask_user(ctx: CheckContext) -> None:
    """With approval.tools *, a callback tool needs approval and ask_user does not."""
    async with ctx.session(tools=["ask_user"], approval={"tools": ["*"]}) as session:
        await ctx.register(session)
        calls: list[tuple[str, Any]] = [("ask_user", {"question": "Well?"}), ("get_weather", {"city": "Oslo"})]
        async with session.run(ctx.script(reply(calls=calls[:1]), reply(calls=calls[1:]))) as run:
            with fails_if_blocked():
                asked = await run.wait_for("ask_user")
            expect("approval_required" not in names(run.events_so_far), "ask_user needs approval with *")
            (await session.respond(str(asked.data["ref"]), "yes")).require(200)
            with fails_if_blocked():
                required = await run.wait_for("approval_required")
            expect(required.data["toolName"] == "get_weather", f"the approval is for {required.data['toolName']}")


# -- questions -----------------------------------------------------------------------------------------------------------


@check("ASK-1.asks", variants=ALL_VARIANTS)
async def a_question_is_emitted(ctx: CheckContext) -> None:
    """The event ask_user has the question and its options, and the run waits."""
    for options in (["red", "blue"], None):
        async with ctx.pending_question("Which colour?", options) as (session, _, asked):
            data = asked.data
            expect(data.get("question") == "Which colour?", f"question is {data.get('question')!r}")
            expect(data.get("options") == options, f"options is {data.get('options')}, expected {options}")
            with fails_if_blocked():
                await session.wait_for_state("waiting_input")


@check("ASK-1.respond", variants=ALL_VARIANTS)
async def the_answer_is_the_result(ctx: CheckContext) -> None:
    """The exact answer is the result of the call."""
    async with ctx.pending_question("Your name?", None) as (session, run, asked):
        ref = str(asked.data["ref"])
        body = (await session.respond(ref, "Ä \u2028 42")).expect(200)
        wanted = {"ok": True, "action": "respond", "ref": ref}
        expect({name: body.get(name) for name in wanted} == wanted, f"the response is {body}")
        with fails_if_blocked("after the answer"):
            events = await run.wait_for_end()
        ended = _only(events)
        expect(ended.get("result") == "Ä \u2028 42" and ended.get("status") == "ok", f"the call ended with {ended}")
        results = [each["content"] for each in await session.history() if each["role"] == "tool_result"]
        expect(results == ["Ä \u2028 42"], f"the history has the results {results}")


@check("ASK-1.options", variants=ALL_VARIANTS)
async def an_answer_must_be_an_option(ctx: CheckContext) -> None:
    """An answer that is not an option returns 400, and the question stays open."""
    async with ctx.pending_question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(ref, "green")).expect(400, code="bad_request", why="green is not an option")
        state = (await session.info()).require(200).get("state")
        expect(state == "waiting_input", f"after a rejected answer, the session is {state}")
        (await session.respond(ref, "blue")).require(200)
        await run.wait_for_end()


@check("ASK-1.same", variants=ALL_VARIANTS)
async def a_repeated_answer_is_accepted(ctx: CheckContext) -> None:
    """The same answer again returns 200 and has no effect."""
    async with ctx.pending_question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(ref, "blue")).require(200)
        await run.wait_for_end()
        (await session.respond(ref, "blue")).expect(200, why="the same answer")
        ends = [event for event in run.reader.events if event.name == "tool_execution_end"]
        expect(len(ends) == 1, f"the call ended {len(ends)} times")


@check("ASK-1.other", variants=ALL_VARIANTS)
async def a_different_answer_is_rejected(ctx: CheckContext) -> None:
    """A different answer returns 409 already_resolved with status answered."""
    async with ctx.pending_question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(ref, "blue")).require(200)
        response = await session.respond(ref, "red")
        response.expect(409, code="already_resolved", why="the answer was blue")
        expect(response.body.get("status") == "answered", f"status is {response.body.get('status')!r}")
        await run.wait_for_end()


@check("ASK-1.unknown", variants=ALL_VARIANTS)
async def an_unknown_question_is_rejected(ctx: CheckContext) -> None:
    """An answer to an unknown question returns 404."""
    async with ctx.pending_question() as (session, run, asked):
        ref = str(asked.data["ref"])
        (await session.respond(f"{ref}x", "blue")).expect(404, code="not_found")
        (await session.respond(ref, "blue")).require(200)
        await run.wait_for_end()
