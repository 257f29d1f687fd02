"""Usage figures and the message history."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.http.prompts import user_messages
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_AND_SDK, RAW_STREAMS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, require

# -- usage --------------------------------------------------------------------------------------------------------------


@check("EP-stats", variants=RAW_AND_SDK)
async def stats_are_correct(ctx: CheckContext) -> None:
    """The stats of a session are its own and add up."""
    async with ctx.session() as session:
        body = (await session.stats()).expect(200)
        expect(body.get("promptCount") == 0 and body.get("totalTokens") == 0, f"a new session has the stats {body}")
        for _ in range(2):
            text = ctx.script(reply("Hello.", usage=(11, 4)))
            session.announce(text)
            (await session.prompt(text)).require(202)
        await user_messages(ctx.http, session.path, 2)
        body = (await session.stats()).expect(200)
        usage = {"promptTokens": 22, "completionTokens": 8, "totalTokens": 30}
        expect(body.get("tokenUsage") == usage, f"tokenUsage is {body.get('tokenUsage')}, expected {usage}")
        expect(body.get("totalTokens") == 30, f"totalTokens is {body.get('totalTokens')}")
        expect(body.get("turns") == 2, f"turns is {body.get('turns')} after two model calls")
        expect(body.get("promptCount") == 2, f"promptCount is {body.get('promptCount')} after two prompts")
        expect(isinstance(body.get("costUsd"), int | float), f"costUsd is {body.get('costUsd')!r}")


@check("EP-usage.figures", schedule="exclusive")
async def usage_grows(ctx: CheckContext) -> None:
    """The usage of the tenant and of its key grows by what a run used."""
    before = (await ctx.http.get("/v1/usage")).expect(200)
    async with ctx.session() as session:
        await session.run_to_end(ctx.script(reply("Hello.", usage=(11, 4))))
    after = (await ctx.http.get("/v1/usage")).expect(200)
    growth = {name: after["total"][name] - before["total"][name] for name in ("promptCount", "totalTokens")}
    expect(growth == {"promptCount": 1, "totalTokens": 15}, f"a run of 15 tokens added {growth} to the total")
    sum_of_keys = {name: sum(key[name] for key in after["keys"]) for name in ("promptCount", "totalTokens")}
    total = {name: after["total"][name] for name in sum_of_keys}
    expect(sum_of_keys == total, f"the sum over the keys is {sum_of_keys}, and the total is {total}")


@check("EP-usage.key-id")
async def key_ids_reveal_nothing(ctx: CheckContext) -> None:
    """No keyId contains a part of a key."""
    async with ctx.session() as session:
        await session.run_to_end(ctx.simple_prompt())
    for key in (await ctx.http.get("/v1/usage")).expect(200)["keys"]:
        for secret in ctx.target.keys.secrets:
            parts = {secret[at : at + 8] for at in range(max(1, len(secret) - 7))} if len(secret) >= 8 else {secret}
            expect(not any(part in key["keyId"] for part in parts), "a keyId contains a part of a key")


# -- history -------------------------------------------------------------------------------------------------------------


@check("EP-messages.history", variants=ALL_VARIANTS)
async def the_history_is_in_order(ctx: CheckContext) -> None:
    """The history has all messages in order."""
    async with ctx.session() as session:
        texts = [ctx.script(reply("Hel", "lo.")), ctx.script(reply("Again."))]
        for text in texts:
            await session.run_to_end(text)
        wanted = [(texts[0], "Hello."), (texts[1], "Again.")]
        history = await session.history()
        messages = [(each["role"], each["content"]) for each in history]
        expect(
            messages == [pair for ask, reply_text in wanted for pair in (("user", ask), ("assistant", reply_text))],
            f"the history is {messages}",
        )


@check("EP-messages.tools")
async def the_history_has_calls_and_results(ctx: CheckContext) -> None:
    """The history has a tool call and its result, linked by callId."""
    async with ctx.session() as session:
        await ctx.register(session)
        await session.run_to_end(
            ctx.script(reply("Wait. ", calls=[("get_weather", {"city": "Oslo"})]), reply("Sunny."))
        )
        history = await session.history()
        expect(
            [each["role"] for each in history] == ["user", "assistant", "tool_result", "assistant"],
            f"the history is {history}",
        )
        assistant, result = history[1], history[2]
        calls: Any = assistant.get("toolCalls")
        require(isinstance(calls, list), f"toolCalls is {calls}")
        expect(len(calls) == 1, f"toolCalls is {calls}")
        expect(
            calls[0].get("name") == "get_weather" and calls[0].get("arguments") == {"city": "Oslo"},
            f"the call is {calls[0]}",
        )
        expect(
            result.get("callId") == calls[0].get("callId"),
            f"the result has the callId {result.get('callId')}, the call has {calls[0].get('callId')}",
        )
        expect(result.get("content") == "sunny" and result.get("isError") is False, f"the result is {result}")
        expect(result.get("name") == "get_weather", f"the result's name is {result.get('name')!r}")


@check("EP-messages.aborted", variants=RAW_STREAMS)
async def text_of_an_aborted_run_is_kept(ctx: CheckContext) -> None:
    """The partial text of an aborted run is in the history."""
    async with ctx.session() as session:
        async with session.run(ctx.script(reply(*(f"{number} " for number in range(60)), delay_ms=100))) as run:
            await run.wait_for("message_delta")
            (await session.abort()).require(202)
            events = await run.wait_for_end()
        require(events[-1].name == "agent_abort", f"the run ended with {events[-1].name} before it could be aborted")
        shown = "".join(event.data["delta"] for event in events if event.name == "message_delta")
        last = (await session.history())[-1]
        expect(
            last.get("role") == "assistant" and last.get("content") == shown,
            f"readers received {shown!r}, and the history ends with {last}",
        )


@check("EP-messages.pages")
async def pages_cover_the_history(ctx: CheckContext) -> None:
    """Pages have every message once, in order."""
    async with ctx.session() as session:
        for _ in range(3):
            await session.run_to_end(ctx.simple_prompt())
        whole = await session.history()
        paged: list[Any] = []
        cursor: str | None = None
        for _ in range(10):
            query = f"?limit=2{f'&cursor={quote(cursor)}' if cursor else ''}"
            page = (await ctx.http.get(f"{session.path}/messages{query}")).expect(200)
            expect(len(page["messages"]) <= 2, f"a page with limit 2 has {len(page['messages'])} messages")
            paged += page["messages"]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        expect(paged == whole, f"the pages have {len(paged)} messages, and the history has {len(whole)}")
        (await ctx.http.get(f"{session.path}/messages?limit=0")).expect(400, why="limit must be at least 1")
