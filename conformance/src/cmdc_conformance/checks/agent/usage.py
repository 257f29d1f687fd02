"""Usage: tokens and prompts are counted once, and budgets are enforced."""

from __future__ import annotations

import asyncio

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_STREAMS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.drivers.session import Session
from cmdc_conformance.findings import expect, require
from cmdc_conformance.wire.event import names

_CALL = ("get_weather", {"city": "Oslo"})


async def _counted(session: Session, prompts: int, tokens: int) -> None:
    stats = (await session.stats()).require(200)
    expect(stats.get("promptCount") == prompts, f"promptCount is {stats.get('promptCount')} after {prompts} prompts")
    expect(stats.get("totalTokens") == tokens, f"totalTokens is {stats.get('totalTokens')} after {tokens} tokens")


@check("MTR-1.counted", variants=ALL_VARIANTS)
async def a_run_is_counted_once(ctx: CheckContext) -> None:
    """After two runs, each agent_end has the tokens of its run and the stats have the sum."""
    async with ctx.session() as session:
        await ctx.register(session)
        first = await session.run_to_end(ctx.script(reply(calls=[_CALL], usage=(10, 5)), reply("Hi.", usage=(20, 7))))
        usage = {"promptTokens": 30, "completionTokens": 12, "totalTokens": 42}
        expect(
            first[-1].data.get("tokenUsage") == usage,
            f"tokenUsage of agent_end is {first[-1].data.get('tokenUsage')}, not {usage}",
        )
        await _counted(session, 1, 42)
        second = await session.run_to_end(ctx.script(reply("Hi.", usage=(4, 1))))
        counted = second[-1].data.get("tokenUsage", {}).get("totalTokens")
        expect(counted == 5, f"agent_end of the second run has {counted} tokens, not its own 5")
        await _counted(session, 2, 47)


@check("MTR-1.failed", variants=RAW_STREAMS)
async def a_failed_run_is_counted(ctx: CheckContext) -> None:
    """The tokens that a run used before it failed are counted."""
    async with ctx.session() as session:
        await ctx.register(session)
        events = await session.run_to_end(ctx.script(reply(calls=[_CALL], usage=(10, 5)), reply(fail=(400, 0))))
        require(events[-1].name == "agent_abort", f"the run ended with {events[-1]}")
        await _counted(session, 1, 15)


@check("MTR-1.aborted", variants=RAW_STREAMS)
async def an_aborted_run_is_counted(ctx: CheckContext) -> None:
    """The tokens that a run used before it was aborted are counted."""
    async with ctx.session() as session:
        hosted = await ctx.register(session, "slow_tool")
        hosted.gate = asyncio.Event()
        text = ctx.script(reply(calls=[("slow_tool", {"city": "Oslo"})], usage=(10, 5)))
        async with session.run(text) as run:
            await hosted.wait_for_calls(within=ctx.deadline)
            (await session.abort()).require(202)
            await run.wait_for_end()
        hosted.gate.set()
        await _counted(session, 1, 15)


@check("MTR-2.spent", variants=RAW_STREAMS)
async def a_run_stops_at_its_budget(ctx: CheckContext) -> None:
    """After the budget is exhausted, the run ends before the next model call."""
    async with ctx.session(budget={"maxTokens": 50}, maxTokens=10) as session:
        await ctx.register(session)
        text = ctx.script(reply(calls=[_CALL], usage=(40, 20)), reply("Not reached.", usage=(1, 1)))
        events = await session.run_to_end(text)
        end = events[-1]
        expect(end.name == "agent_abort" and end.data.get("reason") == "budget_exceeded", f"the run ended with {end}")
        expect("error" in names(events), "there is no error event before agent_abort")
        expect("message_delta" not in names(events), "a model call was made after the budget was exhausted")


@check("MTR-2.refused")
async def a_prompt_over_the_budget_is_rejected(ctx: CheckContext) -> None:
    """After the budget is exhausted, a prompt returns 402."""
    async with ctx.session(budget={"maxTokens": 50}, maxTokens=10) as session:
        events = await session.run_to_end(ctx.script(reply("Hi.", usage=(40, 20))))
        require(events[-1].name == "agent_end", f"the run ended with {events[-1]}")
        (await session.prompt(ctx.simple_prompt())).expect(402, code="budget_exceeded")
    async with ctx.session(budget={"maxTokens": 1_000_000}) as session:
        (await session.prompt(ctx.simple_prompt())).require(202)
