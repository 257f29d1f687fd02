"""Runs: the order of their events, how they end, and their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_STREAMS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, fails_if_blocked, require
from cmdc_conformance.wire.event import Event, names, text_of_last_step
from cmdc_conformance.wire.grammar import grammar_errors
from cmdc_conformance.wire.websocket import connect_websocket

_CALL = ("get_weather", {"city": "Oslo"})


def _expect_grammar(events: Sequence[Event], requirement: str) -> None:
    """Expect that the order of a run's events does not violate this requirement."""
    errors = [message for about, message in grammar_errors(events) if about == requirement]
    expect(not errors, f"{errors[:1]}; the run was {', '.join(names(events))}")


@check("EVT-1.grammar", variants=ALL_VARIANTS)
async def a_rich_run_follows_the_grammar(ctx: CheckContext) -> None:
    """The events of a run with reasoning, text, two parallel calls and a second step follow the grammar."""
    text = ctx.script(
        reply("Let me ", "look. ", thinking=["Hm, ", "weather."], calls=[_CALL, ("get_weather", {"city": "Rome"})]),
        reply("Both ", "sunny."),
    )
    async with ctx.session() as session:
        await ctx.register(session)
        events = await session.run_to_end(text)
    wanted = [
        *("prompt_received", "agent_start", "thinking_start", "thinking_delta", "message_start", "message_delta"),
        *("tool_calls", "tool_execution_start", "tool_execution_start", "tool_execution_end", "tool_execution_end"),
        *("message_start", "message_delta", "agent_end"),
    ]
    # A server may join pieces of text, and the calls of one step may interleave.
    seen = names(events)
    condensed = [
        name for index, name in enumerate(seen) if index == 0 or not name.endswith("_delta") or seen[index - 1] != name
    ]
    expect(sorted(condensed) == sorted(wanted), f"the events are {', '.join(condensed)}")
    order = [name for name in condensed if not name.startswith("tool_execution")]
    expect(
        order == [name for name in wanted if not name.startswith("tool_execution")],
        f"the events are {', '.join(condensed)}",
    )
    counts = [event.data["count"] for event in events if event.name == "tool_calls"]
    expect(counts == [2], f"tool_calls has the counts {counts}, and the step has 2 calls")
    _expect_grammar(events, "EVT-1.grammar")


@check("EVT-1.blocks", variants=ALL_VARIANTS)
async def blocks_start_and_alternate(ctx: CheckContext) -> None:
    """A block starts before its first delta, and again in the next step."""
    async with ctx.session() as session:
        await ctx.register(session)
        text = ctx.script(reply("a", "b", thinking=["x", "y"], calls=[_CALL]), reply("c", thinking=["z"]), nonce=None)
        events = await session.run_to_end(text)
    _expect_grammar(events, "EVT-1.blocks")
    seen = [name.removesuffix("_start") for name in names(events) if name in ("thinking_start", "message_start")]
    expect(seen == ["thinking", "message", "thinking", "message"], f"the blocks are {seen}")
    thought = "".join(event.data["delta"] for event in events if event.name == "thinking_delta")
    expect(thought == "xyz", f"the model sent the reasoning 'xyz', and the events contain {thought!r}")


async def _call_is_rejected(ctx: CheckContext, call: tuple[str, Any]) -> None:
    """A rejected call emits error and no other event, and its result in the history is an error."""
    async with ctx.session() as session:
        hosted = await ctx.register(session)
        events = await session.run_to_end(ctx.script(reply(calls=[call]), reply("Well.")))
        seen = names(events)
        expect("error" in seen, f"no error event: {', '.join(seen)}")
        others = [name for name in seen if name.startswith(("tool_execution", "approval"))]
        expect(not others, f"a rejected call emitted {', '.join(others)}")
        expect(not hosted.calls, "the tool was called")
        expect(seen[-1] == "agent_end", f"the run ended with {events[-1]}")
        results = [each for each in await session.history() if each["role"] == "tool_result"]
        expect(len(results) == 1 and results[0].get("isError") is True, f"the history has the results {results}")


@check("EVT-1.unknown-tool", variants=ALL_VARIANTS)
async def a_call_of_an_unknown_tool_is_rejected(ctx: CheckContext) -> None:
    """A call of an unknown tool is an error, and the run continues."""
    await _call_is_rejected(ctx, ("no_such_tool", {"city": "Oslo"}))


@check("EVT-1.bad-arguments", variants=ALL_VARIANTS)
async def a_call_with_invalid_arguments_is_rejected(ctx: CheckContext) -> None:
    """A call with invalid arguments is an error, and the run continues."""
    await _call_is_rejected(ctx, ("get_weather", {"town": "Oslo"}))


@check("EVT-2.terminal", variants=ALL_VARIANTS)
async def a_run_has_one_terminal_event(ctx: CheckContext) -> None:
    """Each of two runs has one terminal event, and nothing follows it."""
    async with ctx.session() as session:
        for _ in range(2):
            with fails_if_blocked():
                events = await session.run_to_end(ctx.simple_prompt())
            expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
            expect(sum(event.is_terminal for event in events) == 1, f"the run was {', '.join(names(events))}")


@check("EVT-2.failure", variants=ALL_VARIANTS)
async def a_failed_run_ends_with_an_error(ctx: CheckContext) -> None:
    """After a permanent model failure, the run ends with error and then agent_abort, reason error."""
    async with ctx.session() as session:
        with fails_if_blocked():
            events = await session.run_to_end(ctx.script(reply(fail=(400, 0))))
        seen = names(events)
        expect(
            seen[-1] == "agent_abort" and events[-1].data.get("reason") == "error", f"the run ended with {events[-1]}"
        )
        expect(seen[-2] == "error", f"the event before agent_abort is {seen[-2]}, not error")
        again = await session.run_to_end(ctx.simple_prompt())
        expect(again[-1].name == "agent_end", "the session does not work after a failed run")


@check("EVT-3", variants=ALL_VARIANTS)
async def the_last_step_is_the_last_message(ctx: CheckContext) -> None:
    """The text of the last step is lastMessage of agent_end and the last message of the history."""
    text = ctx.script(reply("Let me look. ", calls=[_CALL]), reply("It ", "snows."))
    async with ctx.session() as session:
        await ctx.register(session)
        events = await session.run_to_end(text)
        sent = text_of_last_step(events)
        end = events[-1].data
        require(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        expect(sent == "It snows.", f"the text of the last step is 'It snows.', and readers received {sent!r}")
        last = {"role": "assistant", "content": sent}
        expect(end["lastMessage"] == last, f"lastMessage is {end['lastMessage']}, and the text is {sent!r}")
        history = await session.history()
        expect(
            history and history[-1].get("content") == sent,
            f"the history ends with {history[-1:]}, and the text is {sent!r}",
        )
        expect(
            end["messageCount"] == len(history),
            f"messageCount is {end['messageCount']}, and the history has {len(history)}",
        )


@check("EVT-4.pairs", variants=ALL_VARIANTS)
async def calls_start_and_end(ctx: CheckContext) -> None:
    """Each of three calls in one step starts and ends once, with its own arguments."""
    cities = ["Oslo", "Rome", "Lima"]
    async with ctx.session() as session:
        await ctx.register(session)
        events = await session.run_to_end(ctx.script(reply(calls=[("get_weather", {"city": city}) for city in cities])))
    _expect_grammar(events, "EVT-4.pairs")
    started = {event.data["callId"]: event.data["args"] for event in events if event.name == "tool_execution_start"}
    ended = [event.data["callId"] for event in events if event.name == "tool_execution_end"]
    expect(sorted(ended) == sorted(started), f"the calls {sorted(started)} started, and {sorted(ended)} ended")
    expect(sorted(args["city"] for args in started.values()) == sorted(cities), f"the started calls are {started}")


@check("EVT-4.unique", variants=RAW_STREAMS)
async def call_ids_are_unique(ctx: CheckContext) -> None:
    """The calls of two runs have different ids, even if the model repeats its own."""
    async with ctx.session() as session:
        await ctx.register(session)
        ids: list[str] = []
        for _ in range(2):
            events = await session.run_to_end(ctx.script(reply(calls=[_CALL, _CALL]), reply(calls=[_CALL])))
            ids += [event.data["callId"] for event in events if event.name == "tool_execution_start"]
    expect(len(ids) == 6 and len(set(ids)) == 6, f"six calls have the ids {ids}")


@check("EVT-4.not-run", variants=ALL_VARIANTS)
async def a_rejected_call_does_not_run(ctx: CheckContext) -> None:
    """A rejected call neither starts nor reaches its tool."""
    async with ctx.pending_approval() as approval:
        (await approval.session.decide("reject", approval.id)).require(200)
        events = await approval.run.wait_for_end()
        expect("tool_execution_start" not in names(events), "a rejected call started")
        if approval.hosted is None:
            return
        # By the time a later call has reached the tool, an earlier one would have too.
        text = ctx.script(reply(calls=[_CALL]))
        async with approval.session.run(text) as run:
            required = await run.wait_for("approval_required")
            (await approval.session.decide("approve", str(required.data["approvalId"]))).require(200)
            events = await run.wait_for_end()
        received = [each.json.get("callId") for each in approval.hosted.calls]
        allowed = [event.data["callId"] for event in events if event.name == "tool_execution_end"]
        expect(
            received == [each for each in received if each in allowed],
            f"the calls {received} reached the tool, and only {allowed} may run",
        )


@check("EVT-5.schema", variants=ALL_VARIANTS)
async def events_match_the_schema(ctx: CheckContext) -> None:
    """Runs with most event types; a monitor validates each event."""
    async with ctx.session() as session:
        await ctx.register(session)
        await session.run_to_end(ctx.script(reply("Hi. ", thinking=["Hm."], calls=[_CALL, ("no_such_tool", {})])))
        await session.run_to_end(ctx.script(reply("x", cut=True)))


@check("EVT-5.same")
async def both_transports_have_the_same_events(ctx: CheckContext) -> None:
    """SSE and WebSocket deliver the same events of a run."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        await ctx.register(session)
        text = ctx.script(reply("Ä €", "\n\u2028x", thinking=["Hm."], calls=[_CALL]), reply("End."))
        events = await session.run_to_end(text)
        with fails_if_blocked("on the WebSocket"):
            others = await socket.wait_for_end()
        over_sse = [(event.name, event.data, event.id) for event in events]
        over_ws = [(event.name, event.data, event.id) for event in others]
        different = next((pair for pair in zip(over_sse, over_ws, strict=False) if pair[0] != pair[1]), None)
        expect(
            over_sse == over_ws,
            f"{len(over_sse)} events over SSE, {len(over_ws)} over WebSocket; the first difference: {different}",
        )


@check("EVT-5.request-id", variants=RAW_STREAMS)
async def events_have_their_request_id(ctx: CheckContext) -> None:
    """Every event of a run has the requestId of its prompt."""
    async with ctx.session() as session:
        await ctx.register(session)
        async with session.run(ctx.script(reply(calls=[_CALL]))) as run:
            assert run.accepted is not None
            wanted = run.accepted.body.get("requestId")
            events = await run.wait_for_end()
    wrong = [str(event) for event in events if event.data.get("requestId") != wanted]
    expect(not wrong, f"the prompt has the requestId {wanted}, and its run has {wrong[:1]}")


# Text that is easily altered: line ends, separators, marks, split graphemes, and text that looks like SSE or a script.
TEXTS: Sequence[Sequence[str]] = (
    ("a\r\nb", "\rc\n", "\n"),
    ("\u2028", "\u2029\u0085", "\x0b\x0c\x1c"),
    ("e", "\u0301 ", "\U0001f469", "\u200d", "\U0001f680"),
    ("\ufeff", "data: x\n\n", "event: agent_end\n", ": ping\n"),
    ("שלום \u202eabc\u202c", "𝒳", "\uffff\ufffd", "\x7f\x01"),
    (" ", "  ", "\t", " trailing "),
    ('{"a": "\\u0000"}', "\\", '"', "</script>", "%00"),
)


@check("EVT-6", variants=ALL_VARIANTS)
async def text_arrives_unchanged(ctx: CheckContext) -> None:
    """Any Unicode text of the model arrives unchanged, in the events and in the history."""
    async with ctx.session() as session:
        for pieces in TEXTS:
            sent = "".join(pieces)
            events = await session.run_to_end(ctx.script(reply(*pieces, thinking=[*pieces])))
            for name in ("thinking_delta", "message_delta"):
                received = "".join(event.data["delta"] for event in events if event.name == name)
                expect(received == sent, f"the model sent {sent!r}, and {name} events contain {received!r}")
            content = (await session.history())[-1].get("content")
            expect(content == sent, f"the model sent {sent!r}, and the history has {content!r}")


@check("EVT-7.gapless", variants=RAW_STREAMS)
async def ids_are_consecutive(ctx: CheckContext) -> None:
    """The events of two runs are numbered 1, 2, 3 … in one epoch."""
    async with ctx.session() as session:
        events = [event for _ in range(2) for event in await session.run_to_end(ctx.simple_prompt("One ", "two."))]
    epochs = {(event.id or "").partition(".")[0] for event in events}
    expect(len(epochs) == 1 and all(epochs), f"the epochs are {epochs}")
    numbers = [event.seq for event in events]
    expect(numbers == [*range(1, len(events) + 1)], f"the sequence numbers are {numbers}")


@check("EVT-7.identical")
async def an_event_never_changes(ctx: CheckContext) -> None:
    """Every event is byte-identical when it is read again."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.script(reply("Ä", " €", usage=(3, 2))))
        for _ in range(2):
            async with ctx.http.events(session.id, session.key, after="start") as reader:
                again = await reader.wait_for_end()
            for before, after in zip(events, again, strict=True):
                expect(
                    (before.id, before.name, before.raw) == (after.id, after.name, after.raw),
                    f"an event was {before} and is {after}",
                )


# -- open calls and approvals ------------------------------------------------------------------------------------------


async def _ended_by_deletion(ctx: CheckContext, session: Any, run: Any) -> list[Event]:
    (await ctx.http.delete(session.path)).require(200)
    events = await run.wait_for_end()
    require(events[-1].name == "agent_abort", f"the run ended with {events[-1]}")
    return events


@check("EVT-9.approvals", variants=RAW_STREAMS)
async def pending_approvals_are_cancelled(ctx: CheckContext) -> None:
    """An approval that is pending when its run ends is resolved as cancelled."""
    async with ctx.pending_approval() as approval:
        events = await _ended_by_deletion(ctx, approval.session, approval.run)
        closed = [event.data for event in events if event.name == "approval_resolved"]
        expect(
            [(each["approvalId"], each["status"]) for each in closed] == [(approval.id, "cancelled")],
            f"before agent_abort the approval was resolved as {closed}",
        )


@check("EVT-9.questions", variants=RAW_STREAMS)
async def open_questions_end(ctx: CheckContext) -> None:
    """The call of an open question ends with status error when its run ends."""
    async with ctx.pending_question() as (session, run, _):
        events = await _ended_by_deletion(ctx, session, run)
        ends = [event.data["status"] for event in events if event.name == "tool_execution_end"]
        expect(ends == ["error"], f"the call of the question ended with {ends} before agent_abort")


@check("EVT-9.calls", variants=RAW_STREAMS)
async def active_calls_end(ctx: CheckContext) -> None:
    """A call that is active when its run ends, ends with status error."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        events = await _ended_by_deletion(ctx, session, paused.run)
        ends = [event.data["status"] for event in events if event.name == "tool_execution_end"]
        expect(ends == ["error"], f"the call ended with {ends} before agent_abort")
