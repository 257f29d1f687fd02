"""Runs: their grammar, their end, their text, what is counted of them, and what the model is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, RAW, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, need, owed
from cmdc_conformance.monitors import Event, run_flaws
from cmdc_conformance.socket import opened

_CALL = ("get_weather", {"city": "Oslo"})


def names(events: Sequence[Event]) -> list[str]:
    """The names of events, in order."""
    return [event.name for event in events]


def text_of_last_step(events: Sequence[Event]) -> str:
    """What the agent said in the last step."""
    last = max((index for index, event in enumerate(events) if event.name == "tool_calls"), default=-1)
    return "".join(event.data["delta"] for event in events[last + 1 :] if event.name == "message_delta")


def grammar(events: Sequence[Event], requirement: str) -> None:
    """What this requirement says of the order of a run's events."""
    flaws = [message for about, message in run_flaws(events) if about == requirement]
    expect(not flaws, f"{flaws[:1]}: the run was {', '.join(names(events))}")


@check("EVT-1.grammar", faces=EVERY)
async def a_rich_run_keeps_to_the_grammar(case: Case) -> None:
    """Reasoning, text, two calls at once and a last step, in the order of the grammar."""
    text = case.script(
        reply("Let me ", "look. ", thinking=["Hm, ", "weather."], calls=[_CALL, ("get_weather", {"city": "Rome"})]),
        reply("Both ", "sunny."),
    )
    async with case.session() as session:
        await case.register(session)
        events = await session.ran(text)
    wanted = [
        *("prompt_received", "agent_start", "thinking_start", "thinking_delta", "message_start", "message_delta"),
        *("tool_calls", "tool_execution_start", "tool_execution_start", "tool_execution_end", "tool_execution_end"),
        *("message_start", "message_delta", "agent_end"),
    ]
    # Pieces of text may be put together, and calls of one step may interleave.
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
    expect(counts == [2], f"tool_calls counts {counts}, and the step asked for 2")
    grammar(events, "EVT-1.grammar")


@check("EVT-1.blocks", faces=EVERY)
async def blocks_open_and_alternate(case: Case) -> None:
    """A block opens before its first piece, and again in the next step."""
    async with case.session() as session:
        await case.register(session)
        text = case.script(reply("a", "b", thinking=["x", "y"], calls=[_CALL]), reply("c", thinking=["z"]), nonce=None)
        events = await session.ran(text)
    grammar(events, "EVT-1.blocks")
    seen = [name.removesuffix("_start") for name in names(events) if name in ("thinking_start", "message_start")]
    expect(seen == ["thinking", "message", "thinking", "message"], f"the blocks are {seen}")
    thought = "".join(event.data["delta"] for event in events if event.name == "thinking_delta")
    expect(thought == "xyz", f"the reasoning was 'xyz', and came as {thought!r}")


async def _refused_call(case: Case, call: tuple[str, Any]) -> None:
    """A call that is refused gives error and nothing else, and the model is told."""
    async with case.session() as session:
        hosted = await case.register(session)
        events = await session.ran(case.script(reply(calls=[call]), reply("Well.")))
        seen = names(events)
        expect("error" in seen, f"there is no error event: {', '.join(seen)}")
        others = [name for name in seen if name.startswith(("tool_execution", "approval"))]
        expect(not others, f"a call that cannot be made gives {', '.join(others)}")
        expect(not hosted.calls, "the tool was called")
        expect(seen[-1] == "agent_end", f"the run ended with {events[-1]}")
        results = [each for each in await session.history() if each["role"] == "tool_result"]
        expect(len(results) == 1 and results[0].get("isError") is True, f"the history has the results {results}")


@check("EVT-1.unknown-tool", faces=EVERY)
async def a_tool_that_is_not_there(case: Case) -> None:
    """A call of an unknown tool is an error, and the run goes on."""
    await _refused_call(case, ("no_such_tool", {"city": "Oslo"}))


@check("EVT-1.bad-arguments", faces=EVERY)
async def arguments_that_do_not_fit(case: Case) -> None:
    """A call whose arguments do not fit is an error, and the run goes on."""
    await _refused_call(case, ("get_weather", {"town": "Oslo"}))


@check("EVT-2.terminal", faces=EVERY)
async def one_terminal_event(case: Case) -> None:
    """Two runs, each with one end and nothing after it."""
    async with case.session() as session:
        for _ in range(2):
            with owed():
                events = await session.ran(case.plain())
            expect(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
            expect(sum(event.is_terminal for event in events) == 1, f"the run was {', '.join(names(events))}")


@check("EVT-2.failure", faces=EVERY)
async def how_a_run_fails(case: Case) -> None:
    """A model that fails for good ends the run with error, then agent_abort with reason error."""
    async with case.session() as session:
        with owed():
            events = await session.ran(case.script(reply(fail=(400, 0))))
        seen = names(events)
        expect(
            seen[-1] == "agent_abort" and events[-1].data.get("reason") == "error", f"the run ended with {events[-1]}"
        )
        expect(seen[-2] == "error", f"before agent_abort came {seen[-2]}, not error")
        again = await session.ran(case.plain())
        expect(again[-1].name == "agent_end", "the session does not go on after a failed run")


@check("EVT-3", faces=EVERY)
async def the_last_step_is_the_last_message(case: Case) -> None:
    """The text of the last step is agent_end's last message, and the history's."""
    text = case.script(reply("Let me look. ", calls=[_CALL]), reply("It ", "snows."))
    async with case.session() as session:
        await case.register(session)
        events = await session.ran(text)
        said = text_of_last_step(events)
        end = events[-1].data
        need(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        expect(said == "It snows.", f"the last step said 'It snows.', and readers got {said!r}")
        last = {"role": "assistant", "content": said}
        expect(end["lastMessage"] == last, f"lastMessage is {end['lastMessage']}, and the text was {said!r}")
        history = await session.history()
        expect(
            history and history[-1].get("content") == said,
            f"the history ends with {history[-1:]}, and the text was {said!r}",
        )
        expect(
            end["messageCount"] == len(history),
            f"messageCount is {end['messageCount']}, and the history has {len(history)}",
        )


@check("EVT-4.pairs", faces=EVERY)
async def calls_start_and_end(case: Case) -> None:
    """Three calls of one step: each starts and ends once, with its own arguments."""
    cities = ["Oslo", "Rome", "Lima"]
    async with case.session() as session:
        await case.register(session)
        events = await session.ran(case.script(reply(calls=[("get_weather", {"city": city}) for city in cities])))
    grammar(events, "EVT-4.pairs")
    started = {event.data["callId"]: event.data["args"] for event in events if event.name == "tool_execution_start"}
    ended = [event.data["callId"] for event in events if event.name == "tool_execution_end"]
    expect(sorted(ended) == sorted(started), f"started were {sorted(started)}, ended {sorted(ended)}")
    expect(sorted(args["city"] for args in started.values()) == sorted(cities), f"started were {started}")


@check("EVT-4.unique", faces=RAW)
async def call_ids_are_unique(case: Case) -> None:
    """The calls of two runs have different ids, whatever the model calls them."""
    async with case.session() as session:
        await case.register(session)
        ids: list[str] = []
        for _ in range(2):
            events = await session.ran(case.script(reply(calls=[_CALL, _CALL]), reply(calls=[_CALL])))
            ids += [event.data["callId"] for event in events if event.name == "tool_execution_start"]
    expect(len(ids) == 6 and len(set(ids)) == 6, f"six calls have the ids {ids}")


@check("EVT-4.not-run", faces=EVERY)
async def what_was_rejected_does_not_run(case: Case) -> None:
    """A rejected call neither starts nor reaches its tool."""
    async with case.waiting_call() as waiting:
        (await waiting.session.decide("reject", waiting.approval)).needed(200)
        events = await waiting.run.end()
        expect("tool_execution_start" not in names(events), "a rejected call has started")
        if waiting.hosted is None:
            return
        # Whatever was on its way to the tool has arrived when a later call of it has.
        text = case.script(reply(calls=[_CALL]))
        async with waiting.session.run(text) as run:
            required = await run.until("approval_required")
            (await waiting.session.decide("approve", str(required.data["approvalId"]))).needed(200)
            events = await run.end()
        came = [each.json.get("callId") for each in waiting.hosted.calls]
        allowed = [event.data["callId"] for event in events if event.name == "tool_execution_end"]
        expect(
            came == [each for each in came if each in allowed],
            f"the calls {came} have reached the tool, and only {allowed} may run",
        )


@check("EVT-5.schema", faces=EVERY)
async def events_are_as_described(case: Case) -> None:
    """Runs with most of the fifteen events; a monitor looks at each."""
    async with case.session() as session:
        await case.register(session)
        await session.ran(case.script(reply("Hi. ", thinking=["Hm."], calls=[_CALL, ("no_such_tool", {})])))
        await session.ran(case.script(reply("x", cut=True)))


@check("EVT-5.same")
async def two_transports_one_log(case: Case) -> None:
    """SSE and WebSocket bring the same events of the same run."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        await case.register(session)
        text = case.script(reply("Ä €", "\n\u2028x", thinking=["Hm."], calls=[_CALL]), reply("End."))
        events = await session.ran(text)
        with owed("on the WebSocket"):
            others = await socket.end()
        here = [(event.name, event.data, event.id) for event in events]
        there = [(event.name, event.data, event.id) for event in others]
        different = next((pair for pair in zip(here, there, strict=False) if pair[0] != pair[1]), None)
        expect(
            here == there,
            f"{len(here)} events over SSE, {len(there)} over WebSocket; the first that differs: {different}",
        )


@check("EVT-5.request-id", faces=RAW)
async def events_name_their_run(case: Case) -> None:
    """Every event of a run has the requestId of its prompt."""
    async with case.session() as session:
        await case.register(session)
        async with session.run(case.script(reply(calls=[_CALL]))) as run:
            assert run.accepted is not None
            wanted = run.accepted.body.get("requestId")
            events = await run.end()
    wrong = [str(event) for event in events if event.data.get("requestId") != wanted]
    expect(not wrong, f"the requestId was {wanted}, and there came {wrong[:1]}")


# Text that is easily changed on its way: line ends, separators, marks, cut graphemes, what looks like a stream or a script.
TEXTS: Sequence[Sequence[str]] = (
    ("a\r\nb", "\rc\n", "\n"),
    ("\u2028", "\u2029\u0085", "\x0b\x0c\x1c"),
    ("e", "\u0301 ", "\U0001f469", "\u200d", "\U0001f680"),
    ("\ufeff", "data: x\n\n", "event: agent_end\n", ": ping\n"),
    ("שלום \u202eabc\u202c", "𝒳", "\uffff\ufffd", "\x7f\x01"),
    (" ", "  ", "\t", " trailing "),
    ('{"a": "\\u0000"}', "\\", '"', "</script>", "%00"),
)


@check("EVT-6", faces=EVERY)
async def text_is_passed_on_exactly(case: Case) -> None:
    """Whatever Unicode the model says arrives as it was said, in events and in the history."""
    async with case.session() as session:
        for pieces in TEXTS:
            said = "".join(pieces)
            events = await session.ran(case.script(reply(*pieces, thinking=[*pieces])))
            for name in ("thinking_delta", "message_delta"):
                came = "".join(event.data["delta"] for event in events if event.name == name)
                expect(came == said, f"the model said {said!r}, and as {name} there came {came!r}")
            content = (await session.history())[-1].get("content")
            expect(content == said, f"the model said {said!r}, and the history has {content!r}")


@check("EVT-7.gapless", faces=RAW)
async def ids_are_numbered(case: Case) -> None:
    """The ids of two runs are 1, 2, 3 … of one epoch."""
    async with case.session() as session:
        events = [event for _ in range(2) for event in await session.ran(case.plain("One ", "two."))]
    epochs = {(event.id or "").partition(".")[0] for event in events}
    expect(len(epochs) == 1 and all(epochs), f"the epochs are {epochs}")
    numbers = [event.seq for event in events]
    expect(numbers == [*range(1, len(events) + 1)], f"the events are numbered {numbers}")


@check("EVT-7.identical")
async def an_event_is_always_the_same(case: Case) -> None:
    """Read again, every event is the same, byte for byte."""
    async with case.session() as session:
        events = await session.ran(case.script(reply("Ä", " €", usage=(3, 2))))
        for _ in range(2):
            async with case.http.events(session.id, session.key, after="start") as reader:
                again = await reader.end()
            for before, after in zip(events, again, strict=True):
                expect(
                    (before.id, before.name, before.raw) == (after.id, after.name, after.raw),
                    f"it was {before}, and is {after}",
                )


# -- what is left open ---------------------------------------------------------------------------------------------------


async def _ended_by_deletion(case: Case, session: Any, run: Any) -> list[Event]:
    (await case.http.delete(session.path)).needed(200)
    events = await run.end()
    need(events[-1].name == "agent_abort", f"the run ended with {events[-1]}")
    return events


@check("EVT-9.approvals", faces=RAW)
async def approvals_are_closed(case: Case) -> None:
    """An approval that waits when its run ends is resolved as cancelled."""
    async with case.waiting_call() as waiting:
        events = await _ended_by_deletion(case, waiting.session, waiting.run)
        closed = [event.data for event in events if event.name == "approval_resolved"]
        expect(
            [(each["approvalId"], each["status"]) for each in closed] == [(waiting.approval, "cancelled")],
            f"before agent_abort the approval was resolved as {closed}",
        )


@check("EVT-9.questions", faces=RAW)
async def questions_are_closed(case: Case) -> None:
    """A question that is open when its run ends is ended with error."""
    async with case.question() as (session, run, _):
        events = await _ended_by_deletion(case, session, run)
        ends = [event.data["status"] for event in events if event.name == "tool_execution_end"]
        expect(ends == ["error"], f"before agent_abort the question's call ended with {ends}")


@check("EVT-9.calls", faces=RAW)
async def calls_are_closed(case: Case) -> None:
    """A call that runs when its run ends is ended with error."""
    async with case.session() as session, case.held(session) as held:
        events = await _ended_by_deletion(case, session, held.run)
        ends = [event.data["status"] for event in events if event.name == "tool_execution_end"]
        expect(ends == ["error"], f"before agent_abort the call ended with {ends}")


# -- counting ------------------------------------------------------------------------------------------------------------


async def _counted(session: Any, prompts: int, tokens: int) -> None:
    stats = (await session.stats()).needed(200)
    expect(stats.get("promptCount") == prompts, f"{prompts} prompts are counted as {stats.get('promptCount')}")
    expect(stats.get("totalTokens") == tokens, f"{tokens} tokens are counted as {stats.get('totalTokens')}")


@check("MTR-1.counted", faces=EVERY)
async def a_run_is_counted_once(case: Case) -> None:
    """Two runs: agent_end tells each one's tokens, stats the sum."""
    async with case.session() as session:
        await case.register(session)
        first = await session.ran(case.script(reply(calls=[_CALL], usage=(10, 5)), reply("Hi.", usage=(20, 7))))
        usage = {"promptTokens": 30, "completionTokens": 12, "totalTokens": 42}
        expect(
            first[-1].data.get("tokenUsage") == usage,
            f"agent_end tells {first[-1].data.get('tokenUsage')}, not {usage}",
        )
        await _counted(session, 1, 42)
        second = await session.ran(case.script(reply("Hi.", usage=(4, 1))))
        told = second[-1].data.get("tokenUsage", {}).get("totalTokens")
        expect(told == 5, f"the second run's agent_end tells {told} tokens, not its own 5")
        await _counted(session, 2, 47)


@check("MTR-1.failed", faces=RAW)
async def a_failed_run_is_counted(case: Case) -> None:
    """What a run used before it failed is counted."""
    async with case.session() as session:
        await case.register(session)
        events = await session.ran(case.script(reply(calls=[_CALL], usage=(10, 5)), reply(fail=(400, 0))))
        need(events[-1].name == "agent_abort", f"the run ended with {events[-1]}")
        await _counted(session, 1, 15)


@check("MTR-1.aborted", faces=RAW)
async def a_stopped_run_is_counted(case: Case) -> None:
    """What a run used before it was stopped is counted."""
    async with case.session() as session:
        hosted = await case.register(session, "slow_tool")
        hosted.gate = asyncio.Event()
        text = case.script(reply(calls=[("slow_tool", {"city": "Oslo"})], usage=(10, 5)))
        async with session.run(text) as run:
            await hosted.called(within=case.deadline)
            (await session.abort()).needed(202)
            await run.end()
        hosted.gate.set()
        await _counted(session, 1, 15)


@check("MTR-2.spent", faces=RAW)
async def a_budget_is_spent_in_a_run(case: Case) -> None:
    """The step after the budget was spent is not made."""
    async with case.session(budget={"maxTokens": 50}, maxTokens=10) as session:
        await case.register(session)
        text = case.script(reply(calls=[_CALL], usage=(40, 20)), reply("Never said.", usage=(1, 1)))
        events = await session.ran(text)
        end = events[-1]
        expect(end.name == "agent_abort" and end.data.get("reason") == "budget_exceeded", f"the run ended with {end}")
        expect("error" in names(events), "there is no error before it")
        expect("message_delta" not in names(events), "a model call was made over the budget")


@check("MTR-2.refused")
async def a_prompt_over_the_budget(case: Case) -> None:
    """With the budget spent a prompt is 402."""
    async with case.session(budget={"maxTokens": 50}, maxTokens=10) as session:
        events = await session.ran(case.script(reply("Hi.", usage=(40, 20))))
        need(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        (await session.prompt(case.plain())).must_be(402, code="budget_exceeded")
    async with case.session(budget={"maxTokens": 1_000_000}) as session:
        (await session.prompt(case.plain())).needed(202)


# -- the model -----------------------------------------------------------------------------------------------------------


@check("MODEL-retry.transient", faces=RAW)
async def what_may_pass_is_tried_again(case: Case) -> None:
    """Two failures that may pass are not seen by readers."""
    for status in (500, 429):
        async with case.session() as session:
            with owed():
                events = await session.ran(case.script(reply("After two failures.", fail=(status, 2))))
            expect(events[-1].name == "agent_end", f"after two times {status} the run ended with {events[-1]}")
            expect("error" not in names(events), f"readers saw an error for a {status} that passed")
            expect(text_of_last_step(events) == "After two failures.", f"the text is {text_of_last_step(events)!r}")


@check("MODEL-retry.final", faces=RAW)
async def what_does_not_pass(case: Case) -> None:
    """A failure that stays ends the run."""
    async with case.session() as session:
        with owed():
            events = await session.ran(case.script(reply("Never said.", fail=(503, 0))))
        expect(names(events)[-2:] == ["error", "agent_abort"], f"the run was {', '.join(names(events))}")
        expect(events[-1].data.get("reason") == "error", f"the reason is {events[-1].data.get('reason')!r}")


@check("MODEL-retry.at-once", faces=RAW)
async def what_will_not_pass(case: Case) -> None:
    """A failure that will not pass is not tried again: a second try would have succeeded."""
    async with case.session() as session:
        events = await session.ran(case.script(reply("A second try.", fail=(400, 1))))
        expect(names(events)[-2:] == ["error", "agent_abort"], f"the run was {', '.join(names(events))}")


@check("MODEL-retry.cut", faces=RAW)
async def what_was_cut(case: Case) -> None:
    """A stream that breaks off after text was shown ends the run, and its text stays."""
    async with case.session() as session:
        with owed():
            events = await session.ran(case.script(reply("Cut ", "here", cut=True)))
        expect(names(events)[-2:] == ["error", "agent_abort"], f"the run was {', '.join(names(events))}")
        said = "".join(event.data["delta"] for event in events if event.name == "message_delta")
        expect(said == "Cut here", f"readers saw {said!r}: the text once, and no second try")


@check("MODEL-history")
async def what_the_model_is_told(case: Case) -> None:
    """The system prompt and all that was said before, in order."""
    async with case.session(systemPrompt="You are brief.") as session:
        first = case.script(reply("First answer."))
        await session.ran(first)
        nonce = case.fresh()
        second = case.script(reply("Second answer."), nonce=nonce)
        await session.ran(second)
        told = case.told(nonce)
        need(told, "the model was not asked")
        said = [(each.get("role"), _content(each.get("content"))) for each in told[0].messages]
        wanted = [("system", "You are brief."), ("user", first), ("assistant", "First answer."), ("user", second)]
        expect(said == wanted, f"the model was told {said}")


@check("MODEL-tools")
async def which_tools_the_model_is_offered(case: Case) -> None:
    """The tools with their schemas, and every result."""
    async with case.session() as session:
        await case.register(session)
        nonce = case.fresh()
        await session.ran(case.script(reply(calls=[_CALL]), reply("Sunny."), nonce=nonce))
        told = case.told(nonce)
        need(len(told) == 2, f"the model was asked {len(told)} times")
        offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in told[0].tools}
        expect("get_weather" in offered, f"the model was offered {sorted(offered)}")
        schema: Any = offered["get_weather"]
        expect("city" in schema.get("properties", {}), f"the model was shown the parameters {schema}")
        results = [_content(each.get("content")) for each in told[1].messages if each.get("role") == "tool"]
        expect(results == ["sunny"], f"the model was told the results {results}")


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(str(part.get("text", "")) for part in content)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
