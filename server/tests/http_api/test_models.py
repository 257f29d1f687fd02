"""Failing models, configured models, and provider options: MODEL-retry, EP-create."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cmdc_conformance.wire.event import names
from cmdc_gateway.providers.litellm.library import close_connections
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import ReceivedEvent, without_ids
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.models import ScriptedModelServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def models() -> AsyncIterator[ScriptedModelServer]:
    async with ScriptedModelServer() as server:
        yield server
        await close_connections()


@pytest.fixture
def served(shared: InProcessGateway) -> InProcessGateway:
    return shared


def failure(run: list[ReceivedEvent]) -> list[tuple[str, dict[str, Any]]]:
    """The events of a failed run after the first two, without the text of the error."""
    found = without_ids(run)[2:]
    return [(event, {"reason": "…"} if event == "error" else data) for event, data in found]


ENDED = [("error", {"reason": "…"}), ("agent_abort", {"reason": "error"})]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_transient_failure_is_retried_and_readers_see_nothing_of_it(
    client: httpx.AsyncClient, status: int
) -> None:
    """MODEL-retry: twice more."""
    talk = await Conversation.begin(client)

    run = await talk.run(
        script({"fail": {"status": status, "attempts": 2}, "text": ["after two failures"]}, nonce=talk.id)
    )

    assert names(run) == ["prompt_received", "agent_start", "message_start", "message_delta", "agent_end"]
    assert run[-1].data["lastMessage"]["content"] == "after two failures"
    assert (await talk.info())["turns"] == 1


async def test_a_persistent_failure_ends_the_run(client: httpx.AsyncClient) -> None:
    """MODEL-retry, EVT-2: after the third try; the session goes on."""
    talk = await Conversation.begin(client)

    run = await talk.run(script({"fail": {"status": 500, "attempts": 3}, "text": ["never"]}, nonce=talk.id))
    after = await talk.run("still there?")

    assert failure(run) == ENDED
    assert after[-1].name == "agent_end"
    assert (await talk.info())["state"] == "idle"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_permanent_failure_ends_the_run_without_a_retry(client: httpx.AsyncClient, status: int) -> None:
    """MODEL-retry: a retry, which would have succeeded, is not made."""
    talk = await Conversation.begin(client)

    run = await talk.run(script({"fail": {"status": status, "attempts": 1}, "text": ["second try"]}, nonce=talk.id))

    assert failure(run) == ENDED


async def test_a_stream_that_is_cut_after_text_was_shown_is_not_retried(client: httpx.AsyncClient) -> None:
    """EP-messages.aborted: text that was shown stays."""
    talk = await Conversation.begin(client)
    prompt = script({"thinking": ["Hm."], "text": ["Once ", "upon"], "cut": True})

    run = await talk.run(prompt)

    assert failure(run) == [
        ("thinking_start", {}),
        ("thinking_delta", {"delta": "Hm."}),
        ("message_start", {}),
        ("message_delta", {"delta": "Once "}),
        ("message_delta", {"delta": "upon"}),
        *ENDED,
    ]
    assert await talk.messages() == [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": "Once upon"},
    ]


async def test_a_failure_in_a_later_step_keeps_the_earlier_steps(client: httpx.AsyncClient) -> None:
    """MODEL-tools, EVT-4."""
    talk = await Conversation.begin(client, tools=["glob"])

    run = await talk.run(script(calling(("glob", {"pattern": "*"})), {"fail": {"status": 400}}))

    assert names(run)[2:] == ["tool_calls", "tool_execution_start", "tool_execution_end", "error", "agent_abort"]
    assert [message["role"] for message in await talk.messages()] == ["user", "assistant", "tool_result"]


async def test_an_exhausted_script_answers_done(client: httpx.AsyncClient) -> None:
    """MODEL-tools."""
    talk = await Conversation.begin(client, tools=["glob"])

    run = await talk.run(script(calling(("glob", {"pattern": "*"}))))

    assert run[-1].data["lastMessage"] == {"role": "assistant", "content": "done"}


async def test_without_a_script_the_model_repeats_the_prompt_word_by_word(client: httpx.AsyncClient) -> None:
    """MODEL-tools: and reports the number of words as tokens."""
    talk = await Conversation.begin(client)

    run = await talk.run("two  words")

    assert [seen.data["delta"] for seen in run if seen.name == "message_delta"] == ["You ", "said: ", "two  ", "words"]
    assert run[-1].data["tokenUsage"] == {"promptTokens": 2, "completionTokens": 4, "totalTokens": 6}


@pytest.mark.parametrize("block", ["{", "[]", '{"replies": [{"speech": "x"}]}', '{"replies": 1}'])
async def test_an_invalid_script_fails_the_run(client: httpx.AsyncClient, block: str) -> None:
    """MODEL-tools: with a reason that says so."""
    talk = await Conversation.begin(client)

    run = await talk.run(f"```script\n{block}\n```")

    assert failure(run) == ENDED
    assert run[-2].data["reason"].startswith("invalid script: ")


async def test_a_configured_model_is_called_by_its_configured_name(tmp_path: Path, models: ScriptedModelServer) -> None:
    """EP-create, MODEL-retry: with the configured URL and credential, the session's options, and its price if known."""
    file = {
        "models": {
            "house:priced": {"model": "openai/gpt-4o-mini", "api_base": models.base_url, "api_key_env": "HOUSE_KEY"}
        }
    }
    settings = {"maxTokens": 50, "providerOpts": {"temperature": 0.5, "seed": 7}, "systemPrompt": "Be brief."}
    usage = {"usage": {"promptTokens": 1_000_000, "completionTokens": 0}}
    async with (
        in_process_gateway(tmp_path, file=file, environ={"HOUSE_KEY": "the-house-key"}, heartbeat_ms=1000) as served,
        served.client() as client,
    ):
        names_offered = (await client.get("/v1/capabilities")).json()["models"]
        talk = await Conversation.begin(
            client, model="house:priced", tools=["glob"], budget={"maxCostUsd": 0.2}, **settings
        )
        look = calling(("glob", {"pattern": "*"}), thinking=["Hm. "], text=["Looking."], **usage)
        run = await talk.run(script(look, {"text": ["Nothing."], **usage}, {"text": ["never"]}))
        stats = (await talk.get("/stats")).json()
        refused = await talk.post("prompt", {"text": "more"})
        failed = await Conversation.begin(client, model="house:priced")
        broken = await failed.run(script({"fail": {"status": 400}}))

    assert names_offered == ["house:priced", "scripted:*"]
    assert names(run) == [
        "prompt_received",
        "agent_start",
        "thinking_start",
        "thinking_delta",
        "message_start",
        "message_delta",
        "tool_calls",
        "tool_execution_start",
        "tool_execution_end",
        "message_start",
        "message_delta",
        "agent_end",
    ]
    assert run[-1].data["lastMessage"]["content"] == "Nothing."
    assert run[-1].data["costUsd"] == stats["costUsd"] == pytest.approx(0.3)
    assert (refused.status_code, refused.json()["error"]) == (402, "budget_exceeded")
    sent = models.requests[0]
    assert sent.headers["authorization"] == "Bearer the-house-key"
    asked = {name: sent.body[name] for name in ("model", "temperature", "seed", "max_tokens")}
    assert asked == {"model": "gpt-4o-mini", "temperature": 0.5, "seed": 7, "max_tokens": 50}
    assert sent.body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [tool["function"]["name"] for tool in sent.body["tools"]] == ["glob"]
    assert failure(broken) == ENDED
    assert "the-house-key" not in str(broken)
    assert models.base_url not in str(broken)
