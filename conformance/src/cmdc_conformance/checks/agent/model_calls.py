"""Model calls: which failures are retried, and what the server sends to the model."""

from __future__ import annotations

from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_STREAMS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, fails_if_blocked, require
from cmdc_conformance.wire.event import names, text_of_last_step

_CALL = ("get_weather", {"city": "Oslo"})


@check("MODEL-retry.transient", variants=RAW_STREAMS)
async def a_transient_failure_is_retried(ctx: CheckContext) -> None:
    """Two transient failures are retried, and readers see nothing of them."""
    for status in (500, 429):
        async with ctx.session() as session:
            with fails_if_blocked():
                events = await session.run_to_end(ctx.script(reply("After two failures.", fail=(status, 2))))
            expect(events[-1].name == "agent_end", f"after {status} twice, the run ended with {events[-1]}")
            expect("error" not in names(events), f"readers received an error for a transient {status}")
            expect(text_of_last_step(events) == "After two failures.", f"the text is {text_of_last_step(events)!r}")


@check("MODEL-retry.final", variants=RAW_STREAMS)
async def a_lasting_failure_ends_the_run(ctx: CheckContext) -> None:
    """A failure that persists through the retries ends the run."""
    async with ctx.session() as session:
        with fails_if_blocked():
            events = await session.run_to_end(ctx.script(reply("Not reached.", fail=(503, 0))))
        expect(names(events)[-2:] == ["error", "agent_abort"], f"the run was {', '.join(names(events))}")
        expect(events[-1].data.get("reason") == "error", f"the reason is {events[-1].data.get('reason')!r}")


@check("MODEL-retry.at-once", variants=RAW_STREAMS)
async def a_permanent_failure_is_not_retried(ctx: CheckContext) -> None:
    """A permanent failure ends the run without a retry, which would have succeeded."""
    async with ctx.session() as session:
        events = await session.run_to_end(ctx.script(reply("A second try.", fail=(400, 1))))
        expect(names(events)[-2:] == ["error", "agent_abort"], f"the run was {', '.join(names(events))}")


@check("MODEL-retry.cut", variants=RAW_STREAMS)
async def a_cut_stream_is_not_retried(ctx: CheckContext) -> None:
    """If the model's stream is cut after text was shown, the run ends, and the text is not repeated."""
    async with ctx.session() as session:
        with fails_if_blocked():
            events = await session.run_to_end(ctx.script(reply("Cut ", "here", cut=True)))
        expect(names(events)[-2:] == ["error", "agent_abort"], f"the run was {', '.join(names(events))}")
        received = "".join(event.data["delta"] for event in events if event.name == "message_delta")
        expect(received == "Cut here", f"readers received {received!r}, expected the text once")


@check("MODEL-history")
async def the_model_receives_the_history(ctx: CheckContext) -> None:
    """The model receives the system prompt and all earlier messages, in order."""
    async with ctx.session(systemPrompt="You are brief.") as session:
        first = ctx.script(reply("First answer."))
        await session.run_to_end(first)
        nonce = ctx.unique()
        second = ctx.script(reply("Second answer."), nonce=nonce)
        await session.run_to_end(second)
        requests = ctx.model_requests(nonce)
        require(requests, "the model was not called")
        received = [(each.get("role"), _content(each.get("content"))) for each in requests[0].messages]
        wanted = [("system", "You are brief."), ("user", first), ("assistant", "First answer."), ("user", second)]
        expect(received == wanted, f"the model received {received}")


@check("MODEL-tools")
async def the_model_receives_tools_and_results(ctx: CheckContext) -> None:
    """The model receives the tools with their schemas, and the result of every call."""
    async with ctx.session() as session:
        await ctx.register(session)
        nonce = ctx.unique()
        await session.run_to_end(ctx.script(reply(calls=[_CALL]), reply("Sunny."), nonce=nonce))
        requests = ctx.model_requests(nonce)
        require(len(requests) == 2, f"the model was called {len(requests)} times")
        tools = {tool["function"]["name"]: tool["function"].get("parameters") for tool in requests[0].tools}
        expect("get_weather" in tools, f"the model received the tools {sorted(tools)}")
        schema: Any = tools["get_weather"]
        expect("city" in schema.get("properties", {}), f"the model received the parameters {schema}")
        results = [_content(each.get("content")) for each in requests[1].messages if each.get("role") == "tool"]
        expect(results == ["sunny"], f"the model received the results {results}")


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(str(part.get("text", "")) for part in content)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
