"""Usage and budgets: EP-stats, EP-usage, MTR-1, MTR-2."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import ReceivedEvent, without_ids
from cmdc_testkit.gateways import KEY, OTHER_KEY, TENANTS, in_process_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND_KEY = "another key of the first tenant".replace(" ", "-")


def key_id(key: str) -> str:
    [caller] = KeyRing({key: "x"}).principals()
    return caller.key_id


def figures(prompts: int, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    total = prompt_tokens + completion_tokens
    tokens = {"promptTokens": prompt_tokens, "completionTokens": completion_tokens, "totalTokens": total}
    return {"promptCount": prompts, "totalTokens": total, "costUsd": 0.0, "tokenUsage": tokens}


def using(prompt_tokens: int, completion_tokens: int, **more: Any) -> dict[str, Any]:
    """A reply that reports this usage."""
    return {"usage": {"promptTokens": prompt_tokens, "completionTokens": completion_tokens}, **more}


async def stats(talk: Conversation) -> dict[str, Any]:
    return (await talk.get("/stats")).json()


def ending(run: list[ReceivedEvent]) -> list[tuple[str, dict[str, Any]]]:
    return without_ids(run)[-2:]


OVER = ("agent_abort", {"reason": "budget_exceeded"})


# -- EP-stats, MTR-1


async def test_a_new_session_has_used_nothing(client: httpx.AsyncClient) -> None:
    """EP-stats."""
    talk = await Conversation.begin(client, sessionId="s")

    assert await stats(talk) == {"sessionId": "s", "turns": 0, **figures(0, 0, 0)}
    assert (await client.get("/v1/usage")).json() == {"tenant": "default", "total": figures(0, 0, 0), "keys": []}


async def test_every_model_call_is_counted_once(client: httpx.AsyncClient) -> None:
    """EP-stats, MTR-1: for the session, and in `agent_end` for the run."""
    talk = await Conversation.begin(client, tools=["glob"], sessionId="s")
    look = calling(("glob", {"pattern": "*"}), **using(10, 1))
    run = await talk.run(script(look, look, using(10, 3, text=["Done."])))
    await talk.run(script(using(5, 2, text=["Hi."])))

    assert run[-1].data["tokenUsage"] == {"promptTokens": 30, "completionTokens": 5, "totalTokens": 35}
    assert run[-1].data["costUsd"] == 0
    assert await stats(talk) == {"sessionId": "s", "turns": 4, **figures(2, 35, 7)}


async def test_stats_are_per_session_and_usage_is_per_tenant(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    """EP-usage: without the usage of other tenants."""
    one, two = await Conversation.begin(client), await Conversation.begin(client)
    theirs = await Conversation.begin(stranger)
    await one.run(script(using(1, 2)))
    await two.run(script(using(10, 20)))
    await theirs.run(script(using(100, 200)))

    assert [(await stats(talk))["totalTokens"] for talk in (one, two, theirs)] == [3, 30, 300]
    assert (await client.get("/v1/usage")).json() == {
        "tenant": "default",
        "total": figures(2, 11, 22),
        "keys": [{"keyId": key_id(KEY), **figures(2, 11, 22)}],
    }
    assert (await stranger.get("/v1/usage")).json()["total"] == figures(1, 100, 200)


async def test_usage_is_counted_per_key_and_contains_no_key(tmp_path: Path) -> None:
    """EP-usage, MTR-1: a run counts for the key that sent its prompt."""
    async with in_process_gateway(tmp_path) as served:
        served.keys.replace({**TENANTS, SECOND_KEY: "default"})
        async with served.client() as first, served.client(SECOND_KEY) as second:
            talk = await Conversation.begin(first)
            await talk.run(script(using(1, 1)))
            await Conversation(second, talk.id).run(script(using(2, 3)))
            answer = await second.get("/v1/usage")

    by_key = {key_id(KEY): figures(1, 1, 1), key_id(SECOND_KEY): figures(1, 2, 3)}
    assert answer.json() == {
        "tenant": "default",
        "total": figures(2, 3, 4),
        "keys": [{"keyId": name, **by_key[name]} for name in sorted(by_key)],
    }
    assert KEY not in answer.text
    assert SECOND_KEY not in answer.text


async def test_runs_that_fail_or_are_aborted_are_counted_too(client: httpx.AsyncClient) -> None:
    """MTR-1: a model call counts, whatever happens to its run."""
    failing = await Conversation.begin(client, tools=["glob"])
    look = calling(("glob", {"pattern": "*"}), **using(10, 1))
    failed = await failing.run(script(look, {"fail": {"status": 400}}))
    waiting = await Conversation.begin(client, tools=["shell"])
    await waiting.prompt(script(calling(("shell", {"command": "true"}), **using(20, 2))))
    await waiting.first("approval_required")
    await waiting.post("abort")

    assert ending(failed)[1] == ("agent_abort", {"reason": "error"})
    assert (await stats(failing))["tokenUsage"] == figures(1, 10, 1)["tokenUsage"]
    assert (await stats(waiting))["tokenUsage"] == figures(1, 20, 2)["tokenUsage"]
    assert (await client.get("/v1/usage")).json()["total"] == figures(2, 30, 3)


async def test_a_canceled_model_call_is_counted_by_estimate(client: httpx.AsyncClient) -> None:
    """MTR-1: it costs money although it reported no usage."""
    talk = await Conversation.begin(client)
    request_id = await talk.prompt(script({"text": ["word "] * 100, "delayMs": 5}))
    await talk.first("message_delta", nth=3)
    await talk.post("abort")
    run = await talk.events(request_id)

    counted = (await stats(talk))["tokenUsage"]
    assert run[-1].name == "agent_abort"
    assert counted["promptTokens"] > 0
    assert 0 < counted["completionTokens"] < 200
    assert (await client.get("/v1/usage")).json()["total"]["tokenUsage"] == counted


async def test_a_deleted_session_still_counts(client: httpx.AsyncClient) -> None:
    """MTR-1."""
    talk = await Conversation.begin(client)
    await talk.run(script(using(4, 5)))
    await client.delete(talk.path)

    assert (await client.get("/v1/usage")).json()["total"] == figures(1, 4, 5)


async def test_counts_survive_a_restart(tmp_path: Path) -> None:
    """MTR-1: exactly once."""
    address = f"sqlite:///{tmp_path / 'store.db'}"
    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk = await Conversation.begin(client, sessionId="s")
        await talk.run(script(using(4, 5)))

    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk = Conversation(client, "s")
        before = await stats(talk), (await client.get("/v1/usage")).json()["total"]
        await talk.run(script(using(1, 1)))
        after = await stats(talk), (await client.get("/v1/usage")).json()["total"]
        tracked = (await client.get("/healthz")).json()["meter"]["tracked_keys"]

    assert before == ({"sessionId": "s", "turns": 1, **figures(1, 4, 5)}, figures(1, 4, 5))
    assert after == ({"sessionId": "s", "turns": 2, **figures(2, 5, 6)}, figures(2, 5, 6))
    assert tracked == 1


# -- MTR-2


async def test_a_session_stops_when_its_budget_is_spent(client: httpx.AsyncClient) -> None:
    """MTR-2, EP-prompt: the call that exceeds it is the last one, and a new prompt is rejected."""
    talk = await Conversation.begin(client, tools=["glob"], budget={"maxTokens": 15})
    look = calling(("glob", {"pattern": "*"}), **using(8, 2))

    run = await talk.run(script(look, look, look, using(1, 1, text=["never"])))
    refused = await talk.post("prompt", {"text": "more"})

    assert ending(run) == [("error", {"reason": "the budget of this session is exhausted"}), OVER]
    assert names(run).count("tool_execution_end") == 2
    assert (refused.status_code, refused.json()) == (
        402,
        {"error": "budget_exceeded", "message": "the budget of this session is exhausted"},
    )
    assert (await stats(talk))["totalTokens"] == 20
    assert (await stats(talk))["promptCount"] == 1


async def test_the_budget_of_one_session_does_not_limit_another(client: httpx.AsyncClient) -> None:
    """MTR-2."""
    spent = await Conversation.begin(client, budget={"maxTokens": 1})
    await spent.run("hello")
    other = await Conversation.begin(client, budget={"maxTokens": 1})

    assert (await spent.post("prompt", {"text": "x"})).status_code == 402
    assert names(await other.run("hello"))[-1] == "agent_end"


async def test_queued_prompts_fail_once_the_budget_is_spent(client: httpx.AsyncClient) -> None:
    """MTR-2: they were accepted while budget was left, and fail when their turn comes."""
    talk = await Conversation.begin(client, tools=["ask_user"], budget={"maxTokens": 5})
    await talk.prompt(script(calling(("ask_user", {"question": "?"}), **using(1, 1)), using(5, 5)))
    question = await talk.first("ask_user")
    waiting = await talk.prompt("next")
    await talk.post("respond", {"ref": question["ref"], "response": "go"})

    run = await talk.events(waiting)

    assert names(run) == ["prompt_received", "agent_start", "error", "agent_abort"]
    assert ending(run)[1] == OVER


@pytest.mark.parametrize("whose", ["tenant:default", f"key:{key_id(KEY)}"])
@pytest.mark.parametrize("period", ["day", "month", "total"])
async def test_a_configured_budget_covers_all_sessions(tmp_path: Path, whose: str, period: str) -> None:
    """MTR-2: and no others."""
    file = {"budgets": {whose: {"max_tokens": 10, "period": period}}}
    async with (
        in_process_gateway(tmp_path, file=file) as served,
        served.client() as client,
        served.client(OTHER_KEY) as stranger,
    ):
        served.keys.replace({**TENANTS, SECOND_KEY: "default"})
        await (await Conversation.begin(client)).run(script(using(5, 5)))
        talk = await Conversation.begin(client)
        refused = await talk.post("prompt", {"text": "x"})
        theirs = names(await (await Conversation.begin(stranger)).run("x"))
        async with served.client(SECOND_KEY) as second:
            colleague = await Conversation(second, talk.id).post("prompt", {"text": "x"})

    assert (refused.status_code, refused.json()) == (
        402,
        {"error": "budget_exceeded", "message": f"the budget of {whose} is exhausted"},
    )
    assert theirs[-1] == "agent_end"
    assert colleague.status_code == (402 if whose.startswith("tenant") else 202)


async def test_a_budget_that_is_spent_stays_spent_after_a_restart(tmp_path: Path) -> None:
    """MTR-1, MTR-2: that of the session and that of its tenant."""
    address, file = f"sqlite:///{tmp_path / 'store.db'}", {"budgets": {"tenant:other": {"max_tokens": 10}}}
    async with (
        in_process_gateway(tmp_path, store=address, file=file) as served,
        served.client() as client,
        served.client(OTHER_KEY) as stranger,
    ):
        mine = await Conversation.begin(client, budget={"maxTokens": 10})
        theirs = await Conversation.begin(stranger)
        await mine.run(script(using(5, 5)))
        await theirs.run(script(using(5, 5)))

    async with (
        in_process_gateway(tmp_path, store=address, file=file) as served,
        served.client() as client,
        served.client(OTHER_KEY) as stranger,
    ):
        refused = [
            await Conversation(client, mine.id).post("prompt", {"text": "x"}),
            await Conversation(stranger, theirs.id).post("prompt", {"text": "x"}),
        ]

    assert [(answer.status_code, answer.json()["message"]) for answer in refused] == [
        (402, "the budget of this session is exhausted"),
        (402, "the budget of tenant:other is exhausted"),
    ]


async def test_parallel_sessions_overspend_by_no_more_than_one_call(tmp_path: Path) -> None:
    """MTR-2: the maximum cost of a call is reserved before it starts."""
    file = {"budgets": {"tenant:default": {"max_tokens": 100}}}
    async with in_process_gateway(tmp_path, file=file) as served, served.client() as client:
        talks = [await Conversation.begin(client, maxTokens=1000) for _ in range(10)]
        prompt = script(using(30, 10, text=["Hello."], delayMs=20))
        requests = await asyncio.gather(*(talk.prompt(prompt) for talk in talks))
        runs = await asyncio.gather(*(talk.events(request) for talk, request in zip(talks, requests, strict=True)))
        spent = (await client.get("/v1/usage")).json()["total"]["totalTokens"]

    endings = [run[-1] for run in runs]
    assert spent == 120
    assert sum(end.name == "agent_end" for end in endings) == 3
    assert sum(end.data.get("reason") == "budget_exceeded" for end in endings) == 7


async def test_calls_that_fit_the_budget_together_run_together(tmp_path: Path) -> None:
    """MTR-2: a reservation does not delay calls that also fit the budget."""
    file = {"budgets": {"tenant:default": {"max_tokens": 1_000_000}}}
    async with in_process_gateway(tmp_path, file=file) as served, served.client() as client:
        talks = [await Conversation.begin(client, maxTokens=10) for _ in range(3)]
        for talk in talks:
            await talk.prompt(script({"text": ["word "] * 2000, "delayMs": 50}))

        for talk in talks:
            await talk.first("message_delta")
        states = [(await talk.info())["state"] for talk in talks]

    assert states == ["working"] * 3


async def test_an_aborted_call_releases_its_reservation(tmp_path: Path) -> None:
    """MTR-2: the rest of the reservation is available to other calls."""
    file = {"budgets": {"tenant:default": {"max_tokens": 5000}}}
    async with in_process_gateway(tmp_path, file=file) as served, served.client() as client:
        stuck, next_one = await Conversation.begin(client), await Conversation.begin(client)
        await stuck.prompt(script({"text": ["x"], "delayMs": 60_000}))
        await stuck.first("agent_start")
        waiting = await next_one.prompt("hello")
        await next_one.first("agent_start")
        await stuck.post("abort")

        run = await next_one.events(waiting)

    assert run[-1].name == "agent_end"
