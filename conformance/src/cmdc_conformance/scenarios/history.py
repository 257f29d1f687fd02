"""What was used, and what was said."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, RAW, VIAS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect, need
from cmdc_conformance.scenarios.prompts import user_messages

# -- figures -------------------------------------------------------------------------------------------------------------


@check("EP-stats", faces=VIAS)
async def stats(case: Case) -> None:
    """The figures are this session's, and add up."""
    async with case.session() as session:
        body = (await session.stats()).must_be(200)
        expect(body.get("promptCount") == 0 and body.get("totalTokens") == 0, f"a new session has the stats {body}")
        for _ in range(2):
            text = case.script(reply("Hello.", usage=(11, 4)))
            session.noted(text)
            (await session.prompt(text)).needed(202)
        await user_messages(case.http, session.path, 2)
        body = (await session.stats()).must_be(200)
        usage = {"promptTokens": 22, "completionTokens": 8, "totalTokens": 30}
        expect(body.get("tokenUsage") == usage, f"tokenUsage is {body.get('tokenUsage')}, and should be {usage}")
        expect(body.get("totalTokens") == 30, f"totalTokens is {body.get('totalTokens')}")
        expect(body.get("turns") == 2, f"turns is {body.get('turns')} after two model calls")
        expect(body.get("promptCount") == 2, f"promptCount is {body.get('promptCount')} after two prompts")
        expect(isinstance(body.get("costUsd"), int | float), f"costUsd is {body.get('costUsd')!r}")


@check("EP-usage.figures", when="alone")
async def usage(case: Case) -> None:
    """The tenant's figures and the key's grow by what a run used."""
    before = (await case.http.get("/v1/usage")).must_be(200)
    async with case.session() as session:
        await session.ran(case.script(reply("Hello.", usage=(11, 4))))
    after = (await case.http.get("/v1/usage")).must_be(200)
    grown = {name: after["total"][name] - before["total"][name] for name in ("promptCount", "totalTokens")}
    expect(grown == {"promptCount": 1, "totalTokens": 15}, f"a run of 15 tokens added {grown} to the tenant")
    of_keys = {name: sum(key[name] for key in after["keys"]) for name in ("promptCount", "totalTokens")}
    total = {name: after["total"][name] for name in of_keys}
    expect(of_keys == total, f"the keys add up to {of_keys}, and the total is {total}")


@check("EP-usage.key-id")
async def key_ids(case: Case) -> None:
    """No keyId has a part of a key in it."""
    async with case.session() as session:
        await session.ran(case.plain())
    for key in (await case.http.get("/v1/usage")).must_be(200)["keys"]:
        for secret in case.target.keys.secrets:
            parts = {secret[at : at + 8] for at in range(max(1, len(secret) - 7))} if len(secret) >= 8 else {secret}
            expect(not any(part in key["keyId"] for part in parts), "a keyId holds a part of a key")


# -- history -------------------------------------------------------------------------------------------------------------


@check("EP-messages.history", faces=EVERY)
async def the_history(case: Case) -> None:
    """What was said is there in order."""
    async with case.session() as session:
        texts = [case.script(reply("Hel", "lo.")), case.script(reply("Again."))]
        for text in texts:
            await session.ran(text)
        wanted = [(texts[0], "Hello."), (texts[1], "Again.")]
        history = await session.history()
        said = [(each["role"], each["content"]) for each in history]
        expect(
            said == [pair for ask, answer in wanted for pair in (("user", ask), ("assistant", answer))],
            f"the history is {said}",
        )


@check("EP-messages.tools")
async def calls_in_the_history(case: Case) -> None:
    """A call and its result are both there."""
    async with case.session() as session:
        await case.register(session)
        await session.ran(case.script(reply("Wait. ", calls=[("get_weather", {"city": "Oslo"})]), reply("Sunny.")))
        history = await session.history()
        expect(
            [each["role"] for each in history] == ["user", "assistant", "tool_result", "assistant"],
            f"the history is {history}",
        )
        asked, result = history[1], history[2]
        calls: Any = asked.get("toolCalls")
        need(isinstance(calls, list), f"toolCalls is {calls}")
        expect(len(calls) == 1, f"toolCalls is {calls}")
        expect(
            calls[0].get("name") == "get_weather" and calls[0].get("arguments") == {"city": "Oslo"},
            f"the call is {calls[0]}",
        )
        expect(
            result.get("callId") == calls[0].get("callId"),
            f"the result is of {result.get('callId')}, the call is {calls[0].get('callId')}",
        )
        expect(result.get("content") == "sunny" and result.get("isError") is False, f"the result is {result}")
        expect(result.get("name") == "get_weather", f"the result's name is {result.get('name')!r}")


@check("EP-messages.aborted", faces=RAW)
async def text_that_was_seen_stays(case: Case) -> None:
    """The text of a stopped run is in the history."""
    async with case.session() as session:
        async with session.run(case.script(reply(*(f"{number} " for number in range(60)), delay_ms=100))) as run:
            await run.until("message_delta")
            (await session.abort()).needed(202)
            events = await run.end()
        need(events[-1].name == "agent_abort", f"the run ended with {events[-1].name} before it could be stopped")
        seen = "".join(event.data["delta"] for event in events if event.name == "message_delta")
        last = (await session.history())[-1]
        expect(
            last.get("role") == "assistant" and last.get("content") == seen,
            f"readers saw {seen!r}, and the history ends with {last}",
        )


@check("EP-messages.pages")
async def pages_of_messages(case: Case) -> None:
    """Pages have every message once, in order."""
    async with case.session() as session:
        for _ in range(3):
            await session.ran(case.plain())
        whole = await session.history()
        paged: list[Any] = []
        cursor: str | None = None
        for _ in range(10):
            query = f"?limit=2{f'&cursor={quote(cursor)}' if cursor else ''}"
            page = (await case.http.get(f"{session.path}/messages{query}")).must_be(200)
            expect(len(page["messages"]) <= 2, f"a page of 2 has {len(page['messages'])}")
            paged += page["messages"]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        expect(paged == whole, f"the pages add up to {len(paged)} messages, and there are {len(whole)}")
        (await case.http.get(f"{session.path}/messages?limit=0")).must_be(400, why="limit is at least 1")
